"""The HTTP server: who makes connections, and what all of them have in common."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from aiohttp import web

from pipeline.ingress.connection import RECEIVED_BYTES, Connection
from pipeline.ingress.known_aiohttp import knows_aiohttp

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pipeline.ingress.peers import Peers
    from pipeline.ingress.quick import Quick

#: How long the rest of a body is read that was refused before its end, so that its
#: sender gets to read the answer.
LINGERING_SECONDS: Final = 2.0
#: Headers of one request; each of them may have 8190 bytes.
MAX_HEADERS: Final = 100


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
