"""Fixtures for tests against a real RabbitMQ, and for what asyncio says to nobody."""

from __future__ import annotations

import asyncio
import gc
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import aio_pika
import pytest

from pipeline.broker.rabbitmq import RabbitBroker
from tests.factories import make_topology
from tests.rabbitmq_node import delete_topology

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from pipeline.topology import Topology

DECLARE_DEADLINE = timedelta(seconds=20)


@pytest.fixture
async def nothing_unhandled() -> AsyncIterator[None]:
    """Fail where an exception is lost in a task, a future or a callback."""
    found: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: found.append(context))
    yield
    gc.collect()
    assert [] == found


@pytest.fixture(scope="module")
def shared_topology(rabbitmq_url: str) -> Iterator[Topology]:
    """A topology that is declared once for a module: making queues takes time."""
    topology = make_topology()
    yield topology
    asyncio.run(delete_topology(rabbitmq_url, topology))


@pytest.fixture
async def rabbit_topology(rabbitmq_url: str, shared_topology: Topology) -> Topology:
    """The topology of the module, declared, with empty queues."""
    async with RabbitBroker(rabbitmq_url, deadline=DECLARE_DEADLINE) as broker:
        await broker.declare(shared_topology)
    async with await aio_pika.connect(rabbitmq_url) as connection:
        channel = await (await connection.channel()).get_underlay_channel()
        for queue in shared_topology.queues:
            await channel.queue_purge(shared_topology.queue_name(queue.name))
    return shared_topology
