"""Publishing with confirms over one channel: the fast path.

aio-pika's own publish spends four fifths of the ingress' processor time on locks,
timers, futures and frames made field by field. ``FastPublisher`` makes its frames
from ready parts, writes what has gathered at once, and keeps one future for each
call. It needs a ``FrameStream`` under the connection; where there is none,
``rabbitmq_plain.py`` does the same through aio-pika's public interface.
"""

from __future__ import annotations

import asyncio
import itertools
from bisect import bisect_right
from collections import deque
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from pipeline.broker import rabbitmq_wire as wire
from pipeline.broker.rabbitmq_connection import reason_of
from pipeline.broker.rabbitmq_outgoing import Call, Message
from pipeline.broker.rabbitmq_plain import (
    CLOSED,
    UNCONFIRMED,
    Publisher,
    Route,
    fitting_tail,
    largest_frame,
)
from pipeline.broker.rabbitmq_stream import FrameStream, Tap
from pipeline.errors import BrokerUnavailable, PublishRefused
from pipeline.logs import report_death

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import aiormq

    from pipeline.message import Publication

#: With more than this to be written, callers wait for the socket to take some.
BUFFER_LIMIT_BYTES: Final = 16 * 1024 * 1024
#: More than this in flight: the broker takes messages and does not confirm them.
SENT_LIMIT: Final = 100_000
#: While messages are in flight, others gather for so long before they are written.
GATHERING_SECONDS: Final = 0.001
#: So many are written without gathering more.
ENOUGH: Final = 32
#: Messages written in one go; more than a busy broker confirms at once anyway.
BATCH_LIMIT: Final = 512
METHOD_CACHE_LIMIT: Final = 4096

_due_at = attrgetter("due_at")


class FastPublisher(Publisher):
    """Writes at once while nothing is in flight; else gathers for a millisecond.

    So a lone message does not wait, and under load many share one write: a system
    call costs more than all else that a message costs here, and the broker has
    fewer of them to read and to sync.

    The channel must be fresh and used by nothing else: delivery tags are counted
    here. A call that runs out of time before its bytes are written is not sent
    at all; one that runs out of time afterwards ends as unknown.
    """

    def __init__(
        self,
        channel: aiormq.abc.AbstractChannel,
        stream: FrameStream,
        frame_max: int,
        on_refused: Callable[[Publisher], None],
    ) -> None:
        super().__init__(on_refused)
        self._whole_channel = channel
        self._channel = channel.number
        self._stream = stream
        self._loop = asyncio.get_running_loop()
        self._frame_max = largest_frame(frame_max)
        self._methods: dict[tuple[str, str], bytes] = {}
        self._outgoing: deque[Message] = deque()
        self._buffered_bytes = 0
        self._sent: dict[int, Message] = {}
        self._calls: deque[Call] = deque()
        self._may_write = asyncio.Event()
        self._has_room = asyncio.Event()
        self._hurry_is_due = False
        self._tag = 0
        self._closed: BrokerUnavailable | None = None
        self._closing = channel.closing
        self._closing.add_done_callback(self._on_channel_closed)
        self._tap = Tap(
            on_confirm=self._on_confirm,
            on_return=self._on_return,
            on_close=self._on_close,
        )
        stream.tap(self._channel, self._tap)
        self._writer = report_death(asyncio.create_task(self._write(), name="publish"))
        self._sweeper: asyncio.TimerHandle | None = None

    @property
    def is_open(self) -> bool:
        return self._closed is None

    async def publish(
        self, items: Sequence[tuple[Route, Publication]], *, deadline_seconds: float
    ) -> None:
        self._require_taking()
        if not items:
            return
        due_at = self._loop.time() + deadline_seconds
        if self._buffered_bytes > BUFFER_LIMIT_BYTES:
            await self._wait_for_room(due_at)
        call = Call(self._loop.create_future(), len(items), due_at)
        messages = [self._encode(call, route, item) for route, item in items]
        self._take(call, messages)
        await call.future

    def begin(
        self, route: Route, publication: Publication, *, deadline_seconds: float
    ) -> asyncio.Future[None] | None:
        if self._buffered_bytes > BUFFER_LIMIT_BYTES or self._obstacle() is not None:
            return None
        call = Call(self._loop.create_future(), 1, self._loop.time() + deadline_seconds)
        try:
            message = self._encode(call, route, publication)
        except PublishRefused:
            return None
        self._take(call, (message,))
        return call.future

    def _take(self, call: Call, messages: Sequence[Message]) -> None:
        """Have the messages of a call written soon."""
        outgoing = self._outgoing
        for message in messages:
            self._buffered_bytes += message.size_bytes
            outgoing.append(message)
        self._line_up(call)
        if not self._sent or len(outgoing) >= ENOUGH:
            self._may_write.set()
        elif not self._hurry_is_due:
            self._hurry_is_due = True
            self._loop.call_later(GATHERING_SECONDS, self._hurry)

    def _line_up(self, call: Call) -> None:
        """Put a call where it comes due, and have it swept in time."""
        calls = self._calls
        if not calls or calls[-1].due_at <= call.due_at:
            calls.append(call)
        else:  # it had to wait before it was taken
            calls.insert(bisect_right(calls, call.due_at, key=_due_at), call)
        if calls[0] is call:
            self._sweep_by(call.due_at)

    def _sweep_by(self, due_at: float) -> None:
        if self._sweeper is not None:
            if self._sweeper.when() <= due_at:
                return
            self._sweeper.cancel()
        self._sweeper = self._loop.call_at(due_at, self._sweep)

    def _require_taking(self) -> None:
        obstacle = self._obstacle()
        if obstacle is not None:
            raise BrokerUnavailable(obstacle) from self._closed

    def _obstacle(self) -> str | None:
        """Say why no message can be taken now."""
        if self._closed is not None:
            return str(self._closed)
        if self._stream.blocked is not None:
            return f"the broker takes no messages: alarm on {self._stream.blocked}"
        if len(self._sent) > SENT_LIMIT:
            return (
                f"the broker does not confirm: {len(self._sent)} messages wait for it"
            )
        return None

    async def _wait_for_room(self, due_at: float) -> None:
        """Wait until the socket has taken some of what is buffered."""
        try:
            async with asyncio.timeout_at(due_at):
                while self._buffered_bytes > BUFFER_LIMIT_BYTES:
                    self._has_room.clear()
                    await self._has_room.wait()
        except TimeoutError as error:
            raise BrokerUnavailable(
                f"the broker has stopped reading: {self._buffered_bytes} bytes wait"
                " to be sent; see its memory and disk alarms"
            ) from error
        self._require_taking()

    def _hurry(self) -> None:
        """Write what has gathered; not all that is in flight is confirmed yet."""
        self._hurry_is_due = False
        self._may_write.set()

    async def close(self) -> None:
        self._fail(BrokerUnavailable(CLOSED))
        await asyncio.gather(self._writer, return_exceptions=True)

    async def shut(self) -> None:
        await self.close()
        await self._whole_channel.close()

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
        if tags and not positive:
            self._on_refused(self)
        calls = self._calls
        while calls and calls[0].future.done():
            calls.popleft()
        if self._outgoing and not sent:
            self._may_write.set()

    def _on_return(self, message_id: str) -> None:
        """Note what could not be routed; its ack is still to come."""
        tag = int(message_id.rpartition(".")[2], 16)
        if tag in self._sent:
            self._sent[tag].returned = True

    def _encode(self, call: Call, route: Route, publication: Publication) -> Message:
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
            tail = fitting_tail(publication, self._frame_max)
        except ValueError as error:
            raise PublishRefused(f"cannot be sent: {error}") from error
        return Message(call, publication.envelope, method, tail, key)

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
            envelope, message.envelope = message.envelope, None
            if envelope is None or message.call.future.done():
                continue  # timed out or cancelled before it was sent
            self._tag = tag = self._tag + 1
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
        if self._buffered_bytes <= BUFFER_LIMIT_BYTES:
            self._has_room.set()
        return parts

    def _sweep(self) -> None:
        """Fail the calls that are overdue; they stand in the order of that."""
        self._sweeper = None
        now = self._loop.time()
        calls = self._calls
        while calls and (calls[0].future.done() or calls[0].due_at <= now):
            calls.popleft().finish(BrokerUnavailable(UNCONFIRMED))
        if calls:
            self._sweep_by(max(calls[0].due_at, now + 0.05))

    def _on_close(self, reason: str) -> None:
        """Stop writing at once: after our answer the broker knows no such channel."""
        self._fail(BrokerUnavailable(f"the broker closed the channel: {reason}"))

    def _on_channel_closed(self, closing: asyncio.Future[object]) -> None:
        reason = None if closing.cancelled() else closing.exception()
        error = BrokerUnavailable(
            f"the channel to the broker was closed: {reason_of(reason)}"
        )
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
        self._has_room.set()
        while self._calls:
            self._calls.popleft().finish(self._closed)
        self._sent.clear()
