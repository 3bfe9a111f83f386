"""The ingress as an aiohttp application, and the server around it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from aiohttp import web

from pipeline.errors import ConfigurationError
from pipeline.ingress.health import Checks, add_health_routes
from pipeline.ingress.problems import problem
from pipeline.ingress.views import CallbackView

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pipeline.broker.port import Broker
    from pipeline.settings import IngressSettings

#: Idle connections are closed after this; slow headers are cut off by it as well.
KEEPALIVE_SECONDS: Final = 20.0
#: How long connections may go on after a request to stop.
SHUTDOWN_SECONDS: Final = 10.0


def make_app(
    broker: Broker, settings: IngressSettings, *, checks: Checks | None = None
) -> web.Application:
    """Make the application.

    Args:
        broker: open, with its topology declared or soon to be.
        settings: limits and secrets.
        checks: further parts for ``/readyz`` beside the broker.
    """
    view = CallbackView(broker, settings)
    app = web.Application(client_max_size=int(settings.max_body_bytes))
    app.router.add_post("/callbacks/{operation}", view.post)
    app.router.add_post("/callbacks/{operation}/{token}", view.post)
    add_health_routes(app, {"broker": lambda: broker.problem, **(checks or {})})
    for path in ("/callbacks/{operation}", "/callbacks/{operation}/{token}"):
        app.router.add_route("*", path, _only_post)
    app.router.add_route("*", "/{path:.*}", _not_found)
    return app


@asynccontextmanager
async def serve(
    app: web.Application, *, host: str, port: int
) -> AsyncIterator[tuple[str, int]]:
    """Serve ``app`` while the context is open; gives the address really taken.

    On leaving, no new connections are taken and requests in progress finish.

    Raises:
        ConfigurationError: the address cannot be listened on.
    """
    runner = web.AppRunner(
        app,
        access_log=None,
        keepalive_timeout=KEEPALIVE_SECONDS,
        shutdown_timeout=SHUTDOWN_SECONDS,
        # A client that leaves must not stop a publish that is under way.
        handler_cancellation=False,
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, backlog=1024, reuse_address=True)
        try:
            await site.start()
        except OSError as error:
            message = (
                f"expected a free address to listen on, got {host}:{port}"
                f" ({error.strerror}); set another ingress.port"
            )
            raise ConfigurationError(message) from error
        taken = runner.addresses[0]
        yield str(taken[0]), int(taken[1])
    finally:
        await runner.cleanup()


async def _only_post(request: web.Request) -> web.Response:
    return problem(
        405,
        f"expected POST, got {request.method}",
        code="method_not_allowed",
        headers={"Allow": "POST"},
    )


async def _not_found(_: web.Request) -> web.Response:
    detail = (
        "expected /callbacks/{operation}, /healthz, /readyz or /metrics;"
        " check the callback address"
    )
    return problem(404, detail, code="not_found")
