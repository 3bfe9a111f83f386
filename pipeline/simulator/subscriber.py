"""Other people's webhook receivers, simulated: well, failing, slow or down."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Self

import orjson
from aiohttp import web

from pipeline.simulator.server import serve

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import timedelta
    from types import TracebackType

#: The header of Standard Webhooks that is the same for every try of one event.
ID_HEADER: Final = "webhook-id"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedRequest:
    """One request that a subscriber got."""

    #: The endpoint: the last part of its address.
    endpoint: str
    #: Header names in lower case.
    headers: Mapping[str, str]
    body: bytes
    received_at: datetime
    #: What it was answered.
    status: int

    @property
    def webhook_id(self) -> str:
        """The event's id from the header; empty if there was none."""
        return self.headers.get(ID_HEADER, "")

    def json(self) -> Any:
        """Read the body.

        Raises:
            ValueError: it is no JSON.
        """
        return orjson.loads(self.body)


@dataclass(slots=True, kw_only=True)
class _Endpoint:
    """How an endpoint behaves, and what it got."""

    failures_left: float = 0
    failing_status: int = 500
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_seconds: float = 0.0
    requests: list[ReceivedRequest] = field(default_factory=list)
    #: Accepted requests by ``webhook-id``: a second one has no further effect.
    effects: dict[str, ReceivedRequest] = field(default_factory=dict)
    repeats: int = 0


class SimulatedSubscriber:
    """A webhook receiver on loopback with any number of endpoints.

    ``/hooks/{name}`` exists for every name, answers 200 and remembers what came. It
    does as a good receiver does: a ``webhook-id`` that it has accepted before is
    answered 200 again and has no second effect.

    To be used as an async context manager.

    Args:
        host: address to listen on.
        port: 0 takes any free port.
        on_request: called with every request once it is noted; must be quick.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        on_request: Callable[[ReceivedRequest], None] | None = None,
    ) -> None:
        self._on_request = on_request
        self._host = host
        self._port = port
        self._endpoints: dict[str, _Endpoint] = {}
        self._changed = asyncio.Condition()
        self._stack = AsyncExitStack()
        self._url = ""

    async def __aenter__(self) -> Self:
        """Start the server.

        Raises:
            OSError: the address is in use.
        """
        app = web.Application()
        app.router.add_post("/hooks/{name}", self._receive)
        served = serve(app, host=self._host, port=self._port)
        self._url = await self._stack.enter_async_context(served)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the server."""
        await self._stack.aclose()

    def url(self, name: str) -> str:
        """Give the address of an endpoint."""
        return f"{self._url}/hooks/{name}"

    def fail(
        self,
        name: str,
        *,
        times: int | None = None,
        status: int = 500,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Answer with ``status`` so many times; ``None`` means until ``heal``."""
        endpoint = self._endpoint(name)
        endpoint.failures_left = float("inf") if times is None else times
        endpoint.failing_status = status
        endpoint.headers = headers or {}

    def slow_down(self, name: str, delay: timedelta) -> None:
        """Wait before every answer, until ``heal``."""
        self._endpoint(name).delay_seconds = delay.total_seconds()

    def heal(self, name: str) -> None:
        """Answer 200 at once from now on."""
        endpoint = self._endpoint(name)
        endpoint.failures_left = 0
        endpoint.delay_seconds = 0.0

    def requests(self, name: str) -> Sequence[ReceivedRequest]:
        """List every request of an endpoint, in the order of their answers."""
        return tuple(self._endpoint(name).requests)

    def effects(self, name: str) -> Sequence[ReceivedRequest]:
        """List the accepted requests, each ``webhook-id`` once."""
        return tuple(self._endpoint(name).effects.values())

    def repeats(self, name: str) -> int:
        """Count accepted requests whose ``webhook-id`` was accepted before."""
        return self._endpoint(name).repeats

    async def wait_for(
        self, condition: Callable[[], bool], *, deadline_seconds: float = 10.0
    ) -> None:
        """Wait until ``condition`` holds; it is asked after every request.

        Raises:
            TimeoutError: it did not in time; the message says what came instead.
        """
        try:
            async with asyncio.timeout(deadline_seconds), self._changed:
                await self._changed.wait_for(condition)
        except TimeoutError:
            came = {
                name: f"{len(endpoint.requests)} requests, {len(endpoint.effects)} ok"
                for name, endpoint in self._endpoints.items()
            }
            message = f"expected a condition within {deadline_seconds:g} s, got {came}"
            raise TimeoutError(message) from None

    def _endpoint(self, name: str) -> _Endpoint:
        return self._endpoints.setdefault(name, _Endpoint())

    async def _receive(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        endpoint = self._endpoint(name)
        body = await request.read()
        received_at = datetime.now(UTC)
        is_failing = endpoint.failures_left > 0
        if is_failing:
            endpoint.failures_left -= 1
        if endpoint.delay_seconds:
            await asyncio.sleep(endpoint.delay_seconds)
        status = endpoint.failing_status if is_failing else 200
        received = ReceivedRequest(
            endpoint=name,
            headers={key.lower(): value for key, value in request.headers.items()},
            body=body,
            received_at=received_at,
            status=status,
        )
        async with self._changed:
            self._note(endpoint, received)
            if self._on_request is not None:
                self._on_request(received)
            self._changed.notify_all()
        return web.Response(
            status=status, headers=endpoint.headers if is_failing else {}
        )

    def _note(self, endpoint: _Endpoint, received: ReceivedRequest) -> None:
        endpoint.requests.append(received)
        if received.status != 200:  # noqa: PLR2004 - what we answer when all is well
            return
        # Without an id every request counts as another one.
        key = received.webhook_id or f"request {len(endpoint.requests)}"
        if key in endpoint.effects:
            endpoint.repeats += 1
        else:
            endpoint.effects[key] = received
