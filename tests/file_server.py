"""A file server whose every byte and pause a test decides."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

#: Writes an answer, or does not.
Answer: TypeAlias = Callable[[asyncio.StreamWriter], Awaitable[None]]

MP3_HEAD: Final = b"ID3\x04\x00\x00\x00\x00\x00\x00"
PNG_HEAD: Final = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a client asked for."""

    method: str
    #: Path and query.
    target: str
    #: Names in lower case.
    headers: Mapping[str, str]
    body: bytes


def make_mp3(size_bytes: int = 1000, *, fill: bytes = b"\x55") -> bytes:
    """Make something that starts like an MP3 file."""
    return MP3_HEAD + fill * (size_bytes - len(MP3_HEAD))


def head(status: int = 200, *, headers: Mapping[str, str] | None = None) -> bytes:
    """Write the head of an answer."""
    lines = [f"HTTP/1.1 {status} Whatever"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode()


def answer(
    body: bytes = b"",
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    length: int | None = None,
) -> Answer:
    """Answer with a body; ``length`` is announced instead of its real one."""
    announced = {"Content-Length": str(len(body) if length is None else length)}

    async def write(writer: asyncio.StreamWriter) -> None:
        writer.write(head(status, headers=announced | dict(headers or {})) + body)
        await writer.drain()

    return write


def chunked(*pieces: bytes) -> Answer:
    """Answer in chunks, without a length."""

    async def write(writer: asyncio.StreamWriter) -> None:
        writer.write(head(headers={"Transfer-Encoding": "chunked"}))
        for piece in (*pieces, b""):
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            await writer.drain()

    return write


def until_closed(body: bytes) -> Answer:
    """Answer as HTTP/1.0 did: the end of the connection is the end of the body."""

    async def write(writer: asyncio.StreamWriter) -> None:
        writer.write(head(headers={"Connection": "close"}) + body)
        await writer.drain()

    return write


def silent(beginning: bytes = b"") -> Answer:
    """Send a beginning, then nothing more and never an end."""

    async def write(writer: asyncio.StreamWriter) -> None:
        writer.write(beginning)
        await writer.drain()
        await asyncio.Event().wait()

    return write


class FileServer:
    """Answers each path as it was told; 404 for all others."""

    def __init__(self, *, context: ssl.SSLContext | None = None) -> None:
        self.answers: dict[str, Answer] = {}
        self.requests: list[Request] = []
        self._context = context
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._accept, "127.0.0.1", 0, ssl=self._context
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def port(self) -> int:
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def url(self, target: str, *, host: str = "127.0.0.1") -> str:
        scheme = "http" if self._context is None else "https"
        return f"{scheme}://{host}:{self.port}{target}"

    def add(self, path: str, how: Answer) -> str:
        """Answer ``path`` with ``how``; give its address."""
        self.answers[path] = how
        return self.url(path)

    def _accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            request = await _read(reader)
            self.requests.append(request)
            path = request.target.partition("?")[0]
            await self.answers.get(path, answer(status=404))(writer)
            writer.close()
            await writer.wait_closed()
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            # The client has had enough.
            return
        finally:
            writer.transport.abort()


async def _read(reader: asyncio.StreamReader) -> Request:
    raw = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = raw.strip().split("\r\n")
    method, target, _ = first.split(" ")
    pairs = (line.partition(":") for line in lines)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(method=method, target=target, headers=headers, body=body)
