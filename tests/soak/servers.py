"""The world around the pipeline: the provider's files, and subscribers.

They keep ids and not bodies, so that hours of traffic fit into memory.
"""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, Final, Self

import orjson
from aiohttp import web

from pipeline.simulator.server import serve
from tests.soak.history import READY, STORED, Effect, Hearing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

LEAST_FILE_BYTES: Final = 2_000
MOST_FILE_BYTES: Final = 40_000


def make_file(name: str) -> bytes:
    """Make the bytes of a file, which its name decides."""
    chance = Random(name)
    size = chance.randint(LEAST_FILE_BYTES, MOST_FILE_BYTES)
    return b"ID3\x04\x00\x00\x00\x00\x00\x00" + chance.randbytes(size)


def digest_of(name: str) -> str:
    """Give the hash of a file."""
    return hashlib.sha256(make_file(name)).hexdigest()


def effect_of(event: Mapping[str, Any]) -> Effect:
    """Read what an event says, ids left out."""
    data = event["data"]
    detail = {READY: "stage", STORED: "kind"}.get(event["type"])
    return Effect(event["type"], event["subject"], data[detail] if detail else "")


@dataclass(slots=True, kw_only=True)
class Endpoint:
    """One subscriber: what it has heard, and how it behaves now."""

    hearing: Hearing
    #: Answered instead of 200 while it is ill.
    status: int = 200
    delay_seconds: float = 0.0
    #: What it has heard, for those who wait for something.
    seen: set[Effect] = field(default_factory=set)
    #: Those of them that say what a callback has said.
    told: set[Effect] = field(default_factory=set)


class Surroundings:
    """Subscribers and files on one loopback port, as an async context manager."""

    def __init__(self, hearings: Mapping[str, Hearing]) -> None:
        self.endpoints = {n: Endpoint(hearing=h) for n, h in hearings.items()}
        self.files_served = 0
        self._stack = AsyncExitStack()
        self.url = ""

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/hooks/{name}", self._hear)
        app.router.add_get("/files/{name}", self._file)
        served = serve(app, host="127.0.0.1", port=0)
        self.url = await self._stack.enter_async_context(served)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    async def _hear(self, request: web.Request) -> web.Response:
        endpoint = self.endpoints[request.match_info["name"]]
        body = await request.read()
        if endpoint.status != 200:
            return web.Response(status=endpoint.status)
        # Noted before the answer: who gave up waiting does not undo it.
        effect = effect_of(orjson.loads(body))
        if endpoint.hearing.accept(request.headers["webhook-id"], effect):
            endpoint.seen.add(effect)
            if effect.type not in (STORED, READY):
                endpoint.told.add(effect)
        if endpoint.delay_seconds:
            await asyncio.sleep(endpoint.delay_seconds)
        return web.Response()

    async def _file(self, request: web.Request) -> web.Response:
        self.files_served += 1
        return web.Response(
            body=make_file(request.match_info["name"]), content_type="audio/mpeg"
        )
