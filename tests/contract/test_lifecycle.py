"""What a handle promises from opening to closing."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from pipeline.broker import open_broker
from pipeline.broker.found import FoundQueue
from pipeline.errors import (
    BrokerClosed,
    BrokerError,
    BrokerUnavailable,
    TopologyMismatch,
    Unroutable,
)
from pipeline.topology import (
    DEDUPE,
    DOWNLOAD,
    EVENTS,
    ExchangeKind,
    build_topology,
    dead_letter_queue,
    hand_to,
    notify_queue,
)
from tests.factories import (
    LONG_DELAY,
    SHORT_DELAY,
    make_envelope,
    make_publication,
    make_publications,
    make_topology,
)
from tests.waiting import eventually, receive, receive_one

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pipeline.broker.port import Broker
    from pipeline.topology import Topology

    OpenAgain = Callable[[], Awaitable[Broker]]

DEADLINE = timedelta(seconds=10)


async def test_version_names_what_holds_the_messages(broker: Broker) -> None:
    name, _, numbers = (await broker.version()).partition(" ")

    assert name in ("SQLite", "RabbitMQ")
    assert tuple(map(int, numbers.split("."))) >= (3, 10)


async def test_declaring_twice_is_harmless(broker: Broker, topology: Topology) -> None:
    """What is there stays, with everything in it."""
    await broker.publish(make_publication())

    await broker.declare(topology)
    await broker.declare(topology)

    assert 1 == (await broker.depth(DEDUPE)).ready
    assert [] == list(await broker.check(topology))


async def test_topologies_of_several_processes_are_merged(
    broker: Broker, open_again: OpenAgain, topology: Topology
) -> None:
    """A process that declares less takes nothing away from the others."""
    smaller = replace(topology, queues=topology.queues[:2], bindings=())
    other = await open_again()

    await other.declare(smaller)

    await broker.publish(make_publication())
    assert 1 == (await broker.depth(DEDUPE)).ready
    assert [] == list(await broker.check(topology))


async def test_queue_with_other_arguments_is_a_mismatch(
    broker: Broker, open_again: OpenAgain, topology: Topology
) -> None:
    """The message names both values, and what was there is not changed."""
    other = await open_again()
    changed = replace(
        topology,
        queues=tuple(
            replace(queue, delay=timedelta(milliseconds=777))
            if queue.delay == SHORT_DELAY
            else queue
            for queue in topology.queues
        ),
    )

    with pytest.raises(TopologyMismatch) as raised:
        await other.declare(changed)

    assert "777" in str(raised.value)
    assert "100" in str(raised.value)
    assert [] == list(await broker.check(topology))
    await broker.publish(make_publication())


async def test_exchange_of_another_kind_is_a_mismatch(
    broker: Broker, open_again: OpenAgain, topology: Topology
) -> None:
    """The message names both kinds."""
    other = await open_again()
    events = topology.exchanges[1]
    changed = replace(
        topology,
        exchanges=(
            topology.exchanges[0],
            replace(events, kind=ExchangeKind.DIRECT),
            *topology.exchanges[2:],
        ),
    )

    with pytest.raises(TopologyMismatch) as raised:
        await other.declare(changed)

    assert "direct" in str(raised.value)
    assert "topic" in str(raised.value)
    await broker.publish(make_publication())


async def test_check_names_every_difference_and_changes_nothing(
    broker: Broker, topology: Topology, other_topology: Topology
) -> None:
    """One sentence for each, in which the queue or exchange is named."""
    assert [] == list(await broker.check(topology))

    differences = await broker.check(other_topology)

    text = "\n".join(one.text for one in differences)
    for queue in other_topology.queues:
        assert other_topology.queue_name(queue.name) in text
    for exchange in other_topology.exchanges:
        assert other_topology.exchange_name(exchange.name) in text
    assert list(differences) == list(await broker.check(other_topology))


async def test_check_names_other_arguments(broker: Broker, topology: Topology) -> None:
    """Both values are said."""
    changed = replace(
        topology,
        queues=tuple(
            replace(queue, delay=timedelta(milliseconds=777))
            if queue.delay == LONG_DELAY
            else queue
            for queue in topology.queues
        ),
    )

    (difference,) = await broker.check(changed)

    assert "777" in difference.text
    assert "900" in difference.text
    assert not difference.is_tolerated


async def test_prefixes_do_not_see_each_other(
    broker: Broker, open_again: OpenAgain, other_topology: Topology
) -> None:
    """The same queue under another prefix is another queue."""
    stranger = await open_again()
    await stranger.declare(other_topology)

    await broker.publish(*make_publications(2))

    assert 2 == (await broker.depth(DEDUPE)).ready
    assert 0 == (await stranger.depth(DEDUPE)).ready


async def test_deleting_removes_everything_of_one_topology_only(
    broker: Broker, open_again: OpenAgain, topology: Topology
) -> None:
    """Messages go with their queues; a neighbour under another prefix stays."""
    neighbour = make_topology()
    other = await open_again()
    await other.declare(neighbour)
    await other.publish(make_publication())
    await broker.publish(*make_publications(3))

    await broker.delete(topology)
    await broker.delete(topology)

    names = len(topology.exchanges) + len(topology.queues)
    assert names <= len(await broker.check(topology))
    with pytest.raises(BrokerClosed):
        await broker.publish(make_publication())
    assert 1 == (await other.depth(DEDUPE)).ready
    await broker.declare(topology)
    assert 0 == (await broker.depth(DEDUPE)).ready
    await other.delete(neighbour)


async def test_what_another_process_deleted_is_declared_again_to_publish(
    broker: Broker, open_again: OpenAgain, topology: Topology
) -> None:
    """An ingress that runs on takes callbacks again by itself."""
    other = await open_again()
    await broker.publish(make_publication())

    await other.delete(topology)

    async def takes_them() -> bool:
        with suppress(BrokerUnavailable, Unroutable):
            await broker.publish(make_publication())
            return True
        return False

    await eventually(takes_them)
    assert 1 == (await broker.depth(DEDUPE)).ready
    assert [] == list(await broker.check(topology))


async def test_what_another_process_deleted_is_declared_again_to_consume(
    broker: Broker, open_again: OpenAgain, topology: Topology
) -> None:
    """A worker that has nothing to do becomes a consumer again by itself."""
    other = await open_again()
    async with broker.consume(DEDUPE, prefetch=1) as consumer:

        async def is_whole() -> bool:
            return not await broker.check(topology) and consumer.is_active

        await eventually(is_whole)

        await other.delete(topology)

        await eventually(is_whole)
        await other.declare(topology)
        await other.publish(publication := make_publication())
        delivery = await receive_one(consumer)
        await delivery.ack()
    assert publication.envelope.message_id == delivery.envelope.message_id


async def test_consumer_without_a_queue_is_not_active(
    broker: Broker, topology: Topology
) -> None:
    """It says so, and is active again when the queue is back."""
    async with broker.consume(DEDUPE, prefetch=1) as consumer:

        async def is_active() -> bool:
            return consumer.is_active

        async def is_inactive() -> bool:
            return not consumer.is_active

        await eventually(is_active)

        await broker.delete(topology)

        await eventually(is_inactive)
        await broker.declare(topology)
        await eventually(is_active)
        await broker.publish(make_publication())
        await (await receive_one(consumer)).ack()


async def test_a_queue_that_no_setting_names_any_more_is_found_and_deleted(
    broker: Broker, topology: Topology
) -> None:
    """A subscription was removed: its queues are still there, and still bound."""
    left = build_topology(
        prefix=topology.prefix, subscriptions={"gone": ["task.#"]}, delays=[SHORT_DELAY]
    )
    await broker.declare(left)
    await broker.declare(topology)
    event = make_envelope(routing_key="task.complete")
    await broker.publish(make_publication(event, exchange=EVENTS))
    name = notify_queue("gone")
    names = [name, dead_letter_queue(name), notify_queue("never-there")]

    found = {one.name: one for one in await broker.find_queues(topology, names)}

    assert found.keys().isdisjoint({"notify.never-there"})
    assert FoundQueue(name=name, messages=1, is_used=False) == found[name]
    assert 0 == found[dead_letter_queue(name)].messages

    async with broker.consume(name, prefetch=1) as consumer:
        await receive(consumer)
        found = {one.name: one for one in await broker.find_queues(topology, names)}
        assert found[name].is_used

    for _ in range(2):
        await broker.delete_queue(topology, name)
    await broker.delete_queue(topology, dead_letter_queue(name))

    found = {one.name: one for one in await broker.find_queues(topology, names)}
    assert found.keys().isdisjoint(names)
    await broker.publish(make_publication(event, exchange=EVENTS))
    assert [] == list(await broker.check(topology))


async def test_queue_that_is_not_idle_is_kept_as_it_was(
    broker: Broker, topology: Topology
) -> None:
    """With what is in it, and bound to all that it was bound to."""
    await broker.publish(make_publication())

    with pytest.raises(BrokerError, match="found 1 messages"):
        await broker.delete_queue(topology, DEDUPE, if_idle=True)

    assert [] == list(await broker.check(topology))
    envelope = make_envelope()
    await broker.publish(make_publication(), hand_to(DEDUPE, envelope))
    async with broker.consume(DEDUPE, prefetch=3) as consumer:
        deliveries = await receive(consumer, 3)
        with pytest.raises(BrokerError, match="somebody takes from it"):
            await broker.delete_queue(topology, DEDUPE, if_idle=True)
        await consumer.ack(deliveries)

    async def is_deleted() -> bool:
        with suppress(BrokerError):  # leaving the queue takes a moment
            await broker.delete_queue(topology, DEDUPE, if_idle=True)
        return not [
            one
            for one in await broker.find_queues(topology, [DEDUPE])
            if one.name == DEDUPE
        ]

    await eventually(is_deleted)
    await broker.delete_queue(topology, DEDUPE, if_idle=True)


async def test_queue_is_deleted_though_another_name_goes_on_where_it_ends(
    broker: Broker, topology: Topology
) -> None:
    """Only what is in the queue itself counts."""
    longer = build_topology(
        prefix=topology.prefix,
        subscriptions={"a": ["task.first"], "a.b": ["task.text"]},
        delays=[SHORT_DELAY],
    )
    await broker.declare(longer)
    event = make_envelope(routing_key="task.text")
    await broker.publish(make_publication(event, exchange=EVENTS))

    await broker.delete_queue(longer, notify_queue("a"), if_idle=True)

    names = [notify_queue("a"), notify_queue("a.b")]
    found = {one.name for one in await broker.find_queues(longer, names)}
    assert names[0] not in found
    assert names[1] in found
    await broker.delete(longer)


async def test_closing_is_idempotent(broker: Broker) -> None:
    """Closing twice is as good as closing once."""
    await broker.publish(make_publication())

    await broker.__aexit__(None, None, None)
    await broker.__aexit__(None, None, None)

    assert broker.problem is not None


async def test_closing_works_while_a_receiver_waits(broker: Broker) -> None:
    """Nobody hangs: neither who closes nor who waits."""
    consumer = broker.consume(DEDUPE, prefetch=1)
    await consumer.__aenter__()
    waiting = asyncio.ensure_future(consumer.receive())
    assert not (await asyncio.wait((waiting,), timeout=0.1))[0]

    async with asyncio.timeout(30):
        await broker.__aexit__(None, None, None)
        assert [] == list(await waiting)


async def test_everything_raises_before_opening(
    broker_url: str, topology: Topology
) -> None:
    """A handle that was not entered says so."""
    await _assert_closed(open_broker(broker_url, deadline=DEADLINE), topology)


async def test_everything_raises_after_closing(
    broker: Broker, topology: Topology
) -> None:
    """A handle that was left says so."""
    await broker.__aexit__(None, None, None)

    await _assert_closed(broker, topology)


async def _assert_closed(broker: Broker, topology: Topology) -> None:
    assert broker.problem is not None
    with pytest.raises(BrokerClosed):
        await broker.publish(make_publication())
    with pytest.raises(BrokerClosed):
        await broker.declare(topology)
    with pytest.raises(BrokerClosed):
        await broker.check(topology)
    with pytest.raises(BrokerClosed):
        await broker.depth(DEDUPE)
    with pytest.raises(BrokerClosed):
        async with broker.consume(DEDUPE, prefetch=1):
            pass


async def test_publishing_before_declaring_raises(broker_url: str) -> None:
    """Names are looked up in the topology, so there has to be one."""
    async with open_broker(broker_url, deadline=DEADLINE) as handle:
        with pytest.raises(BrokerClosed, match="declare"):
            await handle.publish(make_publication())


async def test_open_handle_has_no_problem(broker: Broker) -> None:
    """Readiness follows this."""

    async def is_well() -> bool:
        return broker.problem is None

    await eventually(is_well)


async def test_depth_counts_ready_unacked_and_delayed(broker: Broker) -> None:
    """Each message is counted in exactly one place."""
    await broker.publish(*make_publications(6))
    async with broker.consume(DEDUPE, prefetch=3) as consumer:
        first, _, _ = await receive(consumer, 3)
        await first.ack()
        await receive(consumer, 1)

        async def is_counted() -> bool:
            depth = await broker.depth(DEDUPE)
            return (depth.ready, depth.unacked, depth.delayed) == (2, 3, 0)

        await eventually(is_counted)

    async def is_given_back() -> bool:
        depth = await broker.depth(DEDUPE)
        return (depth.ready, depth.unacked, depth.delayed) == (5, 0, 0)

    await eventually(is_given_back)
    assert 0 == (await broker.depth(DOWNLOAD)).ready


async def test_depth_tells_of_what_other_handles_hold(
    broker: Broker, open_again: OpenAgain
) -> None:
    """Who finds nothing can know whether there is nothing; RabbitMQ cannot count."""
    await broker.publish(*make_publications(3))
    before = (await broker.depth(DEDUPE)).held
    other = await open_again()

    async with other.consume(DEDUPE, prefetch=2) as consumer:
        await receive(consumer, 2)
        taking = await broker.depth(DEDUPE)
        await consumer.stop()
        stopped = await broker.depth(DEDUPE)

    assert 0 == before
    assert taking.held in {2, None}
    assert stopped.held in {2, None}
    assert 1 == stopped.ready
    assert 0 == stopped.unacked

    async def is_free() -> bool:
        depth = await broker.depth(DEDUPE)
        return (depth.ready, depth.held) == (3, 0)

    await eventually(is_free)


async def test_depth_of_an_unknown_queue_raises(broker: Broker) -> None:
    """There is nothing to count, and zero would be a lie."""
    with pytest.raises(BrokerUnavailable, match="nothing-there"):
        await broker.depth("nothing-there")
