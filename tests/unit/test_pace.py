"""Turns at the provider: no more than it takes, and nobody's for nothing."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from pipeline.provider import pace as pace_module
from pipeline.provider.pace import PaceOfEach, WindowPace


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


async def test_tasks_that_nobody_asks_for_are_forgotten() -> None:
    pace = PaceOfEach(per_second=1_000_000)

    for number in range(pace_module.MOST_TASKS * 3):
        await pace.turn(f"t-{number}")

    assert len(pace) <= pace_module.MOST_TASKS


async def test_task_that_somebody_waits_for_is_not_forgotten() -> None:
    pace = PaceOfEach(per_second=0.001)
    await pace.turn("t-1")
    waiting = asyncio.create_task(pace.turn("t-1"))
    await asyncio.sleep(0)
    for number in range(pace_module.MOST_TASKS):
        await pace.turn(f"other-{number}")

    await pace.turn("one-more")

    assert "t-1" in pace._paces
    waiting.cancel()
    await asyncio.wait({waiting})
