"""What only waited at a worker that stops in order: it comes back as a new message.

As each user of ``configs/rabbitmq/definitions.sh`` that consumes, on a real server.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import pytest
from structlog.testing import capture_logs

from pipeline.broker.rabbitmq import RabbitBroker
from pipeline.errors import BrokerError
from pipeline.topology import (
    DEAD,
    DEDUPE,
    DELIVERY_LIMIT,
    DOWNLOAD,
    SUSPECT_DELIVERIES,
    dead_letter_queue,
    hand_to,
    notify_queue,
)
from tests.factories import SUBSCRIPTION, make_envelope, make_publication
from tests.rabbitmq_users import DEADLINE, OWNER, broker_of, url_of
from tests.waiting import eventually, receive, receive_one

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, MutableMapping, Sequence

    from pipeline.broker.port import Broker, Delivery
    from pipeline.topology import Topology
    from tests.rabbitmq_node import RabbitNode

pytestmark = [pytest.mark.rabbitmq, pytest.mark.usefixtures("nothing_unhandled")]

WORKERS: Final = {
    "dedupe": DEDUPE,
    "download": DOWNLOAD,
    "notify": notify_queue(SUBSCRIPTION),
}
BODIES: Final = [b"%d" % number for number in range(8)]
#: May consume, and may publish dead letters, but may not retry.
NARROW: Final = "narrow"


@pytest.fixture
async def owner(
    rabbitmq_node: RabbitNode, users_topology: Topology
) -> AsyncIterator[Broker]:
    """A handle of the one who may do everything, on a topology that is there."""
    async with broker_of(rabbitmq_node, OWNER) as broker:
        await broker.declare(users_topology)
        yield broker


@pytest.fixture
def narrow(rabbitmq_node: RabbitNode, users_prefix: str) -> Iterator[str]:
    """A user who was forgotten to be given the right to publish to delays."""
    ours = rf"^{users_prefix}\."
    rights = ("^$", rf"{ours}v[0-9]+\.dead$", rf"{ours}v[0-9]+\.(dedupe|download)$")
    rabbitmq_node.control("add_user", NARROW, f"of-{NARROW}")
    rabbitmq_node.control("set_permissions", NARROW, *rights)
    yield NARROW
    rabbitmq_node.control("delete_user", NARROW)


@pytest.mark.parametrize("user", sorted(WORKERS))
async def test_a_stop_in_order_costs_no_neighbour(
    rabbitmq_node: RabbitNode, users_topology: Topology, owner: Broker, user: str
) -> None:
    """Twice, with messages that came back before: they are new, and nobody fails."""
    queue = WORKERS[user]
    for _ in range(2):
        await _fill(owner, queue)
        await _wear(owner, queue)
        with capture_logs() as logs:
            async with broker_of(rabbitmq_node, user) as broker:
                await broker.declare(users_topology)
                async with (
                    _neighbour(broker, queue) as failures,
                    broker.consume(queue, prefetch=len(BODIES)) as consumer,
                ):
                    await _until_all_wait(broker, queue)
                    await consumer.stop()
                taken = await _take_all(broker, queue)

        assert [] == failures
        assert [] == _not_renewed(logs)
        assert set(BODIES) == {delivery.envelope.body for delivery in taken}
        assert {(1, False)} == {(d.envelope.attempt, d.redelivered) for d in taken}


@pytest.mark.parametrize("user", sorted(WORKERS))
async def test_no_number_of_stops_in_order_makes_a_dead_letter(
    rabbitmq_node: RabbitNode, users_topology: Topology, owner: Broker, user: str
) -> None:
    """Nothing is given up that no handler ever saw."""
    queue = WORKERS[user]
    await _fill(owner, queue)
    async with broker_of(rabbitmq_node, user) as broker:
        await broker.declare(users_topology)

        async def is_settled_somewhere() -> bool:
            dead = (await owner.depth(dead_letter_queue(queue))).ready
            return (await broker.depth(queue)).unacked + dead == len(BODIES)

        for _ in range(DELIVERY_LIMIT + 2):
            async with broker.consume(queue, prefetch=len(BODIES)) as consumer:
                await eventually(is_settled_somewhere)
                await consumer.stop()

        async with broker.consume(queue, prefetch=len(BODIES)) as consumer:
            await eventually(is_settled_somewhere)
            dead = await owner.depth(dead_letter_queue(queue))
            assert 0 == dead.ready
            left = await receive(consumer, len(BODIES))

    assert set(BODIES) == {delivery.envelope.body for delivery in left}
    assert {1} == {delivery.envelope.attempt for delivery in left}


@pytest.mark.parametrize("is_fast", [True, False], ids=["fast", "plain"])
async def test_a_user_who_may_not_is_told_once_and_harms_nobody(
    rabbitmq_node: RabbitNode,
    users_topology: Topology,
    owner: Broker,
    narrow: str,
    *,
    is_fast: bool,
) -> None:
    """A warning with what to do, for all queues; all goes back as it is."""
    url = url_of(rabbitmq_node, narrow)
    for queue in (DEDUPE, DOWNLOAD):
        await _fill(owner, queue)
        await _wear(owner, queue)
    with capture_logs() as logs:
        async with RabbitBroker(url, deadline=DEADLINE, fast=is_fast) as broker:
            await broker.declare(users_topology)
            async with _neighbour(broker, DEDUPE) as failures:
                for _ in range(2):
                    async with (
                        broker.consume(DEDUPE, prefetch=len(BODIES)) as first,
                        broker.consume(DOWNLOAD, prefetch=len(BODIES)) as second,
                    ):
                        await _until_all_wait(broker, DEDUPE)
                        await _until_all_wait(broker, DOWNLOAD)
                        await asyncio.gather(first.stop(), second.stop())
    taken = await _take_all(owner, DEDUPE)

    (warning,) = _not_renewed(logs)
    assert "warning" == warning["log_level"]
    assert users_topology.exchange_name("delay.100ms") in str(warning["error"])
    assert "give this user the right to write there" in str(warning["error"])
    assert [] == failures
    assert set(BODIES) == {delivery.envelope.body for delivery in taken}
    assert {True} == {delivery.redelivered for delivery in taken}


async def _fill(owner: Broker, queue: str) -> None:
    await owner.publish(*(hand_to(queue, make_envelope(body=b)) for b in BODIES))


async def _wear(owner: Broker, queue: str) -> None:
    """Let everything come back so often that once more would make it suspect."""
    for _ in range(SUSPECT_DELIVERIES - 1):
        async with owner.consume(queue, prefetch=len(BODIES)) as consumer:
            await receive(consumer, len(BODIES))


async def _until_all_wait(broker: Broker, queue: str) -> None:
    async def do_all_wait() -> bool:
        return (await broker.depth(queue)).unacked == len(BODIES)

    await eventually(do_all_wait)


@asynccontextmanager
async def _neighbour(broker: Broker, queue: str) -> AsyncIterator[list[str]]:
    """Give dead letters up all the time; gives what has failed so far."""
    failures: list[str] = []
    is_over = asyncio.Event()

    async def publish() -> None:
        while not is_over.is_set():
            try:
                await broker.publish(make_publication(exchange=DEAD, key=queue))
            except BrokerError as error:
                failures.append(f"{type(error).__name__}: {error}")

    publishing = asyncio.create_task(publish())
    try:
        yield failures
    finally:
        is_over.set()
        await publishing


async def _take_all(broker: Broker, queue: str) -> list[Delivery]:
    """Take everything, one after the other, as suspects come."""
    taken: list[Delivery] = []
    async with broker.consume(queue, prefetch=len(BODIES)) as consumer:
        for _ in BODIES:
            taken.append(await receive_one(consumer))
            await taken[-1].ack()
    return taken


def _not_renewed(
    logs: Sequence[MutableMapping[str, object]],
) -> list[MutableMapping[str, object]]:
    return [one for one in logs if one["event"] == "not_renewed"]
