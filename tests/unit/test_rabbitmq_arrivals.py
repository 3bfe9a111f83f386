"""In which order a consumer hands out what may be poison."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from pipeline.broker.rabbitmq_arrivals import Arrivals

if TYPE_CHECKING:
    from pipeline.broker.port import Delivery


def a_delivery() -> Delivery:
    return cast("Delivery", object())


class Held:
    """Arrivals, and whether what they have handed out is settled."""

    def __init__(self) -> None:
        self.is_idle = True
        self.arrivals = Arrivals(lambda: self.is_idle)

    def add(self, *, usual: int = 0, suspects: int = 0) -> None:
        for number in range(usual + suspects):
            self.arrivals.add(a_delivery(), is_suspect=number >= usual)

    def take(self) -> int:
        """Take all there is; give how many that were."""
        return len(self.arrivals.take(100))


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    monkeypatch.setattr("pipeline.broker.rabbitmq_arrivals.GATHER_SECONDS", 0.0)
    return Held()


def test_usual_deliveries_come_in_their_order_up_to_the_limit(held: Held) -> None:
    deliveries = [a_delivery() for _ in range(5)]
    for delivery in deliveries:
        held.arrivals.add(delivery, is_suspect=False)

    taken = [*held.arrivals.take(2), *held.arrivals.take(9)]

    assert deliveries == taken
    assert not held.arrivals.has_suspects


def test_suspect_waits_until_everything_else_is_settled(held: Held) -> None:
    held.add(suspects=1)
    held.is_idle = False

    before = held.take()
    held.is_idle = True

    assert (0, 1) == (before, held.take())


def test_nothing_is_handed_out_beside_a_suspect(held: Held) -> None:
    held.add(usual=3, suspects=1)

    first = held.take()
    held.is_idle = False
    beside = held.take()
    held.is_idle = True

    assert (1, 0, 3) == (first, beside, held.take())


def test_suspects_and_others_take_turns(held: Held) -> None:
    """So that neither waits for ever."""
    held.add(usual=2, suspects=2)

    turns = [held.take() for _ in range(3)]

    assert [1, 2, 1] == turns
    assert 0 == len(held.arrivals)


def test_suspects_come_in_random_order(held: Held) -> None:
    """Or the first of them would always have its turn before the others."""
    firsts = set()
    for _ in range(200):
        held.arrivals.clear()
        deliveries = [a_delivery() for _ in range(3)]
        for delivery in deliveries:
            held.arrivals.add(delivery, is_suspect=True)
        firsts.add(deliveries.index(held.arrivals.take(1)[0]))

    assert {0, 1, 2} == firsts


def test_more_suspects_are_waited_for_before_one_is_chosen(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.broker.rabbitmq_arrivals.GATHER_SECONDS", 60.0)
    held.add(suspects=1)

    assert 0 == held.take()
    assert 50 < held.arrivals.gathering_seconds <= 60


def test_everything_can_be_given_back(held: Held) -> None:
    held.add(usual=2, suspects=2)

    assert 4 == len([*held.arrivals.drain()])
    assert 0 == len(held.arrivals)
