"""What goes wrong while something else does: stopping, connecting, declaring."""

from __future__ import annotations

import asyncio
import gc
import time
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

import aio_pika
import pytest
from structlog.testing import capture_logs

from pipeline.broker import rabbitmq_consumer
from pipeline.broker.rabbitmq import RabbitBroker
from pipeline.broker.rabbitmq_connection import Link
from pipeline.errors import BrokerUnavailable
from pipeline.retry import RetryPolicy
from pipeline.topology import DEDUPE, DOWNLOAD, hand_to
from pipeline.worker import Worker
from tests.deadlines import set_deadline
from tests.depth import until_ready
from tests.factories import make_envelope, make_publication, make_publications
from tests.tcp_proxy import TcpProxy
from tests.waiting import eventually, receive_one

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from aio_pika.abc import AbstractConnection

    from pipeline.message import Envelope, Publication
    from pipeline.outcome import Result
    from pipeline.topology import Topology

pytestmark = [pytest.mark.rabbitmq, pytest.mark.usefixtures("nothing_unhandled")]

PATIENT = timedelta(seconds=10)
#: For what has to run out of time, and for nothing that has to work.
SHORT = timedelta(seconds=1)


@pytest.fixture
async def proxy(rabbitmq_url: str) -> AsyncIterator[TcpProxy]:
    """A network between us and the broker."""
    async with TcpProxy.to(rabbitmq_url) as made:
        yield made


async def test_consumer_stops_at_once_while_the_broker_is_away(
    rabbitmq_url: str, rabbit_topology: Topology, proxy: TcpProxy
) -> None:
    """Shutting down in an outage waits for nobody."""
    async with RabbitBroker(proxy.url_for(rabbitmq_url), deadline=PATIENT) as broker:
        await broker.declare(rabbit_topology)
        await broker.publish(make_publication())
        async with broker.consume(DEDUPE, prefetch=1) as consumer:
            await receive_one(consumer)
            await proxy.refuse()
            proxy.cut()

            async def is_down() -> bool:
                return not consumer.is_active

            await eventually(is_down)
            began = time.monotonic()

            await consumer.stop()

            assert () == await consumer.receive()
            # Its deadline would be 10 s.
            assert time.monotonic() - began < 5


async def test_consumer_stops_within_its_deadline_in_a_black_hole(
    rabbitmq_url: str, rabbit_topology: Topology, proxy: TcpProxy
) -> None:
    """The broker does not answer; what was fetched ahead is not handed out."""
    async with RabbitBroker(proxy.url_for(rabbitmq_url), deadline=PATIENT) as broker:
        await broker.declare(rabbit_topology)
        await broker.publish(*make_publications(3))
        async with broker.consume(DEDUPE, prefetch=3) as consumer:
            await receive_one(consumer)
            set_deadline(consumer, SHORT)
            proxy.hold()
            began = time.monotonic()

            await consumer.stop()

            assert () == await consumer.receive()
            # The connection is not found stuck before 45 s.
            assert time.monotonic() - began < PATIENT.total_seconds()
            proxy.cut()


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "plain"])
async def test_batch_that_is_lost_after_its_confirm_is_handled_again(
    rabbitmq_url: str, rabbit_topology: Topology, proxy: TcpProxy, *, fast: bool
) -> None:
    """The worker lives on; each message is handed on twice at most."""

    async def handle(envelopes: Sequence[Envelope]) -> Sequence[Result]:
        return [[hand_to(DOWNLOAD, envelope)] for envelope in envelopes]

    class CutAfterConfirm(RabbitBroker):
        """Loses its connections between the first confirm and what follows it."""

        lost = 0

        async def publish(self, *publications: Publication) -> None:
            await super().publish(*publications)
            if not self.lost and worker.problem is None and len(publications) > 1:
                self.lost = len(publications)
                proxy.cut()
                await eventually(is_lost)

    async def is_lost() -> bool:
        return worker.problem is not None

    async def is_done() -> bool:
        with suppress(BrokerUnavailable):
            ready = (await broker.depth(DOWNLOAD)).ready
            return broker.lost > 0 and ready >= 10 + broker.lost
        return False

    url = proxy.url_for(rabbitmq_url)
    async with CutAfterConfirm(url, deadline=PATIENT, fast=fast) as broker:
        await broker.declare(rabbit_topology)
        worker = Worker(
            broker,
            DEDUPE,
            handle,
            batch_size=10,
            deadline=PATIENT,
            policy=RetryPolicy(waits=()),
        )
        await broker.publish(*make_publications(10))
        stopping = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(worker.run(stopping))
            await eventually(is_done, within=30)
            stopping.set()

        assert 0 == (await broker.depth(DEDUPE)).ready
        await until_ready(broker, DOWNLOAD, 10 + broker.lost)


async def test_connection_that_cannot_be_set_up_is_given_up_and_tried_again(
    rabbitmq_url: str, proxy: TcpProxy
) -> None:
    """Nobody gets it, it is closed, and the next one is used."""
    seen: list[AbstractConnection] = []

    async def set_up(connection: AbstractConnection) -> None:
        seen.append(connection)
        if len(seen) == 1:
            raise BrokerUnavailable("expected a channel, got none")

    async def lowered() -> None:
        """Nothing was set up."""

    link = Link(proxy.url_for(rabbitmq_url), name="t", on_up=set_up, on_down=lowered)
    try:
        got = await link.connection(PATIENT.total_seconds())

        first, second = seen
        assert second is got
        assert first.is_closed
        assert link.problem is None

        async def is_alone() -> bool:
            return proxy.open_connections == 1

        await eventually(is_alone)
    finally:
        await link.close()


async def test_connection_that_was_never_made_is_closed_all_the_same(
    rabbitmq_url: str, proxy: TcpProxy
) -> None:
    """Else it is closed by whichever thread collects it, which has no event loop."""
    known = {*_connections()}
    await proxy.refuse()
    url = proxy.url_for(rabbitmq_url)

    async def nothing(*_: AbstractConnection) -> None: ...

    link = Link(url, name="t", on_up=nothing, on_down=nothing)
    gc.disable()  # so that all of them are found
    try:
        link.open()
        await eventually(lambda: _are_more(known, 3), within=10)
        await link.close()
        made = [one for one in _connections() if one not in known]
    finally:
        gc.enable()

    assert made
    assert all(connection.is_closed for connection in made)


def _connections() -> list[aio_pika.Connection]:
    return [one for one in gc.get_objects() if isinstance(one, aio_pika.Connection)]


async def _are_more(known: set[aio_pika.Connection], count: int) -> bool:
    return len([one for one in _connections() if one not in known]) >= count


async def test_surprise_while_connecting_is_told_and_tried_again(
    rabbitmq_url: str,
) -> None:
    """A mistake in the program must not leave a process that never connects."""
    surprises = [TypeError("up"), TypeError("down")]

    async def set_up(_: AbstractConnection) -> None:
        if len(surprises) == 2:
            raise surprises.pop(0)

    async def lowered() -> None:
        if surprises:
            raise surprises.pop(0)

    link = Link(rabbitmq_url, name="t", on_up=set_up, on_down=lowered)
    try:
        with capture_logs() as logs:
            first = await link.connection(PATIENT.total_seconds())
            await first.close()

            async def is_back() -> bool:
                return not surprises and link.problem is None

            await eventually(is_back)

        assert first is not await link.connection(PATIENT.total_seconds())
    finally:
        await link.close()
    told = [line for line in logs if line["event"] == "background_step_failed"]
    assert [("error", True)] * 2 == [
        (line["log_level"], line["exc_info"]) for line in told
    ]


async def test_surprise_while_subscribing_is_told_and_tried_again(
    rabbitmq_url: str, rabbit_topology: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistake in the program must not leave a consumer that never consumes."""
    monkeypatch.setattr(rabbitmq_consumer, "MISTAKE_PAUSE_SECONDS", 0.05)

    class Surprising(RabbitBroker):
        """Fails once for a reason that nobody has foreseen."""

        surprises = 0

        async def _connect_to_consume(self) -> AbstractConnection:
            self.surprises += 1
            if self.surprises == 1:
                raise TypeError
            return await super()._connect_to_consume()

    async with Surprising(rabbitmq_url, deadline=PATIENT) as broker:
        await broker.declare(rabbit_topology)
        await broker.publish(make_publication())
        with capture_logs() as logs:
            async with broker.consume(DEDUPE, prefetch=1) as consumer:
                await (await receive_one(consumer)).ack()

    (told,) = (line for line in logs if line["event"] == "background_step_failed")
    assert "error" == told["log_level"]
    assert f"consume {DEDUPE}" == told["task"]


async def test_broker_that_comes_back_with_another_queue_still_takes_messages(
    rabbitmq_url: str, rabbit_topology: Topology, proxy: TcpProxy
) -> None:
    """One queue with other arguments stops what needs it, and nothing else."""
    async with RabbitBroker(proxy.url_for(rabbitmq_url), deadline=PATIENT) as broker:
        await broker.declare(rabbit_topology)
        await proxy.refuse()
        proxy.cut()
        await _replace_queue(rabbitmq_url, rabbit_topology.queue_name(DOWNLOAD))
        await proxy.accept()

        async def is_back() -> bool:
            return broker.problem is None

        await eventually(is_back, within=30)
        envelope = make_envelope()
        await broker.publish(make_publication(envelope))
        async with broker.consume(DEDUPE, prefetch=1) as consumer:
            delivery = await receive_one(consumer)

    assert envelope.message_id == delivery.envelope.message_id


async def test_broker_that_has_stopped_reading_is_told_from_one_that_is_slow(
    rabbitmq_url: str, rabbit_topology: Topology, proxy: TcpProxy
) -> None:
    """Whoever comes when the buffer is full waits for room, and not for ever."""
    large = [make_publication(make_envelope(body=b"x" * 2**22)) for _ in range(12)]
    async with RabbitBroker(proxy.url_for(rabbitmq_url), deadline=PATIENT) as broker:
        await broker.declare(rabbit_topology)
        await broker.publish(make_publication())
        proxy.hold()
        set_deadline(broker, SHORT)

        results = await asyncio.gather(
            *(broker.publish(p) for p in large), return_exceptions=True
        )

        assert {BrokerUnavailable} == {type(result) for result in results}
        assert "stopped reading" in str(results[-1])
        proxy.cut()


async def _replace_queue(url: str, name: str) -> None:
    """Put one in its place whose arguments are not ours."""
    async with await aio_pika.connect(url) as connection:
        channel = await (await connection.channel()).get_underlay_channel()
        await channel.queue_delete(name)
        await channel.queue_declare(name, durable=True)
