"""A short cut for the frames that come by the thousand.

aiormq reads every frame with three awaits, a generic decoder and two queues. That
is fine for the few that open channels and declare queues, and most of the cost of
a message for deliveries and confirms. So the transport that we hand to aiormq (its
``TransportFactory`` is public) looks at each frame first: those of a tapped channel
that carry deliveries, confirms and returns are decoded at once and handed over; all
others go on to aiormq untouched. ``docs/decisions/0003`` has the figures.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import aio_pika
import aiormq

from pipeline.broker import rabbitmq_wire as wire
from pipeline.broker.rabbitmq_delivered import Content

if TYPE_CHECKING:
    from collections.abc import Callable

    from yarl import URL

    from pipeline.broker.rabbitmq_delivered import Delivered

#: The server's answer to a client of another protocol version starts with this.
PROTOCOL_HEADER: Final = b"AMQP"
#: aiormq takes a connection for stuck when it sees no frame for three heartbeats;
#: after this much time with tapped frames only, it is shown a heartbeat.
SIGN_OF_LIFE_SECONDS: Final = 1.0
READ_LIMIT_BYTES: Final = 256 * 1024
FRAME_END: Final = wire.FRAME_END[0]


def _ignore(*_: object) -> None:
    """Do nothing with what nobody asked for."""


@dataclass(slots=True, kw_only=True)
class Tap:
    """Takes the frames of one channel that carry deliveries, confirms, returns."""

    #: Called with each complete delivery.
    on_delivery: Callable[[Delivered], None] = _ignore
    #: Called with a delivery tag, whether all below are meant too, and whether the
    #: answer is yes.
    on_confirm: Callable[[int, bool, bool], None] = _ignore
    #: Called with the message id of what could not be routed; its ack follows.
    on_return: Callable[[str], None] = _ignore
    #: Called with the broker's reason when it closes the channel; aiormq gets that
    #: frame as well, and answers it.
    on_close: Callable[[str], None] = _ignore
    _content: Content | None = field(default=None, init=False)

    def take(self, kind: int, buffer: bytes, start: int, size: int) -> bool:
        """Handle a frame's payload; ``False``: it is none of ours."""
        if kind == wire.METHOD_FRAME:
            return self._take_method(buffer, start)
        content = self._content
        if content is None:
            return False
        content.add(kind, buffer, start, size)
        if content.is_complete:
            self._content = None
            delivered = content.delivered()
            if delivered.tag:
                self.on_delivery(delivered)
            else:
                self.on_return(delivered.message_id)
        return True

    def _take_method(self, buffer: bytes, start: int) -> bool:
        method = wire.method_of(buffer, start)
        if method == wire.BASIC_DELIVER:
            self._content = Content.of_delivery(buffer, start)
        elif method in (wire.BASIC_ACK, wire.BASIC_NACK):
            tag, multiple = wire.confirm_of(buffer, start)
            self.on_confirm(tag, multiple, method == wire.BASIC_ACK)
        elif method == wire.BASIC_RETURN:
            self._content = Content.of_return()
        else:
            if method == wire.CHANNEL_CLOSE:
                self.on_close(wire.short_string_at(buffer, start + 6)[0])
            return False
        return True


class Splitter:
    """Cuts a stream of bytes into frames and gives tapped ones to their taps."""

    def __init__(self) -> None:
        self.taps: dict[int, Tap] = {}
        #: Why the broker does not read what we publish; ``None``: it does.
        self.blocked: str | None = None
        #: Whether the last bytes completed a frame.
        self.has_cut = False
        #: Whether no more bytes will come.
        self.has_ended = False
        self._rest = b""
        self._is_foreign = False

    def feed(self, data: bytes) -> bytes:
        """Take bytes in; give those back that are for aiormq, in their order.

        Raises:
            ValueError, IndexError, struct.error: these are no frames of AMQP; the
                connection cannot be used any more.
        """
        buffer = self._rest + data if self._rest else data
        if self._is_foreign or buffer.startswith(PROTOCOL_HEADER):
            self._is_foreign, self._rest = True, b""
            return buffer
        others: list[bytes] = []
        position = others_from = 0
        while (frame := wire.frame_at(buffer, position)) is not None:
            kind, channel, size = frame
            start, end = position + wire.FRAME_HEAD_BYTES, position + size + 8
            if buffer[end - 1] != FRAME_END:
                raise ValueError(f"expected the end of a frame at byte {end - 1}")
            if channel == 0:
                self._note_alarm(kind, buffer, start)
            tap = self.taps.get(channel)
            if tap is not None and tap.take(kind, buffer, start, size):
                if others_from < position:
                    others.append(buffer[others_from:position])
                others_from = end
            position = end
        if others_from < position:
            others.append(buffer[others_from:position])
        self._rest = buffer[position:]
        self.has_cut = position > 0
        return b"".join(others)

    def _note_alarm(self, kind: int, buffer: bytes, start: int) -> None:
        """Look at what the broker says of its alarms; aiormq gets it as well."""
        if kind != wire.METHOD_FRAME:
            return
        method = wire.method_of(buffer, start)
        if method == wire.CONNECTION_BLOCKED:
            self.blocked = wire.short_string_at(buffer, start + 4)[0]
        elif method == wire.CONNECTION_UNBLOCKED:
            self.blocked = None


class _Protocol(asyncio.StreamReaderProtocol):
    """Feeds the reader of aiormq with what the splitter leaves."""

    def __init__(self, reader: asyncio.StreamReader, splitter: Splitter) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(reader, loop=loop)
        self._clock = loop.time
        self._splitter = splitter
        self._shown_at = 0.0

    def data_received(self, data: bytes) -> None:
        try:
            others = self._splitter.feed(data)
        except wire.UNREADABLE as error:
            # asyncio closes a connection whose protocol raises; this kind of error
            # is what aiormq expects of one that broke.
            raise ConnectionAbortedError(f"no frame of AMQP: {error}") from error
        now = self._clock()
        if others:
            self._shown_at = now
        elif self._splitter.has_cut and now - self._shown_at > SIGN_OF_LIFE_SECONDS:
            self._shown_at = now
            others = wire.HEARTBEAT
        if others:
            super().data_received(others)

    def eof_received(self) -> bool | None:
        self._splitter.has_ended = True
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._splitter.has_ended = True
        super().connection_lost(exc)


class FrameStream(aiormq.TransportFactory):
    """Opens the transport of one connection and keeps hold of both its ends."""

    def __init__(self) -> None:
        self._splitter = Splitter()
        self._writer: asyncio.StreamWriter | None = None

    @property
    def is_used(self) -> bool:
        """Whether aiormq did open its transport here."""
        return self._writer is not None

    @property
    def blocked(self) -> str | None:
        """Why the broker does not read what we publish; ``None``: it does."""
        return self._splitter.blocked

    @property
    def has_ended(self) -> bool:
        """Whether the broker, or the way to it, has ended the connection.

        True a few turns of the loop before aiormq has noticed and tidied up.
        """
        return self._splitter.has_ended

    def tap(self, channel: int, tap: Tap) -> None:
        """Give the frames of a channel to ``tap`` from now on."""
        self._splitter.taps[channel] = tap

    def untap(self, channel: int, tap: Tap) -> None:
        """Leave the frames of a channel to aiormq again, if ``tap`` has them still.

        The number of a closed channel may be another one's by then.
        """
        if self._splitter.taps.get(channel) is tap:
            del self._splitter.taps[channel]

    def write(self, frames: bytes) -> None:
        """Write whole frames; they are never torn apart by those of aiormq."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(frames)

    async def drain(self) -> None:
        """Wait until the socket takes more."""
        if self._writer is not None:
            await self._writer.drain()

    def abort(self) -> None:
        """Drop the connection with all that was not sent."""
        if self._writer is not None:
            self._writer.transport.abort()

    async def create(
        self, url: URL, **kwargs: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect; called by aiormq, once.

        Raises:
            AMQPConnectionError: as aiormq expects it of a factory.
        """
        provider = kwargs.pop("ssl_context_provider", None)
        secure = url.scheme == "amqps" and provider is not None
        context = await provider.get_context() if provider and secure else None
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=READ_LIMIT_BYTES, loop=loop)
        try:
            transport, protocol = await loop.create_connection(
                lambda: _Protocol(reader, self._splitter),
                url.host or "localhost",
                url.port or 0,
                ssl=context,
            )
        except OSError as error:
            raise aiormq.exceptions.AMQPConnectionError(*error.args) from error
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        self._writer = writer
        return reader, writer


class TappedConnection(aio_pika.Connection):
    """aio-pika's connection over a ``FrameStream``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stream = FrameStream()
        self.kwargs = {**self.kwargs, "transport_factory": self.stream}


def stream_of(connection: aio_pika.abc.AbstractConnection) -> FrameStream | None:
    """Give the stream under a connection; ``None``: there is no short cut."""
    stream = getattr(connection, "stream", None)
    return stream if isinstance(stream, FrameStream) and stream.is_used else None
