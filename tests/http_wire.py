"""A caller that writes requests byte for byte and reads answers strictly.

Clients mend what they send and forgive what they get; this one does neither.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson

from pipeline.ingress.refusals import REFUSAL_KINDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

#: Far more than an answer should take.
WITHIN_SECONDS: Final = 20.0
#: Every pair of status and code that is documented.
DOCUMENTED: Final = frozenset((kind.status, kind.code) for kind in REFUSAL_KINDS)
#: The header that goes with a refusal.
HEADER_OF: Final = {kind.code: kind.header for kind in REFUSAL_KINDS if kind.header}
PROBLEM_MEMBERS: Final = {"type", "title", "status", "detail", "code"}
OK: Final = 200
CONTINUE: Final = 100

_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) (\d{3}) [ -~]+")
_HEADER: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([ -~]*)")
#: How often the other side of a connection in the same loop gets its turn, so that
#: what was written has been read before more is written.
_TURNS: Final = 3


class WireError(AssertionError):
    """An answer is no correct HTTP, or none that the contract knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer."""

    status: int
    version: str
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str | None:
        """The code of a refusal."""
        return None if self.status in (OK, CONTINUE) else self.problem["code"]

    @property
    def closes(self) -> bool:
        """Whether it says that the connection ends here."""
        said = self.headers.get("connection", "").lower()
        return said == "close" or (self.version == "1.0" and said != "keep-alive")

    @property
    def problem(self) -> dict[str, Any]:
        """The problem document; one without a body answered HEAD."""
        return dict(orjson.loads(self.body)) if self.body else {"code": None}

    def check(self, *, method: str = "POST") -> None:
        """Hold an answer to a callback against the contract.

        Raises:
            WireError: it is not what the contract says.
        """
        if self.status == OK:
            expect(self.body == b"", "expected an empty 200, got", self)
            return
        if method == "HEAD":
            expect(self.status < 500, "expected no 5xx, got", self)
            return
        media_type = self.headers.get("content-type")
        expect(media_type == "application/problem+json", "expected a problem", self)
        problem = self.problem
        expect(set(problem) == PROBLEM_MEMBERS, "expected five members", self)
        expect(problem["status"] == self.status, "expected one status", self)
        code = problem["code"]
        expect((self.status, code) in DOCUMENTED, "expected a known refusal", self)
        header = HEADER_OF.get(code)
        if header is not None:
            expect(header.lower() in self.headers, f"expected {header}", self)


def expect(is_so: bool, what: str, found: object) -> None:  # noqa: FBT001  the condition of an assertion
    """Raise what was expected, and what was found."""
    if not is_so:
        raise WireError(f"{what}: {found!r}"[:2000])


def make_request(
    body: bytes = b"",
    *,
    path: str = "/callbacks/upload-extend",
    method: str = "POST",
    version: str = "1.1",
    headers: Iterable[str] = (),
    chunks: Sequence[int] | None = None,
) -> bytes:
    """Write a request; with ``chunks`` in pieces of these sizes, repeated."""
    framing = (
        f"Content-Length: {len(body)}"
        if chunks is None
        else "Transfer-Encoding: chunked"
    )
    lines = [f"{method} {path} HTTP/{version}", "Host: x", *headers, framing]
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")
    return head + (body if chunks is None else chunked(body, chunks))


def chunked(body: bytes, sizes: Sequence[int]) -> bytes:
    """Write a body in chunks of these sizes, repeated."""
    written, position, number = bytearray(), 0, 0
    while position < len(body):
        piece = body[position : position + max(1, sizes[number % len(sizes)])]
        written += b"%x\r\n%b\r\n" % (len(piece), piece)
        position += len(piece)
        number += 1
    return bytes(written + b"0\r\n\r\n")


class Caller:
    """One connection."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._reader = reader
        self._writer = writer
        #: Whether an answer has said that it is the last one.
        self.is_closed = False

    @property
    def transport(self) -> asyncio.WriteTransport:
        """What is below, to break it."""
        return self._writer.transport

    async def send(self, *pieces: bytes) -> None:
        """Send pieces, each of which arrives before the next one is sent."""
        for piece in pieces:
            self._writer.write(piece)
            await self._writer.drain()
            if len(pieces) > 1:
                for _ in range(_TURNS):
                    await asyncio.sleep(0)

    def end(self) -> None:
        """Send no more; answers can still be read."""
        self._writer.write_eof()

    async def reply(
        self,
        *,
        method: str = "POST",
        interim: bool = False,
        within: float = WITHIN_SECONDS,
    ) -> Reply:
        """Read one answer; with ``interim`` a 100 counts as one.

        Raises:
            WireError: it is no HTTP.
            EOFError, ConnectionError: the connection ended before it.
        """
        async with asyncio.timeout(within):
            while True:
                found = await self._read(method)
                if interim or found.status != CONTINUE:
                    self.is_closed = found.closes
                    return found

    async def replies(self, count: int) -> list[Reply]:
        """Read so many answers."""
        return [await self.reply() for _ in range(count)]

    async def rest(
        self, *, count: int | None = None, within: float = WITHIN_SECONDS
    ) -> list[Reply]:
        """Read answers until the connection ends, or nothing comes for a while.

        Args:
            count: no more than so many.
            within: how long to wait for each, in seconds.
        """
        found: list[Reply] = []
        try:
            while count is None or len(found) < count:
                found.append(await self.reply(within=within))
        except (EOFError, ConnectionError, TimeoutError):
            pass
        return found

    async def _read(self, method: str) -> Reply:
        head = await self._reader.readuntil(b"\r\n\r\n")
        first, *lines = head[:-4].split(b"\r\n")
        status_line = _STATUS_LINE.fullmatch(first)
        if status_line is None:
            raise WireError(f"expected a status line, got {first!r}")
        headers: dict[str, str] = {}
        for line in lines:
            header = _HEADER.fullmatch(line)
            if header is None or header[1].lower().decode() in headers:
                raise WireError(f"expected a header, once, got {line!r}")
            headers[header[1].lower().decode()] = header[2].decode()
        status = int(status_line[2])
        body = b""
        if status != CONTINUE:
            length = headers.get("content-length", "")
            expect(length.isdigit(), "expected Content-Length", head)
            if method != "HEAD":
                body = await self._reader.readexactly(int(length))
        version = f"1.{status_line[1].decode()}"
        return Reply(status=status, version=version, headers=headers, body=body)


@asynccontextmanager
async def calling(host: str, port: int) -> AsyncIterator[Caller]:
    """Open a connection and close it at the end."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        yield Caller(reader, writer)
    finally:
        writer.transport.abort()
