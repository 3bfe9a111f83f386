"""HTTP connections that answer and log in our way what aiohttp would in its own.

For what is no HTTP, aiohttp answers with plain text and logs the whole line that it
could not read. That line may hold the secret token of the address, and anybody can
fill the log with such lines.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, cast

from aiohttp import StreamReader, web
from aiohttp.http import RawRequestMessage, StreamWriter

from pipeline.ingress.accepted import ACCEPTED
from pipeline.ingress.problems import problem
from pipeline.logs import get_logger

if TYPE_CHECKING:
    from pipeline.ingress.quick import Handling, Quick
    from pipeline.ingress.server import Server

log = get_logger("ingress")

#: The most that is received from a connection at a time, and kept of a body before
#: somebody reads it. asyncio takes 256 KiB and aiohttp keeps 512, which makes half a
#: gigabyte of 1000 connections whose bodies are only read to be thrown away.
RECEIVED_BYTES: Final = 64 * 1024
#: Linger for no time: what was not sent is thrown away.
AT_ONCE: Final = struct.pack("ii", 1, 0)


class Connection(web.RequestHandler):
    """One connection of a client.

    aiohttp has a task for each connection, which waits for requests and starts a task
    for each. A callback that has come whole is handled without waking that task: it
    sleeps on, its alarm (``_waiter``) kept out of aiohttp's reach in ``_alarm``
    until it is wanted again. Order is kept: while one request is handled, others wait
    in ``_messages``, whichever way they will go (``docs/decisions/0011``).
    """

    __slots__ = ("_alarm", "_begun", "_cutting", "_key", "_quick", "_server", "_work")

    def __init__(self, server: Server, quick: Quick | None, **settings: Any) -> None:
        super().__init__(server, **settings)
        self._server = server
        self._quick = quick
        #: What it is counted as; ``None``: it is not counted.
        self._key: int | None = None
        #: What the connection's task sleeps on while we handle requests without it.
        self._alarm: asyncio.Future[None] | None = None
        #: What is being handled without a task.
        self._begun: Handling | None = None
        #: When it is cut off unless its client reads; ``None``: the client does.
        self._cutting: asyncio.TimerHandle | None = None
        #: Held, because the loop does not hold tasks.
        self._work: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, or close it if its caller may not have it."""
        super().connection_made(transport)
        if hasattr(transport, "max_size"):  # asyncio's, without TLS
            transport.max_size = RECEIVED_BYTES
        peer = transport.get_extra_info("peername")
        self._key = self._server.peers.enter(peer[0] if peer else None)
        if self._key is None:
            self.force_close()
        elif self._server.head_timeout is not None:
            self._expect_head_within(self._server.head_timeout)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Let go of the client; what was woken for its next request is called off.

        Otherwise the task would find neither client nor handler when its turn comes.
        """
        if self._key is not None:
            self._server.peers.leave(self._key)
            self._key = None
        self._spare()
        waiter, task = self._waiter, self._task_handler
        super().connection_lost(exc)
        if waiter is not None and waiter.done() and task is not None:
            task.cancel()

    def data_received(self, data: bytes) -> None:
        """Take bytes in; start on a request that is complete, the quick way if any."""
        if self._alarm is not None:  # one is being handled the quick way
            super().data_received(data)
            return
        alarm = None if self._quick is None else self._waiter
        if alarm is None or alarm.done():
            super().data_received(data)
            return
        self._waiter, self._alarm = None, alarm
        try:
            super().data_received(data)
        finally:
            self._go_on()

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: FBT001, FBT002
        """Read on; aiohttp asks for it after each body, paused or not.

        Its parser may hold back requests while neither flag says so: it counts one
        too many once a body came after its head, and pauses itself for a body of
        thousands of chunks. Neither can be where a whole callback is the only one.
        """
        is_alone = self._alarm is not None and len(self._messages) <= 1
        asks_parser = resume_parser and not is_alone
        if asks_parser or self._reading_paused or self._buffer_paused:
            super().resume_reading(resume_parser)

    def pause_writing(self) -> None:
        """Give the client as long as an idle one to read what it was answered."""
        super().pause_writing()
        self._cutting = self._loop.call_later(self._keepalive_timeout, self._cut_off)

    def resume_writing(self) -> None:
        """Go on: the client has read enough."""
        self._spare()
        super().resume_writing()

    def _spare(self) -> None:
        if self._cutting is not None:
            self._cutting.cancel()
            self._cutting = None

    def _cut_off(self) -> None:
        """Reset it; to be closed it would have to be read from, in the kernel too."""
        if self.transport is not None:
            opened = self.transport.get_extra_info("socket")
            with suppress(OSError):  # it is closed already
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
            self.transport.abort()

    async def shutdown(self, timeout: float | None = 15.0) -> None:  # noqa: ASYNC109
        """Let what is being handled finish; what takes too long is cancelled.

        aiohttp takes its time twice: to wait, and again for what it has cancelled.
        """
        if self._paused:
            self._cut_off()
        await super().shutdown(None if timeout is None else timeout / 2)
        if self._work is not None:
            self._work.cancel()
        self._give_up_begun()

    def _give_up_begun(self) -> None:
        """Leave alone what was begun; whatever becomes of it, there is no answer."""
        handling, self._begun = self._begun, None
        if handling is None or handling.begun is None:
            return
        if not handling.begun.cancel() and not handling.begun.cancelled():
            handling.begun.exception()  # or asyncio says that nobody has looked
        handling.give_up()
        self._end_work(stays=False)

    def _expect_head_within(self, seconds: float) -> None:
        """Close the connection then, unless a request has come.

        aiohttp has one alarm for idle connections; until the first request it is set
        to an earlier time.
        """
        closes_at = self._loop.time() + seconds
        self._next_keepalive_close_time = closes_at
        if self._keepalive_handle is not None:
            self._keepalive_handle.cancel()
        self._keepalive_handle = self._loop.call_at(closes_at, self._process_keepalive)

    def _go_on(self) -> None:
        """Start on the next request the quick way, or leave it to the task."""
        alarm, messages = self._alarm, self._messages
        is_closing = self._close or self._force_close
        if messages and not is_closing and self._start(*messages[0]):
            return
        self._alarm = None
        if alarm is None or alarm.done():
            return
        self._waiter = alarm
        if is_closing:
            alarm.cancel()
        elif messages:
            alarm.set_result(None)

    def _start(self, message: object, payload: StreamReader) -> bool:
        """Start on a request, if it can go the quick way."""
        quick, parser = self._quick, self._parser
        if quick is None or parser is None or type(message) is not RawRequestMessage:
            return False
        handling = quick.take(message, payload)
        if handling is None:
            return False
        self._messages.popleft()
        parser.message_consumed()
        self._request_in_progress = True
        if handling.begun is None:
            self._finish(handling)
        else:
            self._begun = handling
            handling.begun.add_done_callback(self._on_stored)
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()
        return True

    def _finish(self, handling: Handling) -> None:
        """Handle with a task what needs more than to be begun."""
        self._work = self._loop.create_task(self._answer(handling))

    def _on_stored(self, begun: asyncio.Future[None]) -> None:
        """Answer what is safe; leave to a task what failed or has to wait."""
        handling, self._begun = self._begun, None
        if handling is None:  # given up meanwhile
            return
        if begun.cancelled() or begun.exception() is not None or self._paused:
            self._finish(handling)
            return
        stays = False
        try:
            handling.accept()
            if self.transport is not None:
                self.transport.write(ACCEPTED.as_bytes())
            stays = True
        finally:
            self._end_work(stays=stays)

    async def _answer(self, handling: Handling) -> None:
        """Answer one request, then go on with the connection."""
        stays = False
        try:
            refusal = await self._outcome(handling)
            if refusal is not None:
                request = self._request_of(handling)
                await self.finish_response(request, refusal, None)
                stays = refusal.keep_alive is not False
            elif self.transport is not None:
                self.transport.write(ACCEPTED.as_bytes())
                if self._paused:  # who sends and does not read has to wait here
                    await self._drain_helper()
                stays = True
        except ConnectionError as error:
            log.info("connection_dropped", error_type=type(error).__name__)
        finally:
            self._end_work(stays=stays)

    async def _outcome(self, handling: Handling) -> web.StreamResponse | None:
        """Give the refusal, ``None`` for an accepted callback."""
        peer = self.peername
        try:
            return await handling.finish(str(peer[0]) if peer else "unknown")
        except Exception as error:  # noqa: BLE001  answered with 500, as by aiohttp
            request = self._request_of(handling)
            return self.handle_error(request, HTTPStatus.INTERNAL_SERVER_ERROR, error)

    def _end_work(self, *, stays: bool) -> None:
        """Keep the connection for the next request, or close it."""
        self._work = None
        self._request_in_progress = False
        if self._handler_waiter is not None and not self._handler_waiter.done():
            self._handler_waiter.set_result(None)
        if not stays or self._close:
            self.force_close()
        elif not self._force_close:
            closes_at = self._loop.time() + self._keepalive_timeout
            self._next_keepalive_close_time = closes_at
            if self._keepalive_handle is None:
                self._keepalive_handle = self._loop.call_at(
                    closes_at, self._process_keepalive
                )
        self._go_on()

    def _request_of(self, handling: Handling) -> web.BaseRequest:
        """Make the request that something else than 200 is the answer to."""
        writer = StreamWriter(self, self._loop)
        task = cast("asyncio.Task[None]", asyncio.current_task())
        return self._server.request_factory(
            handling.message, handling.payload, self, writer, task
        )

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002  aiohttp's words, with the line
    ) -> web.StreamResponse:
        """Answer a request that cannot be read, or a failure of this program.

        Raises:
            ConnectionError: an answer is on its way already.
        """
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            log.error("request_failed", exc_info=exc)
            detail, code = "the ingress has failed; see its log", "internal_error"
        else:
            name = type(exc).__name__
            log.info("request_malformed", error_type=name, remote=request.remote)
            detail, code = "expected a request of HTTP/1.1", "malformed"
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is on its way already")
        response = problem(status, detail, code=code)
        response.force_close()
        return response

    def log_exception(self, *_: Any, exc_info: object = None, **__: Any) -> None:
        """Note that a connection could not be kept after its answer was given."""
        log.info("connection_dropped", error_type=type(exc_info).__name__)
