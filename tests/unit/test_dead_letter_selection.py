"""Which dead letters are meant, and what a dead letter is about."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from pipeline.dead_letters import (
    DeadLetter,
    Selection,
    find_stage,
    find_task_id,
)
from pipeline.message import Envelope, MessageId, failed

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def make_letter(
    *,
    body: bytes = b"{}",
    routing_key: str = "asset.requested",
    published_at: datetime | None = None,
) -> DeadLetter:
    envelope = Envelope(
        body=body,
        routing_key=routing_key,
        message_id=MessageId("m"),
        published_at=published_at,
    )
    return DeadLetter(queue="download", envelope=envelope)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"task_id": "t"}', "t"),
        (b'{"taskId": "t"}', "t"),
        (b'{"data": {"task_id": "t"}}', "t"),
        (b'{"data": {"taskId": "t"}, "task_id": "outer"}', "t"),
        (b'{"data": {"task_id": 7}}', None),
        (b'{"data": [1]}', None),
        (b"[]", None),
        (b"\xff\x00", None),
        (b"", None),
    ],
)
def test_the_task_is_found_in_the_body(body: bytes, expected: str | None) -> None:
    assert expected == find_task_id(make_letter(body=body).envelope)


def test_a_header_beats_the_body() -> None:
    envelope = Envelope(
        body=b'{"task_id": "body", "data": {"stage": "text"}}',
        routing_key="task.first",
        message_id=MessageId("m"),
        headers={"task-id": "header", "stage": "complete"},
    )

    assert find_task_id(envelope) == "header"
    assert find_stage(envelope) == "complete"


@pytest.mark.parametrize(
    ("routing_key", "body", "expected"),
    [
        ("callback.upload-extend.first", b"", "first"),
        ("task.complete", b"", "complete"),
        ("task.assets_ready", b'{"data": {"stage": "complete"}}', "complete"),
        ("asset.requested", b"{}", None),
        ("asset.requested", b'{"data": {"stage": 3}}', None),
        ("complete", b"", None),
    ],
)
def test_the_stage_is_found_in_the_routing_key_or_the_body(
    routing_key: str, body: bytes, expected: str | None
) -> None:
    letter = make_letter(routing_key=routing_key, body=body)

    assert expected == find_stage(letter.envelope)


def test_the_age_is_that_of_the_last_failure() -> None:
    envelope = make_letter(published_at=NOON - timedelta(days=1)).envelope
    noted = failed(envelope, queue="download", error=ValueError("x"), at=NOON)
    letter = DeadLetter(queue="download", envelope=noted)

    assert Selection(since=NOON).matches(letter)
    assert not Selection(before=NOON).matches(letter)
    assert Selection(before=NOON + timedelta(seconds=1)).matches(letter)


def test_without_a_failure_the_age_is_that_of_the_message() -> None:
    letter = make_letter(published_at=NOON)

    assert Selection(since=NOON).matches(letter)
    assert not Selection(error_type="Reject").matches(letter)


def test_a_letter_of_unknown_age_is_in_no_span() -> None:
    letter = make_letter()

    assert not Selection(since=NOON).matches(letter)
    assert not Selection(before=NOON).matches(letter)
    assert Selection().matches(letter)
