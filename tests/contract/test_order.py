"""What an order promises: the most urgent of what has arrived is received first."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import pytest

from pipeline.assets.lifetime import Lifetimes
from pipeline.broker.order import Order
from pipeline.retry import RetryPolicy
from pipeline.topology import DEDUPE, DOWNLOAD
from pipeline.worker import Worker, one_by_one
from pipeline.workers.urgency import by_time_left
from tests.callbacks import make_request
from tests.factories import make_envelope, make_publication
from tests.waiting import eventually, receive, receive_one

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from pipeline.broker.port import Broker
    from pipeline.message import Envelope, Publication

    OpenAgain = Callable[[], Awaitable[Broker]]

LIFETIMES: Final = Lifetimes(upstream_hosts=("upstream.example",))
ORDINARY: Final = "https://files.example.com/1.mp3"
URGENT: Final = "https://upstream.example/1.mp3"
CONCURRENCY: Final = 4


def by_first_digit(*, window: int = 20, patience: float = 60) -> Order:
    """Order messages by the first byte of their bodies."""
    return Order(
        rank=lambda envelope: int(envelope.body[:1]),
        window=window,
        patience=timedelta(seconds=patience),
    )


async def publish(broker: Broker, *bodies: bytes) -> None:
    await broker.publish(*(make_publication(make_envelope(body=b)) for b in bodies))


async def until_unacked(broker: Broker, count: int, queue: str = DEDUPE) -> None:
    async def has_arrived() -> bool:
        return (await broker.depth(queue)).unacked == count

    await eventually(has_arrived)


async def test_what_has_arrived_is_received_by_rank(broker: Broker) -> None:
    """And in the order of publishing where the ranks are equal."""
    await publish(broker, b"5", b"2a", b"7", b"2b", b"1", b"2c")
    async with broker.consume(DEDUPE, prefetch=9, order=by_first_digit()) as consumer:
        await until_unacked(broker, 6)
        received = [await receive_one(consumer) for _ in range(6)]
        await consumer.ack(received)

    bodies = [delivery.envelope.body for delivery in received]
    assert bodies == [b"1", b"2a", b"2b", b"2c", b"5", b"7"]


async def test_a_batch_begins_with_the_most_urgent(broker: Broker) -> None:
    await publish(broker, b"5", b"3", b"4")
    async with broker.consume(DEDUPE, prefetch=9, order=by_first_digit()) as consumer:
        await until_unacked(broker, 3)
        received = await consumer.receive(2)

    assert [b"3", b"4"] == [delivery.envelope.body for delivery in received]


async def test_who_has_waited_too_long_goes_first(broker: Broker) -> None:
    """Whatever has come since: nothing is held for ever."""
    order = by_first_digit(patience=0)
    async with broker.consume(DEDUPE, prefetch=9, order=order) as consumer:
        for count, body in enumerate((b"5", b"4", b"3"), start=1):
            await publish(broker, body)
            await until_unacked(broker, count)
        received = [await receive_one(consumer) for _ in range(3)]

    assert [b"5", b"4", b"3"] == [delivery.envelope.body for delivery in received]


async def test_an_order_does_not_reach_behind_the_prefetch(broker: Broker) -> None:
    """What is in the queue still is first in, first out."""
    await publish(broker, b"5", b"4", b"1")
    async with broker.consume(DEDUPE, prefetch=2, order=by_first_digit()) as consumer:
        await until_unacked(broker, 2)
        first = await receive_one(consumer)

    assert b"4" == first.envelope.body


async def test_what_was_not_received_is_given_back(
    broker: Broker, open_again: OpenAgain
) -> None:
    """As without an order."""
    await publish(broker, b"5", b"4", b"3", b"2", b"1")
    other = await open_again()
    async with broker.consume(DEDUPE, prefetch=9, order=by_first_digit()) as consumer:
        await until_unacked(broker, 5)
        first = await receive_one(consumer)
        await consumer.stop()
        async with other.consume(DEDUPE, prefetch=9) as next_one:
            others = await receive(next_one, 4)
            await next_one.ack(others)
        await first.ack()

    bodies = {delivery.envelope.body for delivery in others}
    assert (b"1", {b"2", b"3", b"4", b"5"}) == (first.envelope.body, bodies)
    assert 0 == (await broker.depth(DEDUPE)).ready


async def begun(broker: Broker, order: Order | None) -> list[bytes]:
    """Have 40 ordinary files and an urgent one fetched; give which came when.

    None of the first is done before all have arrived that the window has room for.
    """
    requests = [make_request(number, ORDINARY) for number in range(40)]
    requests.append(make_request(40, URGENT))
    window = CONCURRENCY if order is None else order.window
    seen: list[bytes] = []
    goes_on = asyncio.Event()

    async def handle(envelope: Envelope) -> Sequence[Publication]:
        seen.append(envelope.body)
        await goes_on.wait()
        return ()

    worker = Worker(
        broker,
        DOWNLOAD,
        one_by_one(handle),
        deadline=timedelta(seconds=30),
        policy=RetryPolicy(),
        concurrency=CONCURRENCY,
        order=order,
    )
    await broker.publish(*requests)
    stopping = asyncio.Event()
    working = asyncio.create_task(worker.run(stopping))
    await until_unacked(broker, min(window, len(requests)), DOWNLOAD)
    goes_on.set()
    await until_unacked(broker, 0, DOWNLOAD)

    async def is_over() -> bool:
        return len(seen) == len(requests)

    await eventually(is_over)
    stopping.set()
    await working
    bodies = [one.envelope.body for one in requests]
    assert sorted(bodies) == sorted(seen)
    assert [body for body in seen if body != bodies[-1]] == bodies[:-1]
    return [b"urgent" if body == bodies[-1] else b"ordinary" for body in seen]


async def test_a_download_whose_link_dies_first_is_begun_first(
    broker: Broker,
) -> None:
    """Only those in progress are before it, though it was asked for last."""
    order = by_time_left(
        LIFETIMES, window=64, concurrency=CONCURRENCY, deadline=timedelta(minutes=1)
    )
    assert order is not None

    assert (await begun(broker, order)).index(b"urgent") <= CONCURRENCY


@pytest.mark.parametrize("window", [1, CONCURRENCY])
async def test_downloads_without_a_window_are_begun_as_they_were_asked_for(
    broker: Broker, window: int
) -> None:
    order = by_time_left(
        LIFETIMES, window=window, concurrency=CONCURRENCY, deadline=timedelta(minutes=1)
    )

    assert 40 == (await begun(broker, order)).index(b"urgent")
