"""Fixtures for tests against a real RabbitMQ, and for what asyncio says to nobody."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.topology import build_topology
from tests.factories import SHORT_DELAY, make_topology, unique_prefix
from tests.rabbitmq_node import delete_topology
from tests.rabbitmq_users import make_users

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pipeline.topology import Topology
    from tests.rabbitmq_node import RabbitNode


@pytest.fixture
async def nothing_unhandled() -> AsyncIterator[None]:
    """Fail where an exception is lost in a task, a future or a callback."""
    found: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: found.append(context))
    yield
    gc.collect()
    assert [] == found


@pytest.fixture
async def rabbit_topology(rabbitmq_url: str) -> AsyncIterator[Topology]:
    """Names that no other test sees; removed afterwards."""
    # As few queues as will do: each takes time to make and to delete.
    made = build_topology(prefix=unique_prefix(), delays=(SHORT_DELAY,))
    yield made
    await delete_topology(rabbitmq_url, made)


@pytest.fixture(scope="session")
def users_prefix(rabbitmq_node: RabbitNode) -> str:
    """The prefix that the users of ``tests/rabbitmq_users.py`` have rights under."""
    prefix = unique_prefix()
    make_users(rabbitmq_node, prefix=prefix)
    return prefix


@pytest.fixture
async def users_topology(
    rabbitmq_node: RabbitNode, users_prefix: str
) -> AsyncIterator[Topology]:
    """What those users have rights to, not declared yet; removed afterwards."""
    made = make_topology(prefix=users_prefix)
    yield made
    await delete_topology(rabbitmq_node.url, made)
