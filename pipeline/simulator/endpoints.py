"""The provider's HTTP API: submit, details, credit, download link."""

from __future__ import annotations

import hmac
import json
from collections import deque
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import unquote, urlsplit

from aiohttp import web

from pipeline.simulator.options import OPERATIONS
from pipeline.simulator.payloads import accepted, encode, refused
from pipeline.simulator.submission import find_fault

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime

    from pipeline.simulator.clock import SimulatedClock
    from pipeline.simulator.payloads import Body
    from pipeline.simulator.submission import Door

#: Where each operation is submitted.
SUBMIT_PATHS: Final = {
    name: "/api/v1/generate" + ("" if name == "generate" else f"/{name}")
    for name in OPERATIONS
}
#: New tasks of one account within ``RATE_WINDOW``.
RATE_LIMIT: Final = 20
RATE_WINDOW: Final = timedelta(seconds=10)
#: How long a link made on demand works.
DOWNLOAD_LINK_LIFETIME: Final = timedelta(minutes=20)


class Desk(Protocol):
    """What the endpoints need from the provider behind them."""

    #: Submissions left until the account has none.
    credits: int

    async def submit(
        self, callback_url: str, *, operation: str = ..., model: str = ...
    ) -> str:
        """Start a task and give its id."""

    def details(self, task_id: str) -> Body | None:
        """Give the answer of the details endpoint for a task."""

    def link(self, path: str, *, lifetime: timedelta | None = None) -> str:
        """Sign a file's path anew.

        Raises:
            KeyError: there is no such file.
        """


class Endpoints:
    """Answers as one of the provider's doors documents it.

    Errors come with HTTP status 200 and their code in the body, as they do in live
    traffic, except for a bad key (401) and, at door "K", the rate limit (429).
    """

    def __init__(
        self, desk: Desk, *, door: Door, api_key: str | None, clock: SimulatedClock
    ) -> None:
        self._desk = desk
        self._door = door
        self._api_key = api_key
        self._clock = clock
        self._recent: deque[datetime] = deque()

    def add_routes(self, app: web.Application) -> None:
        """Serve everything under ``/api/v1``."""
        for operation, path in SUBMIT_PATHS.items():
            app.router.add_post(path, self._keyed(self._submit_as(operation)))
        router = app.router
        router.add_get("/api/v1/generate/record-info", self._keyed(self._details))
        router.add_get("/api/v1/generate/credit", self._keyed(self._credit))
        router.add_get("/api/v1/chat/credit", self._keyed(self._credit))
        router.add_post("/api/v1/common/download-url", self._keyed(self._download_url))
        router.add_route("*", "/api/{rest:.*}", self._wrong_path)

    def _keyed(
        self, handler: Callable[[web.Request], Awaitable[web.Response]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        """Ask for the key before anything else."""

        async def guarded(request: web.Request) -> web.Response:
            given = request.headers.get("Authorization", "").encode()
            expected = f"Bearer {self._api_key}".encode()
            if self._api_key is None or hmac.compare_digest(given, expected):
                return await handler(request)
            message = "You do not have access permissions"
            return _answer(refused(401, message), status=401)

        return guarded

    def _submit_as(
        self, operation: str
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def submit(request: web.Request) -> web.Response:
            body = await _read_object(request)
            bad_code = 400 if self._door == "S" else 422
            if body is None:
                return _answer(refused(bad_code, "The body must be a JSON object"))
            fault = find_fault(operation, body, door=self._door)
            if fault is not None:
                return _answer(refused(fault.code, fault.message))
            if self._desk.credits <= 0:
                code = 429 if self._door == "S" else 402
                return _answer(refused(code, "The current credits are insufficient"))
            if self._is_too_often():
                return self._too_often()
            self._desk.credits -= 1
            task_id = await self._desk.submit(
                body["callBackUrl"], operation=operation, model=body["model"]
            )
            return _answer(accepted(task_id))

        return submit

    def _is_too_often(self) -> bool:
        now = self._clock.now()
        while self._recent and now - self._recent[0] > RATE_WINDOW:
            self._recent.popleft()
        if len(self._recent) >= RATE_LIMIT:
            return True
        self._recent.append(now)
        return False

    def _too_often(self) -> web.Response:
        message = "Your call frequency is too high. Try again later."
        if self._door == "S":
            return _answer(refused(430, message))
        return _answer(refused(429, message), status=429)

    async def _details(self, request: web.Request) -> web.Response:
        body = self._desk.details(request.query.get("taskId", ""))
        if body is None:
            code = 400 if self._door == "S" else 422
            return _answer(refused(code, "The record does not exist"))
        return _answer(body)

    async def _credit(self, _: web.Request) -> web.Response:
        return _answer({"code": 200, "msg": "success", "data": self._desk.credits})

    async def _download_url(self, request: web.Request) -> web.Response:
        body = await _read_object(request)
        path = unquote(urlsplit(str((body or {}).get("url", ""))).path)
        try:
            link = self._desk.link(path, lifetime=DOWNLOAD_LINK_LIFETIME)
        except KeyError:
            return _answer(refused(422, "The url is not one of our files"))
        return _answer({"code": 200, "msg": "success", "data": link})

    async def _wrong_path(self, _: web.Request) -> web.Response:
        return _answer(refused(404, "Wrong path or method"), status=404)


async def _read_object(request: web.Request) -> dict[str, Any] | None:
    """Read a JSON object, or give ``None`` for anything else."""
    try:
        body = json.loads(await request.read())
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def _answer(body: Body, *, status: int = 200) -> web.Response:
    return web.Response(
        body=encode(body), status=status, content_type="application/json"
    )
