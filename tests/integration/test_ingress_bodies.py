"""Bodies that have to be waited for: together they may have so many bytes."""

from __future__ import annotations

import asyncio
import gzip
import io
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import REGISTRY

from pipeline.errors import ConfigurationError
from tests.ingress import CALLBACK, running_ingress
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.ingress import Ingress

pytestmark = pytest.mark.usefixtures("nothing_unhandled")

POST = b"POST /callbacks/generate HTTP/1.1\r\nHost: x\r\n"
#: One body and a half of those below.
LIMITS: dict[str, Any] = {
    "max_body_bytes": 1000,
    "operation_max_body_bytes": {"midi": 1000},
    "max_total_body_bytes": 1500,
}
BODY = CALLBACK + b" " * (1000 - len(CALLBACK))
LENGTH = b"Content-Length: 1000\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
SMALL_GZIP = b"Content-Encoding: gzip\r\nContent-Length: 30\r\n"
HIDDEN_GZIP = b"Content-Encoding: identity\r\n" + SMALL_GZIP


def _refused() -> float:
    labels = {"cause": "bodies"}
    return REGISTRY.get_sample_value("pipeline_refusals_total", labels) or 0


@asynccontextmanager
async def _waited_for(
    ingress: Ingress, framing: bytes = LENGTH, begun: bytes = b"{"
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Begin a request and leave its body unfinished."""
    reader, writer = await asyncio.open_connection(ingress.host, ingress.port)
    try:
        # The word to go on comes when the body has its room.
        writer.write(POST + framing + b"Expect: 100-continue\r\n\r\n")
        async with asyncio.timeout(5):
            said = await reader.readuntil(b"\r\n\r\n")
        assert said.startswith(b"HTTP/1.1 100 ")
        writer.write(begun)
        yield reader, writer
    finally:
        writer.close()


async def _head_only(ingress: Ingress, framing: bytes = LENGTH) -> bytes:
    """Send a head alone; give the answer up to the end of its body, or the 100."""
    reader, writer = await asyncio.open_connection(ingress.host, ingress.port)
    try:
        writer.write(POST + framing + b"Expect: 100-continue\r\n\r\n")
        async with asyncio.timeout(5):
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"HTTP/1.1 100 "):
                return head
            return head + await reader.readuntil(b"}")
    finally:
        writer.close()


@pytest.mark.parametrize("first", [LENGTH, CHUNKED, SMALL_GZIP])
@pytest.mark.parametrize("second", [LENGTH, CHUNKED, SMALL_GZIP, HIDDEN_GZIP])
async def test_body_that_finds_no_room_is_told_to_come_later(
    sqlite_url: str, first: bytes, second: bytes
) -> None:
    """Before it is read. Of what does not say its size the largest is assumed."""
    async with (
        running_ingress(sqlite_url, **LIMITS) as ingress,
        _waited_for(ingress, first, b""),
    ):
        before = _refused()

        answer = await _head_only(ingress, second)

        assert b"503" == answer.split(b" ")[1]
        assert b"too_busy" in answer
        assert b"retry-after: 2" in answer.lower()
        assert before + 1 == _refused()


async def test_body_that_is_there_needs_no_room(sqlite_url: str) -> None:
    """Nearly all come with their head; nobody can keep them out with slow ones."""
    async with (
        running_ingress(sqlite_url, **LIMITS) as ingress,
        _waited_for(ingress),
    ):
        request = POST + LENGTH + b"Connection: close\r\n\r\n" + BODY
        assert b"200" == (await ingress.raw(request)).split(b" ")[1]
        packed = gzip.compress(BODY)
        answer = await ingress.post(data=packed, Content_Encoding="gzip")
        assert 200 == answer.status


async def test_small_body_takes_no_more_than_it_says(sqlite_url: str) -> None:
    """Half as much as there is, and then there is as much again."""
    half = b"Content-Length: 750\r\n"
    async with (
        running_ingress(sqlite_url, **LIMITS) as ingress,
        _waited_for(ingress, half),
        _waited_for(ingress, half),
    ):
        answer = await _head_only(ingress, b"Content-Length: 1\r\n")

        assert b"503" == answer.split(b" ")[1]


@pytest.mark.parametrize(
    "how", ["accepted", "unreadable", "too slow", "left", "broken"]
)
async def test_room_is_free_again_however_a_body_ends(
    sqlite_url: str, how: str
) -> None:
    """Else so many callers, over the years, would close the door for ever."""
    timeout = "3s" if how == "too slow" else "60s"
    async with running_ingress(sqlite_url, body_timeout=timeout, **LIMITS) as ingress:
        framing = SMALL_GZIP if how == "broken" else LENGTH
        async with _waited_for(ingress, framing, b"") as (reader, writer):
            assert b"503" == (await _head_only(ingress)).split(b" ")[1]
            if how == "accepted":
                writer.write(BODY)
            elif how == "unreadable":
                writer.write(b" " * 1000)
            elif how == "broken":
                writer.write(b"no gzip at all".ljust(30))
            elif how == "left":
                writer.transport.abort()
            if how != "left":
                # Less than the default for a body that is too slow.
                async with asyncio.timeout(7):
                    assert b"HTTP/1.1 " == (await reader.readuntil(b"\r\n"))[:9]

        async def is_let_in() -> bool:
            return b"100" == (await _head_only(ingress)).split(b" ")[1]

        await eventually(is_let_in)


async def test_body_that_says_that_it_is_too_large_is_refused_unread(
    sqlite_url: str,
) -> None:
    """There is nothing to wait for."""
    async with running_ingress(sqlite_url, **LIMITS) as ingress:
        answer = await _head_only(ingress, b"Content-Length: 1001\r\n")

        assert b"413" == answer.split(b" ")[1]
        assert b"body_too_large" in answer
        assert 413 == (await ingress.post(data=io.BytesIO(BODY + b" "))).status


async def test_less_room_than_for_one_body_is_a_mistake(sqlite_url: str) -> None:
    """That of MIDI counts, too, which has a larger one unasked."""
    with pytest.raises(ConfigurationError, match=r"max_total_body_bytes.*2097152"):
        async with running_ingress(sqlite_url, max_total_body_bytes="1MiB"):
            pass
