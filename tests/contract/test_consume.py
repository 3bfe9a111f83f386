"""What a ``Consumer`` promises: order, prefetch, and that nothing gets lost."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from pipeline.errors import BrokerClosed
from pipeline.topology import DEDUPE
from tests.factories import make_publication, make_publications
from tests.waiting import eventually, receive, receive_nothing, receive_one

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pipeline.broker.port import Broker

    OpenAgain = Callable[[], Awaitable[Broker]]


async def test_one_consumer_receives_in_the_order_of_publishing(
    broker: Broker,
) -> None:
    """First in, first out, over many small batches."""
    for publication in make_publications(60):
        await broker.publish(publication)

    bodies: list[bytes] = []
    async with broker.consume(DEDUPE, prefetch=7) as consumer:
        while len(bodies) < 60:
            for delivery in await receive(consumer, 1):
                bodies.append(delivery.envelope.body)
                await delivery.ack()

    assert [str(number).encode() for number in range(60)] == bodies


async def test_never_more_than_prefetch_are_unacked(broker: Broker) -> None:
    """The next message waits until one of those that are held is settled."""
    await broker.publish(*make_publications(10))
    async with broker.consume(DEDUPE, prefetch=3) as consumer:
        held = await receive(consumer, 3)

        assert await receive_nothing(consumer, seconds=0.3)
        assert 3 == (await broker.depth(DEDUPE)).unacked
        assert 7 == (await broker.depth(DEDUPE)).ready

        await held[0].ack()
        assert b"3" == (await receive_one(consumer)).envelope.body


async def test_prefetch_can_be_used_up_one_by_one(broker: Broker) -> None:
    """A consumer that holds some can always get the rest of its prefetch."""
    async with broker.consume(DEDUPE, prefetch=8) as consumer:
        for number, publication in enumerate(make_publications(8)):
            await broker.publish(publication)
            delivery = await receive_one(consumer)
            assert str(number).encode() == delivery.envelope.body


async def test_receive_gives_at_most_limit(broker: Broker) -> None:
    """A batch is as large as asked for or smaller, and never empty."""
    await broker.publish(*make_publications(20))
    async with broker.consume(DEDUPE, prefetch=20) as consumer:
        sizes: list[int] = []
        while sum(sizes) < 20:
            sizes.append(len(await consumer.receive(6)))

    assert 1 <= min(sizes)
    assert max(sizes) <= 6


async def test_two_consumers_share_without_overlap(
    broker: Broker, open_again: OpenAgain
) -> None:
    """Each message goes to one of them, and both get some."""
    other = await open_again()
    publications = make_publications(100)
    await broker.publish(*publications)

    async with (
        broker.consume(DEDUPE, prefetch=5) as left,
        other.consume(DEDUPE, prefetch=5) as right,
    ):
        seen: dict[str, list[bytes]] = {"left": [], "right": []}
        begun = {name: asyncio.Event() for name in seen}

        async def work(name: str) -> None:
            consumer = left if name == "left" else right
            while sum(map(len, seen.values())) < 100:
                try:
                    async with asyncio.timeout(0.2):
                        deliveries = await consumer.receive(5)
                except TimeoutError:
                    continue
                seen[name] += [d.envelope.body for d in deliveries]
                begun[name].set()
                # Or the one that is quicker may be done before the other begins.
                await asyncio.gather(*(one.wait() for one in begun.values()))
                await consumer.ack(deliveries)

        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            group.create_task(work("left"))
            group.create_task(work("right"))

    assert seen["left"]
    assert seen["right"]
    everything = sorted(seen["left"] + seen["right"])
    assert sorted(p.envelope.body for p in publications) == everything


async def test_cancelled_receive_loses_nothing(broker: Broker) -> None:
    """However often the wait is cancelled, every message is received once."""
    bodies: list[bytes] = []
    async with broker.consume(DEDUPE, prefetch=4) as consumer:
        publishing = asyncio.create_task(_publish_slowly(broker, 40))
        while len(bodies) < 40:
            waiting = asyncio.ensure_future(consumer.receive(3))
            # Cancelled at all sorts of moments: while waiting, while fetching.
            await asyncio.wait((waiting,), timeout=0.001 * (len(bodies) % 4))
            if not waiting.cancel():
                deliveries = waiting.result()
                bodies += [d.envelope.body for d in deliveries]
                await consumer.ack(deliveries)
            else:
                await asyncio.wait((waiting,))
        await publishing

    assert [str(number).encode() for number in range(40)] == bodies


async def _publish_slowly(broker: Broker, count: int) -> None:
    for publication in make_publications(count):
        await broker.publish(publication)


async def test_leaving_a_consumer_loses_no_prefetched_message(
    broker: Broker, open_again: OpenAgain
) -> None:
    """What was fetched ahead is there for the next consumer."""
    await broker.publish(*make_publications(30))
    async with broker.consume(DEDUPE, prefetch=30) as consumer:
        await (await receive_one(consumer)).ack()

    other = await open_again()

    async with other.consume(DEDUPE, prefetch=30) as consumer:
        bodies = {d.envelope.body for d in await receive(consumer, 29)}
    assert {str(number).encode() for number in range(1, 30)} == bodies


async def test_waiting_consumer_sees_what_another_process_publishes(
    broker: Broker, open_again: OpenAgain
) -> None:
    """Within half a second, although nobody tells it."""
    other = await open_again()
    took: list[float] = []
    async with broker.consume(DEDUPE, prefetch=1) as consumer:
        # Others may hold up the disk during one try; never during each.
        while len(took) < 5:
            waiting = asyncio.create_task(receive_one(consumer))
            assert not (await asyncio.wait((waiting,), timeout=0.3))[0]

            await other.publish(make_publication())
            published_at = time.monotonic()
            delivery = await waiting

            took.append(time.monotonic() - published_at)
            if took[-1] < 0.5:
                return
            await delivery.ack()
    pytest.fail(f"expected less than 0.5 s, found {took}")


async def test_waiting_consumer_sees_own_publications_at_once(
    broker: Broker, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only when it looks for what other processes have published."""
    # It would look too late, and not be waited for.
    monkeypatch.setattr("pipeline.broker.sqlite_session.UPKEEP_SECONDS", 60)
    async with broker.consume(DEDUPE, prefetch=1) as consumer:
        took = []
        for publication in make_publications(20):
            waiting = asyncio.create_task(receive_one(consumer))
            await asyncio.sleep(0)
            await broker.publish(publication)
            published_at = time.monotonic()
            delivery = await waiting
            took.append(time.monotonic() - published_at)
            await delivery.ack()

    if broker_url.startswith("amqp"):  # which is asked for nothing, nor waits for disks
        assert min(took) < 0.04


async def test_stopped_consumer_receives_nothing_more(
    broker: Broker, open_again: OpenAgain
) -> None:
    """Stopping gives back what was fetched ahead; what was received stays."""
    await broker.publish(*make_publications(10))
    async with broker.consume(DEDUPE, prefetch=10) as consumer:
        mine = await receive_one(consumer)

        await consumer.stop()
        await consumer.stop()

        assert [] == list(await consumer.receive())
        assert not consumer.is_active
        other = await open_again()
        async with other.consume(DEDUPE, prefetch=10) as taker:
            bodies = {d.envelope.body for d in await receive(taker, 9)}
        await mine.ack()

    assert {str(number).encode() for number in range(1, 10)} == bodies
    async with broker.consume(DEDUPE, prefetch=10) as again:
        left = {d.envelope.body for d in await receive(again, 9)}
        assert await receive_nothing(again, seconds=0.2)
    assert bodies == left


async def test_stopping_ends_a_wait(broker: Broker) -> None:
    """A task that waits for a delivery is let go with an empty answer."""
    async with broker.consume(DEDUPE, prefetch=1) as consumer:
        waiting = asyncio.create_task(_receive(consumer.receive))
        assert not (await asyncio.wait((waiting,), timeout=0.1))[0]

        await consumer.stop()

        async with asyncio.timeout(30):
            assert 0 == await waiting


async def _receive(receive: Callable[[], Awaitable[object]]) -> int:
    found = await receive()
    assert isinstance(found, list | tuple)
    return len(found)


async def test_consumer_is_active_while_it_is_open(broker: Broker) -> None:
    """Readiness depends on it."""
    consumer = broker.consume(DEDUPE, prefetch=1)
    assert not consumer.is_active

    async def is_active() -> bool:
        return consumer.is_active

    async with consumer:
        await eventually(is_active)

    assert not consumer.is_active


async def test_consumer_without_prefetch_is_refused(broker: Broker) -> None:
    """Nothing could ever be delivered to it."""
    with pytest.raises(ValueError, match="prefetch"):
        broker.consume(DEDUPE, prefetch=0)


async def test_consumer_of_a_closed_broker_is_closed(broker: Broker) -> None:
    """Nothing is delivered and nothing can be settled any more."""
    await broker.publish(*make_publications(2))
    consumer = broker.consume(DEDUPE, prefetch=1)
    await consumer.__aenter__()
    delivery = await receive_one(consumer)

    await broker.__aexit__(None, None, None)

    with pytest.raises(BrokerClosed):
        await delivery.ack()
    async with asyncio.timeout(30):
        assert [] == list(await consumer.receive())
    await consumer.__aexit__(None, None, None)
