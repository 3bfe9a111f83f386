"""The ingress byte for byte: pieces, pipelines, callers that leave or never listen.

Nothing here knows how the ingress reads HTTP. Each accepted callback is looked for
behind it, in the queue, with its body unchanged.
"""

from __future__ import annotations

import asyncio
import gzip
import socket
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import Unreadable
from pipeline.provider.callback import peek
from tests.http_wire import Caller, calling, chunked, make_request
from tests.ingress import running_ingress
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from tests.http_wire import Reply
    from tests.ingress import Ingress

pytestmark = pytest.mark.usefixtures("nothing_unhandled")

PATH = "/callbacks/upload-extend"
MISSING = b'{"code":200}'
#: Much more than sockets and buffers hold.
ENOUGH_BYTES = 64 * 1024 * 1024


@pytest.fixture
async def ingress(sqlite_url: str) -> AsyncIterator[Ingress]:
    """An ingress on a broker of its own."""
    async with running_ingress(sqlite_url) as made:
        yield made


@pytest.fixture
async def caller(ingress: Ingress) -> AsyncIterator[Caller]:
    """A connection to it."""
    async with calling(ingress.host, ingress.port) as made:
        yield made


def body_of(number: int, *, size: int = 0) -> bytes:
    """Make a body that no other callback of a test has."""
    return b'{"data":{"task_id":"task-%d","callbackType":"first"},"x":"%b"}' % (
        number,
        b"x" * size,
    )


def statuses(replies: Sequence[Reply]) -> list[int]:
    """Give the statuses of answers that are as the contract says."""
    for reply in replies:
        reply.check()
    return [reply.status for reply in replies]


async def published(ingress: Ingress, count: int) -> list[bytes]:
    """Wait for so many callbacks in the queue; give their bodies, and no more come."""

    async def are_there() -> bool:
        return await ingress.count() >= count

    await eventually(are_there)
    assert count == await ingress.count()
    if not count:
        return []
    return [d.envelope.body for d in await ingress.published(count=count)]


async def settled(ingress: Ingress) -> list[bytes]:
    """Wait until nothing is on its way any more; give what was published.

    Callbacks of our own are sent until no other one comes between two of them.
    """
    marker, sent, before = body_of(0, size=1), 0, -1
    while (now := await ingress.count() - sent) != before:
        before = now
        async with calling(ingress.host, ingress.port) as other:
            await other.send(make_request(marker))
            assert 200 == (await other.reply()).status
        sent += 1
    found = await published(ingress, await ingress.count())
    return [body for body in found if body != marker]


# -- pieces -------------------------------------------------------------------------


async def test_callback_is_taken_wherever_it_is_cut_in_two(
    ingress: Ingress, caller: Caller
) -> None:
    """At every byte, on one connection."""
    bodies = []
    for cut in range(1, len(make_request(body_of(100)))):
        body = body_of(100 + cut)
        request = make_request(body)

        await caller.send(request[:cut], request[cut:])

        assert 200 == (await caller.reply()).status
        bodies.append(body)
    assert bodies == await published(ingress, len(bodies))


async def test_callback_is_taken_byte_by_byte(ingress: Ingress, caller: Caller) -> None:
    request = make_request(body_of(1), headers=["Content-Type: application/json"])

    await caller.send(*(bytes([byte]) for byte in request))

    assert 200 == (await caller.reply()).status
    assert [body_of(1)] == await published(ingress, 1)


async def test_body_in_chunks_is_taken_wherever_it_is_cut(
    ingress: Ingress, caller: Caller
) -> None:
    """Chunks of 7 bytes, and the cut goes through sizes, bytes and line ends."""
    bodies = []
    for cut in range(1, len(make_request(body_of(100), chunks=[7]))):
        body = body_of(100 + cut)
        request = make_request(body, chunks=[7])

        await caller.send(request[:cut], request[cut:])

        assert 200 == (await caller.reply()).status
        bodies.append(body)
    assert bodies == await published(ingress, len(bodies))


async def test_two_callbacks_at_once_are_taken_wherever_they_are_cut(
    ingress: Ingress, caller: Caller
) -> None:
    """The first piece holds one and a part of the next, or less than one."""
    bodies = []
    pair = [make_request(body_of(100)), make_request(body_of(101))]
    for cut in range(1, sum(map(len, pair)), 3):
        two = [body_of(100 + cut % 800), body_of(900 - cut % 800)]
        request = b"".join(map(make_request, two))

        await caller.send(request[:cut], request[cut:])

        assert [200, 200] == statuses(await caller.replies(2))
        bodies += two
    assert bodies == await published(ingress, len(bodies))


async def test_refused_callbacks_in_pieces_leave_the_connection_in_step(
    ingress: Ingress, caller: Caller
) -> None:
    """The body of a refused one is never read as the next request."""
    bad = make_request(body_of(1), path="/callbacks/paint")
    for cut in range(1, len(bad), 2):
        await caller.send(bad[:cut], bad[cut:] + make_request(MISSING))

        assert [404, 400] == statuses(await caller.replies(2))
    assert [] == await published(ingress, 0)


@pytest.mark.parametrize("size", [60_000, 70_000, 300_000, 1_000_000])
async def test_large_body_arrives_whole(
    ingress: Ingress, caller: Caller, size: int
) -> None:
    """Larger than any buffer on the way, plain, in chunks and compressed."""
    body = body_of(1, size=size)
    zipped = gzip.compress(body)

    await caller.send(make_request(body))
    await caller.send(make_request(body, chunks=[1000, 1, 65_537]))
    await caller.send(make_request(zipped, headers=["Content-Encoding: gzip"]))

    assert [200, 200, 200] == statuses(await caller.replies(3))
    assert [body] * 3 == await published(ingress, 3)


async def test_slow_body_holds_up_nobody_else(ingress: Ingress, caller: Caller) -> None:
    request = make_request(body_of(1))
    await caller.send(request[:-10])

    for number in range(2, 12):
        async with calling(ingress.host, ingress.port) as other:
            await other.send(make_request(body_of(number)))
            assert 200 == (await other.reply()).status
    await caller.send(request[-10:])

    assert 200 == (await caller.reply()).status
    found = await published(ingress, 11)
    assert [body_of(n) for n in (*range(2, 12), 1)] == found


# -- pipelines ----------------------------------------------------------------------


async def test_callbacks_in_one_write_are_answered_in_their_order(
    ingress: Ingress, caller: Caller
) -> None:
    """Each kind of answer stands where its request stood."""
    requests, expected, bodies = [], [], []
    for number in range(60):
        body = body_of(number)
        match number % 6:
            case 0 | 1 | 2:
                requests.append(make_request(body))
                bodies.append(body)
                expected.append(200)
            case 3:
                requests.append(make_request(MISSING))
                expected.append(400)
            case 4:
                requests.append(make_request(body, path=f"/callbacks/none-{number}"))
                expected.append(404)
            case _:
                requests.append(make_request(body, method="PUT"))
                expected.append(405)

    await caller.send(b"".join(requests))

    replies = await caller.replies(60)
    assert expected == statuses(replies)
    for number in range(4, 60, 6):
        assert f"none-{number}" in replies[number].problem["detail"]
    assert bodies == await published(ingress, len(bodies))


async def test_every_way_to_write_a_callback_goes_into_one_pipeline(
    ingress: Ingress, caller: Caller
) -> None:
    """Length, chunks, compressed, with and without a content type."""
    bodies = [body_of(number) for number in range(8)]
    zipped = gzip.compress(bodies[3])
    await caller.send(
        make_request(bodies[0])
        + make_request(bodies[1], chunks=[5])
        + make_request(bodies[2], headers=["Content-Type: application/json"])
        + make_request(zipped, headers=["Content-Encoding: gzip"])
        + make_request(
            gzip.compress(bodies[4]), headers=["Content-Encoding: gzip"], chunks=[9]
        )
        + make_request(bodies[5], path="/callbacks/wav/token?x=1")
        + make_request(bodies[6], headers=["Expect: 100-continue"])
        + make_request(bodies[7], headers=[f"X-{n}: {n}" for n in range(50)])
    )

    assert [200] * 8 == statuses(await caller.replies(8))
    found = await published(ingress, 8)
    assert bodies == found


async def test_caller_that_never_reads_holds_up_nobody(ingress: Ingress) -> None:
    """A hundred callbacks at once, their answers left lying: all are published."""
    bodies = [body_of(number) for number in range(100)]
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    deaf.setblocking(False)  # noqa: FBT003  the socket's own signature
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_connect(deaf, (ingress.host, ingress.port))
        await loop.sock_sendall(deaf, b"".join(map(make_request, bodies)))

        assert bodies == await published(ingress, 100)
        async with calling(ingress.host, ingress.port) as other:
            await other.send(make_request(body_of(7)))
            assert 200 == (await other.reply()).status
    finally:
        deaf.close()


async def bytes_taken(deaf: socket.socket) -> int:
    """Send refused callbacks until nobody takes them any more; give their size."""
    burst, sent = make_request(MISSING) * 100, 0
    while sent < ENOUGH_BYTES:
        try:
            async with asyncio.timeout(2):
                await asyncio.get_running_loop().sock_sendall(deaf, burst)
        except TimeoutError:
            break
        sent += len(burst)
    return sent


async def test_caller_that_never_reads_is_held_up_in_the_end(ingress: Ingress) -> None:
    """Refusals are larger: whoever lets them lie cannot fill our memory with them."""
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    deaf.setblocking(False)  # noqa: FBT003  the socket's own signature
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_connect(deaf, (ingress.host, ingress.port))
        assert await bytes_taken(deaf) < ENOUGH_BYTES

        async with calling(ingress.host, ingress.port) as other:
            await other.send(make_request(body_of(7)))
            assert 200 == (await other.reply()).status
    finally:
        deaf.close()


async def test_pipelines_of_any_kind_in_any_pieces_are_read_as_they_were_meant(
    ingress: Ingress,
) -> None:
    """Whatever the requests are, how each is written, and where all of it is cut."""
    texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
    bodies = st.builds(
        lambda task, rest: orjson.dumps({"task_id": task, "x": rest}),
        st.text("abc 1", max_size=4),
        st.lists(texts, max_size=3),
    )
    framings = st.none() | st.lists(st.integers(1, 30), min_size=1, max_size=4)
    one = st.tuples(bodies | st.binary(max_size=60), framings, st.booleans())
    pipelines: list[tuple[list[Any], list[int]]] = []

    @settings(max_examples=60, deadline=None, derandomize=True, database=None)
    @given(st.lists(one, min_size=1, max_size=8), st.lists(st.integers(0, 2000)))
    def collect(requests: list[Any], cuts: list[int]) -> None:
        pipelines.append((requests, cuts))

    collect()
    for requests, cuts in pipelines:
        data, expected, accepted = b"", [], []
        for body, chunks, is_zipped in requests:
            sent = gzip.compress(body) if is_zipped else body
            headers = ["Content-Encoding: gzip"] if is_zipped else []
            data += make_request(sent, chunks=chunks, headers=headers)
            expected.append(200 if is_readable(body) else 400)
            accepted += [body] if is_readable(body) else []
        ends = sorted({0, len(data), *(cut % len(data) for cut in cuts)})
        async with calling(ingress.host, ingress.port) as caller:
            await caller.send(*(data[a:b] for a, b in pairwise(ends)))
            assert expected == statuses(await caller.replies(len(requests)))
        assert accepted == await published(ingress, len(accepted))


def is_readable(body: bytes) -> bool:
    """Tell whether a body names a task."""
    try:
        peek(body)
    except Unreadable:
        return False
    return True


# -- callers that leave -------------------------------------------------------------


@pytest.mark.parametrize("how", ["end", "close", "reset"])
async def test_callback_of_a_caller_that_leaves_before_the_answer_is_published(
    ingress: Ingress, how: str
) -> None:
    """The answer is for the caller, the callback is for us."""
    for number in range(20):
        async with calling(ingress.host, ingress.port) as caller:
            await caller.send(make_request(body_of(number)))
            if how == "end":
                caller.end()
            elif how == "close":
                caller.transport.close()
            else:
                caller.transport.abort()

            assert [body_of(number)] == await published(ingress, 1)


async def test_caller_that_leaves_a_pipeline_has_sent_its_first_callbacks(
    ingress: Ingress,
) -> None:
    """What is published is whole, in order and once; the rest was not answered."""
    bodies = [body_of(number) for number in range(50)]
    async with calling(ingress.host, ingress.port) as caller:
        await caller.send(b"".join(map(make_request, bodies)))
        assert 200 == (await caller.reply()).status
        caller.transport.abort()

    found = await settled(ingress)
    assert bodies[: len(found)] == found
    assert found


async def test_caller_that_ends_its_side_has_sent_what_it_was_answered(
    ingress: Ingress, caller: Caller
) -> None:
    """Half-closed counts as gone: it may get fewer answers than were published."""
    bodies = [body_of(number) for number in range(30)]
    await caller.send(b"".join(map(make_request, bodies)))
    caller.end()

    answered = statuses(await caller.rest())

    found = await settled(ingress)
    assert bodies[: len(found)] == found
    assert [200] * len(answered) == answered
    assert 1 <= len(found) >= len(answered)


@pytest.mark.parametrize("chunks", [None, [5]], ids=["length", "chunks"])
async def test_body_that_breaks_off_is_never_published(
    ingress: Ingress, chunks: list[int] | None
) -> None:
    """Not even where what came is a whole JSON document."""
    body = body_of(1)
    request = make_request(body + b" " * 20, chunks=chunks)
    for cut in range(request.index(b"\r\n\r\n") + 4, len(request), 3):
        async with calling(ingress.host, ingress.port) as caller:
            await caller.send(request[:cut])
            caller.end()

            assert not [r for r in await caller.rest() if r.status == 200]
    assert [] == await published(ingress, 0)


async def test_chunks_that_end_early_are_whole(
    ingress: Ingress, caller: Caller
) -> None:
    """An empty chunk is the end, whatever the caller may have meant to send."""
    head = make_request(b"", chunks=[1]).removesuffix(b"0\r\n\r\n")
    await caller.send(head + chunked(body_of(1), [4]) + make_request(body_of(2)))

    assert [200, 200] == statuses(await caller.replies(2))
    assert [body_of(1), body_of(2)] == await published(ingress, 2)
