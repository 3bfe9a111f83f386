"""What ``pipeline tasks show`` says of a task that is, or was, still to end."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from pipeline.cli.task_timeline import task_document, timeline
from pipeline.ledger import open_ledger
from pipeline.ledger.expectations import Expectation
from tests.callbacks import START, TASK, after

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pipeline.ledger.port import Ledger


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    """A ledger with one task that was submitted, and is due."""
    async with open_ledger(f"sqlite:///{tmp_path}/ledger.db") as opened:
        await opened.expect(
            [
                Expectation(
                    task_id=TASK,
                    operation="generate",
                    submitted_at=START,
                    due_at=after(60),
                    job_id="job-7",
                )
            ]
        )
        yield opened


async def told(ledger: Ledger) -> list[str]:
    document = await task_document(ledger, TASK)
    assert document is not None
    return [entry.what for entry in timeline(document)]


async def test_a_task_shows_when_it_was_submitted_and_is_asked_for(
    ledger: Ledger,
) -> None:
    assert [
        "submitted as job-7",
        "question 1, unless news comes before",
    ] == await told(ledger)


async def test_a_task_that_was_given_up_shows_it(ledger: Ledger) -> None:
    (question,) = await ledger.take_due(
        most=1, lasts=timedelta(seconds=10), pause=timedelta(0)
    )
    await ledger.give_up(question)

    assert ["submitted as job-7", "given up at question 1"] == await told(ledger)
