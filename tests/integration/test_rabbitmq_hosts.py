"""An address with several hosts: whichever answers is used, and left when it is lost.

The hosts are ways to one server, each of which can be closed.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from pipeline.broker.rabbitmq import RabbitBroker
from pipeline.broker.rabbitmq_connection import LONGEST_PAUSE_SECONDS
from pipeline.errors import BrokerUnavailable
from pipeline.topology import DEDUPE
from tests.factories import make_publication
from tests.tcp_proxy import TcpProxy
from tests.waiting import eventually, receive_one

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pipeline.topology import Topology

pytestmark = [pytest.mark.rabbitmq, pytest.mark.usefixtures("nothing_unhandled")]

PATIENT = timedelta(seconds=10)
#: What is promised, for publishing and for consuming.
RECOVERED_SECONDS = 30.0


@pytest.fixture
async def ways(rabbitmq_url: str) -> AsyncIterator[list[TcpProxy]]:
    """Three ways to the broker."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(TcpProxy.to(rabbitmq_url)) for _ in range(3)
        ]


def _url(rabbitmq_url: str, ways: list[TcpProxy]) -> str:
    before, _, rest = ways[0].url_for(rabbitmq_url).partition(f":{ways[0].port}")
    others = "".join(f",127.0.0.1:{way.port}" for way in ways[1:])
    return f"{before}:{ways[0].port}{others}{rest}"


async def _close(way: TcpProxy) -> None:
    await way.refuse()
    way.cut()


async def test_host_that_is_there_is_found_among_those_that_are_not(
    rabbitmq_url: str, ways: list[TcpProxy]
) -> None:
    """At the start, wherever it stands in the address."""
    for _ in range(3):
        for way in ways[:2]:
            await way.refuse()

        with capture_logs() as logs:
            # Its deadline is that of the search: nothing else is waited for.
            async with RabbitBroker(
                _url(rabbitmq_url, ways), deadline=PATIENT
            ) as broker:
                await broker.version()
            failed = [one for one in logs if one["event"] == "broker_connection_lost"]

        # Each of the others was tried once at most.
        assert len(failed) <= 2
        for way in ways:
            await way.accept()
        ways.append(ways.pop(0))


async def test_lost_host_is_left_for_another(
    rabbitmq_url: str, rabbit_topology: Topology, ways: list[TcpProxy]
) -> None:
    """Publishing and consuming go on, one host after the other."""
    async with RabbitBroker(_url(rabbitmq_url, ways), deadline=PATIENT) as broker:
        await broker.declare(rabbit_topology)
        async with broker.consume(DEDUPE, prefetch=1) as consumer:
            for closed, opened in ((0, 1), (1, 2), (2, 0)):
                await broker.publish(make_publication())
                await (await receive_one(consumer)).ack()

                await ways[opened].accept()
                await _close(ways[closed])
                await _close(ways[3 - closed - opened])

                await _until_it_works(broker)
                again = await receive_one(consumer, within=RECOVERED_SECONDS)
                await again.ack()
                assert ways[opened].open_connections > 0


async def test_none_of_the_hosts_is_there_for_a_while(
    rabbitmq_url: str, rabbit_topology: Topology, ways: list[TcpProxy]
) -> None:
    """All are tried in a round that takes no longer than the wait for one host."""
    async with RabbitBroker(_url(rabbitmq_url, ways), deadline=PATIENT) as broker:
        await broker.declare(rabbit_topology)
        for way in ways:
            await _close(way)

        async def are_refused() -> bool:
            return "nothing listens there" in str(broker.problem)

        await eventually(are_refused, within=RECOVERED_SECONDS)

        await ways[2].accept()

        await _until_it_works(broker, within=2 * LONGEST_PAUSE_SECONDS)
        assert broker.problem is None


async def test_many_processes_spread_over_the_hosts(
    rabbitmq_url: str, ways: list[TcpProxy]
) -> None:
    """Not all of them begin with the first one."""
    async with AsyncExitStack() as stack:
        for _ in range(12):
            broker = RabbitBroker(_url(rabbitmq_url, ways), deadline=PATIENT)
            await stack.enter_async_context(broker)

        async def are_connected() -> bool:
            return sum(way.open_connections for way in ways) == 12

        await eventually(are_connected)
        # By chance all on two of them: once in 40; on a single one: in 177,147.
        assert max(way.open_connections for way in ways) < 12


async def _until_it_works(
    broker: RabbitBroker, *, within: float = RECOVERED_SECONDS
) -> None:
    async def works() -> bool:
        try:
            await broker.publish(make_publication())
        except BrokerUnavailable:
            return False
        return True

    await eventually(works, within=within)
