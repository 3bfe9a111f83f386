"""The ingress as an HTTP server: which address is answered by whom.

Built on aiohttp's low-level server: with five addresses a dictionary is all the
router that is needed, and it costs a tenth less for each callback than an
application with resources does (``docs/decisions/0004``).
"""

from __future__ import annotations

import asyncio
import errno
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final

from aiohttp import HttpVersion, HttpVersion10, HttpVersion11, web

from pipeline.errors import ConfigurationError
from pipeline.ingress.bodies import refuse_small_total
from pipeline.ingress.description import description_routes
from pipeline.ingress.gate import Gate
from pipeline.ingress.health import Checks, Get, health_routes
from pipeline.ingress.peers import Peers
from pipeline.ingress.problems import problem
from pipeline.ingress.quick import Quick
from pipeline.ingress.server import Server
from pipeline.ingress.store import BrokerStore
from pipeline.ingress.views import CallbackView, count
from pipeline.logs import get_logger
from pipeline.provider.callback import OPERATIONS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from typing import Any

    from pipeline.broker.port import Broker
    from pipeline.ingress.tls import Certificate
    from pipeline.settings import IngressSettings
    from pipeline.spool.leftover import Leftover
    from pipeline.spool.outlet import Outlet

log = get_logger("ingress")

#: Idle connections are closed after this; slow headers are cut off by it as well.
KEEPALIVE_SECONDS: Final = 20.0
#: New connections are closed after this if no request has come over them.
HEAD_SECONDS: Final = 10.0
#: How long connections may go on after a request to stop: the first half of it to
#: finish what is in progress.
SHUTDOWN_SECONDS: Final = 10.0
#: The longest that the beginning of a TLS connection may take.
HANDSHAKE_SECONDS: Final = 10.0

CALLBACKS_PATH: Final = "/callbacks/"
#: Key under which a request carries its version if that is none of ours.
OTHER_VERSION: Final = web.RequestKey("other_version", HttpVersion)


class Routes:
    """Answers every request: callbacks by the view, the rest by exact path.

    Args:
        gets: what is answered at which path.
        view: takes callbacks; ``None``: there are none.
        gate: says who is let in; a view needs one.
    """

    def __init__(
        self,
        gets: Mapping[str, Get],
        view: CallbackView | None,
        gate: Gate | None = None,
    ) -> None:
        self._gets = gets
        self._view = view
        self._gate = gate
        #: For callbacks that have come whole; ``None``: there are none.
        self.quick = None if view is None or gate is None else Quick(view, gate)

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; every refusal is a problem document."""
        if OTHER_VERSION in request:
            return _wrong_version(request)
        path = request.path
        view, gate = self._view, self._gate
        if view is not None and gate is not None and path.startswith(CALLBACKS_PATH):
            operation, _, token = path[len(CALLBACKS_PATH) :].partition("/")
            refusal = (
                wrong_method(request, "POST")
                if request.method != "POST"
                else gate.refuse(request)
            )
            if refusal is not None:
                count(operation, refusal.status)
                return refusal
            gate.inside += 1
            try:
                return await view.post(request, operation, token or None)
            finally:
                gate.inside -= 1
        answer = self._gets.get(path)
        if answer is None or (gate is not None and not gate.shows_health_to(request)):
            return self._not_found()
        if request.method not in ("GET", "HEAD"):
            return wrong_method(request, "GET, HEAD")
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
    leftover: Leftover | None = None,
    checks: Checks | None = None,
) -> Routes:
    """Make the routes of the ingress.

    Args:
        broker: open; its topology may be declared later.
        settings: limits and secrets.
        outlet: takes callbacks instead of ``broker``, also while that is away.
        leftover: without an outlet, what waits in a spool that takes no more.
        checks: further parts for ``/readyz`` beside the broker.

    Raises:
        ConfigurationError: there are settings for an operation that there is not, or
            less room for bodies than one may need.
    """
    refuse_unknown_operations(settings)
    refuse_small_total(settings)
    secrets = (settings.tokens, settings.operation_tokens, settings.signature.keys)
    if not any(secrets):
        # Not refused: on loopback, or behind a proxy that checks, it is right.
        log.warning("callbacks_unprotected", setting="ingress.tokens")
    gate = Gate(settings)
    if outlet is None:
        found = {"broker": lambda: broker.problem, **(checks or {})}
        view = CallbackView(BrokerStore(broker), settings)
        gets = health_routes(found, standby=leftover) | description_routes(settings)
        return Routes(gets, view, gate)
    found = {"broker": lambda: outlet.broker_problem, **(checks or {})}
    view = CallbackView(outlet, settings)
    gets = health_routes(found, standby=outlet) | description_routes(settings)
    return Routes(gets, view, gate)


def refuse_unknown_operations(settings: IngressSettings) -> None:
    """Check that every operation with settings of its own is one that there is.

    Raises:
        ConfigurationError: one is not.
    """
    for name in ("operation_tokens", "operation_max_body_bytes"):
        if unknown := sorted(getattr(settings, name).keys() - OPERATIONS.keys()):
            known = ", ".join(sorted(OPERATIONS))
            message = f"expected operations among {known}; got {', '.join(unknown)}"
            raise ConfigurationError(f"ingress.{name}: {message}")


@asynccontextmanager
async def serve(
    routes: Routes,
    *,
    host: str,
    port: int,
    max_body_bytes: int = 1024 * 1024,
    peers: Peers | None = None,
    certificate: Certificate | None = None,
) -> AsyncIterator[tuple[str, int]]:
    """Serve while the context is open; gives the address really taken.

    On leaving, no new connections are taken and requests in progress finish.
    With a certificate, over TLS only. ``peers`` says who may connect.

    Raises:
        ConfigurationError: the address cannot be listened on.
    """
    server = Server(
        routes,
        request_factory=_request_factory(max_body_bytes),
        keepalive_timeout=KEEPALIVE_SECONDS,
        head_timeout=HEAD_SECONDS,
        peers=peers or Peers(),
        quick=routes.quick,
    )
    runner = web.ServerRunner(server, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    stack = AsyncExitStack()
    try:
        context = None
        if certificate is not None:
            await stack.enter_async_context(certificate.watched())
            context = certificate.context
        await _listen(_Site(runner, host, port, ssl_context=context), host, port)
        taken = runner.addresses[0]
        yield str(taken[0]), int(taken[1])
    finally:
        await runner.cleanup()
        await stack.aclose()


class _Site(web.TCPSite):
    """Where connections are taken; aiohttp's gives a TLS handshake a minute."""

    __slots__ = ()

    async def start(self) -> None:
        await web.BaseSite.start(self)
        is_tls = self._ssl_context is not None
        self._server = await asyncio.get_running_loop().create_server(
            self._runner.server,  # type: ignore[arg-type]  # it is set up
            self._host,
            self._port,
            ssl=self._ssl_context,
            ssl_handshake_timeout=HANDSHAKE_SECONDS if is_tls else None,
            backlog=1024,
            reuse_address=True,
        )


async def _listen(site: _Site, host: str, port: int) -> None:
    try:
        await site.start()
    except OSError as error:
        message = (
            f"expected an address to listen on, got {host}:{port}"
            f" ({error.strerror}); {_advice(error)}"
        )
        raise ConfigurationError(message) from error


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
        version = message.version
        if is_other := version not in (HttpVersion11, HttpVersion10):
            # The parser reads HTTP/0.9 and 2.0 as well; they are answered in ours.
            message = message._replace(version=HttpVersion11, should_close=True)
        request = web.BaseRequest(
            message,
            payload,
            protocol,
            writer,
            task,
            task.get_loop(),
            client_max_size=max_body_bytes,
        )
        if is_other:
            request[OTHER_VERSION] = version
        return request

    return make


def _wrong_version(request: web.BaseRequest) -> web.Response:
    version = request[OTHER_VERSION]
    detail = f"expected HTTP/1.1, got HTTP/{version.major}.{version.minor}"
    response = problem(400, detail, code="malformed")
    response.force_close()
    return response


def wrong_method(request: web.BaseRequest, allowed: str) -> web.Response:
    """Answer 405, and name the methods there are."""
    return problem(
        405,
        f"expected {allowed}, got {request.method[:20]}",
        code="method_not_allowed",
        headers={"Allow": allowed},
    )
