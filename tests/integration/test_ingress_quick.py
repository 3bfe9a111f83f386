"""Callbacks that come whole take a shorter way, and nobody can tell from outside."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import pytest
from prometheus_client import REGISTRY

from pipeline.errors import BrokerError, BrokerUnavailable, PublishRefused
from pipeline.ingress.app import Routes, serve
from pipeline.ingress.gate import Gate
from pipeline.ingress.health import health_routes
from pipeline.ingress.known_aiohttp import KNOWN_NAMES, knows_aiohttp
from pipeline.ingress.views import CallbackView
from pipeline.settings import IngressSettings
from tests.ingress import CALLBACK
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from pipeline.message import Publication

pytestmark = pytest.mark.usefixtures("nothing_unhandled")

MARK: Final = "0123456789abcdef" * 2
#: A socket that is closed at once, with a reset instead of an end.
RESET: Final = struct.pack("ii", 1, 0)
HEAD: Final = b"POST /callbacks/upload-extend HTTP/1.1\r\nHost: x\r\n"


def whole(body: bytes = CALLBACK, head: bytes = HEAD, more: bytes = b"") -> bytes:
    """A request in one piece."""
    return head + more + b"Content-Length: %d\r\n\r\n" % len(body) + body


class Stored:
    """Stores callbacks in memory, when it is allowed to.

    Args:
        begins: whether it can begin, so that no task is needed.
    """

    def __init__(self, *, begins: bool = False) -> None:
        self._begins = begins
        #: What the beginning ends with, and what is done about it.
        self.fails_with: BrokerError | None = None
        self.handed_on: list[BrokerError] = []
        self.succeeded = 0
        self.bodies: list[bytes] = []
        self.jobs: list[object] = []
        self.began = 0
        self.may_end = asyncio.Event()
        self.may_end.set()

    def begin(self, publication: Publication) -> asyncio.Future[None] | None:
        return asyncio.ensure_future(self._try(publication)) if self._begins else None

    async def _try(self, publication: Publication) -> None:
        if self.fails_with is None:
            await self.publish(publication)
        else:
            raise self.fails_with

    def publish_succeeded(self) -> None:
        self.succeeded += 1

    async def publish_failed(
        self, publication: Publication, error: BrokerError
    ) -> None:
        self.handed_on.append(error)
        await self.publish(publication)

    async def publish(self, publication: Publication) -> None:
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


def connected(address: tuple[str, int]) -> socket.socket:
    """Connect a caller that has hardly any room for answers."""
    caller = socket.socket()
    # Before it connects: a window that shrinks later makes it deaf to resets.
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    caller.connect(address)
    caller.settimeout(0)
    return caller


def seen(condition: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    """Make something to wait for."""

    async def ask() -> bool:
        return condition()

    return ask


@pytest.fixture(params=["begun", "quick", "usual"])
async def served(request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    """The same ingress, with and without the quick way, and with the quickest."""
    stored = Stored(begins=request.param == "begun")
    settings = IngressSettings.model_validate({"max_requests": 50})
    gate = Gate(settings)
    routes = Routes(health_routes({}), CallbackView(stored, settings), gate)
    if request.param == "usual":
        routes.quick = None
    async with serve(routes, host="127.0.0.1", port=0) as address:
        yield Served(address, stored, routes)
    assert gate.inside == 0


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


@pytest.mark.parametrize(
    "error",
    [BrokerUnavailable("away"), PublishRefused("full")],
    ids=lambda error: type(error).__name__,
)
async def test_what_was_begun_and_failed_is_handed_on_and_then_answered(
    error: BrokerError,
) -> None:
    """To whatever else keeps it; the order of answers does not change."""
    stored = Stored(begins=True)
    stored.fails_with = error
    stored.may_end.clear()
    settings = IngressSettings()
    routes = Routes({}, CallbackView(stored, settings), Gate(settings))
    async with serve(routes, host="127.0.0.1", port=0) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(whole() + whole(b"no JSON") + whole())
        await eventually(seen(lambda: stored.began == 1))
        stored.may_end.set()

        lines = [await answer(reader) for _ in range(3)]
        writer.close()

    assert [200, 400, 200] == [int(line.split()[1]) for line in lines]
    assert [error, error] == stored.handed_on
    assert [CALLBACK, CALLBACK] == stored.bodies


async def test_what_was_begun_and_nobody_else_keeps_is_a_503() -> None:
    """And the connection stays: the caller is to send it again."""

    class Failing(Stored):
        async def publish(self, publication: Publication) -> None:
            raise BrokerUnavailable(f"no room for {publication.envelope.message_id}")

    stored = Failing(begins=True)
    settings = IngressSettings()
    gate = Gate(settings)
    routes = Routes(health_routes({}), CallbackView(stored, settings), gate)
    async with serve(routes, host="127.0.0.1", port=0) as address:
        served = Served(address, stored, routes)
        health = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"

        lines = await served.talk(whole() + health, answers=2)

    assert [503, 200] == [int(line.split()[1]) for line in lines]
    assert gate.inside == 0


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


def in_chunks(count: int) -> bytes:
    """A callback whose body comes in so many chunks of one byte."""
    chunks = (b"1\r\n%c\r\n" % byte for byte in CALLBACK.ljust(count))
    return (
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(chunks) + b"0\r\n\r\n"
    )


@pytest.mark.parametrize("behind", [31, 32, 40])
async def test_many_callbacks_behind_one_whose_body_came_late_are_answered(
    served: Served, behind: int
) -> None:
    """The parser holds back what is too much at a time, and counts one too many."""
    late = whole(more=b"Expect: 100-continue\r\n")
    size = len(CALLBACK)
    reader, writer = await asyncio.open_connection(*served.address)
    writer.write(late[:-size])
    async with asyncio.timeout(10):
        await reader.readuntil(b"100 Continue\r\n\r\n")
    writer.write(late[-size:])
    lines = [await answer(reader)]

    writer.write(whole() * behind)
    lines += [await answer(reader) for _ in range(behind)]
    writer.close()

    assert {b"HTTP/1.1 200 OK"} == set(lines)
    assert [CALLBACK] * (1 + behind) == served.stored.bodies


@pytest.mark.parametrize("count", [2048, 2049, 2050, 5000])
async def test_callback_behind_one_of_thousands_of_chunks_is_answered(
    served: Served, count: int
) -> None:
    """The parser pauses itself for those, and has to be told to go on."""
    reader, writer = await asyncio.open_connection(*served.address)
    writer.write(in_chunks(count))
    first = await answer(reader)
    writer.write(whole())
    second = await answer(reader)
    writer.close()

    assert [b"HTTP/1.1 200 OK"] * 2 == [first, second]
    assert [CALLBACK.ljust(count), CALLBACK] == served.stored.bodies


async def test_caller_that_does_not_read_gets_its_answers_when_it_does(
    served: Served,
) -> None:
    """And in their order, though the ingress had to wait with them."""
    with connected(served.address) as caller:
        loop = asyncio.get_running_loop()
        pieces = [whole(b'{"task_id": "t%d"}' % number) for number in range(5_000)]
        async with asyncio.timeout(60):
            sending = asyncio.create_task(loop.sock_sendall(caller, b"".join(pieces)))
            await eventually(seen(lambda: len(served.stored.bodies) > 1000))
            answers = bytearray()
            while answers.count(b"HTTP/1.1 200 OK") < len(pieces):
                answers += await loop.sock_recv(caller, 2**20)
            await sending

    ids = [b'{"task_id": "t%d"}' % number for number in range(len(pieces))]
    assert ids == served.stored.bodies


async def test_caller_that_never_reads_is_cut_off(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or it would hold its connection for ever, and needs no token for that."""
    monkeypatch.setattr("pipeline.ingress.app.KEEPALIVE_SECONDS", 0.3)
    async with serve(served.routes, host="127.0.0.1", port=0) as address:
        with connected(address) as caller, pytest.raises(ConnectionError):
            await _send_and_never_read(caller)


async def test_caller_that_never_reads_does_not_delay_the_stop(served: Served) -> None:
    serving = serve(served.routes, host="127.0.0.1", port=0)
    address = await serving.__aenter__()
    with connected(address) as caller:
        sending = asyncio.create_task(_send_and_never_read(caller))
        # It is stuck once no more is stored: its answers have nowhere to go.
        known = -1
        while known != len(served.stored.bodies) or known < 1000:
            known = len(served.stored.bodies)
            await asyncio.wait([sending], timeout=0.5)
        began = time.monotonic()

        await serving.__aexit__(None, None, None)

        # A bug would wait for the caller: 10 s.
        assert time.monotonic() - began < 8
        with pytest.raises(ConnectionError):
            await sending


async def _send_and_never_read(caller: socket.socket) -> None:
    """Send for half a minute, if the other side bears it for so long."""
    async with asyncio.timeout(30):
        while True:
            await asyncio.get_running_loop().sock_sendall(caller, whole() * 100)


@pytest.mark.parametrize("begins", [True, False])
async def test_callback_in_progress_is_answered_when_the_ingress_stops(
    *, begins: bool
) -> None:
    """And the connection is closed after it."""
    stored = Stored(begins=begins)
    settings = IngressSettings()
    routes = Routes({}, CallbackView(stored, settings), Gate(settings))
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
    # Nobody waits for it any more.
    served.stored.may_end.set()


async def test_error_that_nobody_has_foreseen_is_counted(served: Served) -> None:
    def counted() -> float:
        labels = {"operation": "upload-extend", "status": "500"}
        return REGISTRY.get_sample_value("pipeline_callbacks_total", labels) or 0.0

    before = counted()

    (line,) = await served.talk(whole(b'{"task_id": "breaks"}'), answers=1)

    assert line.startswith(b"HTTP/1.1 500 ")
    assert 1 == counted() - before


async def test_error_in_the_beginning_is_told_and_stores_nothing(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been handed on already: a second publish would be a repeat."""

    def begin(_: Publication) -> None:
        raise RuntimeError("what nobody has foreseen")

    monkeypatch.setattr(served.stored, "begin", begin)

    (line,) = await served.talk(whole(), answers=1)

    if served.routes.quick is None:  # nothing is begun
        assert b"HTTP/1.1 200 OK" == line
    else:
        assert line.startswith(b"HTTP/1.1 500 ")
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
