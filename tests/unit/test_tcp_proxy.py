"""The proxy of the tests has to break exactly what it is asked to break."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tests.tcp_proxy import Direction, TcpProxy
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def echoing() -> AsyncIterator[TcpProxy]:
    """A proxy before a server that sends everything back."""
    writers = []

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        while data := await reader.read(1024):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with TcpProxy.to(f"amqp://user:secret@127.0.0.1:{port}/host?a=b") as proxy:
        yield proxy
    server.close()
    for writer in writers:
        writer.close()
    await server.wait_closed()


async def _connected(
    proxy: TcpProxy,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    port = int(proxy.url_for("tcp://any").rpartition(":")[2])
    return await asyncio.open_connection("127.0.0.1", port)


async def _answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes
) -> bytes:
    writer.write(data)
    async with asyncio.timeout(5):
        return await reader.readexactly(len(data))


async def test_address_leads_through_the_proxy() -> None:
    """Only host and port are others."""
    async with TcpProxy.to("amqp://user:secret@example.net/host?a=b") as proxy:
        through = proxy.url_for("amqp://user:secret@example.net/host?a=b")

    assert through.startswith("amqp://user:secret@127.0.0.1:")
    assert through.endswith("/host?a=b")


async def test_bytes_pass_and_ends_are_passed_on() -> None:
    """A client that has said all still gets the whole answer."""
    async with echoing() as proxy:
        reader, writer = await _connected(proxy)
        assert b"hello" == await _answer(reader, writer, b"hello")

        writer.write(b"x" * 200_000)
        writer.write_eof()
        async with asyncio.timeout(5):
            rest = await reader.read()

        assert 200_000 == len(rest)
        assert {200_005} == set(proxy.passed_bytes.values())
        writer.close()


async def test_refused_connections_leave_open_ones_alone() -> None:
    """And after ``accept`` the port is the same."""
    async with echoing() as proxy:
        reader, writer = await _connected(proxy)
        await _answer(reader, writer, b"1")

        await proxy.refuse()
        with pytest.raises(OSError):
            await _connected(proxy)
        assert b"2" == await _answer(reader, writer, b"2")
        await proxy.accept()

        again = await _connected(proxy)
        assert b"3" == await _answer(*again, b"3")
        writer.close()
        again[1].close()


async def test_held_bytes_come_later() -> None:
    """A black hole takes nothing away."""
    async with echoing() as proxy:
        reader, writer = await _connected(proxy)
        await _answer(reader, writer, b"1")

        proxy.hold()
        writer.write(b"late")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await reader.read(1)
        proxy.resume()

        async with asyncio.timeout(5):
            assert b"late" == await reader.readexactly(4)
        writer.close()


async def test_dropped_bytes_are_lost() -> None:
    """Only those of the direction that was named."""
    async with echoing() as proxy:
        reader, writer = await _connected(proxy)
        await _answer(reader, writer, b"1")

        proxy.drop(Direction.TO_CLIENT)
        writer.write(b"lost")

        async def is_lost() -> bool:
            return proxy.dropped_bytes[Direction.TO_CLIENT] == 4

        await eventually(is_lost)
        proxy.resume()
        assert b"2" == await _answer(reader, writer, b"2")
        writer.close()


async def test_cut_breaks_every_connection() -> None:
    """Both ends notice at once."""
    async with echoing() as proxy:
        reader, writer = await _connected(proxy)
        await _answer(reader, writer, b"1")
        assert 1 == proxy.open_connections

        proxy.cut()

        async with asyncio.timeout(5):
            assert b"" == await _rest(reader)
        pair = await _connected(proxy)
        assert b"2" == await _answer(*pair, b"2")
        writer.close()
        pair[1].close()


async def test_cut_comes_after_so_many_bytes() -> None:
    """Exactly so many arrive, and the next connection is whole."""
    async with echoing() as proxy:
        reader, writer = await _connected(proxy)
        await _answer(reader, writer, b"1")

        proxy.cut_after(3, Direction.TO_CLIENT)
        writer.write(b"abcdef")

        async with asyncio.timeout(5):
            assert b"abc" == await _rest(reader)
        pair = await _connected(proxy)
        assert b"abcdef" == await _answer(*pair, b"abcdef")
        writer.close()
        pair[1].close()


async def _rest(reader: asyncio.StreamReader) -> bytes:
    """Read to the end, however the connection ends."""
    found = b""
    try:
        while data := await reader.read(1):
            found += data
    except ConnectionError:
        pass
    return found
