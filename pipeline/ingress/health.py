"""Health, readiness and metrics, for the ingress and for worker processes.

``/healthz`` says that the process lives and answers; ``/readyz`` says whether it
can do its work now, and if not, why; ``/metrics`` is for Prometheus.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import orjson
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

#: Names of parts and what is wrong with each; ``None``: nothing is.
Checks: TypeAlias = Mapping[str, Callable[[], str | None]]


def add_health_routes(app: web.Application, checks: Checks) -> None:
    """Add ``GET /healthz``, ``/readyz`` and ``/metrics``."""

    async def healthz(_: web.Request) -> web.Response:
        return _json({"status": "ok"})

    async def readyz(_: web.Request) -> web.Response:
        found = {name: check() for name, check in checks.items()}
        ready = not any(found.values())
        document = {
            "status": "ready" if ready else "not ready",
            "checks": {name: text or "ok" for name, text in found.items()},
        }
        return _json(document, status=200 if ready else 503)

    async def metrics(_: web.Request) -> web.Response:
        headers = {"Content-Type": CONTENT_TYPE_LATEST}
        return web.Response(body=generate_latest(), headers=headers)

    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)


def _json(document: object, *, status: int = 200) -> web.Response:
    return web.Response(
        status=status,
        body=orjson.dumps(document) + b"\n",
        content_type="application/json",
    )
