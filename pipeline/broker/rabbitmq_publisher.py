"""Publishing with confirms over one channel: the fast path and the plain one.

aio-pika's own publish spends four fifths of the ingress' processor time on locks,
timers, futures and frames made field by field. ``FastPublisher`` keeps aio-pika's
connection, channel and reader, and replaces only the way out: frames from ready
parts, one write for everything published in one turn of the loop, one future for
each call. It needs to know the inside of aiormq, so ``fits`` looks first, and
``PlainPublisher`` does the same through the public interface where it does not.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING, Final

import aio_pika
import aiormq
import pamqp.commands
from aiormq.abc import ChannelFrame

from pipeline.broker import rabbitmq_wire as wire
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
#: RabbitMQ refuses frames below this (AMQP 0-9-1, frame-min-size).
FRAME_MIN_BYTES: Final = 4096


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


class _Confirmation:
    """Stands in aiormq's table of confirmations, where it keeps a future.

    aiormq asks three things of an entry: ``done``, ``set_result`` on an ack and
    ``set_exception`` on a nack or a return. Only the first answer counts: after a
    return the ack that follows it finds another entry.
    """

    __slots__ = ("call", "message_id", "publication", "returnable")

    def __init__(
        self,
        call: _Call,
        publication: Publication,
        message_id: str,
        returnable: dict[str, int],
    ) -> None:
        self.call = call
        self.publication = publication
        self.message_id = message_id
        self.returnable = returnable

    def done(self) -> bool:
        return False

    def cancelled(self) -> bool:
        return False

    def set_result(self, _: object) -> None:
        self.returnable.pop(self.message_id, None)
        self.call.one_done(None)

    def set_exception(self, error: BaseException) -> None:
        self.returnable.pop(self.message_id, None)
        self.call.one_done(explained(error, self.publication))


class _Outgoing:
    """A message that has not been written yet."""

    __slots__ = ("call", "method", "publication", "tail")

    def __init__(
        self, call: _Call, publication: Publication, method: bytes, tail: bytes
    ) -> None:
        self.call = call
        self.publication = publication
        self.method = method
        self.tail = tail

    @property
    def size_bytes(self) -> int:
        return len(self.tail) + len(self.publication.envelope.body) + 128


def explained(error: BaseException, publication: Publication) -> BrokerError:
    """Say in our words why a message was returned or refused."""
    key, exchange = publication.wire_key, publication.exchange
    result: BrokerError
    if isinstance(error, aiormq.exceptions.PublishError):
        result = Unroutable(
            f"no queue is bound to exchange {exchange} for routing key {key};"
            " run `pipeline topology check`"
        )
    else:
        result = PublishRefused(
            f"the broker refused a message to exchange {exchange} with routing key"
            f" {key}: a queue has reached its limit ({error})"
        )
    result.__cause__ = error
    return result


def fits(channel: object) -> bool:
    """Tell whether the inside of this channel is the one that we know."""
    return (
        isinstance(channel, aiormq.Channel)
        and isinstance(getattr(channel, "confirmations", None), dict)
        and isinstance(getattr(channel, "message_id_delivery_tag", None), dict)
        and isinstance(getattr(channel, "write_queue", None), asyncio.Queue)
        and getattr(channel, "delivery_tag", None) == 0
        and getattr(channel, "publisher_confirms", None) is True
        and {"payload", "should_close", "drain_future"}
        <= set(getattr(ChannelFrame, "__dataclass_fields__", ()))
    )


class FastPublisher(Publisher):
    """Writes everything published in one turn of the loop at once.

    The channel must be fresh and used by nothing else: delivery tags are counted
    here. A call that runs out of time before its bytes are written is not sent
    at all; one that runs out of time afterwards ends as unknown.
    """

    def __init__(self, channel: aiormq.Channel) -> None:
        self._channel = channel
        self._loop = asyncio.get_running_loop()
        frame_max = channel.connection.connection_tune.frame_max or 131_072
        self._frame_max = max(frame_max, FRAME_MIN_BYTES)
        self._methods: dict[tuple[str, str], bytes] = {}
        self._outgoing: deque[_Outgoing] = deque()
        self._buffered_bytes = 0
        self._calls: deque[_Call] = deque()
        self._wake = asyncio.Event()
        self._tag = 0
        self._closed: BrokerUnavailable | None = None
        self._closing = channel.closing
        self._closing.add_done_callback(self._on_channel_closed)
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
        if self._buffered_bytes > BUFFER_LIMIT_BYTES:
            message = (
                f"the broker has stopped reading: {self._buffered_bytes} bytes wait"
                " to be sent; see its memory and disk alarms"
            )
            raise BrokerUnavailable(message)
        due_at = self._loop.time() + deadline_seconds
        call = _Call(self._loop.create_future(), len(items), due_at)
        encoded = [self._encode(call, route, item) for route, item in items]
        self._outgoing.extend(encoded)
        for outgoing in encoded:
            self._buffered_bytes += outgoing.size_bytes
        calls = self._calls
        while calls and calls[0].future.done():
            calls.popleft()
        calls.append(call)
        self._wake.set()
        if self._sweeper is None:
            self._sweeper = self._loop.call_at(due_at, self._sweep)
        await call.future

    async def close(self) -> None:
        self._fail(BrokerUnavailable("the connection to the broker was closed"))
        self._writer.cancel()
        await asyncio.gather(self._writer, return_exceptions=True)

    def _encode(self, call: _Call, route: Route, publication: Publication) -> _Outgoing:
        key = (route.exchange, publication.wire_key)
        try:
            method = self._methods.get(key)
            if method is None:
                method = wire.publish_method(
                    self._channel.number,
                    exchange=key[0],
                    routing_key=key[1],
                    mandatory=route.mandatory,
                )
                if len(self._methods) >= METHOD_CACHE_LIMIT:
                    self._methods.clear()
                self._methods[key] = method
            envelope = publication.envelope
            tail = wire.header_tail(envelope.content_type, encode_headers(publication))
            size = wire.header_frame_bytes(tail, envelope.message_id + ".ffffffff")
            if size > self._frame_max:
                raise ValueError(  # noqa: TRY301  one answer for whatever does not fit
                    f"expected headers of at most {self._frame_max} bytes, got {size}"
                )
        except ValueError as error:
            raise PublishRefused(f"cannot be sent: {error}") from error
        return _Outgoing(call, publication, method, tail)

    async def _write(self) -> None:
        """Write what has gathered; wait for the socket before gathering more."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._outgoing:
                parts = self._take_batch()
                if not parts:
                    continue
                drained = self._loop.create_future()
                frame = ChannelFrame(
                    payload=b"".join(parts), should_close=False, drain_future=drained
                )
                await self._channel.write_queue.put(frame)
                await drained

    def _take_batch(self) -> list[bytes]:
        """Number the messages that go out now, and make their frames."""
        parts: list[bytes] = []
        channel = self._channel
        for _ in range(min(len(self._outgoing), BATCH_LIMIT)):
            outgoing = self._outgoing.popleft()
            self._buffered_bytes -= outgoing.size_bytes
            if outgoing.call.future.done():
                continue  # timed out or cancelled before it was sent
            self._tag = tag = self._tag + 1
            envelope = outgoing.publication.envelope
            # The AMQP property must differ for each attempt, or a return is
            # attributed to the wrong publish; the stable id is in our header.
            message_id = f"{envelope.message_id}.{tag:x}"
            returnable = channel.message_id_delivery_tag
            returnable[message_id] = tag
            channel.confirmations[tag] = _Confirmation(  # type: ignore[assignment]
                outgoing.call, outgoing.publication, message_id, returnable
            )
            parts.append(outgoing.method)
            parts += wire.content_frames(
                channel.number,
                tail=outgoing.tail,
                message_id=message_id,
                body=envelope.body,
                frame_max=self._frame_max,
            )
        channel.delivery_tag = self._tag
        return parts

    def _sweep(self) -> None:
        """Fail the calls that are overdue; calls come due in order."""
        now = self._loop.time()
        calls = self._calls
        while calls and (calls[0].future.done() or calls[0].due_at <= now):
            call = calls.popleft()
            if not call.future.done():
                call.finish(
                    BrokerUnavailable(
                        "the broker did not confirm in time; the outcome is unknown"
                    )
                )
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
        self._writer.cancel()
        self._closing.remove_done_callback(self._on_channel_closed)
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        self._outgoing.clear()
        self._buffered_bytes = 0
        while self._calls:
            self._calls.popleft().finish(self._closed)
        self._channel.confirmations.clear()
        self._channel.message_id_delivery_tag.clear()


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
        except (
            aiormq.exceptions.PublishError,
            aiormq.exceptions.DeliveryError,
        ) as error:
            raise explained(error, publication) from error
        except TimeoutError as error:
            message_text = "the broker did not confirm in time; the outcome is unknown"
            raise BrokerUnavailable(message_text) from error
        if not isinstance(confirmation, pamqp.commands.Basic.Ack):
            raise PublishRefused(f"expected an ack, got {confirmation!r}")
