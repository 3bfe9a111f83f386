"""Queues that another server has made: what is taken as it is, and what is not."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import aio_pika
import pytest
from structlog.testing import capture_logs
from yarl import URL

from pipeline.broker.rabbitmq import RabbitBroker
from pipeline.broker.rabbitmq_topology import (
    UNLIMITED_SINCE,
    Arguments,
    older_arguments,
    queue_arguments,
    server_version,
)
from pipeline.errors import BrokerUnavailable, TopologyMismatch
from pipeline.topology import DEDUPE, QueueKind, dead_letter_queue
from tests.depth import until_ready
from tests.factories import make_publication, make_topology
from tests.rabbitmq_node import delete_topology
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pipeline.topology import Topology

pytestmark = pytest.mark.rabbitmq

DEADLINE = timedelta(seconds=10)
#: Arguments of the dead-letter queues and of ``unrouted`` under RabbitMQ 3.
OF_3: Arguments = {"x-queue-type": "quorum", "x-overflow": "reject-publish"}


@pytest.fixture
async def topology(rabbitmq_url: str) -> AsyncIterator[Topology]:
    """A topology that no other test sees."""
    made = make_topology()
    yield made
    await delete_topology(rabbitmq_url, made)


async def _make(
    url: str, topology: Topology, arguments: Arguments
) -> tuple[set[str], tuple[int, ...]]:
    """Make the queues that keep messages; give their names and the version."""
    names = {
        topology.queue_name(queue.name)
        for queue in topology.queues
        if queue.kind in (QueueKind.DEAD, QueueKind.UNROUTED)
    }
    async with await aio_pika.connect(url) as connection:
        channel = await (await connection.channel()).get_underlay_channel()
        for name in names:
            await channel.queue_declare(name, durable=True, arguments=arguments)
        return names, server_version(connection)


async def test_queues_made_by_rabbitmq_3_are_used_as_they_are(
    rabbitmq_url: str, topology: Topology
) -> None:
    """After an upgrade to 4 every one is warned of, with a policy to be set."""
    names, version = await _make(rabbitmq_url, topology, OF_3)
    async with RabbitBroker(rabbitmq_url, deadline=DEADLINE) as broker:
        with capture_logs() as logs:
            declared = await broker.declare(topology)
        found = await broker.check(topology)
        await broker.publish(make_publication())
        await until_ready(broker, DEDUPE, 1)

    expected = names if version >= UNLIMITED_SINCE else set()
    assert all(one.is_tolerated for one in found)
    assert list(declared) == list(found)
    assert expected == {one.text.split()[1].rstrip(":") for one in found}
    warned = [line for line in logs if line["event"] == "queue_tolerated"]
    assert len(expected) == len(warned)
    assert all('{"delivery-limit": -1}' in line["difference"] for line in warned)


async def test_any_other_difference_is_a_mismatch(
    rabbitmq_url: str, topology: Topology
) -> None:
    """A queue that would drop its oldest when it is full is not to be used."""
    await _make(rabbitmq_url, topology, {"x-queue-type": "quorum"})
    async with RabbitBroker(rabbitmq_url, deadline=DEADLINE) as broker:
        with pytest.raises(TopologyMismatch, match="x-overflow"):
            await broker.declare(topology)
        found = await broker.check(topology)

    differing = [one.text for one in found if "x-overflow" in one.text]
    assert len(differing) == len(topology.work_queues) + 1
    assert not any(one.is_tolerated for one in found)


async def test_virtual_host_that_is_refused_is_named(rabbitmq_url: str) -> None:
    """The library keeps the step that was refused and not the reason."""
    url = str(URL(rabbitmq_url).with_path("/nobody-made-this"))
    async with RabbitBroker(url, deadline=timedelta(seconds=0.5)) as broker:

        async def is_refused() -> bool:
            return "virtual host" in str(broker.problem)

        await eventually(is_refused, within=30)
        with pytest.raises(BrokerUnavailable) as raised:
            await broker.declare(make_topology())

    assert "virtual host 'nobody-made-this', was refused" in str(raised.value)
    assert "InvalidFrame" not in str(raised.value)


@pytest.mark.parametrize("version", [(3, 10, 8), (3, 13, 0), (4, 0, 5), (4, 1, 0)])
def test_only_a_missing_delivery_limit_is_tolerated(version: tuple[int, ...]) -> None:
    """And only on the queues that keep messages, on servers that know no limit."""
    topology = make_topology()

    tolerated = {
        queue.name
        for queue in topology.queues
        if older_arguments(topology, queue, version) is not None
    }

    keeping = {*map(dead_letter_queue, topology.work_queues), "unrouted"}
    assert (keeping if version >= (4, 0) else set()) == tolerated
    for queue in topology.queues:
        older = older_arguments(topology, queue, version)
        now = queue_arguments(topology, queue, version)
        assert older is None or now == {**older, "x-delivery-limit": -1}
