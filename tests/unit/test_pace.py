"""Turns at the provider: no more than it takes, and nobody's for nothing."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

from pipeline.provider import pace as pace_module
from pipeline.provider.pace import PaceOfEach, WindowPace

if TYPE_CHECKING:
    import pytest


async def take(pace: WindowPace) -> None:
    async with pace.turn():
        """Over at once."""


async def test_who_gives_up_takes_no_turn_away() -> None:
    pace = WindowPace(1, timedelta(seconds=60))
    await take(pace)
    given_up = asyncio.create_task(take(pace))
    await asyncio.sleep(0)

    given_up.cancel()
    await asyncio.wait({given_up})

    assert 1 == pace._free_at.qsize()


async def test_turn_counts_from_its_end() -> None:
    """The provider may have counted it at any time until it answered."""
    span = timedelta(milliseconds=50)
    pace = WindowPace(1, span)
    loop = asyncio.get_running_loop()
    waiting: asyncio.Task[None]
    async with pace.turn():
        waiting = asyncio.create_task(take(pace))
        done, _ = await asyncio.wait(
            {waiting}, timeout=2 * (span.total_seconds() + pace_module.SLACK_SECONDS)
        )
        assert not done
        ended = loop.time()

    await waiting

    assert loop.time() - ended >= span.total_seconds()


async def ask(pace: PaceOfEach, task_id: str) -> None:
    async with pace.turn(task_id):
        """Over at once."""


async def test_tasks_that_nobody_asks_for_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pace_module, "SLACK_SECONDS", 0)
    pace = PaceOfEach(3, timedelta(0))

    for number in range(pace_module.MOST_TASKS * 3):
        await ask(pace, f"t-{number}")

    assert len(pace) <= pace_module.MOST_TASKS


async def test_task_that_somebody_asks_for_is_not_forgotten() -> None:
    """Neither while it is asked for nor while that counts."""
    pace = PaceOfEach(1, timedelta(seconds=60))
    async with pace.turn("t-1"):
        for number in range(pace_module.MOST_TASKS):
            await ask(pace, f"other-{number}")

    await ask(pace, "one-more")

    assert {"t-1", "other-0", "one-more"} <= pace._paces.keys()
