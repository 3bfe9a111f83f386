"""The ingress as an HTTP server: which address is answered by whom.

Built on aiohttp's low-level server: with five addresses a dictionary is all the
router that is needed, and it costs a tenth less for each callback than an
application with resources does (``docs/decisions/0004``).
"""

from __future__ import annotations

import errno
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from aiohttp import web

from pipeline.errors import ConfigurationError
from pipeline.ingress.connection import Server
from pipeline.ingress.health import Checks, Get, health_routes
from pipeline.ingress.problems import problem
from pipeline.ingress.views import CallbackView
from pipeline.logs import get_logger

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Callable, Mapping
    from typing import Any

    from pipeline.broker.port import Broker
    from pipeline.settings import IngressSettings
    from pipeline.spool.outlet import Outlet

log = get_logger("ingress")

#: Idle connections are closed after this; slow headers are cut off by it as well.
KEEPALIVE_SECONDS: Final = 20.0
#: How long connections may go on after a request to stop.
SHUTDOWN_SECONDS: Final = 10.0

CALLBACKS_PATH: Final = "/callbacks/"


class Routes:
    """Answers every request: callbacks by the view, the rest by exact path."""

    def __init__(self, gets: Mapping[str, Get], view: CallbackView | None) -> None:
        self._gets = gets
        self._view = view

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; every refusal is a problem document."""
        path = request.path
        if self._view is not None and path.startswith(CALLBACKS_PATH):
            if request.method != "POST":
                return _wrong_method(request, "POST")
            operation, slash, token = path[len(CALLBACKS_PATH) :].partition("/")
            return await self._view.post(request, operation, token if slash else None)
        answer = self._gets.get(path)
        if answer is None:
            return self._not_found()
        if request.method not in ("GET", "HEAD"):
            return _wrong_method(request, "GET, HEAD")
        return await answer()

    def _not_found(self) -> web.Response:
        known = [*self._gets]
        if self._view is not None:
            known.insert(0, f"{CALLBACKS_PATH}{{operation}}")
        detail = f"expected one of {', '.join(known)}; check the address"
        return problem(404, detail, code="not_found")


def make_ingress(
    broker: Broker,
    settings: IngressSettings,
    *,
    outlet: Outlet | None = None,
    checks: Checks | None = None,
) -> Routes:
    """Make the routes of the ingress.

    Args:
        broker: open; its topology may be declared later.
        settings: limits and secrets.
        outlet: takes callbacks instead of ``broker``, also while that is away.
        checks: further parts for ``/readyz`` beside the broker.
    """
    if not settings.tokens and not settings.signature.keys:
        # Not refused: on loopback, or behind a proxy that checks, it is right.
        log.warning("callbacks_unprotected", setting="ingress.tokens")
    if outlet is None:
        found = {"broker": lambda: broker.problem, **(checks or {})}
        return Routes(health_routes(found), CallbackView(broker.publish, settings))
    found = {"broker": lambda: outlet.broker_problem, **(checks or {})}
    view = CallbackView(outlet.publish, settings)
    return Routes(health_routes(found, standby=outlet), view)


@asynccontextmanager
async def serve(
    routes: Routes, *, host: str, port: int, max_body_bytes: int = 1024 * 1024
) -> AsyncIterator[tuple[str, int]]:
    """Serve while the context is open; gives the address really taken.

    On leaving, no new connections are taken and requests in progress finish.

    Raises:
        ConfigurationError: the address cannot be listened on.
    """
    server = Server(
        routes,
        request_factory=_request_factory(max_body_bytes),
        keepalive_timeout=KEEPALIVE_SECONDS,
    )
    runner = web.ServerRunner(server, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, backlog=1024, reuse_address=True)
        try:
            await site.start()
        except OSError as error:
            message = (
                f"expected an address to listen on, got {host}:{port}"
                f" ({error.strerror}); {_advice(error)}"
            )
            raise ConfigurationError(message) from error
        taken = runner.addresses[0]
        yield str(taken[0]), int(taken[1])
    finally:
        await runner.cleanup()


def _advice(error: OSError) -> str:
    """Say what to do about an address that cannot be listened on."""
    if error.errno == errno.EADDRINUSE:
        return "it is taken: set another port, or stop what listens there"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "set a port above 1023, or allow this process to use lower ones"
    return "set a host that is an address of this machine"


def _request_factory(max_body_bytes: int) -> Callable[..., web.BaseRequest]:
    def make(
        message: Any,
        payload: Any,
        protocol: Any,
        writer: Any,
        task: asyncio.Task[None],
    ) -> web.BaseRequest:
        return web.BaseRequest(
            message,
            payload,
            protocol,
            writer,
            task,
            task.get_loop(),
            client_max_size=max_body_bytes,
        )

    return make


def _wrong_method(request: web.BaseRequest, allowed: str) -> web.Response:
    return problem(
        405,
        f"expected {allowed}, got {request.method[:20]}",
        code="method_not_allowed",
        headers={"Allow": allowed},
    )
