"""Tasks that were submitted long ago, and given up as the poller does it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from pipeline.ledger.expectations import Expectation
from tests.callbacks import TASK

if TYPE_CHECKING:
    from pipeline.ledger.port import Ledger
    from pipeline.task import TaskId


async def expect_long_ago(ledger: Ledger, task_id: TaskId = TASK) -> None:
    """Note a task that is due to be asked for."""
    at = datetime.now(UTC) - timedelta(hours=1)
    expectation = Expectation(
        task_id=task_id, operation="generate", submitted_at=at, due_at=at
    )
    await ledger.expect([expectation])


async def give_up(ledger: Ledger) -> None:
    """Ask for the one task that is due, and give it up."""
    (question,) = await ledger.take_due(
        most=1, lasts=timedelta(minutes=1), pause=timedelta(0)
    )
    assert await ledger.give_up(question)
