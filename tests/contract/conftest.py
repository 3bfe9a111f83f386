"""The brokers under contract: every test runs on each adapter, with its own names."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

import pytest

from pipeline.broker import open_broker
from tests.factories import make_topology
from tests.rabbitmq_node import delete_topology

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pipeline.broker.port import Broker
    from pipeline.topology import Topology

#: Long enough for a busy machine: only a broker that is gone lets it pass.
DEADLINE = timedelta(seconds=10)
#: Leases of the embedded broker. Where several handles have consumers, one frees what
#: another holds that stood still for longer; a process that is to die needs less.
LEASE = "lease_seconds=30"


class OpenAgain(Protocol):
    """Opens one more handle on the broker, as another process would."""

    async def __call__(self) -> Broker:
        """Open a handle, declare the topology, close it after the test."""


@pytest.fixture(params=["sqlite", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def broker_url(request: pytest.FixtureRequest) -> str:
    """Address of the broker."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    address, mark, _ = url.partition("lease_seconds=")
    return f"{address}{LEASE}" if mark else url


@pytest.fixture
def mortal_url(broker_url: str) -> str:
    """Address for a process that dies: others get what it held after a second."""
    return broker_url.replace(LEASE, "lease_seconds=1")


@pytest.fixture
async def topology(broker_url: str) -> AsyncIterator[Topology]:
    """A topology that no other test sees."""
    async with _deleted_afterwards(broker_url, make_topology()) as made:
        yield made


@pytest.fixture
async def other_topology(broker_url: str) -> AsyncIterator[Topology]:
    """One more, under a prefix of its own."""
    async with _deleted_afterwards(broker_url, make_topology()) as made:
        yield made


@asynccontextmanager
async def _deleted_afterwards(
    broker_url: str, topology: Topology
) -> AsyncIterator[Topology]:
    yield topology
    if broker_url.startswith("amqp"):
        await delete_topology(broker_url, topology)


@pytest.fixture
async def open_again(broker_url: str, topology: Topology) -> AsyncIterator[OpenAgain]:
    """Opens further handles on the same broker."""
    async with AsyncExitStack() as stack:

        async def opened() -> Broker:
            handle = open_broker(broker_url, deadline=DEADLINE)
            await stack.enter_async_context(handle)
            await handle.declare(topology)
            return handle

        yield opened


@pytest.fixture
async def broker(open_again: OpenAgain) -> Broker:
    """An open handle on which the topology is declared."""
    return await open_again()
