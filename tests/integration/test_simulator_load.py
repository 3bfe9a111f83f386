"""The load generator sends what it planned, and counts what was taken."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import pytest
from aiohttp import web

from pipeline.simulator import LoadOptions, run_load
from pipeline.simulator.server import serve
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def receiver(
    said: Counter[str], status: Callable[[int], int]
) -> AsyncIterator[str]:
    async def receive(request: web.Request) -> web.Response:
        data = orjson.loads(await request.read())["data"]
        stage = data["callbackType"].replace("error", "failed")
        said[f"{data['task_id']}.{stage}"] += 1
        return web.Response(status=status(said.total()))

    app = web.Application()
    app.router.add_post("/", receive)
    async with serve(app, host="127.0.0.1", port=0) as url:
        yield f"{url}/"


async def test_a_load_arrives_completely() -> None:
    """What was accepted, and what should come of it, is known exactly."""
    said: Counter[str] = Counter()
    answers: list[bool] = []

    async with receiver(said, lambda _: 200) as url:
        options = LoadOptions(callbacks=1000, seed=6, connections=8)
        result = await run_load(url, options, on_answer=answers.append)

    assert result.sent == result.accepted == said.total() == len(answers) == 1000
    assert result.refused == 0
    assert result.events == set(said)
    assert len(result.events) == 800
    assert result.duplicates_accepted == 200
    assert result.task_ids == {name.partition(".")[0] for name in said}
    assert result.elapsed_seconds > 0


async def test_what_was_refused_is_sent_again() -> None:
    """Every third answer is 503; in the end nothing is missing."""
    said: Counter[str] = Counter()

    async with receiver(said, lambda n: 503 if n % 3 == 0 else 200) as url:
        options = LoadOptions(callbacks=90, connections=4, attempts=20)
        result = await run_load(url, options)

    assert result.accepted == 90
    assert result.sent == said.total() > 90
    assert result.refused == 0


async def test_what_is_never_accepted_is_counted() -> None:
    said: Counter[str] = Counter()

    async with receiver(said, lambda _: 400) as url:
        result = await run_load(url, LoadOptions(callbacks=10, attempts=2))

    assert (result.sent, result.accepted, result.refused) == (20, 0, 10)
    assert result.events == frozenset()


async def test_a_receiver_that_is_gone_is_no_error_of_the_generator() -> None:
    async with receiver(Counter(), lambda _: 200) as url:
        pass

    result = await run_load(url, LoadOptions(callbacks=5, attempts=1))

    assert (result.sent, result.accepted) == (5, 0)


async def test_cancelling_a_load_stops_it() -> None:
    said: Counter[str] = Counter()

    async with receiver(said, lambda _: 200) as url:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await run_load(url, LoadOptions(callbacks=50_000, connections=2))

        # The receiver may be at its last answer still.
        await eventually(_are_few_tasks)

    assert said.total() < 50_000


async def _are_few_tasks() -> bool:
    return len(asyncio.all_tasks()) <= 4


def test_the_example_runs() -> None:
    """What the documentation shows works, warnings being errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "examples/simulate_in_your_tests.py"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT)},
        timeout=30,
    )

    assert "'callbacks_planned': 41" in done.stdout
    assert "'gave_up': 0" in done.stdout
    assert not done.stderr
