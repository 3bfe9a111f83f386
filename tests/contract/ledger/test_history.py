"""Tries and notifications are remembered once each."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.errors import LeaseLost
from pipeline.ledger.port import Attempt, Notification
from pipeline.message import MessageId
from pipeline.task import EventId, TaskId
from tests.callbacks import TASK, after, make_claim

if TYPE_CHECKING:
    from datetime import datetime

    from pipeline.ledger.port import Ledger


def make_attempt(number: int = 1, **changes: Any) -> Attempt:
    values: dict[str, Any] = {
        "queue": "download",
        "message_id": MessageId("m1"),
        "task_id": TASK,
        "subject": "8551-1/audio",
        "number": number,
        "outcome": "FetchFailed",
        "detail": "503 from files.example.com",
        "duration_seconds": 0.25,
        "finished_at": after(number),
    }
    return Attempt(**(values | changes))


def make_notification(
    delivered_at: datetime | None = None, **changes: Any
) -> Notification:
    values: dict[str, Any] = {
        "subscription": "orders",
        "event_id": EventId("e1"),
        "event_type": "task.complete",
        "task_id": TASK,
        "attempts": 1,
        "status": 200,
    }
    return Notification(delivered_at=delivered_at, **(values | changes))


async def test_tries_are_listed_the_oldest_first(ledger: Ledger) -> None:
    attempts = [make_attempt(1), make_attempt(2), make_attempt(3, outcome="ok")]
    await ledger.add_attempts(attempts[1:])
    await ledger.add_attempts(attempts[:1])

    assert attempts == list(await ledger.list_attempts(TASK))


async def test_the_same_try_is_remembered_once(ledger: Ledger) -> None:
    await ledger.add_attempts([make_attempt(), make_attempt()])
    await ledger.add_attempts([make_attempt(detail="again")])

    assert [make_attempt()] == list(await ledger.list_attempts(TASK))


async def test_tries_of_other_queues_and_replays_are_others(ledger: Ledger) -> None:
    """Subscriptions share one event; a replay counts from 1 again."""
    attempts = [
        make_attempt(queue="notify.a"),
        make_attempt(queue="notify.b"),
        make_attempt(queue="notify.b", replays=1),
    ]
    await ledger.add_attempts(attempts)

    assert attempts == list(await ledger.list_attempts(TASK))


async def test_try_that_quotes_what_no_database_takes_is_remembered(
    ledger: Ledger,
) -> None:
    """A server may have sent it: no reason to forget what happened."""
    await ledger.add_attempts([make_attempt(detail="got \udcff\0 here")])

    (found,) = await ledger.list_attempts(TASK)
    assert "got ? here" == found.detail


async def test_no_tries_are_no_tries(ledger: Ledger) -> None:
    await ledger.add_attempts([])

    assert await ledger.list_attempts(TASK) == []


async def note(ledger: Ledger, notification: Notification) -> None:
    begun = await ledger.begin_notification(
        notification, owner="a", lasts=timedelta(seconds=60)
    )
    assert begun.lease is not None
    await ledger.note_notification(notification, lease=begun.lease)


async def test_notifications_of_a_task_are_listed(ledger: Ledger) -> None:
    notification = make_notification(after(1))
    other = make_notification(after(1), subscription="prints")
    await note(ledger, other)
    await note(ledger, notification)

    assert [notification, other] == list(await ledger.list_notifications(TASK))
    assert [] == list(await ledger.list_notifications(TaskId("other")))


async def test_what_was_delivered_stays_delivered(ledger: Ledger) -> None:
    await note(ledger, make_notification(status=None))
    delivered = make_notification(after(2), attempts=2)
    begun = await ledger.begin_notification(
        delivered, owner="a", lasts=timedelta(seconds=60)
    )
    assert begun.lease is not None
    for _ in range(2):
        await ledger.note_notification(delivered, lease=begun.lease)

    with pytest.raises(LeaseLost):
        await ledger.note_notification(
            replace(delivered, attempts=3, delivered_at=None, status=500),
            lease=begun.lease,
        )

    assert [delivered] == list(await ledger.list_notifications(TASK))
    assert (await ledger.totals()).notifications_delivered == 1


async def test_an_undelivered_notification_shows_its_last_try(ledger: Ledger) -> None:
    await note(ledger, make_notification(status=500))
    await note(ledger, make_notification(status=None, attempts=2))

    (found,) = await ledger.list_notifications(TASK)

    assert (found.attempts, found.status) == (2, None)
    assert (await ledger.totals()).notifications_delivered == 0


async def test_totals_start_at_nothing_and_count_everything(ledger: Ledger) -> None:
    empty = await ledger.totals()
    await ledger.record([make_claim(), make_claim()])

    totals = await ledger.totals()

    assert (0, 0, 0) == (empty.tasks, empty.updates, empty.duplicates)
    assert (1, 1, 1) == (totals.tasks, totals.updates, totals.duplicates)
