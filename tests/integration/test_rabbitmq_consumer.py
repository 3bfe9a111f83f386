"""Consuming from a real RabbitMQ, on the fast path and on the plain one."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

import aio_pika
import pytest

from pipeline.broker import rabbitmq_connection, rabbitmq_consumer
from pipeline.broker.rabbitmq import RabbitBroker
from pipeline.errors import AlreadySettled, BrokerUnavailable, DeliveryLost
from pipeline.topology import (
    DEDUPE,
    DELIVERY_LIMIT,
    DOWNLOAD,
    SUSPECT_DELIVERIES,
    dead_letter_queue,
    hand_to,
)
from tests.deadlines import set_deadline
from tests.depth import until_ready
from tests.factories import make_envelope, make_publication, make_publications
from tests.tcp_proxy import Direction, TcpProxy
from tests.waiting import eventually, receive, receive_nothing, receive_one

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from pipeline.broker.port import Consumer
    from pipeline.topology import Topology

    class OpenRabbit(Protocol):
        """Opens a handle, on which the topology is declared."""

        def __call__(
            self, url: str = ..., *, deadline: timedelta = ...
        ) -> AbstractAsyncContextManager[RabbitBroker]:
            """Open it for the time of a context."""


pytestmark = [pytest.mark.rabbitmq, pytest.mark.usefixtures("nothing_unhandled")]

PATIENT = timedelta(seconds=10)
#: For what has to run out of time, and for nothing that has to work.
SHORT = timedelta(seconds=0.5)
#: One ``basic.ack`` on the wire.
ACK_BYTES = 21


@pytest.fixture(params=[True, False], ids=["fast", "plain"])
def open_rabbit(
    request: pytest.FixtureRequest, rabbitmq_url: str, rabbit_topology: Topology
) -> OpenRabbit:
    """Opens handles that take the fast path, then such that may not."""

    @asynccontextmanager
    async def opened(
        url: str = rabbitmq_url, *, deadline: timedelta = PATIENT
    ) -> AsyncIterator[RabbitBroker]:
        async with RabbitBroker(url, deadline=deadline, fast=request.param) as broker:
            await broker.declare(rabbit_topology)
            yield broker

    return opened


@pytest.fixture
async def proxy(rabbitmq_url: str) -> AsyncIterator[TcpProxy]:
    """A network between us and the broker."""
    async with TcpProxy.to(rabbitmq_url) as made:
        yield made


# -- settling -----------------------------------------------------------------------


async def test_batch_is_acknowledged_with_one_frame(
    rabbitmq_url: str, rabbit_topology: Topology, proxy: TcpProxy
) -> None:
    """Few bytes for many messages, or the socket would cost more than the work."""
    # No other bytes are to come in between.
    url = f"{proxy.url_for(rabbitmq_url)}?heartbeat=0"
    async with RabbitBroker(url, deadline=PATIENT) as broker:
        await broker.declare(rabbit_topology)
        await broker.publish(*make_publications(500))
        async with broker.consume(DEDUPE, prefetch=500) as consumer:
            deliveries = await receive(consumer, 500)
            before = proxy.passed_bytes[Direction.TO_SERVER]

            await consumer.ack(deliveries[:499])

            await _until_passed(proxy, before + 1)
            assert before + ACK_BYTES == proxy.passed_bytes[Direction.TO_SERVER]
            assert await receive_nothing(consumer, seconds=0.1)


async def test_only_what_was_settled_is_gone(open_rabbit: OpenRabbit) -> None:
    """Acknowledged in any order and in any groups, the others all come back."""
    chance = random.Random(7)
    publications = make_publications(200)
    numbers = list(range(200))
    settled = set(chance.sample(numbers, 120))
    async with open_rabbit() as broker:
        await broker.publish(*publications)
        async with broker.consume(DEDUPE, prefetch=200) as consumer:
            deliveries = await receive(consumer, 200)
            todo = chance.sample(sorted(settled), len(settled))
            while todo:
                count = chance.randrange(1, 9)
                group, todo = todo[:count], todo[count:]
                await consumer.ack([deliveries[n] for n in group])
                if chance.random() < 0.5:
                    await asyncio.sleep(0)
            # As many as were acknowledged fit under the prefetch: when they have
            # come, the broker has seen to all acknowledgements.
            new = [make_publication(make_envelope(body=b"new")) for _ in range(130)]
            await broker.publish(*new)
            await receive(consumer, 120)
            assert await receive_nothing(consumer, seconds=0.2)

        async with broker.consume(DEDUPE, prefetch=250) as consumer:
            left = await receive(consumer, 210)
            assert await receive_nothing(consumer, seconds=0.1)

    expected = {b"%d" % n for n in numbers if n not in settled}
    assert expected == {d.envelope.body for d in left} - {b"new"}


async def test_released_is_never_acknowledged_with_the_others(
    open_rabbit: OpenRabbit,
) -> None:
    """An acknowledgement of many must not overtake what was given back before."""
    async with open_rabbit() as broker:
        await broker.publish(*make_publications(60))
        async with broker.consume(DEDUPE, prefetch=60) as consumer:
            deliveries = await receive(consumer, 60)
            released, acked = deliveries[:40], deliveries[40:]

            await asyncio.gather(
                *(d.release() for d in released), *(d.ack() for d in acked)
            )

            again = await receive(consumer, 40)
            assert {d.envelope.body for d in released} == {
                d.envelope.body for d in again
            }
            await _until_active(consumer)


async def test_two_settlements_at_once_publish_once(open_rabbit: OpenRabbit) -> None:
    """Whoever comes second learns it before anything is published."""
    onward = hand_to(DOWNLOAD, make_envelope())
    async with open_rabbit() as broker:
        await broker.publish(make_publication())
        async with broker.consume(DEDUPE, prefetch=1) as consumer:
            delivery = await receive_one(consumer)

            results = await asyncio.gather(
                delivery.ack(onward),
                delivery.ack(onward),
                delivery.release(),
                return_exceptions=True,
            )

        types = [type(result) for result in results]
        assert [type(None), AlreadySettled, AlreadySettled] == types
        await until_ready(broker, DOWNLOAD, 1)


async def test_failed_publish_gives_the_delivery_back_to_its_holder(
    open_rabbit: OpenRabbit, rabbitmq_url: str, proxy: TcpProxy
) -> None:
    """Nothing was acknowledged, and everything can still be done with it."""
    url = proxy.url_for(rabbitmq_url)
    onward = hand_to(DOWNLOAD, make_envelope())
    async with open_rabbit(url) as broker:
        await broker.publish(make_publication())
        async with broker.consume(DEDUPE, prefetch=1) as consumer:
            delivery = await receive_one(consumer)
            proxy.hold()
            set_deadline(broker, SHORT)
            with pytest.raises(BrokerUnavailable):
                await delivery.ack(onward)
            giving_up = asyncio.create_task(delivery.ack(onward))
            await asyncio.sleep(0)
            giving_up.cancel()
            with pytest.raises(asyncio.CancelledError):
                await giving_up
            proxy.resume()

            await delivery.release()
            assert (await receive_one(consumer)).redelivered


@pytest.mark.parametrize("stops", range(1, SUSPECT_DELIVERIES + 2))
async def test_what_waited_at_a_stop_comes_back_new_before_it_is_suspected(
    open_rabbit: OpenRabbit, stops: int
) -> None:
    """Not sooner: the first times it is given back as it is, without a wait."""
    is_new = stops == SUSPECT_DELIVERIES
    async with open_rabbit() as broker:
        await broker.publish(*make_publications(20))

        async def do_all_wait() -> bool:
            return (await broker.depth(DEDUPE)).unacked == 20

        for _ in range(stops):
            async with broker.consume(DEDUPE, prefetch=20) as consumer:
                await eventually(do_all_wait)
                await consumer.stop()
        async with broker.consume(DEDUPE, prefetch=20) as consumer:
            found = await receive(consumer, 20)

    assert {not is_new} == {delivery.redelivered for delivery in found}
    assert {b"%d" % n for n in range(20)} == {d.envelope.body for d in found}


async def test_no_more_than_the_prefetch_is_unacked(open_rabbit: OpenRabbit) -> None:
    """Each acknowledgement lets one more come."""
    async with open_rabbit() as broker:
        await broker.publish(*make_publications(30))
        async with broker.consume(DEDUPE, prefetch=7) as consumer:
            deliveries = await receive(consumer, 7)
            assert await receive_nothing(consumer, seconds=0.2)

            await consumer.ack(deliveries[:3])

            await receive(consumer, 3)
            assert await receive_nothing(consumer, seconds=0.2)
            await until_ready(broker, DEDUPE, 20)
            assert 7 == (await broker.depth(DEDUPE)).unacked


async def test_delivery_limit_ends_in_the_dead_letter_queue(
    open_rabbit: OpenRabbit,
) -> None:
    """RabbitMQ's own note is read as a failure, with the message's own key."""
    poison = make_publication()
    async with open_rabbit() as broker:
        await broker.publish(poison)
        async with broker.consume(DEDUPE, prefetch=1) as consumer:
            for _ in range(DELIVERY_LIMIT + 1):
                await (await receive_one(consumer)).release()
        async with broker.consume(dead_letter_queue(DEDUPE), prefetch=1) as dead:
            letter = (await receive_one(dead)).envelope

    assert poison.envelope.message_id == letter.message_id
    assert poison.envelope.routing_key == letter.routing_key
    assert letter.failure is not None
    assert "DeliveryLimitExceeded" == letter.failure.error_type
    assert DEDUPE == letter.failure.queue
    assert abs(datetime.now(UTC) - letter.failure.last_failed_at) < timedelta(hours=1)


async def test_foreign_message_is_read_as_well_as_can_be(
    open_rabbit: OpenRabbit, rabbitmq_url: str, rabbit_topology: Topology
) -> None:
    """Other publishers set other properties and have other header types."""
    now = datetime.now(UTC).replace(microsecond=0)
    foreign = aio_pika.Message(
        b"\x00not json",
        headers={
            "text": "ü",
            "number": 7,
            "table": {"deep": [1, {"er": now}]},
            "float": 0.5,
            "nothing": None,
            "x-death": [{"reason": "expired", "count": 1, "time": now}],
            "message-id": 17,
        },
        content_encoding="gzip",
        priority=3,
        message_id="foreign-1",
        correlation_id="c",
        timestamp=now,
        app_id="elsewhere",
    )

    async with open_rabbit() as broker:
        await _publish_foreign(rabbitmq_url, rabbit_topology, foreign)
        async with broker.consume(DEDUPE, prefetch=1) as consumer:
            envelope = (await receive_one(consumer)).envelope

    assert b"\x00not json" == envelope.body
    assert {"text": "ü", "number": 7} == dict(envelope.headers)
    assert "foreign-1" == envelope.message_id
    assert (1, None) == (envelope.attempt, envelope.failure)


# -- staying subscribed -------------------------------------------------------------


async def test_cut_connection_is_subscribed_again(
    open_rabbit: OpenRabbit, rabbitmq_url: str, proxy: TcpProxy
) -> None:
    """What was un-acked comes again, and settling the old copy says it is lost."""
    async with open_rabbit(proxy.url_for(rabbitmq_url)) as broker:
        await broker.publish(*make_publications(3))
        async with broker.consume(DEDUPE, prefetch=3) as consumer:
            old = await receive(consumer, 3)

            proxy.cut()

            again = await receive(consumer, 3, within=30)
            assert all(delivery.redelivered for delivery in again)
            with pytest.raises(DeliveryLost, match="2 of 2"):
                await consumer.ack(old[:2])
            await old[2].release()  # harmless: it is given back already
            await consumer.ack(again)
            await _until_active(consumer)
            assert await receive_nothing(consumer, seconds=0.2)


async def test_outage_shows_and_ends(
    open_rabbit: OpenRabbit, rabbitmq_url: str, proxy: TcpProxy
) -> None:
    """Readiness follows ``is_active``; a waiting receiver just goes on waiting."""
    async with (
        open_rabbit(proxy.url_for(rabbitmq_url)) as broker,
        broker.consume(DEDUPE, prefetch=3) as consumer,
    ):
        await _until_active(consumer)
        waiting = asyncio.create_task(consumer.receive())
        await proxy.refuse()
        proxy.cut()

        async def is_down() -> bool:
            return not consumer.is_active

        await eventually(is_down)
        await proxy.accept()
        await _until_active(consumer, within=30)

        await broker.publish(make_publication())
        async with asyncio.timeout(5):
            assert 1 == len(await waiting)


async def test_deleted_queue_comes_back_with_its_bindings(
    open_rabbit: OpenRabbit, rabbitmq_url: str, rabbit_topology: Topology
) -> None:
    """The broker cancels the consumer; what is published afterwards arrives."""
    async with (
        open_rabbit() as broker,
        broker.consume(DEDUPE, prefetch=2) as consumer,
        broker.consume(DOWNLOAD, prefetch=2) as other,
    ):
        await _until_active(consumer)
        await _until_active(other)
        await broker.publish(make_publication())
        await receive_one(consumer)

        await _delete_queue(rabbitmq_url, rabbit_topology.queue_name(DEDUPE))

        async def is_back() -> bool:
            await broker.publish(make_publication())
            return await _comes_within(consumer, seconds=0.2)

        await eventually(is_back, within=30)
        await broker.publish(hand_to(DOWNLOAD, make_envelope()))
        await receive_one(other)


async def test_queue_with_other_arguments_is_waited_for(
    open_rabbit: OpenRabbit,
    rabbitmq_url: str,
    rabbit_topology: Topology,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A mismatch is somebody's mistake to mend; the consumer is there when it is."""
    monkeypatch.setattr(rabbitmq_consumer, "MISTAKE_PAUSE_SECONDS", 0.2)
    name = rabbit_topology.queue_name(DEDUPE)
    other = rabbit_topology.queue_name(DOWNLOAD)
    async with (
        open_rabbit() as broker,
        broker.consume(DEDUPE, prefetch=1) as consumer,
    ):
        await _until_active(consumer)
        # One that is wrong and one that is not there: declaring fails.
        await _delete_queue(rabbitmq_url, other)
        await _declare_queue(rabbitmq_url, other)
        await _delete_queue(rabbitmq_url, name)

        async def is_down() -> bool:
            return not consumer.is_active

        await eventually(is_down, within=30)
        assert await receive_nothing(consumer, seconds=1.5)
        assert not consumer.is_active
        await _delete_queue(rabbitmq_url, other)

        await _until_active(consumer, within=30)
        await broker.publish(make_publication())
        await receive_one(consumer)


async def test_closing_in_the_middle_of_large_deliveries_harms_no_other(
    open_rabbit: OpenRabbit,
) -> None:
    """Half a delivery of a consumer that left must not block the connection."""
    large = [make_publication(make_envelope(body=b"x" * 2**21)) for _ in range(6)]
    async with open_rabbit() as broker:
        await broker.publish(*large)
        for _ in range(8):
            async with broker.consume(DEDUPE, prefetch=6) as hasty:
                await receive_one(hasty)

        async with broker.consume(DEDUPE, prefetch=6) as consumer:
            left = {p.envelope.message_id for p in large}
            while left:
                # After so many deliveries in vain they come one at a time.
                delivery = await receive_one(consumer)
                await delivery.ack()
                left.remove(delivery.envelope.message_id)


async def test_closing_in_a_black_hole_takes_bounded_time(
    open_rabbit: OpenRabbit,
    rabbitmq_url: str,
    proxy: TcpProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many consumers there are: a process has to end in time."""
    monkeypatch.setattr(rabbitmq_connection, "CLOSE_TIMEOUT_SECONDS", 0.5)
    async with open_rabbit(proxy.url_for(rabbitmq_url)) as broker:
        consumers = [broker.consume(DEDUPE, prefetch=1) for _ in range(6)]
        for consumer in consumers:
            await consumer.__aenter__()
        for consumer in consumers:
            await _until_active(consumer, within=30)
        set_deadline(broker, timedelta(seconds=2))
        for consumer in consumers:
            set_deadline(consumer, timedelta(seconds=2))
        proxy.hold()
        began = time.monotonic()

        await broker.__aexit__(None, None, None)

        # One after the other would take 12 s.
        assert time.monotonic() - began < 10
        proxy.resume()

        async def is_gone() -> bool:
            return proxy.open_connections == 0

        await eventually(is_gone)


@pytest.mark.slow
async def test_steady_traffic_keeps_a_connection_alive(
    rabbitmq_url: str, rabbit_topology: Topology, proxy: TcpProxy
) -> None:
    """aiormq sees none of our frames, and must not take that for silence."""
    # The server misses us after two of them, aiormq the server after 9 s.
    url = f"{proxy.url_for(rabbitmq_url)}?heartbeat=2"
    async with RabbitBroker(url, deadline=PATIENT) as broker:
        await broker.declare(rabbit_topology)
        async with broker.consume(DEDUPE, prefetch=50) as consumer:
            ends_at = time.monotonic() + 11
            while time.monotonic() < ends_at:
                await broker.publish(make_publication())
                await (await receive_one(consumer)).ack()
            assert 2 == proxy.accepted
            assert 2 == proxy.open_connections


async def _until_passed(proxy: TcpProxy, count: int) -> None:
    async def has_passed() -> bool:
        return proxy.passed_bytes[Direction.TO_SERVER] >= count

    await eventually(has_passed)


async def _until_active(consumer: Consumer, *, within: float = 10) -> None:
    async def is_active() -> bool:
        return consumer.is_active

    await eventually(is_active, within=within)


async def _comes_within(consumer: Consumer, *, seconds: float) -> bool:
    return not await receive_nothing(consumer, seconds=seconds)


async def _delete_queue(url: str, *names: str) -> None:
    async with await aio_pika.connect(url) as connection:
        channel = await (await connection.channel()).get_underlay_channel()
        for name in names:
            await channel.queue_delete(name)


async def _declare_queue(url: str, name: str) -> None:
    """Declare it with arguments that are not ours."""
    async with await aio_pika.connect(url) as connection:
        channel = await (await connection.channel()).get_underlay_channel()
        await channel.queue_declare(name, durable=True)


async def _publish_foreign(
    url: str, topology: Topology, message: aio_pika.Message
) -> None:
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        exchange = await channel.get_exchange(
            topology.exchange_name("callbacks"), ensure=False
        )
        await exchange.publish(message, "callback.generate.text")
