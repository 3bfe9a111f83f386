"""Roles run together, end together, and hear signals."""

from __future__ import annotations

import asyncio
import io
import os
import signal
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import pytest
import structlog

from pipeline.broker import open_broker
from pipeline.errors import BrokerClosed, TopologyMismatch
from pipeline.service import (
    StoppedAtOnce,
    declare_when_up,
    run_roles,
    stopping_on_signals,
)
from tests.factories import make_topology
from tests.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

DEADLINE = timedelta(seconds=20)


class Part:
    """A role that works until it is told to stop, or fails at once."""

    problem = None

    def __init__(self, name: str, *, error: Exception | None = None) -> None:
        self.name = name
        self.ended = ""
        self._error = error

    async def run(self, stopping: asyncio.Event) -> None:
        if self._error is not None:
            raise self._error
        try:
            await stopping.wait()
        except asyncio.CancelledError:
            self.ended = "cancelled"
            raise
        self.ended = "finished"


async def test_all_roles_finish_when_told_to_stop() -> None:
    stopping = asyncio.Event()
    parts = [Part("a"), Part("b")]

    async with asyncio.TaskGroup() as group:
        group.create_task(run_roles(parts, stopping))
        await asyncio.sleep(0)
        stopping.set()

    assert [part.ended for part in parts] == ["finished", "finished"]


async def test_a_role_that_fails_ends_the_others() -> None:
    parts = [Part("a"), Part("b", error=TopologyMismatch("other arguments"))]

    with pytest.raises(ExceptionGroup) as caught:
        await run_roles(parts, asyncio.Event())

    assert caught.group_contains(TopologyMismatch, match="other arguments")
    assert parts[0].ended == "cancelled"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_first_signal_asks_to_stop(number: signal.Signals) -> None:
    async with asyncio.timeout(5), stopping_on_signals() as stopping:
        os.kill(os.getpid(), number)

        await stopping.wait()


async def test_the_second_signal_stops_at_once() -> None:
    """The first is told of, so that it can be said what a second one does."""
    told: list[str] = []

    async def signal_twice() -> None:
        on_first = partial(told.append, "first")
        async with asyncio.timeout(5), stopping_on_signals(on_first) as stopping:
            os.kill(os.getpid(), signal.SIGTERM)
            await stopping.wait()
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.Event().wait()

    with pytest.raises(StoppedAtOnce):
        await signal_twice()

    assert ["first"] == told


async def test_being_cancelled_is_no_signal() -> None:
    async def wait() -> None:
        async with stopping_on_signals():
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_signals_are_left_as_they_were() -> None:
    before = signal.getsignal(signal.SIGTERM)

    async with stopping_on_signals():
        assert signal.getsignal(signal.SIGTERM) != before

    assert signal.getsignal(signal.SIGTERM) == before


async def test_a_broker_that_comes_later_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.service.DECLARE_PAUSE_SECONDS", 0.05)
    folder = tmp_path / "later"
    folder.write_text("in the way", encoding="ascii")
    url = f"sqlite:///{folder}/broker.db"
    topology = make_topology()

    async with open_broker(url, deadline=DEADLINE) as broker:
        waiting = asyncio.create_task(
            declare_when_up(broker, topology, asyncio.Event())
        )

        async def has_a_problem() -> bool:
            return broker.problem is not None

        await eventually(has_a_problem)
        folder.unlink()
        folder.mkdir()

        assert await waiting
        assert (await broker.depth("dedupe")).ready == 0


async def test_a_stop_ends_the_wait_for_a_broker(tmp_path: Path) -> None:
    folder = tmp_path / "never"
    folder.write_text("in the way", encoding="ascii")
    stopping = asyncio.Event()

    async with open_broker(f"sqlite:///{folder}/b.db", deadline=DEADLINE) as broker:
        waiting = asyncio.create_task(
            declare_when_up(broker, make_topology(), stopping)
        )
        await asyncio.sleep(0)
        stopping.set()

        assert not await waiting


async def test_an_error_that_waiting_cannot_mend_is_raised(sqlite_url: str) -> None:
    broker = open_broker(sqlite_url, deadline=DEADLINE)

    with pytest.raises(BrokerClosed):
        await declare_when_up(broker, make_topology(), asyncio.Event())


async def test_a_signal_is_heard_though_its_line_cannot_be_written(
    request: pytest.FixtureRequest,
) -> None:
    request.addfinalizer(structlog.reset_defaults)
    closed = io.StringIO()
    closed.close()
    structlog.configure(logger_factory=structlog.WriteLoggerFactory(closed))
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)

    async with asyncio.timeout(5), stopping_on_signals() as stopping:
        os.kill(os.getpid(), signal.SIGTERM)

        await stopping.wait()
