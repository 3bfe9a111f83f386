"""The corpus of hostile bodies, and changed ones from a seed, for the readers alone."""

from __future__ import annotations

import inspect
import sys
from random import Random
from typing import TYPE_CHECKING

import orjson
import pytest

from pipeline.errors import Unreadable
from pipeline.events.catalogue import parse_event
from pipeline.events.publications import task_event
from pipeline.ledger.port import Claim
from pipeline.message import new_message_id
from pipeline.provider.callback import OPERATIONS, normalise, peek
from pipeline.provider.shapes import LINKS_LIMIT, TRACK_LIMIT
from pipeline.task import ID_LIMIT, Stage, event_id
from tests.callbacks import START
from tests.corpus.bodies import BODIES, NESTING_LIMIT, documented_shapes, wrong_types
from tests.fuzz.mutation import Bodies

if TYPE_CHECKING:
    from collections.abc import Callable

#: One for each way to read the results of an operation.
READERS = ["upload-extend", "lyrics", "wav", "vocal-removal", "music-video"]
READERS += ["cover-image", "midi", "brand-new"]


def read(body: bytes, operation: str) -> bool:
    """Read a body as ingress and dedupe do; tell whether it could be read.

    Everything that follows from it can be made as well, and is within its limits.
    """
    try:
        peeked = peek(body, operation)
    except Unreadable:
        with pytest.raises(Unreadable, match=r"^expected "):
            normalise(body, operation)
        return False
    update = normalise(body, operation)
    assert peeked.task_id == update.task_id
    assert 0 < len(update.task_id) <= ID_LIMIT
    assert update.task_id.isprintable()
    assert len(update.tracks) <= TRACK_LIMIT * 2 + 1
    for track in update.tracks:
        assert 0 < len(track.track_id) <= ID_LIMIT
        assert len(track.links) <= LINKS_LIMIT
        assert all(link.isprintable() for link in track.links.values())
    assert bool(update.unknown_reason) == (update.stage is Stage.UNKNOWN)
    claim = Claim(
        update=update,
        event_id=event_id(update),
        owner=new_message_id(),
        origin="callback",
        received_at=START,
        body=body,
    )
    publication = task_event(
        update,
        claim.event_id,
        late=False,
        origin=claim.origin,
        received_at=START,
        source="/pipeline",
        at=START,
    )
    assert claim.event_id == parse_event(publication.envelope.body).id
    return True


@pytest.mark.parametrize("make", BODIES.values(), ids=BODIES.keys())
def test_hostile_body_is_read_or_unreadable(make: Callable[[], bytes]) -> None:
    """By every reader alike."""
    body = make()

    assert len({read(body, operation) for operation in READERS}) == 1


@pytest.mark.parametrize("operation", READERS)
def test_every_field_may_hold_every_odd_value(operation: str) -> None:
    """Only the field that names the task can make a body unreadable."""
    unreadable = [name for name, body in wrong_types() if not read(body, operation)]

    assert unreadable
    for name in unreadable:
        assert name.startswith(("data ", "data.task_id ", "data.taskId ", "task_id "))


def test_changed_bodies_are_read_or_unreadable() -> None:
    """Some hundred from a seed; `make fuzz` has more of them."""
    bodies, readable = Bodies(Random(20261125)), 0
    operations = [*OPERATIONS, "brand-new"]

    for number in range(1000):
        readable += read(bodies.make(), operations[number % len(operations)])

    assert 400 < readable < 900


def test_every_documented_shape_is_readable() -> None:
    """What everything else here is made from is all right."""
    for shape in documented_shapes():
        assert read(orjson.dumps(shape), "upload-extend"), shape


def test_deep_bodies_do_not_use_up_the_stack() -> None:
    """Neither just below the limit of the parser nor far above it."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 60)
    try:
        for depth in (NESTING_LIMIT - 2, NESTING_LIMIT, 100_000):
            nested = b"[" * depth + b"]" * depth
            body = b'{"data":{"task_id":"t","callbackType":"first","data":[%b]}}'
            assert read_quietly(body % nested) is (depth < NESTING_LIMIT - 3)
    finally:
        sys.setrecursionlimit(limit)


def read_quietly(body: bytes) -> bool:
    """Tell whether a body can be read."""
    try:
        normalise(body, "upload-extend")
    except Unreadable:
        return False
    return True
