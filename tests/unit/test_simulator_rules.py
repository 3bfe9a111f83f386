"""Signatures, the clock, the rules of submission, and planned loads."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import orjson
import pytest

import pipeline.simulator
from pipeline.simulator import LoadOptions, SimulatedClock, plan_load
from pipeline.simulator.signing import LinkSigner, LinkState, callback_headers
from pipeline.simulator.submission import Refusal, find_fault

if TYPE_CHECKING:
    from pipeline.simulator.doors import Door


def make_submission(**changes: object) -> dict[str, Any]:
    body = {
        "uploadUrl": "https://example.com/source.mp3",
        "defaultParamFlag": True,
        "model": "V5",
        "callBackUrl": "https://example.com/callbacks/upload-extend",
        "instrumental": True,
        "continueAt": 30,
        "style": "lo-fi",
        "title": "Paper Lanterns",
    }
    return {k: v for k, v in {**body, **changes}.items() if v is not ...}


def make_signer(**lifetime: float) -> LinkSigner:
    return LinkSigner(
        key=b"key", clock=SimulatedClock(), lifetime=timedelta(**lifetime)
    )


def query_of(link: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(link).query).items()}


def test_callbacks_are_signed_over_task_id_and_time() -> None:
    """HMAC-SHA256 of ``task_id.timestamp``, standard base64 with padding."""
    headers = callback_headers("task-1", key="secret", timestamp=1_700_000_000)

    digest = hmac.new(b"secret", b"task-1.1700000000", hashlib.sha256).digest()
    assert headers == {
        "X-Webhook-Timestamp": "1700000000",
        "X-Webhook-Signature": base64.b64encode(digest).decode(),
    }
    assert len(headers["X-Webhook-Signature"]) == 44


def test_a_signed_link_is_valid_for_its_path_only() -> None:
    signer = make_signer(hours=1)
    query = query_of(signer.sign("/files/a.mp3"))

    assert signer.check("/files/a.mp3", query) is LinkState.VALID
    assert signer.check("/files/b.mp3", query) is LinkState.FORGED
    assert signer.check("/files/a.mp3", {}) is LinkState.FORGED
    longer = {**query, "Expires": "99999999999"}
    assert signer.check("/files/a.mp3", longer) is LinkState.FORGED
    assert signer.check("/files/a.mp3", {"Signature": "é"}) is LinkState.FORGED


def test_a_link_with_a_negative_lifetime_is_dead_from_the_beginning() -> None:
    signer = make_signer(hours=1)
    query = query_of(signer.sign("/files/a.mp3", lifetime=timedelta(days=-1)))

    assert signer.check("/files/a.mp3", query) is LinkState.EXPIRED


def test_two_links_of_one_file_differ_in_their_query_alone() -> None:
    signer = make_signer(hours=1)

    one, two = signer.sign("/files/a.mp3"), signer.sign("/files/a.mp3")

    assert one != two
    assert urlsplit(one).path == urlsplit(two).path == "/files/a.mp3"


def test_the_clock_runs_as_fast_as_it_is_told() -> None:
    clock = SimulatedClock(60)

    assert clock.real_seconds(timedelta(minutes=15)) == 15
    assert clock.now() <= clock.now()


def test_a_clock_is_put_forward_at_once_and_never_back() -> None:
    clock = SimulatedClock(60)
    before = clock.now()

    clock.advance(timedelta(days=1))

    assert timedelta(days=1) <= clock.now() - before < timedelta(days=2)
    with pytest.raises(ValueError, match="expected a span of 0 or more, got -1 day"):
        clock.advance(timedelta(days=-1))


@pytest.mark.parametrize("scale", [0, -1, float("nan")])
def test_a_clock_that_stands_still_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="expected a time scale above 0"):
        SimulatedClock(scale)


def test_a_complete_submission_has_no_fault() -> None:
    assert find_fault("upload-extend", make_submission(), door="S") is None


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"uploadUrl": ...}, "uploadUrl"),
        ({"uploadUrl": "file:///etc/passwd"}, "uploadUrl"),
        ({"callBackUrl": ...}, "callBackUrl"),
        ({"callBackUrl": "http://[::1"}, "callBackUrl"),
        ({"defaultParamFlag": "true"}, "defaultParamFlag"),
        ({"model": "V3_5"}, "model"),
        ({"model": ...}, "model"),
        ({"style": ...}, "style"),
        ({"title": ""}, "title"),
        ({"continueAt": ...}, "continueAt"),
        ({"continueAt": 0}, "continueAt"),
        ({"instrumental": False}, "prompt"),
        ({"vocalGender": "x"}, "vocalGender"),
        ({"audioWeight": 1.5}, "audioWeight"),
        ({"styleWeight": "much"}, "styleWeight"),
    ],
)
@pytest.mark.parametrize(("door", "code"), [("S", 400), ("K", 422)])
def test_a_faulty_submission_is_refused_with_the_door_s_code(
    changes: dict[str, object], word: str, door: Door, code: int
) -> None:
    """Bad parameters are 400 at one door and 422 at the other."""
    fault = find_fault("upload-extend", make_submission(**changes), door=door)

    assert isinstance(fault, Refusal)
    assert fault.code == code
    assert word in fault.message


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"prompt": "x" * 3001, "model": "V4"}, "prompt"),
        ({"prompt": "x" * 5001}, "prompt"),
        ({"style": "x" * 1001}, "style"),
        ({"title": "x" * 81, "model": "V4_5ALL"}, "title"),
        ({"title": "x" * 101}, "title"),
    ],
)
def test_texts_that_are_too_long_have_a_code_of_their_own(
    changes: dict[str, object], word: str
) -> None:
    fault = find_fault("upload-extend", make_submission(**changes), door="S")

    assert fault is not None
    assert fault.code == 413
    assert word in fault.message


def test_models_that_nobody_knows_yet_are_accepted() -> None:
    """The list of models is not closed."""
    for model in ("V4", "V4_5ALL", "V5_5", "V6", "V6_WILD"):
        assert (
            find_fault("upload-extend", make_submission(model=model), door="S") is None
        )


def test_a_load_has_exactly_the_callbacks_that_were_asked_for() -> None:
    callbacks = plan_load(LoadOptions(callbacks=1000, duplicate_rate=0.2, seed=3))

    times = Counter(callback.semantic_id for callback in callbacks)

    assert len(callbacks) == 1000
    assert len(times) == 800
    assert len({callback.task_id for callback in callbacks}) == 267


def test_a_load_is_in_random_order_and_repeatable() -> None:
    options = LoadOptions(callbacks=300, seed=4)

    callbacks = plan_load(options)

    ids = [callback.task_id for callback in callbacks]
    assert callbacks == plan_load(options)
    assert callbacks != plan_load(LoadOptions(callbacks=300, seed=5))
    assert ids != sorted(ids)


def test_repeats_in_a_load_have_freshly_signed_links() -> None:
    """The same occurrence, byte for byte different."""
    options = LoadOptions(
        callbacks=200, duplicate_rate=0.5, links=("http://localhost/files/a.mp3?s=1",)
    )
    bodies: dict[str, set[bytes]] = {}
    for callback in plan_load(options):
        if callback.stage != "text":
            bodies.setdefault(callback.semantic_id, set()).add(callback.body)

    links = {
        track["audio_url"]
        for copies in bodies.values()
        for body in copies
        for track in orjson.loads(body)["data"]["data"]
    }

    assert max(map(len, bodies.values())) > 1
    assert all(link.startswith("http://localhost/files/a.mp3?s=1&n=") for link in links)


@pytest.mark.parametrize("callbacks", [0, 1, 2])
def test_tiny_loads_are_possible(callbacks: int) -> None:
    planned = plan_load(LoadOptions(callbacks=callbacks, duplicate_rate=0.9))

    assert len(planned) == callbacks


def test_a_load_with_too_few_tasks_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at least 267 for 800 different"):
        LoadOptions(callbacks=1000, tasks=100)
    with pytest.raises(ValueError, match=r"duplicate_rate: expected 0 to 0\.9, got 1"):
        LoadOptions(duplicate_rate=1)


def test_every_public_name_can_be_imported() -> None:
    for name in pipeline.simulator.__all__:
        assert getattr(pipeline.simulator, name) is not None
    assert not hasattr(pipeline.simulator, "nonsense")
