"""HTTP connections that answer and log in our way what aiohttp would in its own.

For what is no HTTP, aiohttp answers with plain text and logs the whole line that it
could not read. That line may hold the secret token of the address, and anybody can
fill the log with such lines.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from pipeline.ingress.problems import problem
from pipeline.ingress.turned_away import Tally, TurnedAway
from pipeline.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = get_logger("ingress")

#: How long the rest of a body is read that was refused before its end, so that its
#: sender gets to read the answer.
LINGERING_SECONDS: Final = 2.0
#: Headers of one request; each of them may have 8190 bytes.
MAX_HEADERS: Final = 100


class Connection(web.RequestHandler):
    """One connection of a client."""

    __slots__ = ("_server",)

    def __init__(self, server: Server, **settings: Any) -> None:
        super().__init__(server, **settings)
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, or close it if there are enough."""
        super().connection_made(transport)
        if self._server.is_full:
            remote = transport.get_extra_info("peername")
            self._server.tally.add(
                TurnedAway.CONNECTIONS, remote[0] if remote else None
            )
            self.force_close()

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


class Server(web.Server):
    """Makes the connections.

    Args:
        handler: answers requests.
        request_factory: as aiohttp's.
        keepalive_timeout: how long an idle connection stays, in seconds.
        max_connections: those that come when there are so many are closed.
    """

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        *,
        request_factory: Callable[..., web.BaseRequest],
        keepalive_timeout: float,
        max_connections: int,
    ) -> None:
        # A client that leaves must not stop a publish that is under way.
        super().__init__(
            handler, request_factory=request_factory, handler_cancellation=False
        )
        self._keepalive_timeout = keepalive_timeout
        self._max_connections = max_connections
        self.tally = Tally()

    @property
    def is_full(self) -> bool:
        """Whether there are more connections than allowed."""
        return len(self._connections) > self._max_connections

    def __call__(self) -> Connection:
        """Make the protocol of a new connection."""
        return Connection(
            self,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=self._keepalive_timeout,
            lingering_time=LINGERING_SECONDS,
            max_headers=MAX_HEADERS,
            access_log=None,
        )
