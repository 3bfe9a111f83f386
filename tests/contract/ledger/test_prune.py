"""Old tasks are forgotten with all there is about them, and no others."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

from pipeline.ledger.port import Attempt, Notification, Totals, Verdict
from pipeline.message import MessageId
from pipeline.task import EventId, Stage, TaskId
from tests.callbacks import after, make_claim, make_update

if TYPE_CHECKING:
    from pipeline.ledger.port import Ledger
    from tests.contract.ledger.conftest import OpenAgain

NOTHING = Totals(
    tasks=0,
    updates=0,
    duplicates=0,
    assets_pending=0,
    assets_stored=0,
    assets_expired=0,
    notifications_delivered=0,
)


async def record(
    ledger: Ledger, task: str, seconds: float, stage: Stage = Stage.TEXT
) -> None:
    update = make_update(stage, task_id=task)
    await ledger.record([make_claim(update, received_at=after(seconds))])


async def tell(ledger: Ledger, notification: Notification) -> int:
    """Note a notification under a lease; give the lease's token."""
    begun = await ledger.begin_notification(
        notification, owner="a", lasts=timedelta(seconds=60)
    )
    assert begun.lease is not None
    await ledger.note_notification(notification, lease=begun.lease)
    return begun.lease.token


async def names(ledger: Ledger) -> list[str]:
    return [task.task_id for task in await ledger.list_tasks()]


async def test_what_was_seen_before_is_forgotten_and_the_rest_stays(
    ledger: Ledger,
) -> None:
    for number in range(5):
        await record(ledger, f"task-{number}", number)

    counted = await ledger.count_old(after(3))
    forgotten = await ledger.prune(after(3))

    assert 3 == counted == forgotten
    assert ["task-4", "task-3"] == await names(ledger)
    assert await ledger.prune(after(3)) == 0


async def test_the_oldest_are_forgotten_first(ledger: Ledger) -> None:
    for number in (2, 0, 1):
        await record(ledger, f"task-{number}", number)

    assert await ledger.prune(after(9), limit=2) == 2

    assert ["task-2"] == await names(ledger)


async def test_nothing_of_a_forgotten_task_stays(ledger: Ledger) -> None:
    task = TaskId("old")
    claim = make_claim(make_update(task_id=task), body=b"{}")
    await ledger.record([claim, make_claim(claim.update)])
    for asset in await ledger.list_assets(task):
        await ledger.settle_asset(asset.key, "410 Gone", at=after(1))
    await ledger.add_attempts(
        [
            Attempt(
                queue="download",
                message_id=MessageId("m1"),
                task_id=task,
                subject="8551-1/audio",
                number=1,
                outcome="ok",
                detail="",
                duration_seconds=0.1,
                finished_at=after(1),
            )
        ]
    )
    notification = Notification(
        subscription="shop",
        event_id=EventId("e1"),
        event_type="task.complete",
        task_id=task,
        attempts=1,
        delivered_at=after(2),
        status=200,
    )
    await tell(ledger, notification)

    assert await ledger.prune(after(60)) == 1

    assert NOTHING == await ledger.totals()
    assert await ledger.find_body(claim.update.task_id, claim.event_id) is None
    assert await ledger.list_attempts(task) == []
    assert await ledger.list_notifications(task) == []
    assert await tell(ledger, notification) == 1


async def test_a_task_with_a_file_that_is_still_to_come_stays(ledger: Ledger) -> None:
    await record(ledger, "waiting", 0, Stage.COMPLETE)

    assert await ledger.count_old(after(60)) == 0
    assert await ledger.prune(after(60)) == 0

    assert ["waiting"] == await names(ledger)


async def test_what_comes_for_a_forgotten_task_is_new(ledger: Ledger) -> None:
    claim = make_claim(make_update(Stage.TEXT))
    await ledger.record([claim])
    await ledger.prune(after(60))

    (answer,) = await ledger.record([make_claim(claim.update)])

    assert answer.verdict is Verdict.NEW


async def test_tasks_are_forgotten_while_others_record(
    ledger: Ledger, open_again: OpenAgain
) -> None:
    """A task that is heard of meanwhile is forgotten as a whole or not at all."""
    tasks = [f"task-{number}" for number in range(40)]
    for task in tasks:
        await record(ledger, task, 0)
    other = await open_again()

    async def forget() -> int:
        forgotten = 0
        while some := await other.prune(after(1), limit=7):
            forgotten += some
        return forgotten

    async def go_on() -> None:
        for task in reversed(tasks):
            await record(ledger, task, timedelta(days=1).total_seconds(), Stage.FAILED)

    forgotten, _ = await asyncio.gather(forget(), go_on())

    totals = await ledger.totals()
    assert len(tasks) == totals.tasks
    assert 2 * len(tasks) - forgotten == totals.updates
