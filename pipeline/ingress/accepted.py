"""The answer to an accepted callback: always the same bytes, so made only once.

aiohttp makes a response of a dozen parts for each request, checks and joins them.
Almost every request here gets the same empty 200. A server that does nothing else
took 51 us of processor time a request with aiohttp's, and 35 us with ready bytes
(``docs/decisions/0004``).
"""

from __future__ import annotations

import time
from email.utils import formatdate
from typing import TYPE_CHECKING, Final

from aiohttp import HttpVersion11, web

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter


class Accepted(web.StreamResponse):
    """An empty 200 for requests of HTTP/1.1 that leave their connection open.

    One object answers all of them: it keeps nothing of a request.
    """

    def __init__(self) -> None:
        super().__init__(status=200)
        self._made_at = 0
        self._bytes = b""

    @property
    def keep_alive(self) -> bool:
        """Say that the connection stays open, which the headers say as well."""
        return True

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send the answer; a client that has left is not told."""
        if (transport := request.transport) is not None:
            transport.write(self.as_bytes())
            # Who sends and does not read has to wait here.
            await request.writer.drain()
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """End the answer, which was sent whole."""

    def as_bytes(self) -> bytes:
        """Give the whole answer, with the date of this second."""
        now = int(time.time())
        if now != self._made_at:
            date = formatdate(now, usegmt=True)
            answer = f"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nDate: {date}\r\n\r\n"
            self._made_at, self._bytes = now, answer.encode()
        return self._bytes


ACCEPTED: Final = Accepted()


def accepted(request: web.BaseRequest) -> web.StreamResponse:
    """Answer with an empty 200."""
    if request.version == HttpVersion11 and request.keep_alive:
        return ACCEPTED
    return web.Response()
