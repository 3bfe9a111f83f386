"""Health, readiness and metrics, for the ingress and for worker processes.

``/healthz`` says that the process lives and answers; ``/readyz`` says whether it
can do its work now, and if not, why; ``/metrics`` is for Prometheus.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol, TypeAlias

import orjson
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

#: Names of parts and what is wrong with each; ``None``: nothing is.
Checks: TypeAlias = Mapping[str, Callable[[], str | None]]
#: Answers a GET without looking at the request.
Get: TypeAlias = Callable[[], Awaitable[web.Response]]

READY: Final = "ready"
#: Callbacks are taken, but wait here: somebody should look at it.
DEGRADED: Final = "degraded"
NOT_READY: Final = "not ready"


class Standby(Protocol):
    """Takes callbacks while the broker does not."""

    @property
    def broker_problem(self) -> str | None:
        """Why the broker takes none; ``None``: it does."""

    @property
    def problem(self) -> str | None:
        """Why it takes none itself; ``None``: it does."""

    @property
    def is_in_use(self) -> bool:
        """Whether some wait in it."""

    @property
    def state(self) -> Mapping[str, object]:
        """How many, how old."""


def health_routes(checks: Checks, *, standby: Standby | None = None) -> dict[str, Get]:
    """Give the answers for ``GET /healthz``, ``/readyz`` and ``/metrics``.

    With ``standby`` the process can do its work while that takes callbacks, though
    less well: it is degraded then, which is an answer of 200.
    """

    async def healthz() -> web.Response:
        return _json({"status": "ok"})

    async def readyz() -> web.Response:
        found = {name: check() for name, check in checks.items()}
        status = READY if not any(found.values()) else NOT_READY
        document: dict[str, object] = {}
        if standby is not None:
            status = _with_standby(status, standby)
            found["spool"] = standby.problem
            document["spool"] = standby.state
        document = {
            "status": status,
            "checks": {name: text or "ok" for name, text in found.items()},
            **document,
        }
        return _json(document, status=503 if status == NOT_READY else 200)

    async def metrics() -> web.Response:
        headers = {"Content-Type": CONTENT_TYPE_LATEST}
        return web.Response(body=generate_latest(), headers=headers)

    return {"/healthz": healthz, "/readyz": readyz, "/metrics": metrics}


def _with_standby(status: str, standby: Standby) -> str:
    """Weigh what is wrong: callbacks are to come here while they are kept here."""
    if standby.broker_problem is not None:
        # Whatever else is wrong follows from it.
        return DEGRADED if standby.problem is None else NOT_READY
    if status == READY and (standby.problem is not None or standby.is_in_use):
        return DEGRADED
    return status


def _json(document: object, *, status: int = 200) -> web.Response:
    return web.Response(
        status=status,
        body=orjson.dumps(document) + b"\n",
        content_type="application/json",
    )
