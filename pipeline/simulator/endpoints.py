"""The provider's HTTP API: submit, details, credits, links, recovery."""

from __future__ import annotations

import hmac
import json
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import unquote

from aiohttp import web

from pipeline.simulator.doors import DOORS
from pipeline.simulator.operations import BY_NAME, Family
from pipeline.simulator.payloads import accepted, encode, refused
from pipeline.simulator.submission import find_fault

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from pipeline.simulator.bodies import Body
    from pipeline.simulator.doors import Door
    from pipeline.simulator.rates import RateKeeper

#: How long a link made on demand works.
DOWNLOAD_LINK_LIFETIME: Final = timedelta(minutes=20)
#: Calls that are answered at once, without a task, by their path: their ``data``.
AT_ONCE: Final[Mapping[str, Body]] = {
    "/api/v1/generate/generate-persona": {
        "personaId": "persona-1",
        "name": "Simulated",
        "description": "A voice that there is not.",
    },
    "/api/v1/generate/get-timestamped-lyrics": {
        "alignedWords": [
            {"word": "Slow ", "success": True, "startS": 0.5, "endS": 0.9, "palign": 0}
        ],
        "waveformData": [0.1, 0.4, 0.2],
        "hootCer": 0.0,
        "isStreamed": False,
    },
    "/api/v1/style/generate": {
        "taskId": "style-1",
        "result": "lo-fi, slow, warm",
        "creditsConsumed": 0.4,
    },
}
#: Of one earlier task they are made once.
_ONCE: Final = frozenset({Family.WAV, Family.COVER})


class Desk(Protocol):
    """What the endpoints need from the provider behind them."""

    #: Submissions left until the account has none.
    credits: int

    @property
    def url(self) -> str:
        """Base address of the API and of links."""

    async def submit(
        self, callback_url: str, *, operation: str = ..., model: str = ...
    ) -> str:
        """Start a task and give its id."""

    def details(self, task_id: str, *, path: str | None = None) -> Body | None:
        """Give the answer of the details endpoint at ``path`` for a task."""

    def recover(self, task_id: str, callback_url: str) -> bool:
        """Start to bring back lost files of a task; false: there is no such task."""

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
        self,
        desk: Desk,
        *,
        door: Door,
        api_key: str | None,
        rates: RateKeeper,
        names_earlier: bool = False,
    ) -> None:
        self._desk = desk
        self._door: Door = door
        self._rules = DOORS[door]
        self._api_key = api_key
        self._rates = rates
        self._names_earlier = names_earlier
        #: The task of what is made once.
        self._made: dict[tuple[str, str, str], str] = {}
        self._refusals: dict[str, list[tuple[int, int]]] = {}
        #: How often each path was called with the right key, refused or not.
        self.calls: Counter[str] = Counter()

    def refuse_next(
        self, path: str, code: int, *, status: int = 200, times: int = 1
    ) -> None:
        """Answer the next calls of a path with ``code``, before anything else."""
        self._refusals.setdefault(path, []).extend([(code, status)] * times)

    def add_routes(self, app: web.Application) -> None:
        """Serve everything under ``/api/v1``."""
        router = app.router
        for name, operation in BY_NAME.items():
            is_recovery = operation.family is Family.RECOVERY
            submit = self._recover if is_recovery else self._submit_as(name)
            router.add_post(operation.submit_path, self._guarded(submit))
        for path in dict.fromkeys(one.details_path for one in BY_NAME.values()):
            router.add_get(path, self._guarded(self._details))
        for path in AT_ONCE:
            router.add_post(path, self._guarded(self._at_once))
        router.add_get(self._rules.credits_path, self._guarded(self._credit))
        if self._rules.mints_links:
            path = "/api/v1/common/download-url"
            router.add_post(path, self._guarded(self._download_url))
        router.add_route("*", "/api/{rest:.*}", self._wrong_path)

    def _guarded(
        self, handler: Callable[[web.Request], Awaitable[web.Response]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        """Ask for the key before anything else."""

        async def guarded(request: web.Request) -> web.Response:
            given = request.headers.get("Authorization", "").encode()
            expected = f"Bearer {self._api_key}".encode()
            if self._api_key is not None and not hmac.compare_digest(given, expected):
                message = "You do not have access permissions"
                return _answer(refused(401, message), status=401)
            self.calls[request.path] += 1
            if planned := self._refusals.get(request.path):
                code, status = planned.pop(0)
                return _answer(refused(code, "As it was told to"), status=status)
            return await handler(request)

        return guarded

    def _submit_as(
        self, operation: str
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def submit(request: web.Request) -> web.Response:
            body = await _read_object(request)
            if body is None:
                return self._bad_request("The body must be a JSON object")
            refusal = self._refusal(operation, body)
            if refusal is not None:
                return refusal
            self._desk.credits -= 1
            task_id = await self._desk.submit(
                body["callBackUrl"], operation=operation, model=body.get("model", "V5")
            )
            self._made[_job(operation, body)] = task_id
            return _answer(accepted(task_id))

        return submit

    def _refusal(self, operation: str, body: Mapping[str, Any]) -> web.Response | None:
        """Say why no task is made, if none is."""
        fault = find_fault(operation, body, door=self._door)
        if fault is not None:
            return _answer(refused(fault.code, fault.message))
        is_once = BY_NAME[operation].family in _ONCE
        if is_once and (earlier := self._made.get(_job(operation, body))):
            code = self._rules.repeated or self._rules.bad_request
            said = refused(code, "The record already exists")
            if self._names_earlier:
                said["data"] = {"taskId": earlier}
            return _answer(said)
        if self._desk.credits <= 0:
            message = "The current credits are insufficient"
            return _answer(refused(self._rules.no_credits, message))
        return None if self._rates.allows_submission() else self._too_often()

    def _bad_request(self, message: str) -> web.Response:
        return _answer(refused(self._rules.bad_request, message))

    def _too_often(self) -> web.Response:
        message = "Your call frequency is too high. Try again later."
        codes = self._rules.too_often
        code = codes[(len(self._rates.violations) - 1) % len(codes)]
        return _answer(refused(code, message), status=self._rules.too_often_status)

    async def _details(self, request: web.Request) -> web.Response:
        query = request.query
        task_id = query.get("taskId") or query.get("task_id", "")
        if not self._rates.allows_question(task_id):
            return self._too_often()
        body = self._desk.details(task_id, path=request.path)
        if body is None:
            return self._bad_request("The record does not exist")
        return _answer(body)

    async def _recover(self, request: web.Request) -> web.Response:
        """Take either door's spelling, as whoever moved from one to the other needs."""
        body = await _read_object(request) or {}
        task_id = body.get("sunoTaskId") or body.get("task_id") or ""
        address = body.get("callBackUrl") or body.get("call_back_url") or ""
        if not self._rates.allows_submission():
            return self._too_often()
        if not self._desk.recover(str(task_id), str(address)):
            return self._bad_request("The record does not exist")
        data = {"task_id": task_id}
        return _answer({"code": 200, "msg": "success", "data": data})

    async def _at_once(self, request: web.Request) -> web.Response:
        if await _read_object(request) is None:
            return self._bad_request("The body must be a JSON object")
        data = AT_ONCE[request.path]
        return _answer({"code": 200, "msg": "success", "data": data})

    async def _credit(self, _: web.Request) -> web.Response:
        return _answer({"code": 200, "msg": "success", "data": self._desk.credits})

    async def _download_url(self, request: web.Request) -> web.Response:
        url = str((await _read_object(request) or {}).get("url", ""))
        base = f"{self._desk.url}/"
        path = url.partition("?")[0] if url.startswith(base) else ""
        path = unquote(path.removeprefix(base.rstrip("/")))
        try:
            link = self._desk.link(path, lifetime=DOWNLOAD_LINK_LIFETIME)
        except KeyError:
            return _answer(refused(422, "The url is not one of our files"))
        return _answer({"code": 200, "msg": "success", "data": link})

    async def _wrong_path(self, _: web.Request) -> web.Response:
        return _answer(refused(404, "Wrong path or method"), status=404)


def _job(operation: str, body: Mapping[str, Any]) -> tuple[str, str, str]:
    """Name what is made once: a file of a track, or a cover of a whole task."""
    is_of_track = BY_NAME[operation].family is Family.WAV
    track = body.get("audioId") if is_of_track else None
    task_id = body.get("taskId") or body.get("parentTaskId")
    return operation, str(task_id), str(track)


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
