"""What ``Broker.publish`` promises."""

from __future__ import annotations

import asyncio
import socket
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from pipeline.broker import open_broker
from pipeline.errors import (
    BrokerClosed,
    BrokerUnavailable,
    PublishRefused,
    Unroutable,
)
from pipeline.message import Failure
from pipeline.topology import (
    CALLBACKS,
    DEDUPE,
    DOWNLOAD,
    EVENTS,
    UNROUTED,
    WORK,
    hand_to,
    notify_queue,
)
from tests.factories import (
    SUBSCRIPTION,
    make_envelope,
    make_publication,
    make_publications,
    make_topology,
)
from tests.waiting import eventually, receive, receive_one

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from pipeline.broker.port import Broker
    from pipeline.topology import Topology

    OpenAgain = Callable[[], Awaitable[Broker]]

#: Long enough for a busy machine.
DEADLINE = timedelta(seconds=10)


async def test_message_survives_closing_and_reopening(
    broker: Broker, open_again: OpenAgain
) -> None:
    """What was published is there for a handle that is opened later."""
    publication = make_publication()
    await broker.publish(publication)
    await broker.__aexit__(None, None, None)

    reopened = await open_again()

    async with reopened.consume(DEDUPE, prefetch=1) as consumer:
        delivery = await receive_one(consumer)
        assert publication.envelope == delivery.envelope


@pytest.mark.parametrize(
    "body",
    [b"", b"\x00\xff" * 512 * 1024, "Grüße, 音楽 🎵".encode(), b"{not json"],
    ids=["empty", "1 MiB", "non-ASCII", "not JSON"],
)
async def test_body_arrives_byte_for_byte(broker: Broker, body: bytes) -> None:
    """A body is carried as it is, whatever is in it."""
    await broker.publish(make_publication(make_envelope(body=body)))

    async with broker.consume(DEDUPE, prefetch=1) as consumer:
        delivery = await receive_one(consumer)

    assert body == delivery.envelope.body


async def test_everything_about_an_envelope_arrives(broker: Broker) -> None:
    """Headers of each type, times and counts are the same on the other side."""
    envelope = make_envelope(
        headers={"text": "Grüße 音楽", "number": -(2**62), "yes": True, "no": False},
        attempt=3,
    )
    at = datetime(2026, 11, 2, 12, 0, 0, 123000, tzinfo=UTC)
    failure = Failure(
        queue=DEDUPE,
        error_type="LinkExpired",
        error_text="gone: 410 «ü»",
        first_failed_at=at,
        last_failed_at=at + timedelta(minutes=1),
    )
    full = type(envelope)(
        body=envelope.body,
        routing_key=envelope.routing_key,
        message_id=envelope.message_id,
        content_type="application/cloudevents+json",
        headers=envelope.headers,
        published_at=at,
        attempt=envelope.attempt,
        replays=2,
        failure=failure,
    )

    await broker.publish(make_publication(full))

    async with broker.consume(DEDUPE, prefetch=1) as consumer:
        delivery = await receive_one(consumer)
    assert full == delivery.envelope
    assert DEDUPE == delivery.queue
    assert not delivery.redelivered


async def test_key_without_a_queue_is_unroutable(broker: Broker) -> None:
    """A publish that no binding wants raises; it does not look like success."""
    lost = make_publication(exchange=WORK, key="nowhere")

    with pytest.raises(Unroutable, match="nowhere"):
        await broker.publish(lost)


async def test_unroutable_message_does_not_stop_its_neighbours(broker: Broker) -> None:
    """Concurrent publishes have results of their own, even with one message id."""
    envelope = make_envelope(message_id="same-for-all")
    good = [broker.publish(make_publication(envelope)) for _ in range(10)]
    bad = [
        broker.publish(make_publication(envelope, exchange=WORK, key="nowhere"))
        for _ in range(10)
    ]

    results = await asyncio.gather(*good, *bad, return_exceptions=True)

    assert [None] * 10 == results[:10]
    assert [Unroutable] * 10 == [type(result) for result in results[10:]]
    async with broker.consume(DEDUPE, prefetch=20) as consumer:
        await receive(consumer, 10)
        assert 0 == (await broker.depth(DEDUPE)).ready


async def test_unknown_exchange_is_unroutable(broker: Broker) -> None:
    """An exchange that the topology does not name raises a clear error."""
    with pytest.raises(Unroutable, match="elsewhere"):
        await broker.publish(make_publication(exchange="elsewhere"))


async def test_callback_that_nobody_wants_is_kept(
    broker_url: str, other_topology: Topology
) -> None:
    """Callbacks have an alternate exchange, because they were accepted."""
    bindings = [b for b in other_topology.bindings if b.exchange != CALLBACKS]
    unbound = replace(other_topology, bindings=tuple(bindings))
    stray = make_publication(make_envelope())
    async with open_broker(broker_url, deadline=DEADLINE) as broker:
        await broker.declare(unbound)

        await broker.publish(stray)

        async with broker.consume(UNROUTED, prefetch=1) as consumer:
            delivery = await receive_one(consumer)
            await delivery.ack()

    assert stray.envelope == delivery.envelope


async def test_callback_goes_to_dedupe_whatever_its_routing_key(
    broker: Broker,
) -> None:
    """Somebody else may hand one in, and spell the key as he likes."""
    odd = make_publication(make_envelope(routing_key="strange.key"))

    await broker.publish(odd)

    async with broker.consume(DEDUPE, prefetch=1) as consumer:
        delivery = await receive_one(consumer)
        await delivery.ack()
    assert odd.envelope == delivery.envelope


async def test_event_that_nobody_wants_is_dropped(broker: Broker) -> None:
    """Publishing an event without subscribers succeeds and keeps nothing."""
    event = make_envelope(routing_key="task.text")

    await broker.publish(make_publication(event, exchange=EVENTS))

    queue = notify_queue(SUBSCRIPTION)
    assert 0 == (await broker.depth(queue)).ready
    assert 0 == (await broker.depth(UNROUTED)).ready


async def test_event_reaches_the_subscription_that_wants_it(broker: Broker) -> None:
    """Topic patterns decide which queue gets an event."""
    wanted = make_envelope(routing_key="task.complete")
    other = make_envelope(routing_key="task.first")

    await broker.publish(
        make_publication(other, exchange=EVENTS),
        make_publication(wanted, exchange=EVENTS),
    )

    async with broker.consume(notify_queue(SUBSCRIPTION), prefetch=2) as consumer:
        delivery = await receive_one(consumer)
        assert wanted.message_id == delivery.envelope.message_id


async def test_message_handed_to_a_queue_keeps_its_routing_key(broker: Broker) -> None:
    """The way straight to one queue is no business of the handler."""
    envelope = make_envelope(routing_key="asset.requested")

    await broker.publish(hand_to(DOWNLOAD, envelope))

    async with broker.consume(DOWNLOAD, prefetch=1) as consumer:
        delivery = await receive_one(consumer)
    assert envelope == delivery.envelope


async def test_many_publications_arrive_in_their_order(broker: Broker) -> None:
    """One call stores its messages in the order in which they were given."""
    publications = make_publications(300)

    await broker.publish(*publications)

    async with broker.consume(DEDUPE, prefetch=300) as consumer:
        deliveries = await receive(consumer, 300)
    expected = [p.envelope.message_id for p in publications]
    assert expected == [d.envelope.message_id for d in deliveries]


async def test_concurrent_publishes_are_all_stored(broker: Broker) -> None:
    """Many callers at once lose nothing and double nothing."""
    publications = make_publications(200)

    async with asyncio.TaskGroup() as group:
        for publication in publications:
            group.create_task(broker.publish(publication))

    async with broker.consume(DEDUPE, prefetch=200) as consumer:
        deliveries = await receive(consumer, 200)
        expected = {p.envelope.message_id for p in publications}
        assert expected == {d.envelope.message_id for d in deliveries}


async def test_header_that_cannot_be_carried_is_refused(broker: Broker) -> None:
    """No adapter's own error comes out for a number of more than 64 bits."""
    huge = make_publication(make_envelope(headers={"huge": 2**70}))

    with pytest.raises(PublishRefused, match=r"huge|64"):
        await broker.publish(huge)

    await broker.publish(make_publication())


async def test_publishing_nothing_is_harmless(broker: Broker) -> None:
    """An empty call returns at once."""
    await broker.publish()

    assert 0 == (await broker.depth(DEDUPE)).ready


async def test_cancelled_publish_harms_no_other(broker: Broker) -> None:
    """Cancelling one caller leaves its outcome unknown, and the others alone."""
    hasty = asyncio.create_task(broker.publish(make_publication()))
    patient = make_publication()
    other = asyncio.create_task(broker.publish(patient))
    await asyncio.sleep(0)

    hasty.cancel()
    await other

    with pytest.raises(asyncio.CancelledError):
        await hasty
    async with broker.consume(DEDUPE, prefetch=5) as consumer:
        seen = set()
        while patient.envelope.message_id not in seen:
            delivery = await receive_one(consumer)
            seen.add(delivery.envelope.message_id)
            await delivery.ack()


@pytest.mark.parametrize(
    "scheme", ["sqlite", pytest.param("amqp", marks=pytest.mark.rabbitmq)]
)
async def test_broker_that_is_gone_is_said_to_be_unavailable_in_time(
    scheme: str, tmp_path: Path
) -> None:
    """Opening returns at once; calls give up at the deadline and say why."""
    url = _address_of_nothing(scheme, tmp_path)
    deadline = timedelta(seconds=0.5)
    began = time.monotonic()
    async with open_broker(url, deadline=timedelta(minutes=1)):
        opened_after = time.monotonic() - began

    async with open_broker(url, deadline=deadline) as broker:
        began = time.monotonic()
        with pytest.raises(BrokerUnavailable):
            await broker.declare(make_topology())
        given_up_after = time.monotonic() - began

        async def has_problem() -> bool:
            return broker.problem is not None

        await eventually(has_problem)

    assert opened_after < 5
    assert given_up_after < 10


def _address_of_nothing(scheme: str, folder: Path) -> str:
    if scheme == "sqlite":
        (folder / "file").write_text("no folder")
        return f"sqlite:///{folder}/file/broker.db"
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"amqp://guest:guest@127.0.0.1:{unused.getsockname()[1]}/"


def test_the_factories_agree_with_the_topology() -> None:
    """The defaults of the factories are what the pipeline publishes."""
    publication = make_publication()

    assert CALLBACKS == publication.exchange
    assert publication.envelope.routing_key == publication.wire_key


async def test_what_is_begun_is_stored_once_it_is_done(broker: Broker) -> None:
    """Or nothing is begun at all; both are right, and nothing is in between."""
    publications = make_publications(20)

    begun = [broker.begin(publication) for publication in publications]
    await asyncio.gather(*(future for future in begun if future is not None))

    stored = [p for p, future in zip(publications, begun, strict=True) if future]
    assert len(stored) == (await broker.depth(DEDUPE)).ready
    async with broker.consume(DEDUPE, prefetch=20) as consumer:
        found = [(await receive_one(consumer)).envelope for _ in stored]
    assert [publication.envelope for publication in stored] == found


async def test_nothing_is_begun_without_a_topology_or_a_handle(
    broker: Broker, topology: Topology
) -> None:
    """``publish`` says what is wrong."""
    await broker.delete(topology)

    assert broker.begin(make_publication()) is None
    with pytest.raises(BrokerClosed):
        await broker.publish(make_publication())

    await broker.__aexit__(None, None, None)

    assert broker.begin(make_publication()) is None
