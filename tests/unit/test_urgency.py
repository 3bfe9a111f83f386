"""Which download is begun first, and how many are chosen from."""

from __future__ import annotations

from datetime import timedelta
from math import inf
from typing import Final

import pytest

from pipeline.assets.lifetime import Lifetimes
from pipeline.broker.order import Order, Ordered, Waiting, make_waiting
from pipeline.events.publications import asset_requested
from pipeline.message import Envelope, MessageId
from pipeline.settings import Settings
from pipeline.task import Asset, AssetKey, AssetState, Stage
from pipeline.workers.urgency import by_time_left
from tests.callbacks import TASK, after
from tests.factories import make_envelope

KNOWN: Final = Lifetimes(upstream_hosts=("upstream.example",))
KEY: Final = AssetKey(task_id=TASK, track_id="8551-1", kind="audio")
MINUTE: Final = timedelta(minutes=1)
#: RabbitMQ's ``consumer_timeout``, as it comes.
CONSUMER_TIMEOUT: Final = timedelta(minutes=30)


def make_order(
    *, window: int = 64, concurrency: int = 8, deadline: timedelta = MINUTE
) -> Order | None:
    return by_time_left(
        KNOWN, window=window, concurrency=concurrency, deadline=deadline
    )


def rank(envelope: Envelope) -> float:
    order = make_order()
    assert order is not None
    return order.rank(envelope)


def make_request(url: str, *, seconds: float = 0) -> Envelope:
    asset = Asset(key=KEY, operation="generate", url=url, state=AssetState.PENDING)
    return asset_requested(
        asset,
        owner=MessageId("m"),
        stage=Stage.FIRST,
        source="/pipeline",
        at=after(seconds),
    ).envelope


def test_a_request_is_ranked_by_when_its_link_dies() -> None:
    """From when it was asked for, and by where the link leads."""
    ordinary = make_request("https://files.example.com/1.mp3")
    later = make_request("https://files.example.com/1.mp3", seconds=60)
    upstream = make_request("https://upstream.example/1.mp3", seconds=120)

    assert rank(ordinary) == (after(0) + timedelta(days=14)).timestamp()
    assert rank(upstream) == (after(120) + timedelta(days=1)).timestamp()
    assert rank(upstream) < rank(ordinary) < rank(later)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[" * 100_000,
        b'{"type": "task.text"}',
        b'{"type": "asset.requested"}',
    ],
)
def test_what_is_no_request_is_got_rid_of_first(body: bytes) -> None:
    """And does not stop the others from being ranked."""
    assert -inf == rank(make_envelope(body=body))


@pytest.mark.parametrize(
    "url", ["", "no link at all", "https://[/", "https://a:b@c/", "\ud7ff\x00"]
)
@pytest.mark.parametrize(
    "time", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"]
)
def test_a_link_or_a_time_that_makes_no_sense_is_ranked_as_well(
    url: str, time: str
) -> None:
    request = make_request(url)
    known = after(0).isoformat(timespec="milliseconds")[:19].encode()
    before, found, behind = request.body.partition(known)
    _, _, rest = behind.partition(b'"')
    assert found

    ranked = rank(make_envelope(body=before + time.encode() + b'"' + rest))

    assert -inf < ranked < inf


@pytest.mark.parametrize(
    ("window", "concurrency", "minutes", "expected"),
    [
        (64, 8, 6, 24),
        (64, 8, 1, 64),
        (64, 32, 6, 64),
        (64, 32, 10, 64),
        (16, 8, 6, 16),
        (64, 8, 10, 16),
        (64, 8, 11, None),
        (64, 8, 25, None),
        (64, 100, 6, None),
        (8, 8, 6, None),
        (1, 8, 6, None),
    ],
)
def test_a_window_is_as_large_as_wanted_and_no_larger_than_is_safe(
    window: int, concurrency: int, minutes: int, expected: int | None
) -> None:
    """Where nothing would wait in it there is none."""
    order = make_order(
        window=window, concurrency=concurrency, deadline=minutes * MINUTE
    )

    assert expected == (None if order is None else order.window)


@pytest.mark.parametrize("minutes", range(1, 26))
@pytest.mark.parametrize("concurrency", [1, 2, 8, 33])
def test_no_request_is_held_until_rabbitmq_takes_it_back(
    minutes: int, concurrency: int
) -> None:
    """Overtaken for as long as can be, then behind all others, each at its slowest."""
    order = make_order(
        window=10_000, concurrency=concurrency, deadline=minutes * MINUTE
    )

    if order is None:
        held = minutes * MINUTE  # it is begun as soon as it has arrived
    else:
        held = order.patience + -(-order.window // concurrency) * minutes * MINUTE
    assert held < CONSUMER_TIMEOUT


def test_the_window_of_the_defaults_is_a_window() -> None:
    download = Settings().download

    order = make_order(
        window=download.window,
        concurrency=download.concurrency,
        deadline=download.deadline,
    )

    assert order is not None


class Seconds:
    """A clock that is put forward by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_patience_counts_from_the_arrival_of_each() -> None:
    """The first that has waited too long goes first, the rest by rank."""
    clock = Seconds()
    waiting: Ordered[int] = Ordered(float, timedelta(seconds=10), clock=clock)
    waiting.append(9)
    clock.now += 6
    waiting.extend([5, 7, 3])

    early = waiting.popleft()
    clock.now += 5
    late = [waiting.popleft() for _ in range(len(waiting))]

    assert (3, [9, 5, 7]) == (early, late)


def test_nothing_is_taken_from_an_empty_window() -> None:
    waiting: Ordered[int] = Ordered(float, timedelta(seconds=10))
    waiting.append(1)
    waiting.clear()

    assert 0 == len(waiting)
    with pytest.raises(IndexError):
        waiting.popleft()


def test_without_an_order_what_came_first_goes_first() -> None:
    waiting: Waiting[int] = make_waiting(None, lambda _: make_envelope())
    waiting.extend([3, 1, 2])

    assert [3, 1, 2] == [waiting.popleft() for _ in range(3)]
