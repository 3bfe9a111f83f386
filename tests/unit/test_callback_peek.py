"""What the ingress sees of a callback at a glance."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from pipeline.errors import Unreadable
from pipeline.provider.callback import peek
from pipeline.task import ID_LIMIT, Stage
from tests.callbacks import TASK, make_body, make_record_info


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"data": {"task_id": "a", "taskId": "b"}, "task_id": "c"}, "a"),
        ({"data": {"taskId": "b"}, "task_id": "c", "taskId": "d"}, "b"),
        ({"data": [], "task_id": "c", "taskId": "d"}, "c"),
        ({"data": None, "taskId": "d"}, "d"),
        ({"data": {"task_id": "", "taskId": None}, "taskId": "d"}, "d"),
        ({"data": {"task_id": "a", "taskId": "a"}}, "a"),
        ({"data": {"task_id": 42}}, "42"),
        ({"data": {"task_id": {"x": 1}, "taskId": "b"}}, "b"),
    ],
)
def test_the_task_id_is_found_in_four_places_in_the_documented_order(
    content: dict[str, Any], expected: str
) -> None:
    assert expected == peek(orjson.dumps(content)).task_id


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "expected a JSON object"),
        (b"hello", "expected a JSON object"),
        (b"[1]", "got a list"),
        (b"null", "got a NoneType"),
        (b"{}", "expected a task id"),
        (b'{"data": {"task_id": "   "}}', "expected a task id"),
        (b'{"data": {"task_id": true}}', "expected a task id"),
        (b'{"task_id": "a\\nb"}', "can be printed"),
        (b'{"task_id": "a\\u0000b"}', "can be printed"),
        (b'{"task_id": "a", "x": NaN}', "expected a JSON object"),
        (b'{"task_id": "\\ud800"}', "expected a JSON object"),
        (b'{"task_id": "a", "code": ' + b"9" * 5000 + b"}", "expected a JSON object"),
        (b'{"task_id": "\xff"}', "expected a JSON object"),
        (b"[" * 1_000_000, "expected a JSON object"),
        (b'{"a":' * 100_000, "expected a JSON object"),
    ],
)
def test_a_body_without_a_usable_task_id_is_unreadable(
    body: bytes, reason: str
) -> None:
    with pytest.raises(Unreadable, match=reason):
        peek(body)


def test_an_id_may_be_as_long_as_the_limit_and_no_longer() -> None:
    assert peek(make_body(task_id="a" * ID_LIMIT)).task_id == "a" * ID_LIMIT

    with pytest.raises(Unreadable, match="at most 128 characters, got 129"):
        peek(make_body(task_id="a" * (ID_LIMIT + 1)))


@pytest.mark.parametrize(
    ("callback_type", "expected"),
    [
        ("text", Stage.TEXT),
        ("first", Stage.FIRST),
        ("complete", Stage.COMPLETE),
        ("error", Stage.FAILED),
        ("failed", Stage.FAILED),
        ("TEXT", Stage.TEXT),
        (" Complete ", Stage.COMPLETE),
        ("task_completed", Stage.UNKNOWN),
        ("", Stage.UNKNOWN),
    ],
)
def test_the_stage_is_that_of_the_callback_type_in_any_letter_case(
    callback_type: str, expected: Stage
) -> None:
    assert expected == peek(make_body(callback_type)).stage


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (200, Stage.COMPLETE),
        ("200", Stage.COMPLETE),
        (200.0, Stage.COMPLETE),
        (None, Stage.COMPLETE),
        ("success", Stage.COMPLETE),
        (True, Stage.COMPLETE),
        (400, Stage.FAILED),
        ("531", Stage.FAILED),
        (0, Stage.FAILED),
        (-1, Stage.FAILED),
        (10**18, Stage.FAILED),
        (1e300, Stage.FAILED),
    ],
)
def test_a_code_other_than_200_outranks_the_type(code: Any, expected: Stage) -> None:
    assert expected == peek(make_body("complete", code=code)).stage


def test_code_0_is_a_success_of_music_videos_only() -> None:
    video = orjson.dumps(
        {"code": 0, "data": {"task_id": TASK, "video_url": "https://x"}}
    )

    assert peek(video).stage is Stage.COMPLETE
    assert peek(video, "music-video").stage is Stage.COMPLETE
    assert peek(video, "generate").stage is Stage.FAILED


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("PENDING", Stage.UNKNOWN),
        ("GENERATING", Stage.UNKNOWN),
        ("TEXT_SUCCESS", Stage.TEXT),
        ("FIRST_SUCCESS", Stage.FIRST),
        ("SUCCESS", Stage.COMPLETE),
        ("CREATE_TASK_FAILED", Stage.FAILED),
        ("GENERATE_AUDIO_FAILED", Stage.FAILED),
        ("SENSITIVE_WORD_ERROR", Stage.FAILED),
        ("FAILED", Stage.FAILED),
    ],
)
def test_a_details_answer_is_placed_by_its_status(status: str, expected: Stage) -> None:
    assert expected == peek(make_record_info(status)).stage


def test_a_pending_task_with_an_error_code_has_failed() -> None:
    assert peek(make_record_info("PENDING", errorCode=413)).stage is Stage.FAILED


def test_a_type_that_is_no_text_is_unknown() -> None:
    assert peek(make_body(None, callbackType=["text"])).stage is Stage.UNKNOWN
