"""A process whose user may not declare: it looks, waits, and goes on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from pipeline.errors import BrokerUnavailable, TopologyMissing
from pipeline.service import declare_when_up
from pipeline.topology import DEDUPE, WORK, build_topology, dead_letter_queue
from tests.command_line import CommandLine
from tests.factories import SHORT_DELAY, make_publication
from tests.rabbitmq_users import OWNER, broker_of, url_of
from tests.waiting import eventually, receive_one

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from pipeline.topology import Topology
    from tests.rabbitmq_node import RabbitNode

pytestmark = pytest.mark.rabbitmq

#: What is promised once somebody has mended it.
WITHIN_SECONDS = 30.0


async def _apply(node: RabbitNode, topology: Topology) -> None:
    async with broker_of(node, OWNER) as owner:
        await owner.declare(topology)


async def _remove(node: RabbitNode, topology: Topology) -> None:
    async with broker_of(node, OWNER) as owner:
        await owner.delete(topology)


def _has(logs: Sequence[object], event: str) -> Callable[[], Awaitable[bool]]:
    async def is_there() -> bool:
        return any(isinstance(one, dict) and one["event"] == event for one in logs)

    return is_there


async def test_what_is_missing_is_named(
    rabbitmq_node: RabbitNode, users_topology: Topology
) -> None:
    """Exchanges and queues, with what to do; it counts as a broker that is away."""
    async with broker_of(rabbitmq_node, OWNER) as owner:
        await owner.declare(users_topology)
        await owner.delete_queue(users_topology, dead_letter_queue(DEDUPE))
    async with broker_of(rabbitmq_node, "ingress") as broker:
        with pytest.raises(TopologyMissing) as of_one:
            await broker.declare(users_topology)
        await _remove(rabbitmq_node, users_topology)
        with pytest.raises(TopologyMissing) as of_all:
            await broker.declare(users_topology)
        problem = broker.problem

    missing = users_topology.queue_name(dead_letter_queue(DEDUPE))
    assert isinstance(of_one.value, BrokerUnavailable)
    assert f"missing: queue {missing}. Run `pipeline topology apply`" in str(
        of_one.value
    )
    named = str(of_all.value)
    names = [users_topology.exchange_name(one.name) for one in users_topology.exchanges]
    names += [users_topology.queue_name(one.name) for one in users_topology.queues]
    assert [] == [name for name in names if name not in named]
    assert problem == "the topology is not declared yet"


async def test_process_that_may_not_declare_waits_for_who_may(
    rabbitmq_node: RabbitNode, users_topology: Topology
) -> None:
    """It starts before the topology is applied, and need not be started again."""
    stopping = asyncio.Event()
    async with broker_of(rabbitmq_node, "ingress") as broker:
        with capture_logs() as logs:
            waiting = asyncio.create_task(
                declare_when_up(broker, users_topology, stopping)
            )
            await eventually(_has(logs, "broker_unavailable"), within=WITHIN_SECONDS)
            await _apply(rabbitmq_node, users_topology)
            is_declared = await asyncio.wait_for(waiting, WITHIN_SECONDS)
        await broker.publish(make_publication())

    assert is_declared
    (reason,) = {one["reason"] for one in logs if one["event"] == "topology_found"}
    assert "access to exchange" in reason


async def test_publisher_goes_on_once_what_was_deleted_is_back(
    rabbitmq_node: RabbitNode, users_topology: Topology
) -> None:
    """It cannot bring it back itself, says so, and keeps trying when asked to."""
    await _apply(rabbitmq_node, users_topology)

    async def is_taken() -> bool:
        try:
            await broker.publish(make_publication())
        except BrokerUnavailable:
            return False
        return True

    async with broker_of(rabbitmq_node, "ingress") as broker:
        await broker.declare(users_topology)
        await _remove(rabbitmq_node, users_topology)
        with capture_logs() as logs:
            was_taken = [await is_taken() for _ in range(3)]
        await _apply(rabbitmq_node, users_topology)
        await eventually(is_taken, within=WITHIN_SECONDS)

    warned = [one for one in logs if one["event"] == "topology_incomplete"]
    assert [False] * 3 == was_taken
    assert warned
    assert users_topology.exchange_name("callbacks") in warned[0]["error"]


async def test_worker_goes_on_once_its_own_queue_is_back(
    rabbitmq_node: RabbitNode, users_topology: Topology
) -> None:
    """Though a queue of somebody else is still missing."""
    await _apply(rabbitmq_node, users_topology)
    without = build_topology(prefix=users_topology.prefix, delays=(SHORT_DELAY,))
    async with broker_of(rabbitmq_node, "dedupe") as broker:
        await broker.declare(users_topology)
        async with broker.consume(DEDUPE, prefetch=1) as consumer:

            async def is_active() -> bool:
                return consumer.is_active

            async def is_idle() -> bool:
                return not consumer.is_active

            await eventually(is_active, within=WITHIN_SECONDS)
            await _remove(rabbitmq_node, users_topology)
            await eventually(is_idle, within=WITHIN_SECONDS)
            await _publish_again(rabbitmq_node, without)
            delivery = await receive_one(consumer, within=WITHIN_SECONDS)
            await delivery.ack()


async def _publish_again(node: RabbitNode, topology: Topology) -> None:
    async with broker_of(node, OWNER) as owner:
        await owner.declare(topology)
        await owner.publish(make_publication(exchange=WORK, key=DEDUPE))


async def test_worker_with_the_user_of_another_says_so(
    rabbitmq_node: RabbitNode, users_topology: Topology
) -> None:
    """A wrong user is a mistake of the settings: it must not go unseen."""
    await _apply(rabbitmq_node, users_topology)
    async with broker_of(rabbitmq_node, "download") as broker:
        await broker.declare(users_topology)
        with capture_logs() as logs:
            async with broker.consume(DEDUPE, prefetch=1) as consumer:
                await eventually(_has(logs, "subscribe_failed"), within=WITHIN_SECONDS)
                was_active = consumer.is_active

    # It is tried again, and said again.
    failed = next(one for one in logs if one["event"] == "subscribe_failed")
    assert not was_active
    assert "warning" == failed["log_level"]
    assert "access to queue" in failed["error"]


async def test_applying_without_the_right_to_fails(
    rabbitmq_node: RabbitNode, users_topology: Topology, tmp_path: Path
) -> None:
    """That everything is there is not enough: nobody has looked at arguments."""
    await _apply(rabbitmq_node, users_topology)
    cli = CommandLine(tmp_path)
    options = (
        *("--broker-url", url_of(rabbitmq_node, "ingress")),
        *("--set", f"broker.prefix={users_topology.prefix}"),
        *("--set", 'broker.delays=["100ms"]'),
    )

    refused = await asyncio.to_thread(cli, "topology", "apply", *options)

    assert 1 == refused.returncode
    assert "this user may not declare the topology (ACCESS_REFUSED" in refused.stderr
