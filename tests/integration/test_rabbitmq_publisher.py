"""Publishing to a real RabbitMQ: on the fast path, begun there, and the plain way."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

import aio_pika
import pytest

from pipeline.broker import rabbitmq_connection, rabbitmq_publisher
from pipeline.broker.rabbitmq import RabbitBroker
from pipeline.broker.rabbitmq_plain import Route
from pipeline.broker.rabbitmq_publisher import FastPublisher
from pipeline.broker.rabbitmq_stream import FrameStream
from pipeline.errors import (
    BrokerClosed,
    BrokerError,
    BrokerUnavailable,
    PublishRefused,
    Unroutable,
)
from pipeline.topology import CALLBACKS, DEDUPE, WORK
from tests.deadlines import set_deadline
from tests.depth import until_ready
from tests.factories import make_envelope, make_publication, make_publications
from tests.tcp_proxy import Direction, TcpProxy
from tests.waiting import eventually, receive, receive_one

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from pipeline.message import Publication
    from pipeline.topology import Topology

    class OpenRabbit(Protocol):
        """Opens a handle, on which the topology is declared."""

        def __call__(
            self, url: str = ..., *, deadline: timedelta = ...
        ) -> AbstractAsyncContextManager[RabbitBroker]:
            """Open it for the time of a context."""


pytestmark = [pytest.mark.rabbitmq, pytest.mark.usefixtures("nothing_unhandled")]

#: Long enough for a busy machine.
PATIENT = timedelta(seconds=10)
#: For what has to run out of time, and for nothing that has to work.
SHORT = timedelta(seconds=0.5)
#: Longer than any of these tests takes: what has it is not to end by itself.
LONG = timedelta(minutes=1)


class BegunBroker(RabbitBroker):
    """Begins each message that goes alone, wherever it can."""

    async def publish(self, *publications: Publication) -> None:
        begun = self.begin(publications[0]) if len(publications) == 1 else None
        await (super().publish(*publications) if begun is None else begun)


@pytest.fixture(params=["fast", "begun", "plain"])
def open_rabbit(
    request: pytest.FixtureRequest, rabbitmq_url: str, rabbit_topology: Topology
) -> OpenRabbit:
    """Opens handles that take the fast path, such that begin, and such that may not."""
    kind = BegunBroker if request.param == "begun" else RabbitBroker
    is_fast = request.param != "plain"

    @asynccontextmanager
    async def opened(
        url: str = rabbitmq_url, *, deadline: timedelta = PATIENT
    ) -> AsyncIterator[RabbitBroker]:
        async with kind(url, deadline=deadline, fast=is_fast) as broker:
            await broker.declare(rabbit_topology)
            yield broker

    return opened


@pytest.fixture
async def proxy(rabbitmq_url: str) -> AsyncIterator[TcpProxy]:
    """A network between us and the broker."""
    async with TcpProxy.to(rabbitmq_url) as made:
        yield made


# -- answers of the broker ----------------------------------------------------------


async def test_only_what_was_returned_fails(open_rabbit: OpenRabbit) -> None:
    """Among many in flight, each call learns what became of its own message."""
    good = make_publications(300)
    bad = [make_publication(exchange=WORK, key=f"nowhere-{n}") for n in range(30)]
    mixed = [*good]
    for number, publication in enumerate(bad):
        mixed.insert(number * 10, publication)

    async with open_rabbit() as broker:
        results = await asyncio.gather(
            *(broker.publish(publication) for publication in mixed),
            return_exceptions=True,
        )

        failed = [p for p, r in zip(mixed, results, strict=True) if r is not None]
        assert bad == failed
        errors = [r for r in results if r is not None]
        assert {Unroutable} == {type(error) for error in errors}
        assert "nowhere-7" in str(errors[7])
        await until_ready(broker, DEDUPE, 300)


async def test_one_returned_message_fails_its_call_and_stores_the_rest(
    open_rabbit: OpenRabbit,
) -> None:
    """A call with several messages ends with the error of the one that failed."""
    first, last = make_publications(2)
    lost = make_publication(exchange=WORK, key="nowhere")

    async with open_rabbit() as broker:
        with pytest.raises(Unroutable, match="nowhere"):
            await broker.publish(first, lost, last)

        await until_ready(broker, DEDUPE, 2)


async def test_fast_path_begins_and_the_plain_one_cannot(
    request: pytest.FixtureRequest, open_rabbit: OpenRabbit
) -> None:
    """Otherwise every callback would take a task, and nobody would notice."""
    is_plain = "plain" in request.node.callspec.id
    async with open_rabbit() as broker:
        await broker.publish(make_publication())  # there is a channel from now on

        begun = broker.begin(make_publication())

        assert is_plain == (begun is None)
        if begun is not None:
            await begun
        await until_ready(broker, DEDUPE, 1 if is_plain else 2)


async def test_begun_message_that_cannot_be_sent_or_must_wait_is_not_begun(
    open_rabbit: OpenRabbit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is for ``publish`` to say so, or to wait."""
    huge = make_publication(make_envelope(headers={"huge": "x" * 200_000}))
    async with open_rabbit() as broker:
        await broker.publish(make_publication())

        assert broker.begin(huge) is None
        monkeypatch.setattr(rabbitmq_publisher, "BUFFER_LIMIT_BYTES", -1)
        assert broker.begin(make_publication()) is None
        monkeypatch.undo()

        await broker.publish(make_publication())
        await until_ready(broker, DEDUPE, 2)


async def test_full_queue_refuses(
    open_rabbit: OpenRabbit, rabbitmq_url: str, rabbit_topology: Topology
) -> None:
    """A nack is no loss of the connection, and concerns one call only."""
    full = make_publication(exchange=WORK, key="full")
    async with (
        open_rabbit() as broker,
        _queue(rabbitmq_url, rabbit_topology, "full", {"x-max-length": 1}),
    ):
        await broker.publish(full)

        with pytest.raises(PublishRefused, match="full"):
            await broker.publish(full)
        results = await asyncio.gather(
            *(broker.publish(p) for p in (full, make_publication(), full)),
            return_exceptions=True,
        )

        types = [type(result) for result in results]
        assert [PublishRefused, type(None), PublishRefused] == types
        await until_ready(broker, DEDUPE, 1)


async def test_channel_that_refuses_is_replaced_now_and_then(
    open_rabbit: OpenRabbit,
    rabbitmq_url: str,
    rabbit_topology: Topology,
) -> None:
    """It may be the channel's fault; others that wait on it are not disturbed."""
    full = make_publication(exchange=WORK, key="full")
    async with (
        open_rabbit() as broker,
        _queue(rabbitmq_url, rabbit_topology, "full", {"x-max-length": 1}),
    ):
        await broker.publish(full)
        seen = {broker._publisher}

        for _ in range(4):
            broker._may_renew_at = 0.0  # there is a wait before each
            with pytest.raises(PublishRefused):
                await broker.publish(full)
            await broker.publish(make_publication())
            seen.add(broker._publisher)

        assert 5 == len(seen)
        transport = (await broker._publishing.connection(1)).transport
        assert transport is not None
        # The present one, the one before it, and one of the library's own.
        assert len(vars(transport.connection)["channels"]) <= 3


async def test_exchange_that_was_deleted_comes_back(
    open_rabbit: OpenRabbit, rabbitmq_url: str, rabbit_topology: Topology
) -> None:
    """The broker closes the channel: unknown for all in flight, then it works."""
    async with open_rabbit() as broker:
        await broker.publish(make_publication())
        await _delete_exchange(rabbitmq_url, rabbit_topology.exchange_name(CALLBACKS))

        results = await asyncio.gather(
            *(broker.publish(p) for p in make_publications(20)),
            return_exceptions=True,
        )
        assert {BrokerUnavailable} == {type(result) for result in results}

        async def has_no_problem() -> bool:
            return broker.problem is None

        # Nobody sends a publish to where we are not ready: it must not need one.
        await eventually(has_no_problem)
        await _until_it_works(broker)

        async def are_stored() -> bool:
            return (await broker.depth(DEDUPE)).ready >= 2

        await eventually(are_stored, within=30)


@pytest.mark.parametrize(
    ("what", "publication"),
    [
        ("a key", make_publication(exchange=WORK, key="k" * 256)),
        ("a header", make_publication(make_envelope(headers={"text": "x" * 200_000}))),
        ("a name", make_publication(make_envelope(headers={"n" * 256: 1}))),
        ("a number", make_publication(make_envelope(headers={"huge": 2**64}))),
    ],
)
async def test_message_that_does_not_fit_is_refused(
    open_rabbit: OpenRabbit, what: str, publication: object
) -> None:
    """Before it is sent: sent, it would cost all others the connection."""
    async with open_rabbit() as broker:
        results = await asyncio.gather(
            broker.publish(make_publication()),
            broker.publish(publication),  # type: ignore[arg-type]
            broker.publish(make_publication()),
            return_exceptions=True,
        )

        types = [type(result) for result in results]
        assert [type(None), PublishRefused, type(None)] == types, what
        await broker.publish(make_publication())


@pytest.mark.parametrize("message_id", ["x" * 255, "ü" * 127, "a.b", ""])
async def test_any_message_id_is_carried(
    open_rabbit: OpenRabbit, message_id: str
) -> None:
    """Foreign ids may fill the field of AMQP; ours is in a header."""
    publication = make_publication(make_envelope(message_id=message_id))

    async with open_rabbit() as broker:
        await broker.publish(publication)
        async with broker.consume(DEDUPE, prefetch=1) as consumer:
            delivery = await receive_one(consumer)

    if message_id:
        assert message_id == delivery.envelope.message_id


# -- sizes and numbers --------------------------------------------------------------


@pytest.mark.parametrize("size_bytes", [0, 131_064, 131_065, 2**20, 5 * 2**20])
async def test_body_of_any_size_arrives(
    open_rabbit: OpenRabbit, size_bytes: int
) -> None:
    """Bodies of more than one frame too, published among small ones."""
    body = bytes(range(251)) * (size_bytes // 251 + 1)
    large = make_publication(make_envelope(body=body[:size_bytes]))
    small = make_publications(20)

    async with open_rabbit() as broker:
        await asyncio.gather(*(broker.publish(p) for p in (*small, large)))
        async with broker.consume(DEDUPE, prefetch=21) as consumer:
            deliveries = await receive(consumer, 21)

    bodies = {d.envelope.message_id: d.envelope.body for d in deliveries}
    assert large.envelope.body == bodies[large.envelope.message_id]


async def test_thousands_at_once_are_stored(
    open_rabbit: OpenRabbit, request: pytest.FixtureRequest
) -> None:
    """None is lost, doubled or refused."""
    is_fast = "plain" not in request.node.name
    publications = make_publications(5000 if is_fast else 1000)

    async with open_rabbit() as broker:
        await asyncio.gather(*(broker.publish(p) for p in publications))

        await until_ready(broker, DEDUPE, len(publications))
        publisher = broker._publisher
        assert is_fast == isinstance(publisher, FastPublisher)
        if isinstance(publisher, FastPublisher):  # nor is anything kept of them
            assert not publisher._calls
            assert not publisher._sent


async def test_burst_of_large_messages_is_no_alarm(open_rabbit: OpenRabbit) -> None:
    """Much at once waits its turn; only a broker that stops reading is a problem."""
    large = [make_publication(make_envelope(body=b"x" * 2**22)) for _ in range(8)]

    async with open_rabbit() as broker:
        await asyncio.gather(*(broker.publish(p) for p in large))

        await until_ready(broker, DEDUPE, 8)


# -- time ---------------------------------------------------------------------------


async def test_publish_that_is_not_answered_ends_at_its_deadline(
    open_rabbit: OpenRabbit, rabbitmq_url: str, proxy: TcpProxy
) -> None:
    """A black hole: the connection looks open and nothing comes."""
    async with open_rabbit(proxy.url_for(rabbitmq_url)) as broker:
        await broker.publish(make_publication())
        proxy.hold()
        set_deadline(broker, SHORT)
        began = time.monotonic()

        results = await asyncio.gather(
            *(broker.publish(p) for p in make_publications(100)),
            return_exceptions=True,
        )

        took = time.monotonic() - began
        assert {BrokerUnavailable} == {type(result) for result in results}
        # One after the other would take 50 s.
        assert SHORT.total_seconds() - 0.1 < took < 9
        proxy.resume()
        set_deadline(broker, PATIENT)
        await _until_it_works(broker)


async def test_lost_confirm_leaves_the_outcome_open(
    open_rabbit: OpenRabbit, rabbitmq_url: str, proxy: TcpProxy
) -> None:
    """The message may well be there: the error says that nothing is known."""
    async with (
        open_rabbit(proxy.url_for(rabbitmq_url)) as broker,
        open_rabbit() as witness,
    ):
        await broker.publish(make_publication())
        proxy.drop(Direction.TO_CLIENT)
        set_deadline(broker, SHORT)

        with pytest.raises(BrokerUnavailable, match="unknown"):
            await broker.publish(make_publication())

        await until_ready(witness, DEDUPE, 2)
        proxy.cut()


async def test_each_call_ends_at_its_own_deadline(
    open_rabbit: OpenRabbit, rabbitmq_url: str, proxy: TcpProxy
) -> None:
    """Also one that had to wait before, and has less time left than those before it."""
    async with open_rabbit(proxy.url_for(rabbitmq_url)) as broker:
        await broker.publish(make_publication())
        publisher = broker._publisher
        assert publisher is not None
        proxy.hold()

        def publish(seconds: float) -> asyncio.Task[None]:
            items = [(Route("", mandatory=True), make_publication())]
            return asyncio.create_task(
                publisher.publish(items, deadline_seconds=seconds)
            )

        began = time.monotonic()
        patient, hasty, hastier = publish(60), publish(0.4), publish(0.2)
        ended: list[asyncio.Task[None]] = []
        for one in (patient, hasty, hastier):
            one.add_done_callback(ended.append)

        with pytest.raises(BrokerUnavailable):
            await hastier
        with pytest.raises(BrokerUnavailable):
            await hasty
        # In the order of their deadlines, also where both are past at once.
        assert [hastier, hasty] == ended
        assert 0.4 <= time.monotonic() - began < 20
        patient.cancel()
        proxy.resume()


async def test_cancelled_publish_harms_no_other(
    open_rabbit: OpenRabbit, rabbitmq_url: str, proxy: TcpProxy
) -> None:
    """Whoever gives up while the broker is slow leaves the others in peace."""
    async with open_rabbit(proxy.url_for(rabbitmq_url)) as broker:
        await broker.publish(make_publication())
        proxy.hold()
        hasty, patient = (
            asyncio.create_task(broker.publish(p)) for p in make_publications(2)
        )
        assert not (await asyncio.wait((hasty, patient), timeout=0.1))[0]

        hasty.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hasty
        proxy.resume()

        await patient
        await broker.publish(make_publication())


# -- connections --------------------------------------------------------------------


async def test_cut_connection_comes_back(
    open_rabbit: OpenRabbit, rabbitmq_url: str, proxy: TcpProxy
) -> None:
    """What was in flight is unknown, what comes next is stored."""
    async with open_rabbit(proxy.url_for(rabbitmq_url)) as broker:
        await broker.publish(make_publication())
        proxy.hold()
        waiting = [
            asyncio.create_task(broker.publish(p)) for p in make_publications(10)
        ]
        assert not (await asyncio.wait(waiting, timeout=0.1))[0]

        proxy.cut()

        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert {BrokerUnavailable} == {type(result) for result in results}
        # In words, not as Python writes its errors.
        assert not [text for text in map(str, results) if "Error(" in text]
        proxy.resume()
        await broker.publish(make_publication())
        assert broker.problem is None


async def test_message_cut_in_the_middle_is_stored_once_or_not_at_all(
    open_rabbit: OpenRabbit, rabbitmq_url: str, proxy: TcpProxy
) -> None:
    """Half a message is nothing; publishing it again brings it."""
    body = bytes(range(256)) * 2000
    publication = make_publication(make_envelope(body=body))
    async with open_rabbit(proxy.url_for(rabbitmq_url)) as broker:
        await broker.publish()
        await broker.publish(make_publication())
        await until_ready(broker, DEDUPE, 1)

        proxy.cut_after(200_000, Direction.TO_SERVER)
        with pytest.raises(BrokerUnavailable):
            await broker.publish(publication)
        await broker.publish(publication)

        await until_ready(broker, DEDUPE, 2)


async def test_broker_that_comes_later_is_found(
    open_rabbit: OpenRabbit,
    rabbitmq_url: str,
    rabbit_topology: Topology,
    proxy: TcpProxy,
) -> None:
    """Starting while the broker is down is nothing special."""
    await proxy.refuse()
    broker = RabbitBroker(proxy.url_for(rabbitmq_url), deadline=SHORT)
    async with broker:
        with pytest.raises(BrokerUnavailable):
            await broker.declare(rabbit_topology)
        set_deadline(broker, PATIENT)
        assert broker.problem is not None
        assert "guest" not in broker.problem

        await proxy.accept()

        async def is_declared() -> bool:
            try:
                await broker.declare(rabbit_topology)
            except BrokerUnavailable:
                return False
            return True

        await eventually(is_declared, within=30)
        await _until_it_works(broker)
        assert broker.problem is None


async def test_all_waits_together_keep_the_deadline(
    open_rabbit: OpenRabbit, rabbitmq_url: str, proxy: TcpProxy
) -> None:
    """Waiting for a connection, a channel and a confirm is still one wait."""
    async with open_rabbit(proxy.url_for(rabbitmq_url)) as broker:
        await proxy.refuse()
        proxy.cut()

        async def is_noticed() -> bool:
            return broker.problem is not None

        await eventually(is_noticed)
        set_deadline(broker, timedelta(seconds=6))

        publishing = asyncio.create_task(broker.publish(make_publication()))
        assert not (await asyncio.wait((publishing,), timeout=3))[0]
        proxy.hold()
        began = time.monotonic()
        await proxy.accept()

        with pytest.raises(BrokerUnavailable):
            await publishing
        # A second wait, with a deadline of its own, would take longer from here.
        assert time.monotonic() - began < 6


async def test_password_that_is_wrong_is_a_problem_without_the_password(
    rabbitmq_url: str, rabbit_topology: Topology
) -> None:
    """The message helps, and does not help a thief."""
    url = rabbitmq_url.replace("guest:guest", "guest:s3cr3t")
    async with RabbitBroker(url, deadline=SHORT) as broker:

        async def is_refused() -> bool:
            return "refused" in str(broker.problem).lower()

        await eventually(is_refused, within=30)
        with pytest.raises(BrokerUnavailable) as raised:
            await broker.declare(rabbit_topology)

        text = f"{raised.value} {raised.value!r} {broker.problem}"
        assert "s3cr3t" not in text
        assert "ACCESS_REFUSED" in text or "refused" in text.lower()


@pytest.mark.parametrize(
    "greeting",
    [
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
        b"AMQP\x01\x01\x00\x09",
        b"\x01\x00\x00\x00\x00\x00\x04garbage",
        b"\x01\x00\x00\x00\x00\x00\x04\x00\x0a\x00\x0a\xce",
        b"",
    ],
    ids=["http", "other version", "no end", "too short", "silent end"],
)
@pytest.mark.parametrize("fast", [True, False], ids=["fast", "plain"])
async def test_server_that_is_no_rabbitmq_is_tried_again(
    greeting: bytes,
    fast: bool,  # noqa: FBT001
    rabbit_topology: Topology,
) -> None:
    """Whatever listens there for now: it is a problem, and never the end."""
    connected = 0

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connected
        connected += 1
        writer.write(greeting)
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    url = f"amqp://127.0.0.1:{port}/"
    async with server, RabbitBroker(url, deadline=SHORT, fast=fast) as broker:
        with pytest.raises(BrokerUnavailable):
            await broker.declare(rabbit_topology)

        async def is_tried_again() -> bool:
            return connected >= 2

        await eventually(is_tried_again)


# -- closing ------------------------------------------------------------------------


async def test_closing_ends_what_is_in_flight(
    open_rabbit: OpenRabbit, rabbitmq_url: str, proxy: TcpProxy
) -> None:
    """Nobody waits for a handle that is gone, and closing does not wait for ever."""
    url = proxy.url_for(rabbitmq_url)
    async with open_rabbit(url, deadline=LONG) as broker:
        await broker.publish(make_publication())
        proxy.hold()
        waiting = [
            asyncio.create_task(broker.publish(p)) for p in make_publications(10)
        ]
        assert not (await asyncio.wait(waiting, timeout=0.1))[0]
        began = time.monotonic()

        closing = asyncio.create_task(broker.__aexit__(None, None, None))
        results = await asyncio.gather(*waiting, return_exceptions=True)

        assert all(isinstance(result, BrokerError) for result in results)
        assert time.monotonic() - began < 20
        proxy.cut()
        await closing
        with pytest.raises(BrokerClosed):
            await broker.publish(make_publication())


async def test_closing_drops_what_the_broker_does_not_read(
    rabbitmq_url: str,
    rabbit_topology: Topology,
    proxy: TcpProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More is buffered than the network takes: it is lost, and nobody hangs."""
    dropped: list[FrameStream] = []
    abort = FrameStream.abort

    def drop(stream: FrameStream) -> None:
        """Drop it; what is not over then is to be seen by how long it takes."""
        monkeypatch.setattr(rabbitmq_connection, "CLOSE_TIMEOUT_SECONDS", 60.0)
        dropped.append(stream)
        abort(stream)

    monkeypatch.setattr(FrameStream, "abort", drop)
    monkeypatch.setattr(rabbitmq_connection, "CLOSE_TIMEOUT_SECONDS", 1.0)
    large = [make_publication(make_envelope(body=b"x" * 2**21)) for _ in range(10)]
    url = proxy.url_for(rabbitmq_url)
    async with RabbitBroker(url, deadline=PATIENT) as broker:
        await broker.declare(rabbit_topology)
        proxy.hold()
        set_deadline(broker, SHORT)
        results = await asyncio.gather(
            *(broker.publish(p) for p in large), return_exceptions=True
        )
        assert {BrokerUnavailable} == {type(result) for result in results}
        began = time.monotonic()

        await broker.__aexit__(None, None, None)

        assert 1 == len(dropped)
        assert time.monotonic() - began < 30


async def test_closing_while_connecting_leaves_nothing_behind(
    rabbitmq_url: str, proxy: TcpProxy
) -> None:
    """A handshake that hangs is given up."""
    proxy.hold()
    async with RabbitBroker(proxy.url_for(rabbitmq_url), deadline=SHORT):

        async def is_connecting() -> bool:
            return proxy.open_connections == 1

        await eventually(is_connecting)

    async def is_gone() -> bool:
        return proxy.open_connections == 0

    proxy.resume()
    await eventually(is_gone)


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
async def _queue(
    url: str, topology: Topology, key: str, arguments: dict[str, object]
) -> AsyncIterator[None]:
    """Bind a queue with a limit to the exchange ``work``."""
    async with await aio_pika.connect(url) as connection:
        channel = await (await connection.channel()).get_underlay_channel()
        name = f"{topology.prefix}.{key}"
        await channel.queue_declare(
            name,
            arguments={"x-overflow": "reject-publish", **arguments},  # type: ignore[dict-item]
        )
        await channel.queue_bind(name, topology.exchange_name(WORK), key)
        yield
        await channel.queue_delete(name)


async def _delete_exchange(url: str, name: str) -> None:
    async with await aio_pika.connect(url) as connection:
        channel = await (await connection.channel()).get_underlay_channel()
        await channel.exchange_delete(exchange=name)
