"""Health, readiness and metrics, for the ingress and for worker processes.

``/healthz`` says that the process lives and answers; ``/readyz`` says whether it
can do its work now, and if not, why; ``/metrics`` is for Prometheus.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

import orjson
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

#: Names of parts and what is wrong with each; ``None``: nothing is.
Checks: TypeAlias = Mapping[str, Callable[[], str | None]]
#: Answers a GET without looking at the request.
Get: TypeAlias = Callable[[], Awaitable[web.Response]]


def health_routes(checks: Checks) -> dict[str, Get]:
    """Give the answers for ``GET /healthz``, ``/readyz`` and ``/metrics``."""

    async def healthz() -> web.Response:
        return _json({"status": "ok"})

    async def readyz() -> web.Response:
        found = {name: check() for name, check in checks.items()}
        ready = not any(found.values())
        document = {
            "status": "ready" if ready else "not ready",
            "checks": {name: text or "ok" for name, text in found.items()},
        }
        return _json(document, status=200 if ready else 503)

    async def metrics() -> web.Response:
        headers = {"Content-Type": CONTENT_TYPE_LATEST}
        return web.Response(body=generate_latest(), headers=headers)

    return {"/healthz": healthz, "/readyz": readyz, "/metrics": metrics}


def _json(document: object, *, status: int = 200) -> web.Response:
    return web.Response(
        status=status,
        body=orjson.dumps(document) + b"\n",
        content_type="application/json",
    )
