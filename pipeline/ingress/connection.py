"""HTTP connections that answer and log in our way what aiohttp would in its own.

For what is no HTTP, aiohttp answers with plain text and logs the whole line that it
could not read. That line may hold the secret token of the address, and anybody can
fill the log with such lines.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, cast

from aiohttp import StreamReader, web
from aiohttp.http import HttpRequestParser, RawRequestMessage, StreamWriter

from pipeline.ingress.accepted import ACCEPTED
from pipeline.ingress.problems import problem
from pipeline.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pipeline.ingress.peers import Peers
    from pipeline.ingress.quick import Handling, Quick

log = get_logger("ingress")

#: How long the rest of a body is read that was refused before its end, so that its
#: sender gets to read the answer.
LINGERING_SECONDS: Final = 2.0
#: The most that is received from a connection at a time, and kept of a body before
#: somebody reads it. asyncio takes 256 KiB and aiohttp keeps 512, which makes half a
#: gigabyte of 1000 connections whose bodies are only read to be thrown away.
RECEIVED_BYTES: Final = 64 * 1024
#: Headers of one request; each of them may have 8190 bytes.
MAX_HEADERS: Final = 100
#: What we have to know of the inside of aiohttp's connections for the quick way.
KNOWN_NAMES: Final = frozenset(
    {
        "_buffer_paused",
        "_close",
        "_force_close",
        "_handler_waiter",
        "_keepalive_handle",
        "_keepalive_timeout",
        "_messages",
        "_msg_queue_resume_size",
        "_next_keepalive_close_time",
        "_parser",
        "_paused",
        "_request_in_progress",
        "_task_handler",
        "_waiter",
        # Called, not kept:
        "_drain_helper",
        "_process_keepalive",
        "_resume_reading_if_drained",
    }
)


class Connection(web.RequestHandler):
    """One connection of a client.

    aiohttp has a task for each connection, which waits for requests and starts a task
    for each. A callback that has come whole is handled without waking that task: it
    sleeps on, its alarm (``_waiter``) kept out of aiohttp's reach in ``_alarm``
    until it is wanted again. Order is kept: while one request is handled, others wait
    in ``_messages``, whichever way they will go (``docs/decisions/0011``).
    """

    __slots__ = ("_alarm", "_key", "_quick", "_server", "_work")

    def __init__(self, server: Server, quick: Quick | None, **settings: Any) -> None:
        super().__init__(server, **settings)
        self._server = server
        self._quick = quick
        #: What it is counted as; ``None``: it is not counted.
        self._key: int | None = None
        #: What the connection's task sleeps on while we handle requests without it.
        self._alarm: asyncio.Future[None] | None = None
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

    async def shutdown(self, timeout: float | None = 15.0) -> None:  # noqa: ASYNC109
        """Let what is being handled finish; what takes too long is cancelled."""
        await super().shutdown(timeout)
        if self._work is not None:
            self._work.cancel()

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
        peer = self.peername
        handling = quick.take(message, payload, str(peer[0]) if peer else "unknown")
        if handling is None:
            return False
        self._messages.popleft()
        parser.message_consumed()
        self._request_in_progress = True
        self._work = self._loop.create_task(self._answer(handling, message, payload))
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()
        return True

    async def _answer(
        self, handling: Handling, message: RawRequestMessage, payload: StreamReader
    ) -> None:
        """Answer one request, then go on with the connection."""
        stays = False
        try:
            refusal = await self._outcome(handling, message, payload)
            if refusal is not None:
                request = self._request_of(message, payload)
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

    async def _outcome(
        self, handling: Handling, message: RawRequestMessage, payload: StreamReader
    ) -> web.StreamResponse | None:
        """Give the refusal, ``None`` for an accepted callback."""
        try:
            return await handling
        except Exception as error:  # noqa: BLE001  answered with 500, as by aiohttp
            request = self._request_of(message, payload)
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

    def _request_of(
        self, message: RawRequestMessage, payload: StreamReader
    ) -> web.BaseRequest:
        """Make the request that something else than 200 is the answer to."""
        writer = StreamWriter(self, self._loop)
        task = cast("asyncio.Task[None]", asyncio.current_task())
        return self._server.request_factory(message, payload, self, writer, task)

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


def knows_aiohttp() -> bool:
    """Tell whether connections look inside as the quick way needs it."""
    return all(hasattr(web.RequestHandler, name) for name in KNOWN_NAMES) and hasattr(
        HttpRequestParser, "message_consumed"
    )


class Server(web.Server):
    """Makes the connections.

    Args:
        handler: answers requests.
        request_factory: as aiohttp's.
        keepalive_timeout: how long an idle connection stays, in seconds.
        head_timeout: how long a new one may take until its first request, in seconds.
        peers: says who may connect.
        quick: answers callbacks that have come whole; ``None``: the handler does.
    """

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        *,
        request_factory: Callable[..., web.BaseRequest],
        keepalive_timeout: float,
        head_timeout: float,
        peers: Peers,
        quick: Quick | None = None,
    ) -> None:
        # A client that leaves must not stop a publish that is under way.
        super().__init__(
            handler, request_factory=request_factory, handler_cancellation=False
        )
        self._keepalive_timeout = keepalive_timeout
        self.peers = peers
        knows = knows_aiohttp()
        self._quick = quick if knows else None
        #: ``None``: new connections have no less time than idle ones.
        self.head_timeout = min(head_timeout, keepalive_timeout) if knows else None

    def __call__(self) -> Connection:
        """Make the protocol of a new connection."""
        return Connection(
            self,
            self._quick,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=self._keepalive_timeout,
            lingering_time=LINGERING_SECONDS,
            read_bufsize=RECEIVED_BYTES // 2,  # it keeps twice as much
            max_headers=MAX_HEADERS,
            access_log=None,
        )
