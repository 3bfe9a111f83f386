"""Requests that are no right HTTP, or only just: the corpus, one by one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.corpus.requests import BODY, EITHER, REFUSED, SMUGGLED, TAKEN
from tests.http_wire import Caller, calling, make_request
from tests.ingress import running_ingress

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.http_wire import Reply
    from tests.ingress import Ingress

pytestmark = pytest.mark.usefixtures("nothing_unhandled")

#: Longer than an answer takes on a busy machine, and hardly ever waited out: a request
#: without an end is given up sooner.
PATIENCE_SECONDS = 20.0
#: Long enough for what was sent with a refused request to be answered, if it were read.
SILENCE_SECONDS = 1.5
LAST = make_request(path="/callbacks/last", method="PROPPATCH")


@pytest.fixture
async def ingress(sqlite_url: str) -> AsyncIterator[Ingress]:
    """An ingress that gives up on half a body soon, if not after a mere pause."""
    async with running_ingress(sqlite_url, body_timeout="2s") as made:
        yield made


async def answers_to(ingress: Ingress, *pieces: bytes) -> list[Reply]:
    """Send bytes; give the answers until the connection ends or nothing comes.

    After the first answer of a connection that stays a last request is sent, whose
    answer shows that nothing is on its way any more.
    """
    async with calling(ingress.host, ingress.port) as caller:
        await caller.send(*pieces)
        replies = await caller.rest(count=1, within=PATIENCE_SECONDS)
        if replies and not replies[0].closes:
            await caller.send(LAST)
            while not is_last(replies[-1]) and not replies[-1].closes:
                more = await caller.rest(count=1, within=PATIENCE_SECONDS)
                if not more:
                    break
                replies += more
        if replies[-1:] and replies[-1].closes:
            replies += await caller.rest(within=PATIENCE_SECONDS)
    replies = [reply for reply in replies if not is_last(reply)]
    for reply in replies:
        reply.check()
    return replies


def is_last(reply: Reply) -> bool:
    """Tell whether it is the answer to the last request."""
    return reply.status == 405 and "PROPPATCH" in reply.problem["detail"]


async def is_well(ingress: Ingress) -> bool:
    """Tell whether the next caller is served."""
    async with calling(ingress.host, ingress.port) as caller:
        await caller.send(make_request(b"{}"))
        return (await caller.reply()).status == 400


@pytest.mark.parametrize("request_bytes", REFUSED.values(), ids=REFUSED.keys())
async def test_request_that_two_could_read_differently_brings_nothing(
    ingress: Ingress, request_bytes: bytes
) -> None:
    """Neither what it says, nor what is hidden behind it."""
    replies = await answers_to(ingress, request_bytes)

    assert 200 not in [reply.status for reply in replies]
    assert 0 == await ingress.count()
    assert await is_well(ingress)


FRAMING = [
    name
    for name in REFUSED
    if any(word in name for word in ("length", "chunk", "fold", "size", "CR", "colon"))
]


@pytest.mark.parametrize("name", FRAMING)
async def test_request_hidden_behind_another_one_is_not_seen(
    ingress: Ingress, name: str
) -> None:
    """A proxy in front would take it for a part of the first one's body."""
    replies = await answers_to(ingress, REFUSED[name] + SMUGGLED)

    assert 200 not in [reply.status for reply in replies]
    assert replies[-1:] == [reply for reply in replies if reply.closes]
    assert 0 == await ingress.count()
    assert await is_well(ingress)


@pytest.mark.parametrize("request_bytes", TAKEN.values(), ids=TAKEN.keys())
async def test_odd_request_that_is_right_is_taken(
    ingress: Ingress, request_bytes: bytes
) -> None:
    """Once, with its own body, and the connection stays in step."""
    async with calling(ingress.host, ingress.port) as caller:
        await caller.send(request_bytes + make_request(b"{}"))

        assert [200, 400] == [reply.status for reply in await caller.replies(2)]
    assert [BODY] == [d.envelope.body for d in await ingress.published()]
    assert 0 == await ingress.count()


@pytest.mark.parametrize("request_bytes", EITHER.values(), ids=EITHER.keys())
async def test_request_between_right_and_wrong_is_that_callback_or_none(
    ingress: Ingress, request_bytes: bytes
) -> None:
    """What is answered 200 is published, and nothing else."""
    replies = await answers_to(ingress, request_bytes)

    accepted = [reply.status for reply in replies].count(200)
    assert accepted <= 1
    assert accepted == await ingress.count()
    if accepted:
        assert [BODY] == [d.envelope.body for d in await ingress.published()]
    assert await is_well(ingress)


@pytest.mark.parametrize("name", [*TAKEN, *EITHER])
async def test_odd_request_in_two_pieces_is_read_as_in_one(
    ingress: Ingress, name: str
) -> None:
    """Wherever it is cut, a parser must not read it in another way."""
    request = (TAKEN | EITHER)[name]
    whole = [reply.status == 200 for reply in await answers_to(ingress, request)]

    # Beside each other, so that those without an end are given up at the same time.
    cuts = range(1, min(len(request), 400), 31)
    found = await asyncio.gather(
        *(answers_to(ingress, request[:cut], request[cut:]) for cut in cuts)
    )
    for replies in found:
        assert whole == [reply.status == 200 for reply in replies]


# -- methods, versions, wishes ------------------------------------------------------


@pytest.mark.parametrize(
    "method",
    ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "QUERY"],
)
async def test_other_methods_on_a_callback_address_bring_nothing(
    ingress: Ingress, method: str
) -> None:
    """With a body, which is skipped: the next callback is taken all the same."""
    async with calling(ingress.host, ingress.port) as caller:
        await caller.send(make_request(BODY, method=method) + make_request(BODY))

        reply = await caller.reply(method=method)
        reply.check(method=method)
        assert (405, "POST") == (reply.status, reply.headers["allow"])
        assert 200 == (await caller.reply()).status
    assert 1 == await ingress.count()


async def test_tunnel_is_refused(ingress: Ingress) -> None:
    """What comes after CONNECT may still be a callback; it is not passed on."""
    replies = await answers_to(
        ingress, b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n" + make_request(BODY)
    )

    assert replies[0].status in (400, 404, 405)
    accepted = [reply.status for reply in replies].count(200)
    assert accepted == await ingress.count()


async def test_wish_for_another_protocol_is_ignored(ingress: Ingress) -> None:
    """Java's client has it in its first request, and stays on the connection."""
    wish = ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AA"]
    async with calling(ingress.host, ingress.port) as caller:
        for headers in (wish, [], wish):
            await caller.send(make_request(BODY, headers=headers))
            assert 200 == (await caller.reply()).status
    assert 3 == await ingress.count()


@pytest.mark.parametrize(
    "last",
    [
        make_request(BODY, version="1.0"),
        make_request(BODY, headers=["Connection: close"]),
    ],
    ids=["HTTP/1.0", "close"],
)
async def test_what_follows_the_last_request_is_not_read(
    ingress: Ingress, last: bytes
) -> None:
    """It may spoil what was sent with it, but then that is not answered 200."""
    replies = await answers_to(ingress, make_request(BODY) + last + make_request(BODY))

    accepted = [reply.status for reply in replies].count(200)
    assert accepted <= 2
    assert accepted == await ingress.count()


@pytest.mark.parametrize(
    "request_bytes",
    [
        make_request(BODY, version="1.0"),
        make_request(BODY, headers=["Connection: close"]),
    ],
    ids=["HTTP/1.0", "close"],
)
async def test_last_request_is_answered_and_the_connection_closed(
    ingress: Ingress, request_bytes: bytes
) -> None:
    async with calling(ingress.host, ingress.port) as caller:
        await caller.send(make_request(BODY))
        assert 200 == (await caller.reply()).status
        await caller.send(request_bytes)
        (reply,) = await caller.rest()

    assert (200, True) == (reply.status, reply.closes)
    assert 2 == await ingress.count()


async def test_refused_caller_that_wants_to_close_sees_it_closed(
    ingress: Ingress,
) -> None:
    (reply,) = await answers_to(
        ingress, make_request(b"{}", headers=["Connection: close"])
    )

    assert (400, True) == (reply.status, reply.closes)
    assert 0 == await ingress.count()


async def test_caller_of_http_1_0_may_send_several(ingress: Ingress) -> None:
    """If it asks to keep the connection, and is told that it is kept."""
    request = make_request(BODY, version="1.0", headers=["Connection: keep-alive"])
    async with calling(ingress.host, ingress.port) as caller:
        for _ in range(3):
            await caller.send(request)
            reply = await caller.reply()
            assert (200, False) == (reply.status, reply.closes)
    assert 3 == await ingress.count()


async def test_caller_that_asks_first_gets_each_answer_once(ingress: Ingress) -> None:
    """Three times on one connection: go on, then 200; refused ones stay in step."""
    async with calling(ingress.host, ingress.port) as caller:
        for body, status in ((BODY, 200), (b"{}", 400), (BODY, 200)):
            request = make_request(body, headers=["Expect: 100-continue"])
            head, _, _ = request.partition(b"\r\n\r\n")
            await caller.send(head + b"\r\n\r\n")
            assert 100 == (await caller.reply(interim=True)).status
            await caller.send(body)
            assert status == (await caller.reply(interim=True)).status
    assert 2 == await ingress.count()


async def test_caller_of_http_1_0_is_never_told_to_go_on(ingress: Ingress) -> None:
    """It knows no interim answers, and would take it for the last one (RFC 9110)."""
    request = make_request(BODY, version="1.0", headers=["Expect: 100-continue"])
    async with calling(ingress.host, ingress.port) as caller:
        await caller.send(request[:-5], request[-5:])

        assert 200 == (await caller.reply(interim=True)).status
    assert 1 == await ingress.count()


async def test_caller_that_asks_first_and_is_refused_sends_no_body(
    ingress: Ingress,
) -> None:
    """The answer comes at once. If the body comes all the same, it is no request."""
    head, _, _ = make_request(
        SMUGGLED, path="/callbacks/paint", headers=["Expect: 100-continue"]
    ).partition(b"\r\n\r\n")
    async with calling(ingress.host, ingress.port) as caller:
        await caller.send(head + b"\r\n\r\n")
        assert 404 == (await caller.reply()).status
        await caller.send(SMUGGLED)
        replies = await caller.rest(within=SILENCE_SECONDS)

    assert 200 not in [reply.status for reply in replies]
    assert 0 == await ingress.count()


async def test_connection_of_many_answers_stays_in_step(
    ingress: Ingress, caller: Caller
) -> None:
    """490 requests of every kind, one after the other."""
    kinds = [
        (make_request(BODY), 200),
        (make_request(BODY, chunks=[3]), 200),
        (make_request(b"[" * 5000), 400),
        (make_request(BODY, path="/callbacks/paint"), 404),
        (make_request(BODY, path="/"), 404),
        (make_request(BODY, method="PUT"), 405),
        (make_request(BODY, headers=["Content-Type: text/plain"]), 415),
    ]
    for number in range(70 * len(kinds)):
        request, status = kinds[number % len(kinds)]
        await caller.send(request)
        reply = await caller.reply()
        reply.check()
        assert status == reply.status
    assert 70 * 2 == await ingress.count()


@pytest.fixture
async def caller(ingress: Ingress) -> AsyncIterator[Caller]:
    """A connection to the ingress."""
    async with calling(ingress.host, ingress.port) as made:
        yield made
