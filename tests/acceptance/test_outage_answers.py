"""What callers wait for while the broker is away, at an ingress in its own process.

The rows of the broker's outages: whoever calls is answered 200, within 5 s, and at
once as soon as the ingress knows.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from pipeline.broker import open_broker
from pipeline.topology import Topology, build_topology
from tests.command_line import CommandLine
from tests.factories import unique_prefix
from tests.load import Answers, send_steadily
from tests.outage import published
from tests.rabbitmq_node import delete_topology
from tests.tcp_proxy import TcpProxy
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.rabbitmq_node import RabbitNode

pytestmark = [pytest.mark.rabbitmq, pytest.mark.timeout(180, func_only=True)]

RATE = 200
#: How long callers call before it happens, and while the ingress has to find out.
BEFORE_SECONDS = 1.0
FINDING_SECONDS = 5.0
#: How long they call once it knows.
KNOWING_SECONDS = 3.0
#: The most that one answer may take.
ANSWER_SECONDS = 5.0
#: What 99 of 100 take at most once it knows.
KNOWN_SECONDS = 0.1
#: A busy machine spoils a measurement; it is taken again this often at most.
MEASUREMENTS = 3


@pytest.fixture
async def topology(rabbitmq_node: RabbitNode) -> AsyncIterator[Topology]:
    """What the command line declares under a prefix of its own."""
    made = build_topology(prefix=unique_prefix())
    async with open_broker(rabbitmq_node.url, deadline=timedelta(seconds=10)) as broker:
        await broker.declare(made)
    yield made
    await delete_topology(rabbitmq_node.url, made)


@pytest.fixture
async def proxy(rabbitmq_node: RabbitNode) -> AsyncIterator[TcpProxy]:
    """What stands between the ingress and the broker."""
    async with TcpProxy.to(rabbitmq_node.url) as made:
        yield made


class Called:
    """An ingress that is called, and the tasks it has answered for."""

    def __init__(self, base: str) -> None:
        self._base = base
        self._sent = 0

    async def call(self, seconds: float) -> Answers:
        """Call at the usual rate; every answer has to be 200, and in time."""
        start = self._sent
        self._sent += int(RATE * seconds)
        answers = await send_steadily(
            self._base, rate=RATE, seconds=seconds, start=start
        )
        print(answers)  # noqa: T201  shown with a failure
        assert {200} == {*answers.statuses}
        assert answers.slowest_seconds < ANSWER_SECONDS
        return answers

    async def ready(self) -> dict[str, Any]:
        """Ask how it is."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self._base}/readyz") as answer,
        ):
            return dict(await answer.json())

    async def until(self, status: str, *, within: float = 10) -> None:
        """Wait until it says of itself that it is ready, or degraded."""

        async def is_so() -> bool:
            return bool((await self.ready())["status"] == status)

        await eventually(is_so, within=within)

    async def check_that_nothing_is_lost(self, url: str, topology: Topology) -> None:
        """Wait until the spool is empty and all that was answered for has come."""
        await self.until("ready", within=60)
        found = await published(url, topology, self._sent)
        assert self._sent == len(found)


@asynccontextmanager
async def _called(url: str, topology: Topology, folder: Path) -> AsyncIterator[Called]:
    cli = CommandLine(folder, {"PIPELINE_BROKER__PREFIX": topology.prefix})
    with cli.running("ingress", "--port", "0", "--broker-url", url) as run:
        called = Called(await asyncio.to_thread(run.address))
        await called.until("ready", within=30)
        await called.call(BEFORE_SECONDS)
        yield called


async def _check_that_answers_are_quick(called: Called) -> None:
    measured = []
    for _ in range(MEASUREMENTS):
        answers = await called.call(KNOWING_SECONDS)
        measured.append(answers.within(0.99))
        if measured[-1] < KNOWN_SECONDS:
            return
    pytest.fail(f"99 of 100 came within {min(measured)} s at the best")


async def test_broker_is_down(
    rabbitmq_node: RabbitNode, topology: Topology, proxy: TcpProxy, tmp_path: Path
) -> None:
    """Connections are reset and refused."""
    url = proxy.url_for(rabbitmq_node.url)
    async with _called(url, topology, tmp_path) as called:
        finding = asyncio.create_task(called.call(FINDING_SECONDS))
        await proxy.refuse()
        proxy.cut()
        await finding
        assert "degraded" == (await called.ready())["status"]

        await _check_that_answers_are_quick(called)

        await proxy.accept()
        await called.check_that_nothing_is_lost(rabbitmq_node.url, topology)


async def test_broker_is_a_black_hole(
    rabbitmq_node: RabbitNode, topology: Topology, proxy: TcpProxy, tmp_path: Path
) -> None:
    """The first wait for their confirm, all others for the disk alone."""
    url = proxy.url_for(rabbitmq_node.url)
    async with _called(url, topology, tmp_path) as called:
        finding = asyncio.create_task(called.call(FINDING_SECONDS))
        proxy.hold()
        await finding
        assert "closed" != (await called.ready())["spool"]["circuit"]

        await _check_that_answers_are_quick(called)

        proxy.resume()
        await called.check_that_nothing_is_lost(rabbitmq_node.url, topology)


@pytest.mark.parametrize("alarm", ["disk", "memory"])
async def test_broker_disk_or_memory_alarm(
    rabbitmq_node: RabbitNode, topology: Topology, tmp_path: Path, alarm: str
) -> None:
    """Those wait that were on their way when the broker stopped reading."""
    node = rabbitmq_node
    is_disk = alarm == "disk"
    async with _called(node.url, topology, tmp_path) as called:
        finding = asyncio.create_task(called.call(FINDING_SECONDS))
        await asyncio.to_thread(
            node.raise_disk_alarm if is_disk else node.raise_memory_alarm
        )
        try:
            await finding
            await called.until("degraded")
            assert "alarm" in (await called.ready())["checks"]["broker"]

            await _check_that_answers_are_quick(called)
        finally:
            await asyncio.to_thread(
                node.clear_disk_alarm if is_disk else node.clear_memory_alarm
            )
        await called.check_that_nothing_is_lost(node.url, topology)
