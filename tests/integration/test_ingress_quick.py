"""Callbacks that come whole take a shorter way, and nobody can tell from outside."""

from __future__ import annotations

import asyncio
import socket
import struct
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import pytest

from pipeline.ingress.app import Routes, serve
from pipeline.ingress.connection import KNOWN_NAMES, knows_aiohttp
from pipeline.ingress.gate import Gate
from pipeline.ingress.health import health_routes
from pipeline.ingress.views import CallbackView
from pipeline.settings import IngressSettings
from tests.ingress import CALLBACK
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from typing import TypeAlias

    from pipeline.message import Publication

    Store: TypeAlias = Callable[[Publication], Awaitable[None]]

pytestmark = pytest.mark.usefixtures("nothing_unhandled")

MARK: Final = "0123456789abcdef" * 2
#: A socket that is closed at once, with a reset instead of an end.
RESET: Final = struct.pack("ii", 1, 0)
HEAD: Final = b"POST /callbacks/upload-extend HTTP/1.1\r\nHost: x\r\n"


def whole(body: bytes = CALLBACK, head: bytes = HEAD, more: bytes = b"") -> bytes:
    """A request in one piece."""
    return head + more + b"Content-Length: %d\r\n\r\n" % len(body) + body


class Stored:
    """Stores callbacks in memory, when it is allowed to."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.jobs: list[object] = []
        self.began = 0
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def store(self, publication: Publication) -> None:
        self.began += 1
        await self.may_end.wait()
        if b"breaks" in publication.envelope.body:
            raise RuntimeError("what nobody has foreseen")
        self.bodies.append(publication.envelope.body)
        self.jobs.append(publication.envelope.headers.get("job"))


class Served:
    """An ingress, and connections to it."""

    def __init__(
        self, address: tuple[str, int], stored: Stored, routes: Routes
    ) -> None:
        self.address = address
        self.stored = stored
        self.routes = routes

    async def talk(self, *pieces: bytes, answers: int) -> list[bytes]:
        """Send pieces one after the other; give the heads of so many answers."""
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            return [await answer(reader) for _ in range(answers)]
        finally:
            writer.close()


async def answer(reader: asyncio.StreamReader) -> bytes:
    """Read one answer; give its first line."""
    async with asyncio.timeout(10):
        head = await reader.readuntil(b"\r\n\r\n")
        fields = dict(
            line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if line
        )
        await reader.readexactly(int(fields[b"content-length"]))
    return head.partition(b"\r\n")[0]


def seen(condition: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    """Make something to wait for."""

    async def ask() -> bool:
        return condition()

    return ask


@pytest.fixture(params=["quick", "usual"])
async def served(request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    """The same ingress, with and without the quick way."""
    stored = Stored()
    settings = IngressSettings.model_validate({"max_requests": 50})
    view = CallbackView(stored.store, settings)
    routes = Routes(health_routes({}), view, Gate(settings))
    if request.param == "usual":
        routes.quick = None
    async with serve(routes, host="127.0.0.1", port=0) as address:
        yield Served(address, stored, routes)


def test_the_quick_way_fits_the_aiohttp_that_is_installed() -> None:
    """Otherwise every callback takes the usual one, which is slower."""
    assert knows_aiohttp()
    assert KNOWN_NAMES


async def test_requests_in_one_piece_are_answered_in_their_order(
    served: Served,
) -> None:
    """Whichever way each of them goes."""
    bodies = [b'{"task_id": "t%d"}' % number for number in range(3)]
    pieces = [
        whole(bodies[0]),
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
        whole(b"no JSON"),
        whole(bodies[1], more=b"X-Odd: 1\r\n"),
        whole(b"{}", head=HEAD.replace(b"upload-extend", b"nonsense")),
        whole(bodies[2]),
        b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n",
    ]

    lines = await served.talk(b"".join(pieces), answers=len(pieces))

    statuses = [int(line.split()[1]) for line in lines]
    assert [200, 200, 400, 200, 404, 200, 404] == statuses
    assert bodies == served.stored.bodies


@pytest.mark.parametrize(
    ("query", "job"),
    [
        ("", None),
        (f"?job={MARK}", MARK),
        (f"?a=b&job={MARK}", MARK),
        (f"?job={MARK}&token=x", MARK),
        ("?job=", None),
        (f"?job={MARK[1:]}", None),
        (f"?job={MARK}0", None),
        (f"?job={MARK.upper()}", None),
        (f"?JOB={MARK}", None),
        ("?job=%00%FF%ED%A0%80", None),
        (f"?job={'%61' * 32}", "a" * 32),
    ],
)
async def test_mark_of_a_job_goes_along_and_anything_else_does_not(
    served: Served, query: str, job: str | None
) -> None:
    """It opens nothing and closes nothing: the callback is taken in any case."""
    for path in ("upload-extend", "upload-extend/a-token"):
        head = HEAD.replace(b"upload-extend", f"{path}{query}".encode())

        assert [b"HTTP/1.1 200 OK"] == await served.talk(whole(head=head), answers=1)

    assert [job, job] == served.stored.jobs


async def test_what_comes_while_a_callback_is_stored_waits_for_its_turn(
    served: Served,
) -> None:
    """Answers are told apart by their order only."""
    served.stored.may_end.clear()
    reader, writer = await asyncio.open_connection(*served.address)
    writer.write(whole(b'{"task_id": "first"}'))
    await eventually(seen(lambda: served.stored.began == 1))
    writer.write(whole(b"no JSON") + whole(b'{"task_id": "second"}')[:-5])

    served.stored.may_end.set()
    first, refused = await answer(reader), await answer(reader)
    writer.write(whole(b'{"task_id": "second"}')[-5:])
    second = await answer(reader)
    writer.close()

    assert b"HTTP/1.1 200 OK" == first
    assert b"HTTP/1.1 400 Bad Request" == refused
    assert b"HTTP/1.1 200 OK" == second
    assert [b'{"task_id": "first"}', b'{"task_id": "second"}'] == served.stored.bodies


async def test_failure_of_the_program_is_a_500_and_ends_the_connection(
    served: Served,
) -> None:
    """Nobody knows what state it is in, and the caller is to send it again."""
    reader, writer = await asyncio.open_connection(*served.address)
    writer.write(whole(b'{"task_id": "breaks"}'))

    line = await answer(reader)
    rest = await reader.read()
    writer.close()

    assert b"HTTP/1.1 500 Internal Server Error" == line
    assert b"" == rest


async def test_caller_that_leaves_while_its_callback_is_stored_is_forgotten(
    served: Served,
) -> None:
    """The callback is stored all the same, and others are served."""
    served.stored.may_end.clear()
    _, writer = await asyncio.open_connection(*served.address)
    writer.write(whole(b'{"task_id": "left"}'))
    await eventually(seen(lambda: served.stored.began == 1))
    writer.transport.abort()

    served.stored.may_end.set()
    lines = await served.talk(whole(), answers=1)

    assert [b"HTTP/1.1 200 OK"] == lines
    assert [b'{"task_id": "left"}', CALLBACK] == served.stored.bodies


async def test_request_behind_a_callback_of_a_caller_that_has_left_is_dropped(
    served: Served,
) -> None:
    """That it has left is noticed while its callback is answered."""
    served.stored.may_end.clear()
    caller = socket.create_connection(served.address)
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    caller.sendall(whole() + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    await eventually(seen(lambda: served.stored.began == 1))

    # Both in one turn of the loop: the answer is what fails, not the next read.
    served.stored.may_end.set()
    caller.close()

    lines = await served.talk(whole(), answers=1)
    assert [b"HTTP/1.1 200 OK"] == lines
    assert [CALLBACK, CALLBACK] == served.stored.bodies


async def test_more_callbacks_at_a_time_than_allowed_are_turned_away(
    served: Served,
) -> None:
    """Also when they all come in the same moment."""
    served.stored.may_end.clear()
    talks = [asyncio.create_task(served.talk(whole(), answers=1)) for _ in range(60)]
    await eventually(seen(lambda: served.stored.began == 50))
    await eventually(seen(lambda: sum(talk.done() for talk in talks) == 10))

    served.stored.may_end.set()
    statuses = sorted([int((await talk)[0].split()[1]) for talk in talks])

    assert [200] * 50 + [503] * 10 == statuses


async def test_a_hundred_callbacks_of_a_caller_that_never_reads_are_stored(
    served: Served,
) -> None:
    """Its answers are thrown away with the connection."""
    reader, writer = await asyncio.open_connection(*served.address)

    writer.write(whole() * 100)
    await eventually(seen(lambda: len(served.stored.bodies) == 100))
    writer.transport.abort()
    del reader

    assert [CALLBACK] * 100 == served.stored.bodies


async def test_callback_in_progress_is_answered_when_the_ingress_stops() -> None:
    """And the connection is closed after it."""
    stored = Stored()
    settings = IngressSettings()
    routes = Routes({}, CallbackView(stored.store, settings), Gate(settings))
    stored.may_end.clear()
    async with serve(routes, host="127.0.0.1", port=0) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(whole())
        await eventually(seen(lambda: stored.began == 1))
        asyncio.get_running_loop().call_later(0.1, stored.may_end.set)

    line = await answer(reader)
    rest = await reader.read()
    writer.close()

    assert b"HTTP/1.1 200 OK" == line
    assert b"" == rest


async def test_callback_that_does_not_end_is_given_up_when_the_ingress_stops(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing goes on behind a server that has stopped."""
    monkeypatch.setattr("pipeline.ingress.app.SHUTDOWN_SECONDS", 0.1)
    served.stored.may_end.clear()
    before = asyncio.all_tasks()
    async with serve(served.routes, host="127.0.0.1", port=0) as address:
        _, writer = await asyncio.open_connection(*address)
        writer.write(whole())
        await eventually(seen(lambda: served.stored.began == 1))
    writer.close()

    await eventually(seen(lambda: asyncio.all_tasks() <= before))

    assert [] == served.stored.bodies


async def test_connection_is_kept_after_the_quick_way_and_closed_when_it_idles(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after any other request."""
    monkeypatch.setattr("pipeline.ingress.app.KEEPALIVE_SECONDS", 0.3)
    async with serve(served.routes, host="127.0.0.1", port=0) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(whole())
        first = await answer(reader)
        writer.write(whole())
        second = await answer(reader)
        async with asyncio.timeout(5):
            rest = await reader.read()
        writer.close()

    assert [b"HTTP/1.1 200 OK"] * 2 == [first, second]
    assert b"" == rest


async def test_store_that_takes_longer_than_idle_connections_live_is_waited_for(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection whose callback is being stored does not idle."""
    monkeypatch.setattr("pipeline.ingress.app.KEEPALIVE_SECONDS", 0.2)
    served.stored.may_end.clear()
    async with serve(served.routes, host="127.0.0.1", port=0) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(whole())
        delay = timedelta(seconds=0.6)
        loop = asyncio.get_running_loop()
        loop.call_later(delay.total_seconds(), served.stored.may_end.set)

        line = await answer(reader)
        writer.close()

    assert b"HTTP/1.1 200 OK" == line
