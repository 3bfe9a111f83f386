"""Read the body of a callback that has not come whole, in bounded time and memory.

Whoever knows the address may begin a body and leave it unfinished, and a wrong
signature is found out only with all of it. So the bodies that are waited for at a time
have one budget: each takes its share before anything of it is read, and whoever finds
none left is told to come later (``docs/decisions/0037``).
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

from aiohttp import ClientPayloadError, HttpVersion11, web

from pipeline.errors import ConfigurationError
from pipeline.ingress.body_limits import body_limits
from pipeline.ingress.gate import BUSY_RETRY_AFTER_SECONDS, name_of
from pipeline.ingress.problems import problem
from pipeline.ingress.turned_away import Tally, TurnedAway

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiohttp import StreamReader

    from pipeline.settings import IngressSettings


class Refused(Exception):
    """Carries the answer to a callback that is not accepted."""

    def __init__(self, response: web.Response, *, is_told: bool = False) -> None:
        super().__init__(response.status)
        self.response = response
        #: Whether the log has heard of it, as one of many.
        self.is_told = is_told


class Bodies:
    """Reads bodies, each within its deadline and its limit, all within one budget.

    Args:
        settings: the deadline and the budget.
    """

    def __init__(self, settings: IngressSettings) -> None:
        self._timeout_seconds = settings.body_timeout.total_seconds()
        self._most = int(settings.max_total_body_bytes)
        self._taken = 0
        self._tally = Tally()

    @contextmanager
    def room_for(self, request: web.BaseRequest, limit: int) -> Iterator[None]:
        """Keep the room that a body may need while the context is open.

        A body that is there already needs none.

        Args:
            request: its body not read yet.
            limit: the most bytes that the body may have.

        Raises:
            Refused: it says that it is larger, or there is no room for it now.
        """
        size = 0 if request.content.is_eof() else self._size_of(request, limit)
        if size and self._taken + size > self._most:
            self._tally.add(TurnedAway.BODIES, name_of(request))
            detail = "expected fewer bodies at the same time; send it later"
            after = {"Retry-After": BUSY_RETRY_AFTER_SECONDS}
            response = problem(503, detail, code="too_busy", headers=after)
            raise Refused(response, is_told=True)
        self._taken += size
        try:
            yield
        finally:
            self._taken -= size

    async def read(self, request: web.BaseRequest, limit: int) -> bytes:
        """Read a body to its end.

        Raises:
            Refused: it is too large, too slow or broken.
        """
        try:
            return await self._read(request, limit)
        except web.HTTPRequestEntityTooLarge:
            response = _too_large(limit)
        except TimeoutError:
            detail = f"expected the whole body within {self._timeout_seconds:g} s"
            response = problem(408, detail, code="body_too_slow")
            # Half a body is still on the connection: it is of no more use.
            response.force_close()
        except (
            web.RequestPayloadError,
            ClientPayloadError,
            ConnectionError,
            ValueError,
        ):
            detail = "the body broke off or could not be decompressed"
            response = problem(400, detail, code="broken_body")
            response.force_close()
        raise Refused(response)

    async def _read(self, request: web.BaseRequest, limit: int) -> bytes:
        """Read the body once, within its deadline.

        A small body has usually arrived with the headers; then there is nothing
        to wait for, and no timer is set.
        """
        content = request.content
        if (
            request.headers.get("Expect", "").lower() == "100-continue"
            # Older callers would take it for the answer.
            and request.version >= HttpVersion11
        ):
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        if content.is_eof():
            body = content.read_nowait()
            if len(body) > limit:
                raise web.HTTPRequestEntityTooLarge(limit)
            return body
        async with asyncio.timeout(self._timeout_seconds):
            return await _pieces_of(content, limit)

    @staticmethod
    def _size_of(request: web.BaseRequest, limit: int) -> int:
        """Give the most bytes that a body can have, going by its head."""
        length = request.content_length
        # Which of several encodings counts is the parser's business: any will do.
        if length is None or "Content-Encoding" in request.headers:
            return limit
        if length > limit:
            raise Refused(_too_large(limit))
        return length


def refuse_small_total(settings: IngressSettings) -> None:
    """Check that the largest body that is allowed finds room.

    Raises:
        ConfigurationError: it does not.
    """
    largest = max(body_limits(settings).values())
    total = int(settings.max_total_body_bytes)
    if total < largest:
        message = (
            f"expected at least {largest} bytes, the largest body that is allowed"
            f" (ingress.max_body_bytes, ingress.operation_max_body_bytes); got {total}"
        )
        raise ConfigurationError(f"ingress.max_total_body_bytes: {message}")


async def _pieces_of(content: StreamReader, limit: int) -> bytes:
    # Kept as they came and joined once: aiohttp's own way lets one buffer grow, which
    # leaves holes in the memory, and took half as much again.
    pieces: list[bytes] = []
    size = 0
    while piece := await content.readany():
        size += len(piece)
        if size > limit:
            raise web.HTTPRequestEntityTooLarge(limit)
        pieces.append(piece)
    return b"".join(pieces)


def _too_large(limit: int) -> web.Response:
    detail = f"expected a body of at most {limit} bytes"
    return problem(413, detail, code="body_too_large")
