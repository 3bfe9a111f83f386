"""A RabbitMQ cluster that loses nodes and links: nothing that was promised is lost."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from pipeline.topology import DEDUPE, build_topology
from tests.factories import SHORT_DELAY, unique_prefix
from tests.load import called_ingress
from tests.rabbitmq_node import delete_topology
from tests.traffic import running_traffic
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pipeline.topology import Topology
    from tests.disk import Disk
    from tests.rabbitmq_cluster import RabbitCluster
    from tests.rabbitmq_node import RabbitNode
    from tests.traffic import Traffic

#: Starting three nodes does not count.
pytestmark = [
    pytest.mark.rabbitmq,
    pytest.mark.slow,
    pytest.mark.timeout(600, func_only=True),
]

#: The most that one answer of the ingress may take: two waits of 2 s, for the confirm
#: and for the spool, and what the work takes.
ANSWER_SECONDS = 5.0
#: For so long a machine with three nodes may let a process stand still.
PAUSE_SECONDS = 3.0
#: How long an ingress is called at a time.
CALLING_SECONDS = 8.0


@pytest.fixture
async def topology(rabbitmq_cluster: RabbitCluster) -> AsyncIterator[Topology]:
    """Names of this test's own; removed afterwards."""
    made = build_topology(prefix=unique_prefix(), delays=(SHORT_DELAY,))
    yield made
    await asyncio.to_thread(rabbitmq_cluster.mend)
    await delete_topology(rabbitmq_cluster.nodes[0].url, made)


async def test_leader_is_killed_under_load(
    rabbitmq_cluster: RabbitCluster, topology: Topology, tmp_path: Path
) -> None:
    """kill -9: another node decides, clients of the dead one turn to the others."""
    cluster = rabbitmq_cluster
    async with running_traffic(cluster.url, topology, tmp_path) as traffic:
        await traffic.until_confirmed(100)
        leader = await _leader(cluster, topology)

        since = time.monotonic()
        await asyncio.to_thread(leader.kill)

        await traffic.until_flowing(since)
        await traffic.until_confirmed(100)
        await asyncio.to_thread(leader.start)
        await traffic.until_confirmed(100)
    _check(traffic)


async def test_leaders_are_killed_in_turn(
    rabbitmq_cluster: RabbitCluster, topology: Topology, tmp_path: Path
) -> None:
    """As soon as one is back the next one is killed."""
    cluster = rabbitmq_cluster
    async with running_traffic(cluster.url, topology, tmp_path) as traffic:
        for _ in range(2):
            await traffic.until_confirmed(300)
            leader = await _leader(cluster, topology)

            since = time.monotonic()
            await asyncio.to_thread(leader.kill)

            await traffic.until_flowing(since)
            await asyncio.to_thread(leader.start)
            await _until_in_step(cluster, topology)
    _check(traffic)


async def test_two_of_three_nodes_are_dead_and_come_back(
    rabbitmq_cluster: RabbitCluster, topology: Topology, tmp_path: Path
) -> None:
    """Nothing is confirmed meanwhile; the ingress answers 200 all the same."""
    cluster = rabbitmq_cluster
    async with running_traffic(cluster.url, topology, tmp_path) as traffic:
        await traffic.until_confirmed(100)
        leader = await _leader(cluster, topology)
        others = [node for node in cluster.nodes if node is not leader]
        dead = [leader, others[0]]

        for node in dead:
            await asyncio.to_thread(node.kill)
        await _until_spooled(traffic, 200)

        await asyncio.to_thread(cluster.start_nodes, dead)
        await traffic.until_flowing(time.monotonic())
        await traffic.until_confirmed(100)
    _check(traffic)


async def test_nobody_waits_long_while_two_of_three_nodes_are_dead(
    rabbitmq_cluster: RabbitCluster, topology: Topology, tmp_path: Path
) -> None:
    """At an ingress in its own process, called at a steady rate all the time."""
    cluster = rabbitmq_cluster
    async with called_ingress(cluster.url, topology, tmp_path) as caller:
        calling = asyncio.create_task(caller.call(CALLING_SECONDS))
        for node in cluster.nodes[:2]:
            await asyncio.to_thread(node.kill)
        answers = [await calling, await caller.call(CALLING_SECONDS)]
        calling = asyncio.create_task(caller.call(CALLING_SECONDS))

        await asyncio.to_thread(cluster.start_nodes, cluster.nodes[:2])

        answers.append(await calling)
        await caller.check_that_nothing_is_lost(cluster.url, topology)
    for one in answers:
        assert {*one.statuses} <= ({200, 503} if one.disk.may_refuse else {200})
        assert one.slowest_seconds < _bound_seconds(one.disk)


@pytest.mark.parametrize("how", ["cut", "hold"])
async def test_partition_of_the_leader_from_the_others(
    rabbitmq_cluster: RabbitCluster, topology: Topology, tmp_path: Path, how: str
) -> None:
    """Its links are reset, or carry nothing any more; clients reach all nodes.

    The node that is alone stops by itself, and its clients turn to the others.
    """
    cluster = rabbitmq_cluster
    async with running_traffic(cluster.url, topology, tmp_path) as traffic:
        await traffic.until_confirmed(100)
        leader = await _leader(cluster, topology)

        since = time.monotonic()
        await asyncio.to_thread(cluster.cut if how == "cut" else cluster.hold, leader)
        try:
            if how == "hold":
                # The server has to find out first: `net_ticktime`, and some seconds
                # for each node that it then asks in vain.
                await eventually(lambda: _is_paused(leader), within=60)
                since = time.monotonic()
            await traffic.until_flowing(since)
            await eventually(lambda: _is_paused(leader), within=30)
            await traffic.until_confirmed(200)
        finally:
            await asyncio.to_thread(cluster.heal, leader)
        await _until_in_step(cluster, topology)
        await traffic.until_confirmed(100)
    _check(traffic)


def _check(traffic: Traffic) -> None:
    assert set() == traffic.lost
    assert {200} == {*traffic.statuses}
    assert traffic.slowest_seconds < _bound_seconds(traffic.disk)


def _bound_seconds(disk: Disk) -> float:
    """Give what an answer may take beside such a disk."""
    # A commit of the spool may be several writes.
    return ANSWER_SECONDS + PAUSE_SECONDS + 3 * disk.longest_seconds


async def _leader(cluster: RabbitCluster, topology: Topology) -> RabbitNode:
    return await asyncio.to_thread(cluster.leader_of, topology.queue_name(DEDUPE))


async def _is_paused(node: RabbitNode) -> bool:
    return not await asyncio.to_thread(node.takes_connections)


async def _until_in_step(cluster: RabbitCluster, topology: Topology) -> None:
    """Wait until every node has its copy of the queue again."""
    name = topology.queue_name(DEDUPE)

    async def is_in_step() -> bool:
        online = await asyncio.to_thread(cluster.online_copies, name)
        return len(online) == len(cluster.nodes)

    # Each look may take half a minute beside three nodes.
    await eventually(is_in_step, within=180)


async def _until_spooled(traffic: Traffic, count: int) -> None:
    async def is_spooled() -> bool:
        return traffic.outage.spool.messages >= count

    await eventually(is_spooled, within=60)
