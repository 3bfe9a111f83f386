"""A RabbitMQ that goes away while workers work: everything goes on by itself."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from pipeline.broker import open_broker
from pipeline.errors import BrokerUnavailable, DeliveryLost
from pipeline.topology import DEDUPE
from tests.factories import make_publications, make_topology
from tests.waiting import eventually

if TYPE_CHECKING:
    from pipeline.broker.port import Broker, Consumer
    from pipeline.message import Publication
    from tests.rabbitmq_node import RabbitNode

pytestmark = [pytest.mark.rabbitmq, pytest.mark.slow]

MESSAGES = 1500
RECOVERY_SECONDS = 40.0


@pytest.mark.parametrize("how", ["restart", "kill", "stop_app"])
async def test_server_that_goes_away_mid_consume_loses_nothing(
    rabbitmq_own_node: RabbitNode, how: str
) -> None:
    """Publisher and consumer reconnect, and every message is processed."""
    # Left on the node: it ends with this module, and has just come back.
    topology = make_topology()
    publications = make_publications(MESSAGES)
    expected = {p.envelope.body for p in publications}
    seen: Counter[bytes] = Counter()

    async def is_half_way() -> bool:
        return len(seen) > MESSAGES // 4

    async def is_complete() -> bool:
        return set(seen) == expected

    async def is_well() -> bool:
        return consumer.is_active and broker.problem is None

    deadline = timedelta(seconds=5)
    async with open_broker(rabbitmq_own_node.url, deadline=deadline) as broker:
        await broker.declare(topology)
        async with (
            broker.consume(DEDUPE, prefetch=50) as consumer,
            asyncio.TaskGroup() as group,
        ):
            group.create_task(_publish_all(broker, publications))
            working = group.create_task(_work(consumer, seen))
            await eventually(is_half_way, within=RECOVERY_SECONDS)

            await asyncio.to_thread(_go_away_and_come_back, rabbitmq_own_node, how)

            await eventually(is_complete, within=RECOVERY_SECONDS)
            await eventually(is_well, within=RECOVERY_SECONDS)
            working.cancel()

        async def is_empty() -> bool:
            return (await broker.depth(DEDUPE)).ready == 0

        await eventually(is_empty)


def _go_away_and_come_back(node: RabbitNode, how: str) -> None:
    match how:
        case "restart":
            node.restart()
        case "kill":
            node.kill()
            node.start()
        case _:
            node.stop_app()
            node.start_app()


async def _publish_all(broker: Broker, publications: list[Publication]) -> None:
    """Publish in small steps, each until it is confirmed."""
    for start in range(0, MESSAGES, 10):
        while True:
            try:
                await broker.publish(*publications[start : start + 10])
                break
            except BrokerUnavailable:
                # The outcome is unknown, so the same messages go out again.
                await asyncio.sleep(0.1)


async def _work(consumer: Consumer, seen: Counter[bytes]) -> None:
    while True:
        deliveries = await consumer.receive(10)
        # Counted first, as a worker's effect comes before its acknowledgement.
        seen.update(delivery.envelope.body for delivery in deliveries)
        try:
            await consumer.ack(deliveries)
        except (DeliveryLost, BrokerUnavailable):
            continue
