"""An ingress on a real broker, and a caller for it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import orjson

from pipeline.broker import open_broker
from pipeline.ingress.app import make_ingress, serve
from pipeline.ingress.peers import peers_of
from pipeline.ingress.tls import certificate_of
from pipeline.settings import IngressSettings
from tests.factories import make_topology
from tests.waiting import receive

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

    from pipeline.broker.port import Broker, Delivery
    from pipeline.ingress.health import Checks
    from pipeline.topology import Topology

#: Every refusal has these members, and no others.
PROBLEM_MEMBERS: Final = {"type", "title", "status", "detail", "code"}
CALLBACK: Final = orjson.dumps(
    {
        "code": 200,
        "msg": "All generated successfully.",
        "data": {"callbackType": "complete", "task_id": "5c79be8e", "data": []},
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        """The problem document, of which every member is checked (RFC 9457)."""
        assert "application/problem+json" == self.headers["content-type"]
        document = orjson.loads(self.body)
        assert PROBLEM_MEMBERS == set(document)
        assert self.status == document["status"]
        assert "about:blank" == document["type"]
        assert all(document[name] for name in PROBLEM_MEMBERS)
        return dict(document)


class Ingress:
    """A running ingress."""

    def __init__(
        self,
        address: tuple[str, int],
        broker: Broker,
        session: aiohttp.ClientSession,
        *,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.host, self.port = address
        self._tls = tls
        self.broker = broker
        self._session = session

    async def post(
        self,
        path: str = "/callbacks/upload-extend",
        data: object = CALLBACK,
        *,
        method: str = "POST",
        **headers: str,
    ) -> Answer:
        """Send a callback; underscores in names of headers become hyphens."""
        sent = {"Content-Type": "application/json"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        async with self._session.request(
            method,
            f"{'https' if self._tls else 'http'}://{self.host}:{self.port}{path}",
            ssl=self._tls or True,
            data=data,
            headers=sent,
            allow_redirects=False,
        ) as response:
            return Answer(
                status=response.status,
                headers={k.lower(): v for k, v in response.headers.items()},
                body=await response.read(),
            )

    async def get(self, path: str, *, method: str = "GET") -> Answer:
        """Ask for something."""
        return await self.post(path, data=None, method=method)

    async def raw(self, request: bytes, *, within: float = 20) -> bytes:
        """Send bytes as they are and read until the connection is closed."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            writer.write(request)
            async with asyncio.timeout(within):
                return await reader.read()
        finally:
            writer.close()

    async def published(
        self, queue: str = "dedupe", *, count: int = 1
    ) -> list[Delivery]:
        """Take what was published and acknowledge it."""
        async with self.broker.consume(queue, prefetch=count) as consumer:
            deliveries = await receive(consumer, count)
            await consumer.ack(deliveries)
        return deliveries

    async def count(self, queue: str = "dedupe") -> int:
        """Count what was published."""
        return (await self.broker.depth(queue)).ready


@asynccontextmanager
async def running_ingress(
    broker_url: str,
    *,
    topology: Topology | None = None,
    deadline: timedelta = timedelta(seconds=30),
    is_declared: bool = True,
    checks: Checks | None = None,
    tls_client: ssl.SSLContext | None = None,
    **settings: Any,
) -> AsyncIterator[Ingress]:
    """Run an ingress with ``settings`` in front of a broker.

    With certificate files in the settings its caller needs ``tls_client``.
    """
    chosen = IngressSettings.model_validate(settings)
    async with open_broker(broker_url, deadline=deadline) as broker:
        if is_declared:
            await broker.declare(topology or make_topology())
        routes = make_ingress(broker, chosen, checks=checks)
        serving = serve(
            routes,
            host="127.0.0.1",
            port=0,
            max_body_bytes=int(chosen.max_body_bytes),
            peers=peers_of(chosen),
            certificate=certificate_of(chosen.tls),
        )
        async with serving as address, aiohttp.ClientSession() as session:
            yield Ingress(address, broker, session, tls=tls_client)
