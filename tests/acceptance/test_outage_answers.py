"""What callers wait for while the broker is away, at an ingress in its own process.

The rows of the broker's outages: whoever calls is answered 200, within 5 s, and at
once as soon as the ingress knows.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from pipeline.broker import open_broker
from pipeline.topology import Topology, build_topology
from tests.factories import unique_prefix
from tests.load import called_ingress
from tests.rabbitmq_node import delete_topology
from tests.tcp_proxy import TcpProxy
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.load import Answers, Caller
    from tests.rabbitmq_node import RabbitNode

pytestmark = [
    pytest.mark.rabbitmq,
    pytest.mark.slow,
    pytest.mark.timeout(400, func_only=True),
]

#: How long callers call while the broker is there, while the ingress has to find out
#: that it is not, and once it knows.
BEFORE_SECONDS = 3.0
FINDING_SECONDS = 5.0
KNOWING_SECONDS = 5.0
#: The most that one answer may take; on a busy machine a few writes longer, and as long
#: as those were kept waiting who have asked. No more than the most, whatever happens.
ANSWER_SECONDS = 5.0
MOST_SECONDS = 15.0
#: What 99 of 100 take at most once it knows; on a machine that is too busy for that
#: with the broker there, no more than then, or than the disk takes for a few writes.
KNOWN_SECONDS = 0.1
WRITES = 3
#: Others may spoil a measurement; it is taken again this often at most.
MEASUREMENTS = 5


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


async def test_broker_is_down(
    rabbitmq_node: RabbitNode, topology: Topology, proxy: TcpProxy, tmp_path: Path
) -> None:
    """Connections are reset and refused."""
    url = proxy.url_for(rabbitmq_node.url)
    async with called_ingress(url, topology, tmp_path) as caller:
        before = await caller.call(BEFORE_SECONDS)

        finding = asyncio.create_task(caller.call(FINDING_SECONDS))
        await proxy.refuse()
        proxy.cut()

        _check(await finding)
        assert "degraded" == (await caller.ready())["status"]
        await _check_that_answers_are_quick(caller, before)
        await proxy.accept()
        await caller.check_that_nothing_is_lost(rabbitmq_node.url, topology)


async def test_broker_is_a_black_hole(
    rabbitmq_node: RabbitNode, topology: Topology, proxy: TcpProxy, tmp_path: Path
) -> None:
    """The first wait for their confirm, all others for the disk alone."""
    url = proxy.url_for(rabbitmq_node.url)
    async with called_ingress(url, topology, tmp_path) as caller:
        before = await caller.call(BEFORE_SECONDS)

        finding = asyncio.create_task(caller.call(FINDING_SECONDS))
        proxy.hold()

        _check(await finding)
        assert "closed" != (await caller.ready())["spool"]["circuit"]
        await _check_that_answers_are_quick(caller, before)
        proxy.resume()
        await caller.check_that_nothing_is_lost(rabbitmq_node.url, topology)


@pytest.mark.parametrize("alarm", ["disk", "memory"])
async def test_broker_disk_or_memory_alarm(
    rabbitmq_node: RabbitNode, topology: Topology, tmp_path: Path, alarm: str
) -> None:
    """Those wait that were on their way when the broker stopped reading."""
    node = rabbitmq_node
    is_disk = alarm == "disk"
    async with called_ingress(node.url, topology, tmp_path) as caller:
        before = await caller.call(BEFORE_SECONDS)

        finding = asyncio.create_task(caller.call(FINDING_SECONDS))
        await asyncio.to_thread(
            node.raise_disk_alarm if is_disk else node.raise_memory_alarm
        )

        try:
            _check(await finding)
            await _until_alarm_is_known(caller)
            await _check_that_answers_are_quick(caller, before)
        finally:
            await asyncio.to_thread(
                node.clear_disk_alarm if is_disk else node.clear_memory_alarm
            )
        await caller.check_that_nothing_is_lost(node.url, topology)


async def _until_alarm_is_known(caller: Caller) -> None:
    """The server tells it to whoever publishes."""

    async def is_known() -> bool:
        _check(await caller.call(0.2))
        return "alarm" in (await caller.ready())["checks"]["broker"]

    await eventually(is_known, within=30)


async def _check_that_answers_are_quick(caller: Caller, before: Answers) -> None:
    measured = []
    for _ in range(MEASUREMENTS):
        answers = await caller.call(KNOWING_SECONDS)
        _check(answers)
        disk = WRITES * answers.disk.longest_seconds
        enough = max(KNOWN_SECONDS, before.p99_seconds, disk)
        if answers.p99_seconds <= enough:
            return
        measured.append(f"{answers.p99_seconds:.3f} s, not {enough:.3f} s")
    pytest.fail(f"99 of 100 never came in time: within {'; '.join(measured)}")


def _check(answers: Answers) -> None:
    assert {*answers.statuses} <= ({200, 503} if answers.disk.may_refuse else {200})
    excused = WRITES * answers.disk.longest_seconds + answers.late_seconds
    assert answers.slowest_seconds < min(ANSWER_SECONDS + excused, MOST_SECONDS)
