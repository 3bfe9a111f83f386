"""Old tasks are forgotten from the command line."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from pipeline.ledger import open_ledger
from pipeline.task import Stage
from tests.callbacks import make_claim, make_update

if TYPE_CHECKING:
    from tests.command_line import CommandLine


@pytest.fixture
def address(cli: CommandLine) -> str:
    """A ledger with two tasks of long ago and one of now."""
    url = f"sqlite:///{cli.folder}/ledger.db"
    now = datetime.now(UTC)

    async def fill() -> None:
        async with open_ledger(url) as ledger:
            for name, days in (("old", 100), ("older", 200), ("young", 1)):
                update = make_update(Stage.TEXT, task_id=name)
                claim = make_claim(update, received_at=now - timedelta(days=days))
                await ledger.record([claim])

    asyncio.run(fill())
    return url


def names(cli: CommandLine, address: str) -> set[str]:
    listed = cli.json("tasks", "list", "--ledger-url", address)
    return {task["task_id"] for task in listed}


def test_old_tasks_are_forgotten_once_that_is_confirmed(
    cli: CommandLine, address: str
) -> None:
    prune = ("ledger", "prune", "--older-than", "90d", "--ledger-url", address)

    counted = cli(*prune)
    assert counted.returncode == 2
    assert "2 tasks to be forgotten" in counted.stdout
    assert "--yes" in counted.stderr
    assert {"old", "older", "young"} == names(cli, address)

    expected = {"tasks": 2, "jobs_without_task": 0, "dry_run": False}
    assert expected == cli.json(*prune, "--yes")
    assert {"young"} == names(cli, address)


def test_an_age_that_is_none_is_a_wrong_usage(cli: CommandLine, address: str) -> None:
    refused = cli("ledger", "prune", "--older-than", "long", "--ledger-url", address)

    assert refused.returncode == 2
    assert "expected a duration" in refused.stderr


def test_a_ledger_that_is_not_there_is_not_made(cli: CommandLine) -> None:
    refused = cli("ledger", "prune", "--older-than", "1d")

    assert refused.returncode == 1
    assert "expected a ledger that exists" in refused.stderr
