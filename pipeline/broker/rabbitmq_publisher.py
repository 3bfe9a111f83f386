"""Publishing with confirms over one channel: the fast path and the plain one.

aio-pika's own publish spends four fifths of the ingress' processor time on locks,
timers, futures and frames made field by field. ``FastPublisher`` makes its frames
from ready parts, writes what has gathered at once, and keeps one future for each
call. It needs a ``FrameStream`` under the connection; where there is none,
``PlainPublisher`` does the same through aio-pika's public interface.
"""

from __future__ import annotations

import asyncio
import itertools
from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING, Final

import aio_pika
import aiormq
import pamqp.commands

from pipeline.broker import rabbitmq_wire as wire
from pipeline.broker.rabbitmq_stream import FrameStream, Tap
from pipeline.errors import (
    BrokerError,
    BrokerUnavailable,
    PublishRefused,
    Unroutable,
)
from pipeline.message import encode_headers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.message import Publication

#: More than this waits for the socket: the broker has stopped reading.
BUFFER_LIMIT_BYTES: Final = 16 * 1024 * 1024
#: Messages written in one go; more than a busy broker confirms at once anyway.
BATCH_LIMIT: Final = 512
METHOD_CACHE_LIMIT: Final = 4096
UNCONFIRMED: Final = "the broker did not confirm in time; the outcome is unknown"
#: RabbitMQ refuses frames below this (AMQP 0-9-1, frame-min-size).
FRAME_MIN_BYTES: Final = 4096
#: Taken where the broker sets no limit.
FRAME_MAX_BYTES: Final = 131_072


class Route:
    """Where a publication goes, in the broker's names."""

    __slots__ = ("exchange", "mandatory")

    def __init__(self, exchange: str, *, mandatory: bool) -> None:
        self.exchange = exchange
        self.mandatory = mandatory


class Publisher(ABC):
    """Publishes over one channel until that channel closes."""

    @property
    @abstractmethod
    def is_open(self) -> bool:
        """Whether publishing can still work."""

    @abstractmethod
    async def publish(
        self, items: Sequence[tuple[Route, Publication]], *, deadline_seconds: float
    ) -> None:
        """Publish all, and return when all are confirmed.

        Raises:
            Unroutable, PublishRefused, BrokerUnavailable: as ``Broker.publish``.
        """

    @abstractmethod
    async def close(self) -> None:
        """Fail what is in flight and close the channel."""


class _Call:
    """One call of ``publish``: its future is done when all its messages are."""

    __slots__ = ("due_at", "error", "future", "waiting")

    def __init__(
        self, future: asyncio.Future[None], waiting: int, due_at: float
    ) -> None:
        self.future = future
        self.waiting = waiting
        self.due_at = due_at
        self.error: BrokerError | None = None

    def one_done(self, error: BrokerError | None) -> None:
        self.waiting -= 1
        if error is not None and self.error is None:
            self.error = error
        if self.waiting == 0:
            self.finish(self.error)

    def finish(self, error: BrokerError | None) -> None:
        if self.future.done():
            return
        if error is None:
            self.future.set_result(None)
        else:
            self.future.set_exception(error)


class _Message:
    """One message on its way out, then waiting for its confirm."""

    __slots__ = ("call", "method", "publication", "returned", "tail")

    def __init__(
        self, call: _Call, publication: Publication, method: bytes, tail: bytes
    ) -> None:
        self.call = call
        self.publication = publication
        self.method = method
        self.tail = tail
        self.returned = False

    @property
    def size_bytes(self) -> int:
        return len(self.tail) + len(self.publication.envelope.body) + 128

    def confirmed(self, *, positive: bool) -> None:
        """Note the broker's answer; a returned message is acked as well."""
        if self.returned:
            self.call.one_done(unroutable(self.publication))
        elif positive:
            self.call.one_done(None)
        else:
            self.call.one_done(refused(self.publication))


def unroutable(publication: Publication) -> Unroutable:
    """Say that a message was returned."""
    return Unroutable(
        f"no queue is bound to exchange {publication.exchange} for routing key"
        f" {publication.wire_key}; run `pipeline topology check`"
    )


def refused(publication: Publication) -> PublishRefused:
    """Say that a message was answered with a nack."""
    return PublishRefused(
        f"the broker refused a message to exchange {publication.exchange} with"
        f" routing key {publication.wire_key}: a queue has reached its limit"
    )


class FastPublisher(Publisher):
    """Writes what has gathered, as soon as that is as much as is in flight.

    So the first message goes out at once, and under load messages gather while
    earlier ones are being confirmed: fewer writes here, fewer syncs in the broker.
    Whatever is confirmed makes room, so nothing waits without a reason.

    The channel must be fresh and used by nothing else: delivery tags are counted
    here. A call that runs out of time before its bytes are written is not sent
    at all; one that runs out of time afterwards ends as unknown.
    """

    def __init__(
        self, channel: aiormq.abc.AbstractChannel, stream: FrameStream, frame_max: int
    ) -> None:
        self._channel = channel.number
        self._stream = stream
        self._loop = asyncio.get_running_loop()
        self._frame_max = max(frame_max or FRAME_MAX_BYTES, FRAME_MIN_BYTES)
        self._methods: dict[tuple[str, str], bytes] = {}
        self._outgoing: deque[_Message] = deque()
        self._buffered_bytes = 0
        self._sent: dict[int, _Message] = {}
        self._calls: deque[_Call] = deque()
        self._may_write = asyncio.Event()
        self._tag = 0
        self._closed: BrokerUnavailable | None = None
        self._closing = channel.closing
        self._closing.add_done_callback(self._on_channel_closed)
        self._tap = Tap(on_confirm=self._on_confirm, on_return=self._on_return)
        stream.tap(self._channel, self._tap)
        self._writer = asyncio.create_task(self._write())
        self._sweeper: asyncio.TimerHandle | None = None

    @property
    def is_open(self) -> bool:
        return self._closed is None

    async def publish(
        self, items: Sequence[tuple[Route, Publication]], *, deadline_seconds: float
    ) -> None:
        if self._closed is not None:
            raise BrokerUnavailable(str(self._closed)) from self._closed
        if not items:
            return
        if self._stream.blocked is not None:
            raise BrokerUnavailable(
                f"the broker takes no messages: alarm on {self._stream.blocked}"
            )
        if self._buffered_bytes > BUFFER_LIMIT_BYTES:
            raise BrokerUnavailable(
                f"the broker has stopped reading: {self._buffered_bytes} bytes wait"
                " to be sent; see its memory and disk alarms"
            )
        due_at = self._loop.time() + deadline_seconds
        call = _Call(self._loop.create_future(), len(items), due_at)
        messages = [self._encode(call, route, item) for route, item in items]
        for message in messages:
            self._buffered_bytes += message.size_bytes
        self._outgoing.extend(messages)
        calls = self._calls
        while calls and calls[0].future.done():
            calls.popleft()
        calls.append(call)
        if self._sweeper is None:
            self._sweeper = self._loop.call_at(due_at, self._sweep)
        if len(self._outgoing) >= len(self._sent):
            self._may_write.set()
        await call.future

    async def close(self) -> None:
        self._fail(BrokerUnavailable("the connection to the broker was closed"))
        await asyncio.gather(self._writer, return_exceptions=True)

    def _on_confirm(self, tag: int, multiple: bool, positive: bool) -> None:  # noqa: FBT001
        """Finish what is confirmed, and make room for what waits."""
        sent = self._sent
        if multiple:
            # Tags were put in in their order, so the oldest come first.
            tags = list(itertools.takewhile(lambda known: known <= tag, sent))
        else:
            tags = [tag] if tag in sent else []
        for known in tags:
            sent.pop(known).confirmed(positive=positive)
        if self._outgoing and len(self._outgoing) >= len(sent):
            self._may_write.set()

    def _on_return(self, message_id: str) -> None:
        """Note what could not be routed; its ack is still to come."""
        tag = int(message_id.rpartition(".")[2], 16)
        if tag in self._sent:
            self._sent[tag].returned = True

    def _encode(self, call: _Call, route: Route, publication: Publication) -> _Message:
        key = (route.exchange, publication.wire_key)
        try:
            method = self._methods.get(key)
            if method is None:
                method = wire.publish_method(
                    self._channel,
                    exchange=key[0],
                    routing_key=key[1],
                    mandatory=route.mandatory,
                )
                if len(self._methods) >= METHOD_CACHE_LIMIT:
                    self._methods.clear()
                self._methods[key] = method
            envelope = publication.envelope
            tail = wire.header_tail(envelope.content_type, encode_headers(publication))
            size = wire.header_frame_bytes(tail)
            if size > self._frame_max:
                raise ValueError(  # noqa: TRY301  one answer for whatever does not fit
                    f"expected headers of at most {self._frame_max} bytes, got {size}"
                )
        except ValueError as error:
            raise PublishRefused(f"cannot be sent: {error}") from error
        return _Message(call, publication, method, tail)

    async def _write(self) -> None:
        """Write what has gathered; wait for the socket before gathering more."""
        while True:
            await self._may_write.wait()
            self._may_write.clear()
            parts = self._take_batch()
            if not parts:
                continue
            self._stream.write(b"".join(parts))
            try:
                await self._stream.drain()
            except OSError as error:
                self._fail(BrokerUnavailable(f"the connection broke: {error}"))
                return

    def _take_batch(self) -> list[bytes]:
        """Number the messages that go out now, and make their frames."""
        parts: list[bytes] = []
        outgoing = self._outgoing
        for _ in range(min(len(outgoing), BATCH_LIMIT)):
            message = outgoing.popleft()
            self._buffered_bytes -= message.size_bytes
            if message.call.future.done():
                continue  # timed out or cancelled before it was sent
            self._tag = tag = self._tag + 1
            envelope = message.publication.envelope
            # The AMQP property must differ for each attempt, or a return is
            # attributed to the wrong publish; the stable id is in our header.
            self._sent[tag] = message
            parts.append(message.method)
            parts += wire.content_frames(
                self._channel,
                tail=message.tail,
                message_id=f"{envelope.message_id}.{tag:x}",
                body=envelope.body,
                frame_max=self._frame_max,
            )
        if outgoing:
            self._may_write.set()
        return parts

    def _sweep(self) -> None:
        """Fail the calls that are overdue; calls come due in order."""
        now = self._loop.time()
        calls = self._calls
        while calls and (calls[0].future.done() or calls[0].due_at <= now):
            calls.popleft().finish(BrokerUnavailable(UNCONFIRMED))
        # What is overdue must not hold back what is new.
        self._may_write.set()
        self._sweeper = (
            self._loop.call_at(max(calls[0].due_at, now + 0.05), self._sweep)
            if calls
            else None
        )

    def _on_channel_closed(self, closing: asyncio.Future[object]) -> None:
        reason = None if closing.cancelled() else closing.exception()
        error = BrokerUnavailable(f"the channel to the broker was closed: {reason!r}")
        error.__cause__ = reason
        self._fail(error)

    def _fail(self, error: BrokerUnavailable) -> None:
        if self._closed is None:
            self._closed = error
        self._stream.untap(self._channel, self._tap)
        if asyncio.current_task() is not self._writer:
            self._writer.cancel()
        self._closing.remove_done_callback(self._on_channel_closed)
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        self._outgoing.clear()
        self._buffered_bytes = 0
        while self._calls:
            self._calls.popleft().finish(self._closed)
        self._sent.clear()


class PlainPublisher(Publisher):
    """The same promises through aio-pika's public interface."""

    def __init__(self, channel: aio_pika.abc.AbstractChannel) -> None:
        self._channel = channel
        self._exchanges: dict[str, aio_pika.abc.AbstractExchange] = {}

    @property
    def is_open(self) -> bool:
        return not self._channel.is_closed

    async def publish(
        self, items: Sequence[tuple[Route, Publication]], *, deadline_seconds: float
    ) -> None:
        results = await asyncio.gather(
            *(self._publish(route, item, deadline_seconds) for route, item in items),
            return_exceptions=True,
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def close(self) -> None:
        await self._channel.close()

    async def _publish(
        self, route: Route, publication: Publication, deadline_seconds: float
    ) -> None:
        envelope = publication.envelope
        message = aio_pika.Message(
            envelope.body,
            content_type=envelope.content_type,
            headers=dict(encode_headers(publication)),
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        )
        exchange = self._exchanges.get(route.exchange)
        if exchange is None:
            exchange = await self._channel.get_exchange(route.exchange, ensure=False)
            self._exchanges[route.exchange] = exchange
        try:
            async with asyncio.timeout(deadline_seconds):
                confirmation = await exchange.publish(
                    message, publication.wire_key, mandatory=route.mandatory
                )
        except aiormq.exceptions.PublishError as error:
            raise unroutable(publication) from error
        except aiormq.exceptions.DeliveryError as error:
            raise refused(publication) from error
        except TimeoutError as error:
            raise BrokerUnavailable(UNCONFIRMED) from error
        if not isinstance(confirmation, pamqp.commands.Basic.Ack):
            raise PublishRefused(f"expected an ack, got {confirmation!r}")
