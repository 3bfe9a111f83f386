"""What a callback of an audio operation says, in each of its documented shapes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import orjson
import pytest

from pipeline.provider.callback import MESSAGE_LIMIT, OPERATIONS, normalise
from pipeline.provider.shapes import TRACK_LIMIT
from pipeline.task import Stage, TaskUpdate, Track, event_id
from tests.callbacks import (
    TASK,
    make_body,
    make_camel_item,
    make_content,
    make_item,
    make_record_info,
)

AUDIO_OPERATIONS = (
    "upload-extend",
    "generate",
    "extend",
    "upload-cover",
    "add-instrumental",
    "add-vocals",
    "mashup",
    "sounds",
    "replace-section",
)
#: What a missing link may look like.
NOTHING: Final[tuple[Any, ...]] = (None, "", 0, [], {}, False, "   ")


def normalised(body: bytes, operation: str = "upload-extend") -> TaskUpdate:
    return normalise(body, operation)


@pytest.mark.parametrize("operation", AUDIO_OPERATIONS)
def test_a_complete_callback_is_read_in_full(operation: str) -> None:
    update = normalise(make_body("complete", items=[make_item(1)]), operation)

    expected = TaskUpdate(
        task_id=TASK,
        operation=operation,
        stage=Stage.COMPLETE,
        code=200,
        message="All generated successfully.",
        tracks=(
            Track(
                track_id="8551-1",
                title="Iron Man",
                tags="electrifying, rock",
                prompt="[Verse] Night city lights",
                model_name="chirp-v4",
                stream_url="https://stream.example.com/1",
                duration_seconds=198.44,
                created_at=datetime(2026, 11, 20, 11, 58, tzinfo=UTC),
                links={
                    "audio": "https://files.example.com/1.mp3?sig=1",
                    "image": "https://files.example.com/1.jpeg?sig=1",
                },
            ),
        ),
    )
    assert expected == update


def test_the_details_endpoint_tells_the_same_news_as_the_callback() -> None:
    """So that a poll after a callback is a duplicate, and nobody is told twice."""
    told = normalised(make_body("complete", items=[make_item(1)]))
    polled = normalised(make_record_info("SUCCESS"))

    assert told.tracks[0].links == polled.tracks[0].links
    assert event_id(told) == event_id(polled)


def test_the_old_place_of_the_track_list_is_known() -> None:
    polled = normalised(make_record_info(response={"data": [make_item(1)]}))

    assert polled.tracks == normalised(make_body(items=[make_item(1)])).tracks


@pytest.mark.parametrize("nothing", [None, [], "absent"])
def test_a_failure_may_come_with_or_without_data(nothing: Any) -> None:
    content = make_content("error", code=400)
    content["msg"] = "Audio generation failed."
    content["data"]["data"] = nothing
    if nothing == "absent":
        del content["data"]["data"]

    update = normalised(orjson.dumps(content))

    assert update.stage is Stage.FAILED
    assert (400, "Audio generation failed.") == (update.code, update.message)
    assert update.tracks == ()


def test_a_failure_called_complete_is_a_failure() -> None:
    update = normalised(make_body("complete", code=400), "lyrics")

    assert update.stage is Stage.FAILED


def test_the_reason_of_a_failed_section_is_read_from_its_data() -> None:
    body = make_body("error", code=500, items=[], error="section is too short")

    assert normalised(body).message == "section is too short"


def test_the_reason_of_a_failed_poll_is_its_error_code_and_message() -> None:
    body = make_record_info(
        "SENSITIVE_WORD_ERROR", errorCode="400", errorMessage="bad word", response=None
    )

    update = normalised(body)

    assert update.stage is Stage.FAILED
    assert (400, "bad word") == (update.code, update.message)


def test_an_unknown_type_is_kept_with_its_reason() -> None:
    body = orjson.dumps(
        {
            "taskId": "top",
            "code": 200,
            "data": {"task_id": TASK, "callbackType": "task_completed"},
        }
    )

    update = normalised(body)

    assert TASK == update.task_id
    assert update.stage is Stage.UNKNOWN
    assert "task_completed" in update.unknown_reason


def test_complete_without_a_file_is_not_finished() -> None:
    for nothing in NOTHING:
        update = normalised(make_body(items=[make_item(1, audio_url=nothing)]))

        assert update.stage is Stage.UNKNOWN
        assert "without the address of a file" in update.unknown_reason


def test_complete_with_one_track_of_two_is_complete() -> None:
    update = normalised(make_body(items=[make_item(1), make_item(2, audio_url="")]))

    assert update.stage is Stage.COMPLETE
    assert ["audio" in t.links for t in update.tracks] == [True, False]


def test_success_with_an_empty_list_is_not_finished() -> None:
    assert normalised(make_record_info(response=None)).stage is Stage.UNKNOWN


def test_a_lost_callback_is_complete_only_if_every_track_is_there() -> None:
    ready, missing = make_camel_item(1), make_camel_item(2) | {"audioUrl": ""}

    all_there = make_record_info(
        "CALLBACK_EXCEPTION", response={"sunoData": [ready, make_camel_item(2)]}
    )
    one_missing = make_record_info(
        "CALLBACK_EXCEPTION", response={"sunoData": [ready, missing]}
    )

    assert normalised(all_there).stage is Stage.COMPLETE
    assert normalised(one_missing).stage is Stage.UNKNOWN


def test_text_and_failure_have_no_audio_whatever_their_fields_hold() -> None:
    """Taking what is there before the end for the final file is a known mistake."""
    for body in (make_body("text"), make_body("error", code=500)):
        update = normalised(body)

        assert [{"image"}, {"image"}] == [set(t.links) for t in update.tracks]


def test_the_stream_and_the_sources_are_never_the_file() -> None:
    item = make_item(1, audio_url="", image_url=None)

    update = normalised(make_body("first", items=[item, make_item(2)]))

    assert update.tracks[0].links == {}
    assert update.tracks[0].stream_url == "https://stream.example.com/1"


@pytest.mark.parametrize(
    "link",
    [
        "javascript:alert(1)",
        "file:///etc/passwd",
        "data:audio/mpeg;base64,AAAA",
        "ftp://files.example.com/1.mp3",
        "//files.example.com/1.mp3",
        "https:files.example.com",
        "https://files.example.com/1.mp3\r\nHost: x",
        "https://files.example.com/" + "a" * 5000,
        17,
        ["https://files.example.com/1.mp3"],
    ],
)
def test_only_web_links_are_links(link: Any) -> None:
    update = normalised(make_body("first", items=[make_item(1, audio_url=link)]))

    assert "audio" not in update.tracks[0].links


@pytest.mark.parametrize(
    "link",
    [
        "http://files.example.com/1.mp3",
        "HTTPS://FILES.EXAMPLE.COM/1.MP3",
        "https://files.example.com/my song.mp3",
        "https://files.example.com/é.mp3",
    ],
)
def test_links_are_kept_as_they_came(link: str) -> None:
    update = normalised(make_body(items=[make_item(1, audio_url=f" {link} ")]))

    assert link == update.tracks[0].links["audio"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-11-20 11:58:00", datetime(2026, 11, 20, 11, 58, tzinfo=UTC)),
        ("2026-11-20T12:58:00+01:00", datetime(2026, 11, 20, 11, 58, tzinfo=UTC)),
        (1_763_639_880_000, datetime(2025, 11, 20, 11, 58, tzinfo=UTC)),
        (1_763_639_880, datetime(2025, 11, 20, 11, 58, tzinfo=UTC)),
        ("1763639880000", datetime(2025, 11, 20, 11, 58, tzinfo=UTC)),
        ("yesterday", None),
        ("0001-01-01T00:00:00+14:00", None),
        (10**18, None),
        (None, None),
        ({}, None),
    ],
)
def test_a_time_may_be_text_seconds_or_milliseconds(
    value: Any, expected: datetime | None
) -> None:
    update = normalised(make_body(items=[make_item(1, createTime=value)]))

    assert expected == update.tracks[0].created_at


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (198.44, 198.44),
        (198, 198.0),
        ("104.88", 104.88),
        ("inf", 0.0),
        ("nan", 0.0),
        ("9" * 400, 0.0),
        (-3, 0.0),
        (None, 0.0),
        (True, 0.0),
        ([], 0.0),
    ],
)
def test_a_duration_may_be_a_number_text_or_missing(
    value: Any, expected: float
) -> None:
    update = normalised(make_body(items=[make_item(1, duration=value)]))

    assert expected == update.tracks[0].duration_seconds


def test_a_track_without_an_id_is_named_by_its_position() -> None:
    items = [make_item(1, id=None), make_item(2, id=""), make_item(3, id=7)]

    update = normalised(make_body(items=items))

    assert ["track-1", "track-2", "7"] == [t.track_id for t in update.tracks]


def test_an_id_that_does_not_fit_is_replaced_by_its_hash() -> None:
    items = [make_item(1, id="x" * 1000), make_item(2, id="a\nb")]

    update = normalised(make_body(items=items))

    assert [32, 32] == [len(t.track_id) for t in update.tracks]
    assert update.tracks[0].track_id != update.tracks[1].track_id


def test_tracks_that_share_an_id_are_one_track() -> None:
    items = [make_item(1, title=""), make_item(1, audio_url=None)]

    (track,) = normalised(make_body(items=items)).tracks

    assert track.title == "Iron Man"
    assert {"audio", "image"} == set(track.links)


def test_what_is_no_track_is_passed_over() -> None:
    update = normalised(make_body(items=[None, 1, "x", [], make_item(1)]))

    assert ["8551-1"] == [t.track_id for t in update.tracks]


def test_a_flood_of_tracks_is_cut() -> None:
    update = normalised(make_body(items=[make_item(n) for n in range(1000)]))

    assert len(update.tracks) == TRACK_LIMIT


def test_a_long_message_is_cut_and_has_no_nul() -> None:
    content = make_content()
    content["msg"] = "a\0b" * 10_000

    message = normalised(orjson.dumps(content)).message

    assert len(message) == MESSAGE_LIMIT
    assert "\0" not in message


def test_the_order_and_the_spelling_of_names_mean_nothing() -> None:
    camel = [{**make_camel_item(1), "createTime": make_item(1)["createTime"]}]
    content = make_content(items=[make_item(1)])
    content["data"] = dict(reversed(content["data"].items()))

    told = normalised(make_body(items=[make_item(1)]))

    assert told == normalised(make_body(items=camel))
    assert told == normalised(orjson.dumps(dict(reversed(content.items()))))


def test_new_fields_change_nothing() -> None:
    plain = normalised(make_body(items=[make_item(1)]))
    more = normalised(make_body(items=[make_item(1, new={"a": 1})], extra=[1]))

    assert plain == more


def test_an_operation_that_is_not_known_is_read_like_audio() -> None:
    update = normalise(make_body(), "brand-new")

    assert update.stage is Stage.COMPLETE
    assert update.operation == "brand-new"


def test_every_operation_has_a_name_that_fits_into_a_routing_key() -> None:
    assert all(name.replace("-", "").isalpha() for name in OPERATIONS)
    assert {*AUDIO_OPERATIONS, "lyrics", "wav", "vocal-removal", "midi"} < {*OPERATIONS}
