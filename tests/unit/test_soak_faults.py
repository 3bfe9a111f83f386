"""What a soak breaks, in which order, and what counts as moving again."""

from __future__ import annotations

from itertools import islice

import pytest

from pipeline.simulator.chance import seeded
from tests.soak.faults import FAULTS, PAIRS, deal
from tests.soak.history import Effect, Hearing
from tests.soak.probe import Moving
from tests.soak.servers import Endpoint


def dealt(seed: int, count: int) -> list[str]:
    faults = deal(list(FAULTS), seeded("test", seed))
    return [fault.name for fault in islice(faults, count)]


@pytest.mark.parametrize(
    "name",
    [
        *(
            f"{how} {kind}"
            for how in ("kill", "freeze")
            for kind in ("ingress", "dedupe", "download", "notify")
        ),
        *(
            f"{how} {link} link"
            for how in ("cut", "freeze")
            for link in ("broker", "ledger", "files", "subscriber")
        ),
        "restart broker",
        "kill broker",
        "disk alarm",
        "restart database",
        "kill database",
        "slow subscriber",
        "failing subscriber",
    ],
)
def test_everything_that_can_break_is_broken(name: str) -> None:
    assert name in {fault.name for fault in FAULTS}


def test_every_fault_comes_before_any_comes_again() -> None:
    names = dealt(1, 2 * len(FAULTS) + PAIRS)

    assert {fault.name for fault in FAULTS} == {*names[: len(FAULTS)]}
    assert ["two at once"] * PAIRS == names[len(FAULTS) : len(FAULTS) + PAIRS]
    assert {fault.name for fault in FAULTS} == {*names[len(FAULTS) + PAIRS :]}


def test_the_same_seed_breaks_the_same_things_in_the_same_order() -> None:
    assert dealt(7, 60) == dealt(7, 60)
    assert dealt(7, 60) != dealt(8, 60)


def test_a_subscriber_hears_again_that_hears_something_new_look_after_look() -> None:
    steady, stuck = Endpoint(hearing=Hearing()), Endpoint(hearing=Hearing())
    moving = Moving({"steady": steady, "stuck": stuck})

    for number in range(3):
        steady.seen.add(Effect("task.text", str(number)))
        stuck.seen.add(Effect("task.text", str(number // 2)))
        moving.look()

    assert {"steady"} == moving.found
