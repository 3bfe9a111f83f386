"""The end of a soak: what counts as a failure, and that both forms say it."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest

from tests.soak.history import Balance, Verdict
from tests.soak.memory import Growth
from tests.soak.options import SoakOptions, parse
from tests.soak.report import Recovery, Result, render

MIB = 1024 * 1024
VERDICT = Verdict(
    accepted=4,
    distinct=3,
    effects={"archive": 6},
    files_stored=1,
    lost={},
    twice=0,
    repeats={"archive": 2},
    invented=0,
    dead={("notify.archive", "NotificationFailed"): 1},
    balances=[Balance(queue="dedupe", published=4, acked=4, dead=0, ready=0)],
    delayed=0,
    is_balanced=True,
    examples=[],
)
RECOVERIES = (
    Recovery(fault="kill dedupe", detail="dedupe-1", lasted_seconds=0.0, seconds=2.0),
    Recovery(fault="kill dedupe", detail="dedupe-2", lasted_seconds=0.0, seconds=3.0),
    Recovery(fault="disk alarm", detail="broker", lasted_seconds=9.0, seconds=0.5),
)
MEMORY = Growth(
    kind="notify", start_bytes=50 * MIB, middle_bytes=60 * MIB, end_bytes=61 * MIB
)
RESULT = Result(
    options=SoakOptions(),
    seconds=900.0,
    sending_seconds=800.0,
    verdict=VERDICT,
    recoveries=RECOVERIES,
    memory=[MEMORY],
    refused={0: 4, 503: 3},
    given_up=0,
    slowest_seconds=1.5,
    dead_lettered={("notify.archive", "NotificationFailed"): 5},
    replayed=5,
)


def with_recovery(seconds: float | None) -> Result:
    worst = replace(RECOVERIES[0], seconds=seconds)
    return replace(RESULT, recoveries=[*RECOVERIES, worst])


@pytest.mark.parametrize(
    ("result", "failure"),
    [
        (replace(RESULT, verdict=replace(VERDICT, lost={"files": 2})), "2 lost"),
        (replace(RESULT, verdict=replace(VERDICT, twice=1)), "1 effects seen twice"),
        (
            replace(RESULT, verdict=replace(VERDICT, invented=1)),
            "1 effects of what was never sent",
        ),
        (
            replace(RESULT, verdict=replace(VERDICT, is_balanced=False)),
            "published is not acked + delayed + dead",
        ),
        (with_recovery(30.5), "kill dedupe: works again after 30.5 s"),
        (with_recovery(None), "kill dedupe: works again never"),
        (
            replace(RESULT, memory=[replace(MEMORY, end_bytes=67 * MIB)]),
            "memory of notify grew by 12%",
        ),
        (
            replace(RESULT, errors={"request_failed": 3}),
            "3 times request_failed in the logs",
        ),
    ],
)
def test_a_broken_promise_is_a_failure(result: Result, failure: str) -> None:
    assert [failure] == result.failures
    assert f"FAILED: {failure}" in render(result)
    assert [failure] == result.as_dict()["failures"]


def test_where_all_promises_hold_it_has_passed() -> None:
    text = render(RESULT)

    assert [] == RESULT.failures
    assert text.endswith("passed\n")
    assert "dead-lettered         5, replayed 5, left 1" in text
    assert "notify.archive: NotificationFailed: 5" in text
    assert "other answers         4 none, 3 503, given up 0" in text


def test_memory_is_not_judged_in_a_run_that_is_too_short() -> None:
    grown = replace(MEMORY, end_bytes=90 * MIB)
    result = replace(RESULT, memory=[grown], sending_seconds=30.0)

    assert [] == result.failures
    assert "too short to tell whether it grows" in render(result)


def test_the_worst_recovery_of_each_kind_of_fault_is_told() -> None:
    assert {"disk alarm": 0.5, "kill dedupe": 3.0} == RESULT.worst_recoveries()


def test_everything_can_be_written_as_json() -> None:
    written = orjson.loads(orjson.dumps(RESULT.as_dict()))

    assert 4 == written["verdict"]["accepted"]
    assert {"queue": "notify.archive", "reason": "NotificationFailed", "count": 5} in (
        written["dead_lettered"]
    )
    assert 0 == written["verdict"]["lost_count"]


def test_the_short_form_has_a_fixed_seed_unless_another_is_given() -> None:
    assert parse(["--short"]) == parse(["--short", "--seed", "3"])
    assert 8 == parse(["--short", "--seed", "8"]).seed


def test_the_long_form_sends_a_hundred_thousand_callbacks() -> None:
    options = parse([])

    assert 100_000 == options.callbacks
    assert ("rabbitmq", "postgres") == (options.broker, options.ledger)
