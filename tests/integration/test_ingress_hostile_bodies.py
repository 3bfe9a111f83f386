"""Hostile bodies at the ingress and behind it: the corpus, and every field spoilt.

The unit tests have the same bodies for the readers alone.
"""

from __future__ import annotations

import gzip
import zlib
from typing import TYPE_CHECKING

import pytest

from pipeline.errors import Unreadable
from pipeline.provider.callback import OPERATIONS, peek
from tests.corpus.bodies import BODIES, BODY_LIMIT, wrong_types
from tests.http_wire import Caller, calling, make_request
from tests.ingress import running_ingress

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.ingress import Ingress

pytestmark = pytest.mark.usefixtures("nothing_unhandled")


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


def expected_status(body: bytes) -> int:
    """Say what the contract says of a body."""
    if len(body) > BODY_LIMIT:
        return 413
    try:
        peek(body)
    except Unreadable:
        return 400
    return 200


@pytest.mark.parametrize("make", BODIES.values(), ids=BODIES.keys())
async def test_hostile_body_is_refused_or_published_byte_for_byte(
    ingress: Ingress, make: Callable[[], bytes]
) -> None:
    """However it is sent: plain, in chunks, in one of two compressions."""
    body = make()
    status = expected_status(body)
    zipped = ["Content-Encoding: gzip"], gzip.compress(body)
    deflated = ["Content-Encoding: deflate"], zlib.compress(body)
    requests = [
        make_request(body),
        make_request(body, chunks=[4093]),
        *(make_request(data, headers=headers) for headers, data in (zipped, deflated)),
    ]

    for request in requests:
        async with calling(ingress.host, ingress.port) as caller:
            await caller.send(request)
            reply = await caller.reply()
        reply.check()
        assert status == reply.status

    if status == 200:
        found = await ingress.published(count=len(requests))
        assert {body} == {delivery.envelope.body for delivery in found}
    assert 0 == await ingress.count()


async def test_every_field_takes_every_odd_value(
    ingress: Ingress, caller: Caller
) -> None:
    """Or the body is refused, because the field was the one that names the task."""
    accepted = []
    bodies = [body for _, body in wrong_types()]
    operations = sorted(OPERATIONS)
    for start in range(0, len(bodies), 50):
        batch = bodies[start : start + 50]
        await caller.send(
            b"".join(
                make_request(body, path=f"/callbacks/{operations[n % len(operations)]}")
                for n, body in enumerate(batch)
            )
        )
        for body in batch:
            reply = await caller.reply()
            reply.check()
            assert expected_status(body) == reply.status
            accepted += [body] if reply.status == 200 else []

    assert len(accepted) > len(bodies) * 0.9
    found = await ingress.published(count=len(accepted))
    assert accepted == [delivery.envelope.body for delivery in found]
