"""What ``Delivery.retry`` promises: the wait, the order, and what is counted."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from pipeline.errors import FetchFailed
from pipeline.topology import DEDUPE, DOWNLOAD, WORK
from tests.factories import (
    LONG_DELAY,
    SHORT_DELAY,
    make_envelope,
    make_publication,
    make_publications,
    make_topology,
)
from tests.rabbitmq_node import delete_topology
from tests.waiting import eventually, receive, receive_nothing, receive_one

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from pipeline.broker.port import Broker
    from pipeline.topology import Topology

    OpenAgain = Callable[[], Awaitable[Broker]]

#: RabbitMQ counts in whole milliseconds, from a moment before ours.
ROUNDING_SECONDS = 0.01
#: Longer than a busy machine takes for anything here; nobody waits until it is over.
SLOW_DELAY = timedelta(seconds=30)
#: Others may hold up the disk during one try; never during each.
TRIES = 5
AT = datetime(2026, 11, 2, 12, 0, tzinfo=UTC)


@pytest.fixture
async def slow_topology(broker_url: str) -> AsyncIterator[Topology]:
    """A topology of its own, with a delay that outlasts the test."""
    made = make_topology(delays=(SHORT_DELAY, SLOW_DELAY))
    yield made
    if broker_url.startswith("amqp"):
        await delete_topology(broker_url, made)


async def test_retry_does_not_come_before_its_delay(broker: Broker) -> None:
    """The wait is kept, and not made much longer."""
    await broker.publish(make_publication())
    waited: list[float] = []
    async with broker.consume(DEDUPE, prefetch=1) as consumer:
        delivery = await receive_one(consumer)
        while len(waited) < TRIES:
            began = time.monotonic()

            await delivery.retry(SHORT_DELAY, FetchFailed("503"), at=AT)
            delivery = await receive_one(consumer)

            waited.append(time.monotonic() - began)
            assert SHORT_DELAY.total_seconds() - ROUNDING_SECONDS <= waited[-1]
            if waited[-1] < 0.8:
                return
    pytest.fail(f"expected a wait below 0.8 s, found {waited}")


async def test_short_delay_is_not_held_up_by_a_longer_one(
    broker: Broker, slow_topology: Topology
) -> None:
    """Each delay has a queue of its own."""
    await broker.declare(slow_topology)
    await broker.publish(*make_publications(2))
    async with broker.consume(DEDUPE, prefetch=2) as consumer:
        slow, fast = await receive(consumer, 2)

        await slow.retry(SLOW_DELAY, FetchFailed("later"), at=AT)
        await fast.retry(SHORT_DELAY, FetchFailed("soon"), at=AT)

        first = await receive_one(consumer)

    assert b"1" == first.envelope.body


async def test_wait_is_rounded_up_to_a_delay_queue(broker: Broker) -> None:
    """A retry waits at least as long as it asked for."""
    await broker.publish(make_publication())
    async with broker.consume(DEDUPE, prefetch=1) as consumer:
        delivery = await receive_one(consumer)
        began = time.monotonic()

        wait = SHORT_DELAY + timedelta(milliseconds=1)
        await delivery.retry(wait, FetchFailed("503"), at=AT)
        await receive_one(consumer)

    assert LONG_DELAY.total_seconds() - ROUNDING_SECONDS <= time.monotonic() - began


async def test_retry_counts_one_attempt_and_keeps_the_ids(broker: Broker) -> None:
    """The same message, one attempt on, with what went wrong."""
    envelope = make_envelope(headers={"operation": "upload-extend"}, attempt=2)
    await broker.publish(make_publication(envelope))
    async with broker.consume(DEDUPE, prefetch=1) as consumer:
        delivery = await receive_one(consumer)

        await delivery.retry(SHORT_DELAY, FetchFailed("503 from host"), at=AT)
        again = await receive_one(consumer)

    assert envelope.message_id == again.envelope.message_id
    assert envelope.routing_key == again.envelope.routing_key
    assert envelope.body == again.envelope.body
    assert envelope.headers == again.envelope.headers
    assert 3 == again.envelope.attempt
    failure = again.envelope.failure
    assert failure is not None
    assert (DEDUPE, "FetchFailed", "503 from host", AT, AT) == (
        failure.queue,
        failure.error_type,
        failure.error_text,
        failure.first_failed_at,
        failure.last_failed_at,
    )


async def test_retry_returns_to_its_own_queue_only(broker: Broker) -> None:
    """The other work queues share the delay and see nothing of it."""
    await broker.publish(make_publication(exchange=WORK, key=DOWNLOAD))
    async with broker.consume(DOWNLOAD, prefetch=1) as consumer:
        delivery = await receive_one(consumer)

        await delivery.retry(SHORT_DELAY, FetchFailed("503"), at=AT)
        again = await receive_one(consumer)

        assert DOWNLOAD == again.queue
        assert 0 == (await broker.depth(DEDUPE)).ready


async def test_retried_message_goes_to_the_tail(broker: Broker) -> None:
    """After its delay it stands behind what was published in the meantime."""
    first, *others = make_publications(3)
    await broker.publish(first)
    async with broker.consume(DEDUPE, prefetch=1) as consumer:
        delivery = await receive_one(consumer)
        await delivery.retry(SHORT_DELAY, FetchFailed("503"), at=AT)
        await broker.publish(*others)

    async def delay_is_over() -> bool:
        return (await broker.depth(DEDUPE)).ready == 3

    await eventually(delay_is_over)
    async with broker.consume(DEDUPE, prefetch=3) as consumer:
        bodies = [d.envelope.body for d in await receive(consumer, 3)]

    assert [b"1", b"2", b"0"] == bodies


async def test_many_retries_keep_their_order(broker: Broker) -> None:
    """Messages with the same delay come back in the order they went."""
    await broker.publish(*make_publications(20))
    async with broker.consume(DEDUPE, prefetch=20) as consumer:
        for delivery in await receive(consumer, 20):
            await delivery.retry(SHORT_DELAY, FetchFailed("503"), at=AT)

        bodies = [d.envelope.body for d in await receive(consumer, 20)]

    assert [str(number).encode() for number in range(20)] == bodies


async def test_delay_survives_closing_and_reopening(
    broker: Broker, open_again: OpenAgain
) -> None:
    """Nobody has to be there while a message waits."""
    await broker.publish(make_publication())
    async with broker.consume(DEDUPE, prefetch=1) as consumer:
        delivery = await receive_one(consumer)
        began = time.monotonic()
        await delivery.retry(LONG_DELAY, FetchFailed("503"), at=AT)
    await broker.__aexit__(None, None, None)

    other = await open_again()

    async with other.consume(DEDUPE, prefetch=1) as consumer:
        again = await receive_one(consumer)
    assert LONG_DELAY.total_seconds() - ROUNDING_SECONDS <= time.monotonic() - began
    assert 2 == again.envelope.attempt


async def test_waiting_message_is_in_no_work_queue(
    broker: Broker, slow_topology: Topology
) -> None:
    """It is counted as delayed until its time has come."""
    await broker.declare(slow_topology)
    await broker.publish(make_publication())
    async with broker.consume(DEDUPE, prefetch=1) as consumer:
        delivery = await receive_one(consumer)

        await delivery.retry(SLOW_DELAY, FetchFailed("503"), at=AT)

        assert await receive_nothing(consumer, seconds=0.2)
        depth = await broker.depth(DEDUPE)
        assert (0, 0, 1) == (depth.ready, depth.unacked, depth.delayed)


async def test_longest_delay_stands_in_for_anything_longer(
    broker: Broker, topology: Topology
) -> None:
    """A wait of a year does not become one, and does not fail."""
    assert LONG_DELAY == topology.delay_for(timedelta(days=365)).delay

    await broker.publish(make_publication())
    async with broker.consume(DEDUPE, prefetch=1) as consumer:
        delivery = await receive_one(consumer)
        await delivery.retry(timedelta(days=365), FetchFailed("503"), at=AT)
        await receive_one(consumer, within=30)
