"""The doctor says when tasks should have been asked for and nobody has."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from pipeline.doctor.finding import Level
from pipeline.doctor.places import look_at_ledger
from pipeline.ledger import open_ledger
from pipeline.ledger.expectations import Expectation
from pipeline.settings import load_settings
from pipeline.task import TaskId

if TYPE_CHECKING:
    from pathlib import Path

KEY = {"provider.base_url": "https://a.example", "provider.api_key": "the-key"}


@pytest.mark.parametrize(
    ("given", "todo"),
    [
        ({}, "set provider.base_url"),
        (KEY, "see that a poller runs"),
        ({**KEY, "poller.rate_per_second": "2"}, "enough for 60 tasks"),
    ],
    ids=["nobody can ask", "somebody should", "not fast enough"],
)
async def test_tasks_that_nobody_asks_for_are_a_warning(
    tmp_path: Path, given: dict[str, str], todo: str
) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    settings = load_settings(environ={}, flags={"ledger_url": url, **given}).settings
    now = datetime.now(UTC)
    async with open_ledger(url) as ledger:
        await ledger.expect(
            [
                Expectation(
                    task_id=TaskId(task_id),
                    operation="generate",
                    submitted_at=now - timedelta(hours=1),
                    due_at=now - timedelta(minutes=minutes),
                )
                for task_id, minutes in (("overdue", 30), ("due", 0))
            ]
        )

    *_, finding = await look_at_ledger(settings)

    assert Level.WARNING is finding.level
    assert finding.what.startswith("1 of 2 tasks that have not ended")
    assert todo in finding.todo


async def test_tasks_that_are_asked_for_in_time_are_no_finding(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    settings = load_settings(environ={}, flags={"ledger_url": url}).settings
    async with open_ledger(url):
        pass

    *_, finding = await look_at_ledger(settings)

    assert Level.OK is finding.level
