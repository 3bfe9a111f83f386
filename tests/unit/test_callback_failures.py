"""What a failure means for another attempt, and how subscribers hear of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import pytest

from pipeline.events.catalogue import TaskEvent, parse_event
from pipeline.events.publications import task_event
from pipeline.failure import FailureClass
from pipeline.provider.callback import normalise
from pipeline.provider.door import door_of
from pipeline.settings import load_settings
from pipeline.task import Stage, event_id
from tests.callbacks import START, make_body, make_record_info

if TYPE_CHECKING:
    from pipeline.provider.door import Door
    from pipeline.task import TaskUpdate

BOTH = ["sunoapi-org", "kie-ai"]


def door(name: str) -> Door:
    return door_of(load_settings(environ={"PIPELINE_PROVIDER__DOOR": name}).settings)


def failed(code: Any, name: str, **data: Any) -> TaskUpdate:
    body = make_body("error", code=code, items=[], **data)
    update = normalise(body, "upload-extend", door(name))
    assert update.stage is Stage.FAILED
    return update


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("code", [408, 455, 500, 501, 531, "531"])
def test_transient_codes_are_submitted_again_later(code: Any, name: str) -> None:
    assert failed(code, name).failure is FailureClass.TRANSIENT


@pytest.mark.parametrize(
    ("code", "at_s", "at_k"),
    [
        (405, FailureClass.TRANSIENT, FailureClass.UNKNOWN),
        (430, FailureClass.TRANSIENT, FailureClass.UNKNOWN),
        (429, FailureClass.OPERATOR, FailureClass.TRANSIENT),
    ],
)
def test_one_code_means_opposite_things_at_two_doors(
    code: int, at_s: FailureClass, at_k: FailureClass
) -> None:
    assert [at_s, at_s, at_k] == [
        failed(code, name).failure for name in ("sunoapi-org", "api-box", "kie-ai")
    ]


@pytest.mark.parametrize("name", BOTH)
def test_a_source_that_could_not_be_fetched_is_one_to_renew(name: str) -> None:
    assert failed(451, name).failure is FailureClass.SOURCE


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("code", [400, 413, 422])
def test_permanent_codes_are_not_submitted_again(code: int, name: str) -> None:
    assert failed(code, name).failure is FailureClass.PERMANENT


@pytest.mark.parametrize("name", BOTH)
def test_refused_content_is_permanent(name: str) -> None:
    body = make_record_info("SENSITIVE_WORD_ERROR", response=None)

    update = normalise(body, "upload-extend", door(name))

    assert update.failure is FailureClass.PERMANENT


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("code", [401, 402, 433, 505])
def test_codes_of_the_account_need_an_operator(code: int, name: str) -> None:
    assert failed(code, name).failure is FailureClass.OPERATOR


@pytest.mark.parametrize("name", BOTH)
def test_what_is_there_already_is_asked_for(name: str) -> None:
    assert failed(409, name).failure is FailureClass.EXISTS


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("code", [0, -1, 404, 777, 10**18])
def test_any_other_code_is_unknown(code: int, name: str) -> None:
    assert failed(code, name).failure is FailureClass.UNKNOWN


def test_the_code_in_the_data_counts_where_the_envelope_is_fine() -> None:
    update = failed(200, "kie-ai", errorCode=413, errorMessage="matches a work")

    assert (413, FailureClass.PERMANENT) == (update.code, update.failure)


@pytest.mark.parametrize("callback_type", ["text", "first", "complete", "new"])
def test_what_has_not_failed_has_no_class(callback_type: str) -> None:
    assert normalise(make_body(callback_type), "generate").failure is None


@pytest.mark.parametrize(
    ("code", "name", "failure"),
    [(429, "kie-ai", "transient"), (429, "sunoapi-org", "operator")],
)
def test_subscribers_hear_the_class_and_what_to_do(
    code: int, name: str, failure: str
) -> None:
    update = failed(code, name)

    publication = task_event(
        update,
        event_id(update),
        late=False,
        origin="callback",
        received_at=START,
        source="/pipeline",
        at=START,
    )

    event = parse_event(publication.envelope.body)
    assert isinstance(event, TaskEvent)
    assert (failure, FailureClass(failure).advice) == (
        event.data.failure,
        event.data.advice,
    )


def test_the_class_is_no_part_of_what_makes_news() -> None:
    """Another meaning of a code in the settings tells nobody twice."""
    told = [failed(429, name) for name in BOTH]

    assert event_id(told[0]) == event_id(told[1])


def test_all_lyrics_failed_is_a_failure_and_one_is_not() -> None:
    good = {"text": "la", "title": "A", "status": "complete", "error_message": ""}
    bad = {"text": "", "title": "", "status": "failed", "error_message": "no words"}
    odd = {"text": "", "title": "", "status": "failed", "errorMessage": "no rhyme"}

    some = normalise(make_body(items=[good, bad]), "lyrics")
    none = normalise(make_body(items=[bad, odd]), "lyrics")

    assert [Stage.COMPLETE, Stage.FAILED] == [some.stage, none.stage]
    assert ["", "no words"] == [track.error for track in some.tracks]
    assert ["no words", "no rhyme"] == [track.error for track in none.tracks]


@pytest.mark.parametrize(
    "error",
    [
        "no_audio_id_mappings",
        "account_missing",
        "get_tokens_failed",
        "feed_failed",
        "clip_error",
        "clip_not_complete",
        "mango_transfer_failed",
    ],
)
def test_each_file_that_was_not_recovered_says_why(error: str) -> None:
    good = {"id": "a", "audio_url": "https://x.example.com/a.m4a", "title": "A"}
    entries = [
        {**good, "status": "success", "error": None},
        {"id": "b", "audio_url": None, "title": "", "status": "failed", "error": error},
    ]
    body = {"code": 200, "msg": "ok", "task_id": "r1", "data": entries}

    some = normalise(orjson.dumps(body), "recovery")
    none = normalise(orjson.dumps({**body, "data": entries[1:]}), "recovery")

    assert [Stage.COMPLETE, Stage.FAILED] == [some.stage, none.stage]
    assert ["", error] == [track.error for track in some.tracks]
