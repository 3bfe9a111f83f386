"""A TCP proxy that breaks on request: what networks do to brokers and databases.

``async with TcpProxy.to(url) as proxy`` listens on a free loopback port;
``proxy.url_for(url)`` is the same address by way of the proxy. Everything passes
until something else is asked for. Not to be used from several event loops.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING, Final, Self

from yarl import URL

if TYPE_CHECKING:
    import ssl
    from types import TracebackType

CHUNK_BYTES: Final = 64 * 1024
CONNECT_SECONDS: Final = 5.0
#: Where an address names no port.
DEFAULT_PORTS: Final = {"amqp": 5672, "amqps": 5671, "postgresql": 5432}


class Direction(Enum):
    """Which way bytes go."""

    TO_SERVER = "to server"
    TO_CLIENT = "to client"


class TcpProxy:
    """Passes bytes between clients and one server.

    With ``tls`` it is where encryption ends: clients speak TLS with it, and the
    server gets what they say in the clear.

    What is asked for holds for open connections and for those to come.
    """

    def __init__(
        self, host: str, port: int, *, tls: ssl.SSLContext | None = None
    ) -> None:
        self._server_address = host, port
        self._tls = tls
        self._listener: asyncio.Server | None = None
        self._port = 0
        self._pairs: set[_Pair] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._dropped: set[Direction] = set()
        self._left: dict[Direction, int] = {}
        self._flowing = asyncio.Event()
        self._flowing.set()
        #: Bytes that were passed on, over all connections.
        self.passed_bytes = dict.fromkeys(Direction, 0)
        #: Bytes that were lost on the way, over all connections.
        self.dropped_bytes = dict.fromkeys(Direction, 0)
        #: Connections that were accepted.
        self.accepted = 0

    @classmethod
    def to(cls, url: str, *, tls: ssl.SSLContext | None = None) -> Self:
        """Make a proxy in front of the server of an address."""
        parsed = URL(url)
        port = parsed.port or DEFAULT_PORTS[parsed.scheme]
        return cls(parsed.host or "localhost", port, tls=tls)

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.refuse()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._port

    @property
    def open_connections(self) -> int:
        """How many clients are connected now."""
        return len(self._pairs)

    def url_for(self, url: str) -> str:
        """Give an address that leads through the proxy, all else left as it is."""
        return str(URL(url).with_host("127.0.0.1").with_port(self._port))

    # -- what can go wrong ------------------------------------------------------

    async def refuse(self) -> None:
        """Refuse new connections; open ones are left alone."""
        listener, self._listener = self._listener, None
        if listener is not None:
            # Not `wait_closed`: since Python 3.12 that waits for open connections.
            listener.close()

    async def accept(self) -> None:
        """Take new connections again, at the same port."""
        if self._listener is None:
            self._listener = await asyncio.start_server(
                self._on_accepted, "127.0.0.1", self._port, ssl=self._tls
            )
            self._port = self._listener.sockets[0].getsockname()[1]

    def hold(self) -> None:
        """Be a black hole: connections stay open, nothing is passed on."""
        self._flowing.clear()

    def drop(self, direction: Direction) -> None:
        """Lose every byte of one direction."""
        self._dropped.add(direction)

    def resume(self) -> None:
        """Let everything pass again; what was held goes on, what was lost is lost."""
        self._dropped.clear()
        self._left.clear()
        self._flowing.set()

    def cut(self) -> None:
        """Break every open connection, as a firewall does that resets them."""
        for pair in tuple(self._pairs):
            pair.abort()

    def cut_after(self, count: int, direction: Direction) -> None:
        """Pass ``count`` more bytes of one direction, then ``cut``.

        Only once: connections made afterwards are whole.
        """
        self._left[direction] = count

    # -- passing on -------------------------------------------------------------

    def _on_accepted(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.accepted += 1
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                behind = await asyncio.open_connection(*self._server_address)
        except OSError:  # TimeoutError is one
            writer.transport.abort()
            return
        pair = _Pair(writer, behind[1])
        self._pairs.add(pair)
        try:
            # When one side has nothing more to say, the other may still answer.
            await asyncio.gather(
                self._pass(reader, behind[1], Direction.TO_SERVER),
                self._pass(behind[0], writer, Direction.TO_CLIENT),
            )
        finally:
            self._pairs.discard(pair)
            pair.abort()

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        direction: Direction,
    ) -> None:
        with suppress(OSError):
            while True:
                await self._flowing.wait()
                data = await reader.read(CHUNK_BYTES)
                await self._flowing.wait()
                if direction in self._dropped:
                    if not data:
                        return
                    self.dropped_bytes[direction] += len(data)
                    continue
                if not data:
                    break
                data = data[: self._left.get(direction, len(data))]
                writer.write(data)
                self.passed_bytes[direction] += len(data)
                await writer.drain()
                if self._is_used_up(direction, len(data)):
                    # So that what was passed on arrives before the end does.
                    writer.close()
                    self.cut()
            if writer.can_write_eof():
                writer.write_eof()
            else:  # TLS has no half of an end
                writer.close()

    def _is_used_up(self, direction: Direction, count: int) -> bool:
        """Count down to the end that ``cut_after`` asked for."""
        if direction not in self._left:
            return False
        self._left[direction] -= count
        if self._left[direction] > 0:
            return False
        del self._left[direction]
        return True


class _Pair:
    """Both ends of one connection."""

    def __init__(
        self, client: asyncio.StreamWriter, server: asyncio.StreamWriter
    ) -> None:
        self._ends = client, server

    def abort(self) -> None:
        """Close both at once; whoever reads or writes there gets an error."""
        for writer in self._ends:
            if not writer.transport.is_closing():
                writer.transport.abort()
