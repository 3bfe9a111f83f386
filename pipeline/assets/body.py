"""Receive the body of a response in large pieces, at little cost.

A body of known length goes past the HTTP parser: once the headers are read, the
connection is handed to a ``BufferedProtocol`` of ours, and the system writes
straight into the buffer that is then hashed and stored. That saves two copies and
most changes of thread: 2.4 instead of 3.1 seconds of CPU per gigabyte
(``benchmarks/download.py``). All other bodies come through aiohttp.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeAlias

from pipeline.errors import FetchFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiohttp import ClientResponse

Piece: TypeAlias = bytes | memoryview

KIB: Final = 1024
#: The most that the event loop copies in one call: many downloads may be ready in
#: one turn of it. Twice as much is no faster and holds up everything else longer.
SLICE_BYTES: Final = 128 * KIB
SMALLEST_BYTES: Final = 256 * KIB
LARGEST_BYTES: Final = 1024 * KIB
#: What the buffers of all downloads may take together: two for each, which grow
#: smaller as downloads grow more, but never below ``SMALLEST_BYTES``.
BUDGET_BYTES: Final = 32 * 1024 * KIB


class Buffers:
    """Decides how large the buffers of one fetcher's downloads are."""

    def __init__(self) -> None:
        self._downloads = 0

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Count one more download."""
        self._downloads += 1
        try:
            yield
        finally:
            self._downloads -= 1

    @property
    def size_bytes(self) -> int:
        """The size of a buffer made now."""
        size = LARGEST_BYTES
        while size > SMALLEST_BYTES and 2 * size * self._downloads > BUDGET_BYTES:
            size //= 2
        return size


class Body(ABC):
    """A body on its way in, for one task."""

    @property
    @abstractmethod
    def received_bytes(self) -> int:
        """How much has come in so far, read or not."""

    @abstractmethod
    async def next(self) -> Piece:
        """Wait for the next piece; an empty one is the end.

        Pieces are large, but for the last. A piece is valid until the next call.

        Raises:
            aiohttp.ClientError, OSError: the connection broke.
            FetchFailed: the body ended before its announced length.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the connection. Idempotent."""


def receive(response: ClientResponse, buffers: Buffers) -> Body:
    """Choose how to receive the body of a response whose headers have just come.

    There must be no ``await`` in between, or more may be in the parser by now.
    """
    length = response.content_length
    connection = response.connection
    content = response.content
    if (
        length is None
        or connection is None
        or connection.transport is None
        or connection.protocol is None
        or "Transfer-Encoding" in response.headers
        or content.is_eof()
        or content.exception() is not None
        or content.total_bytes > SMALLEST_BYTES
    ):
        return ParsedBody(response)
    return DirectBody(response, connection.transport, length, buffers)


class ParsedBody(Body):
    """A body that aiohttp reads for us."""

    def __init__(self, response: ClientResponse) -> None:
        self._response = response

    @property
    def received_bytes(self) -> int:
        """How much has come in so far."""
        return self._response.content.total_bytes

    async def next(self) -> Piece:
        """Collect until there is enough for one change of thread."""
        pieces: list[bytes] = []
        size = 0
        while size < SMALLEST_BYTES:
            piece = await self._response.content.readany()
            if not piece:
                break
            pieces.append(piece)
            size += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        """Close the connection."""
        self._response.close()


class DirectBody(Body, asyncio.BufferedProtocol):
    """A body of known length, received into two buffers that take turns.

    While one is lent to the reader, the other one fills. When both are full,
    nothing more is read from the connection, and the sender has to wait.
    """

    def __init__(
        self,
        response: ClientResponse,
        transport: asyncio.Transport,
        length: int,
        buffers: Buffers,
    ) -> None:
        self._response = response
        self._transport = transport
        self._http = transport.get_protocol()
        self._buffers = buffers
        self._length = length
        self._left = length
        self._lost: BaseException | None = None
        self._arrived = asyncio.Event()
        #: How many of the two buffers are neither filling, nor full, nor lent.
        self._free = 2
        self._spare = bytearray()
        self._filling: bytearray | None = None
        self._filled = 0
        self._full: deque[tuple[bytearray, int]] = deque()
        self._lent: bytearray | None = None
        transport.pause_reading()
        first = response.content.read_nowait() if response.content.total_bytes else b""
        transport.set_protocol(self)
        self._begin()
        while first:
            part = self.get_buffer(0)
            count = min(len(part), len(first))
            part[:count] = first[:count]
            self.buffer_updated(count)
            first = first[count:]

    @property
    def received_bytes(self) -> int:
        """How much has come in so far."""
        return self._length - self._left

    async def next(self) -> Piece:
        """Take back the last piece's buffer, and wait until the other one is full."""
        if self._lent is not None:
            self._spare, self._lent = self._lent, None
            self._free += 1
            self._begin()
        while not self._full:
            if self._left == 0:
                return b""
            if self._lost is not None:
                message = (
                    f"expected {self._length} bytes, "
                    f"the connection ended after {self.received_bytes}"
                )
                raise FetchFailed(message) from self._lost
            self._arrived.clear()
            await self._arrived.wait()
        self._lent, size = self._full.popleft()
        return memoryview(self._lent)[:size]

    def close(self) -> None:
        """Give the connection back to aiohttp, which closes it."""
        if self._lost is None:
            self._transport.set_protocol(self._http)
        self._response.close()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Say where the next bytes go: never more than the body has left."""
        del sizehint
        assert self._filling is not None  # noqa: S101  else reading is paused
        end = self._filled + min(SLICE_BYTES, self._left)
        return memoryview(self._filling)[self._filled : end]

    def buffer_updated(self, nbytes: int) -> None:
        """Count what was received, and pass on a buffer that is complete."""
        assert self._filling is not None  # noqa: S101  else reading is paused
        self._left -= nbytes
        self._filled += nbytes
        if self._filled == len(self._filling) or self._left == 0:
            self._full.append((self._filling, self._filled))
            self._filling = None
            self._arrived.set()
            self._begin()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that nothing more comes, and tell aiohttp, which owns the socket."""
        self._lost = exc or EOFError("closed by the sender")
        self._arrived.set()
        self._http.connection_lost(exc)

    def _begin(self) -> None:
        """Fill the next buffer if one is free; else let the sender wait."""
        if self._filling is not None:
            return
        if self._left == 0 or self._free == 0:
            self._transport.pause_reading()
            return
        size = self._buffers.size_bytes
        self._filling = self._spare if len(self._spare) == size else bytearray(size)
        self._spare = bytearray()
        self._filled = 0
        self._free -= 1
        self._transport.resume_reading()
