"""A RabbitMQ in trouble: alarms, restarts, stuck connections, a queue that hangs."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

import aio_pika
import pytest

from pipeline.broker import rabbitmq_publisher
from pipeline.broker.rabbitmq import RabbitBroker
from pipeline.errors import BrokerUnavailable
from pipeline.topology import DEDUPE, DOWNLOAD, SUSPECT_DELIVERIES, WORK
from tests.deadlines import set_deadline
from tests.factories import (
    SHORT_DELAY,
    make_envelope,
    make_publication,
    make_publications,
    make_topology,
)
from tests.tcp_proxy import TcpProxy
from tests.waiting import eventually, receive, receive_one

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from pipeline.topology import Topology
    from tests.rabbitmq_node import RabbitNode

    class OpenRabbit(Protocol):
        """Opens a handle, on which the topology is declared."""

        def __call__(
            self, url: str = ..., *, deadline: timedelta = ...
        ) -> AbstractAsyncContextManager[RabbitBroker]:
            """Open it for the time of a context."""


pytestmark = [pytest.mark.rabbitmq, pytest.mark.usefixtures("nothing_unhandled")]

PATIENT = timedelta(seconds=10)
#: For what has to run out of time, and for nothing that has to work.
SHORT = timedelta(seconds=1)
#: Longer than any of these tests takes: what has it is not to end by itself.
LONG = timedelta(minutes=1)
#: Far below what ``PATIENT`` and ``LONG`` would take.
AT_ONCE_SECONDS = 5.0
IMPATIENT_TRIES = 5


@pytest.fixture(scope="module")
def node_topology() -> Topology:
    """A topology on the private node, which ends with this module."""
    return make_topology()


@pytest.fixture(params=[True, False], ids=["fast", "plain"])
def open_rabbit(
    request: pytest.FixtureRequest,
    rabbitmq_own_node: RabbitNode,
    node_topology: Topology,
) -> OpenRabbit:
    """Opens handles that take the fast path, then such that may not."""

    @asynccontextmanager
    async def opened(
        url: str = rabbitmq_own_node.url, *, deadline: timedelta = PATIENT
    ) -> AsyncIterator[RabbitBroker]:
        async with RabbitBroker(url, deadline=deadline, fast=request.param) as broker:
            await broker.declare(node_topology)
            yield broker

    return opened


async def test_alarm_stops_publishers_and_no_consumer(
    open_rabbit: OpenRabbit, rabbitmq_own_node: RabbitNode
) -> None:
    """Publishing fails in time, queues are drained, and then it goes on."""
    async with open_rabbit() as broker:
        await broker.publish(*make_publications(5))
        async with broker.consume(DEDUPE, prefetch=10) as consumer:
            for delivery in await receive(consumer, 4):
                await delivery.ack()
            async with _memory_alarm(rabbitmq_own_node):
                set_deadline(broker, SHORT)
                seconds = await _until_it_fails(broker)

                assert seconds < SHORT.total_seconds() + AT_ONCE_SECONDS
                await (await receive_one(consumer)).ack()
                assert consumer.is_active
            set_deadline(broker, PATIENT)
            await _until_it_works(broker)
            await receive_one(consumer)
        assert broker.problem is None


async def test_alarm_is_known_at_once(
    rabbitmq_own_node: RabbitNode, node_topology: Topology
) -> None:
    """Once the broker has told, nobody waits for the deadline to learn it."""
    async with RabbitBroker(rabbitmq_own_node.url, deadline=PATIENT) as broker:
        await broker.declare(node_topology)
        async with _memory_alarm(rabbitmq_own_node):
            set_deadline(broker, SHORT)

            async def is_told() -> bool:
                with suppress(BrokerUnavailable):  # RabbitMQ tells who publishes
                    await broker.publish(make_publication())
                return "alarm" in str(broker.problem)

            await eventually(is_told, within=30)
            set_deadline(broker, PATIENT)
            began = time.monotonic()

            with pytest.raises(BrokerUnavailable, match="alarm"):
                await broker.publish(make_publication())

            assert time.monotonic() - began < AT_ONCE_SECONDS
            assert "alarm" in str(broker.problem)
        await _until_it_works(broker)
        assert broker.problem is None


async def test_consumer_that_stops_during_an_alarm_gives_back_what_waits(
    open_rabbit: OpenRabbit, rabbitmq_own_node: RabbitNode
) -> None:
    """In time, and as it is, for copies cannot be published; nothing is lost."""
    # Half of it is waited for the copies; in the rest, cancelling has to be confirmed.
    deadline = timedelta(seconds=8)
    async with open_rabbit(deadline=deadline) as broker:
        await broker.publish(*make_publications(5))
        for _ in range(SUSPECT_DELIVERIES - 1):
            async with broker.consume(DEDUPE, prefetch=5) as consumer:
                await receive(consumer, 5)
        async with broker.consume(DEDUPE, prefetch=5) as consumer:

            async def do_all_wait() -> bool:
                return (await broker.depth(DEDUPE)).unacked == 5

            await eventually(do_all_wait, within=30)
            async with _memory_alarm(rabbitmq_own_node):
                began = time.monotonic()
                await consumer.stop()
                seconds = time.monotonic() - began
                unacked = consumer.unacked
                async with broker.consume(DEDUPE, prefetch=5) as another:
                    taken: set[bytes] = set()
                    while len(taken) < 5:
                        delivery = await receive_one(another)
                        taken.add(delivery.envelope.body)
                        await delivery.ack()

        assert seconds < deadline.total_seconds() + AT_ONCE_SECONDS
        assert 0 == unacked


async def test_lost_connection_is_told_with_the_first_failure(
    rabbitmq_own_node: RabbitNode, node_topology: Topology
) -> None:
    """Who sees a publish fail and asks for the reason is not told that all is well."""
    async with TcpProxy.to(rabbitmq_own_node.url) as proxy:
        url = proxy.url_for(rabbitmq_own_node.url)
        async with RabbitBroker(url, deadline=PATIENT) as broker:
            await broker.declare(node_topology)
            await proxy.refuse()
            proxy.cut()

            with pytest.raises(BrokerUnavailable):
                await _publish_for_ever(broker)
            assert "lost" in str(broker.problem)


async def _until_it_fails(broker: RabbitBroker) -> float:
    """Publish until that fails, for the alarm takes a moment; give how long it took.

    That is: the publish that failed.
    """
    async with asyncio.timeout(PATIENT.total_seconds()):
        while True:
            began = time.monotonic()
            try:
                await broker.publish(make_publication())
            except BrokerUnavailable:
                return time.monotonic() - began


async def _give_up(publishing: list[asyncio.Task[None]]) -> None:
    """Cancel what would wait for longer than there is to be seen."""
    for one in publishing:
        one.cancel()
    await asyncio.gather(*publishing, return_exceptions=True)


async def _publish_for_ever(broker: RabbitBroker) -> None:
    while True:
        await broker.publish(make_publication())


async def test_queue_that_hangs_holds_up_no_other(
    open_rabbit: OpenRabbit, rabbitmq_own_node: RabbitNode, node_topology: Topology
) -> None:
    """One queue may be slow to confirm; messages to the others go out and come back."""
    stuck = make_publication(exchange=WORK, key="stuck")
    async with (
        open_rabbit(deadline=LONG) as broker,
        _queue_that_hangs(rabbitmq_own_node, node_topology, "stuck"),
    ):
        waiting = [asyncio.create_task(broker.publish(stuck)) for _ in range(50)]
        assert not (await asyncio.wait(waiting, timeout=0.2))[0]

        await broker.publish(make_publication())

        # Had it waited for them, they would have come to their ends before.
        assert not [one for one in waiting if one.done()]
        set_deadline(broker, SHORT)
        results = await asyncio.gather(
            *(broker.publish(stuck) for _ in range(50)), return_exceptions=True
        )
        assert {BrokerUnavailable} == {type(result) for result in results}
        set_deadline(broker, LONG)
        await broker.publish(make_publication())
        await _give_up(waiting)


async def test_retry_is_kept_while_its_queue_is_missing(
    rabbitmq_own_node: RabbitNode, node_topology: Topology
) -> None:
    """A delay queue hands on at least once: it waits for somewhere to hand to."""
    envelope = make_envelope()
    retry = node_topology.retry(DOWNLOAD, envelope, SHORT_DELAY)
    async with RabbitBroker(rabbitmq_own_node.url, deadline=PATIENT) as broker:
        await broker.declare(node_topology)
        async with await aio_pika.connect(rabbitmq_own_node.url) as connection:
            channel = await (await connection.channel()).get_underlay_channel()
            await channel.queue_delete(node_topology.queue_name(DOWNLOAD))
        await broker.publish(retry)

        async def has_come_due() -> bool:
            return (await broker.depth(DEDUPE)).delayed == 0

        await eventually(has_come_due)

        await broker.declare(node_topology)

        async with broker.consume(DOWNLOAD, prefetch=1) as consumer:
            delivery = await receive_one(consumer)
            await delivery.ack()
    assert envelope.message_id == delivery.envelope.message_id
    assert 2 == delivery.envelope.attempt


async def test_broker_that_never_confirms_is_not_fed_for_ever(
    rabbitmq_own_node: RabbitNode,
    node_topology: Topology,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What waits for a confirm takes memory, here and there: there is a limit."""
    monkeypatch.setattr(rabbitmq_publisher, "SENT_LIMIT", 20)
    stuck = make_publication(exchange=WORK, key="stuck")
    async with (
        RabbitBroker(rabbitmq_own_node.url, deadline=PATIENT) as broker,
        _queue_that_hangs(rabbitmq_own_node, node_topology, "stuck"),
    ):
        await broker.declare(node_topology)
        waiting = [asyncio.create_task(broker.publish(stuck)) for _ in range(30)]
        assert not (await asyncio.wait(waiting, timeout=0.2))[0]
        began = time.monotonic()

        with pytest.raises(BrokerUnavailable, match="does not confirm"):
            await broker.publish(make_publication())

        assert time.monotonic() - began < AT_ONCE_SECONDS
        await _give_up(waiting)


@pytest.mark.slow
async def test_stuck_connection_is_given_up_by_its_heartbeats(
    open_rabbit: OpenRabbit, rabbitmq_own_node: RabbitNode
) -> None:
    """The library cancels whoever waits for it; our callers see our error."""
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(TcpProxy.to(rabbitmq_own_node.url))
        url = f"{proxy.url_for(rabbitmq_own_node.url)}?heartbeat=1"
        opened = open_rabbit(url, deadline=timedelta(seconds=20))
        broker = await stack.enter_async_context(opened)
        consumer = await stack.enter_async_context(broker.consume(DEDUPE, prefetch=1))
        await _until_it_works(broker)
        await (await receive_one(consumer)).ack()
        proxy.hold()
        waiting = [asyncio.create_task(broker.publish(p)) for p in make_publications(5)]

        async with asyncio.timeout(18):
            results = await asyncio.gather(*waiting, return_exceptions=True)

        assert {BrokerUnavailable} == {type(result) for result in results}
        proxy.resume()
        await _until_it_works(broker)
        await receive_one(consumer, within=30)


async def test_who_tries_again_at_once_leaves_the_event_loop_its_turns(
    open_rabbit: OpenRabbit, rabbitmq_own_node: RabbitNode
) -> None:
    """Else nobody would hear that the alarm has ended."""
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with open_rabbit() as broker:
        async with _memory_alarm(rabbitmq_own_node):
            set_deadline(broker, SHORT)
            with pytest.raises(BrokerUnavailable):  # RabbitMQ tells who publishes
                await broker.publish(make_publication())
            others = asyncio.create_task(take_turns())
            for _ in range(IMPATIENT_TRIES):
                with pytest.raises(BrokerUnavailable):
                    await broker.publish(make_publication())
            others.cancel()
        set_deadline(broker, PATIENT)
        await _until_it_works(broker)

    assert turns >= IMPATIENT_TRIES


@pytest.mark.slow
@pytest.mark.parametrize("how", ["stop_app", "kill"])
async def test_node_that_restarts_loses_nothing_that_was_confirmed(
    open_rabbit: OpenRabbit, rabbitmq_own_node: RabbitNode, how: str
) -> None:
    """What was confirmed is there afterwards; publishing goes on by itself."""
    confirmed: list[str] = []
    stopping = asyncio.Event()

    async def publish_on(broker: RabbitBroker) -> None:
        while not stopping.is_set():
            publication = make_publication()
            try:
                await broker.publish(publication)
            except BrokerUnavailable:
                await asyncio.sleep(0.01)
                continue
            confirmed.append(publication.envelope.message_id)

    async with open_rabbit() as broker:
        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(publish_on(broker))
            await _until(lambda: len(confirmed) > 50)

            await asyncio.to_thread(_go_away_and_come_back, rabbitmq_own_node, how)

            known = len(confirmed)
            await _until(lambda: len(confirmed) > known + 50)
            stopping.set()
        missing = set(confirmed)
        async with broker.consume(DEDUPE, prefetch=500) as consumer:
            async with asyncio.timeout(60):
                while missing:
                    deliveries = await consumer.receive(500)
                    missing -= {d.envelope.message_id for d in deliveries}
                    await consumer.ack(deliveries)


def _go_away_and_come_back(node: RabbitNode, how: str) -> None:
    if how == "stop_app":
        node.stop_app()
        node.start_app()
    else:
        node.kill()
        node.start()


async def _until(condition: Callable[[], bool], *, within: float = 60) -> None:
    """Wait; a pause of the connection, and a slow disk after it, take their time."""

    async def holds() -> bool:
        return condition()

    await eventually(holds, within=within)


async def _until_it_works(broker: RabbitBroker) -> None:
    """Publish until that succeeds, as every caller does."""

    async def works() -> bool:
        try:
            await broker.publish(make_publication())
        except BrokerUnavailable:
            return False
        return True

    await eventually(works, within=30)


@asynccontextmanager
async def _memory_alarm(node: RabbitNode) -> AsyncIterator[None]:
    """Let the broker find that it has too little memory."""
    await asyncio.to_thread(node.raise_memory_alarm)
    try:
        yield
    finally:
        await asyncio.to_thread(node.clear_memory_alarm)


@asynccontextmanager
async def _queue_that_hangs(
    node: RabbitNode, topology: Topology, key: str
) -> AsyncIterator[None]:
    """Bind a queue whose process is suspended: it takes messages and says nothing."""
    async with await aio_pika.connect(node.url) as connection:
        channel = await (await connection.channel()).get_underlay_channel()
        name = f"{topology.prefix}.{key}"
        await channel.queue_declare(name, durable=True)
        await channel.queue_bind(name, topology.exchange_name(WORK), key)
        await asyncio.to_thread(node.tell_queue, name, "suspend")
        try:
            yield
        finally:
            await asyncio.to_thread(node.tell_queue, name, "resume")
            await channel.queue_delete(name)
