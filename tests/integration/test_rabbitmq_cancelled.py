"""Consumers that the server ends: they subscribe again by themselves, within 30 s."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from pipeline.broker.rabbitmq import RabbitBroker
from pipeline.errors import DeliveryLost
from pipeline.topology import DEDUPE, build_topology
from tests.factories import (
    SHORT_DELAY,
    make_publication,
    make_publications,
    unique_prefix,
)
from tests.rabbitmq_node import delete_topology
from tests.waiting import eventually, receive, receive_one

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pipeline.topology import Topology
    from tests.rabbitmq_node import RabbitNode

pytestmark = [pytest.mark.rabbitmq, pytest.mark.usefixtures("nothing_unhandled")]

PATIENT = timedelta(seconds=10)
#: What is promised.
RESUBSCRIBED_SECONDS = 30.0


@pytest.fixture
async def topology(rabbitmq_node: RabbitNode) -> AsyncIterator[Topology]:
    """Names of this test's own; removed afterwards."""
    made = build_topology(prefix=unique_prefix(), delays=(SHORT_DELAY,))
    yield made
    await delete_topology(rabbitmq_node.url, made)


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "plain"])
async def test_server_closes_every_connection(
    rabbitmq_node: RabbitNode, topology: Topology, *, fast: bool
) -> None:
    """As an operator does; what was un-acked comes again."""
    async with RabbitBroker(rabbitmq_node.url, deadline=PATIENT, fast=fast) as broker:
        await broker.declare(topology)
        async with broker.consume(DEDUPE, prefetch=3) as consumer:
            await broker.publish(*make_publications(3))
            old = await receive(consumer, 3)

            await asyncio.to_thread(
                rabbitmq_node.control, "close_all_connections", "for a test"
            )

            again = await receive(consumer, 3, within=RESUBSCRIBED_SECONDS)
            assert all(delivery.redelivered for delivery in again)
            with pytest.raises(DeliveryLost):
                await consumer.ack(old)
            await consumer.ack(again)

            async def is_well() -> bool:
                return broker.problem is None and consumer.is_active

            await eventually(is_well, within=RESUBSCRIBED_SECONDS)
            await broker.publish(make_publication())
            await receive_one(consumer)


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "plain"])
async def test_server_takes_back_what_was_held_for_too_long(
    rabbitmq_node: RabbitNode, topology: Topology, *, fast: bool
) -> None:
    """It closes the channel (``consumer_timeout``), and another one is opened."""
    async with (
        # It counts for what comes again as well, which has to be settled in time.
        _consumer_timeout(rabbitmq_node, timedelta(seconds=3)),
        RabbitBroker(rabbitmq_node.url, deadline=PATIENT, fast=fast) as broker,
    ):
        await broker.declare(topology)
        async with broker.consume(DEDUPE, prefetch=1) as consumer:
            await broker.publish(make_publication())
            held = await receive_one(consumer)

            again = await receive_one(consumer, within=RESUBSCRIBED_SECONDS)

            assert again.redelivered
            with pytest.raises(DeliveryLost):
                await held.ack()
            await again.ack()


@asynccontextmanager
async def _consumer_timeout(
    node: RabbitNode, patience: timedelta
) -> AsyncIterator[None]:
    """Let the server lose its patience soon, and look often."""

    async def put(**milliseconds: int) -> None:
        pairs = ", ".join(f"{{{name}, {ms}}}" for name, ms in milliseconds.items())
        expression = f"[application:set_env(rabbit, K, V) || {{K, V}} <- [{pairs}]]."
        await asyncio.to_thread(node.control, "eval", expression)

    soon = patience // timedelta(milliseconds=1)
    await put(consumer_timeout=soon, channel_tick_interval=200)
    try:
        yield
    finally:
        await put(consumer_timeout=1_800_000, channel_tick_interval=60_000)
