"""The end of a soak: what counts as a failure, and that both forms say it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from tests.soak.history import Balance, History, Verdict, check
from tests.soak.memory import Growth
from tests.soak.options import SoakOptions, parse
from tests.soak.report import Recovery, Result, render
from tests.soak.world import PROCESSES

MIB = 1024 * 1024
VERDICT = Verdict(
    accepted=4,
    distinct=3,
    effects={"archive": 6, "studio": 2, "shop": 2},
    files_stored=1,
    lost={},
    twice=0,
    repeats={"archive": 2, "studio": 0, "shop": 0},
    invented=0,
    dead={},
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
OTHERS = [replace(MEMORY, kind=kind) for kind in PROCESSES if kind != MEMORY.kind]
RESULT = Result(
    options=SoakOptions(callbacks=4),
    seconds=900.0,
    sending_seconds=800.0,
    verdict=VERDICT,
    recoveries=RECOVERIES,
    memory=[*OTHERS, MEMORY],
    dispatched=4,
    delivered=4,
    refused={0: 4, 408: 1, 503: 3},
    given_up=0,
    given_up_in_calm=0,
    slowest_seconds=1.5,
    dead_lettered={("notify.archive", "NotificationFailed"): 5},
    replayed=5,
)


def with_recovery(seconds: float | None) -> Result:
    worst = replace(RECOVERIES[0], seconds=seconds)
    return replace(RESULT, recoveries=[*RECOVERIES, worst])


def with_verdict(**changes: Any) -> Result:
    return replace(RESULT, verdict=replace(VERDICT, **changes))


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
            replace(RESULT, memory=[*OTHERS, replace(MEMORY, end_bytes=67 * MIB)]),
            "memory of notify grew by 12%",
        ),
        (
            replace(RESULT, errors={"request_failed": 3}),
            "3 times request_failed in the logs",
        ),
        (
            replace(RESULT, ends={"dedupe-1": "by itself, with [1]"}),
            "dedupe-1 ended by itself, with [1]",
        ),
        (
            replace(RESULT, ends={"ingress-1": "when asked to, with -11"}),
            "ingress-1 ended when asked to, with -11",
        ),
        (replace(RESULT, refused={0: 4, 500: 7}), "7 answers of 500"),
        (replace(RESULT, refused={502: 1}), "1 answers of 502"),
        (replace(RESULT, refused={401: 2}), "2 answers of 401"),
    ],
)
def test_a_broken_promise_is_a_failure(result: Result, failure: str) -> None:
    assert [failure] == result.failures
    assert f"FAILED: {failure}" in render(result)
    assert [failure] == result.as_dict()["failures"]


@pytest.mark.parametrize(
    ("result", "failure"),
    [
        (with_verdict(effects={"archive": 6, "studio": 2}), "shop was told of nothing"),
        (
            with_verdict(effects={"archive": 6, "studio": 0, "shop": 2}),
            "studio was told of nothing",
        ),
        (with_verdict(files_stored=0), "no file was stored"),
        (
            with_verdict(dead={("dedupe", "Reject"): 3}),
            "3 dead letters left after the replay",
        ),
        (replace(RESULT, replayed=4), "4 of 5 dead letters replayed"),
        (with_verdict(delayed=2), "2 messages still on their way"),
        (
            with_verdict(balances=[replace(VERDICT.balances[0], ready=1)]),
            "1 messages still on their way",
        ),
        (with_verdict(accepted=0), "0 callbacks accepted, expected at least 4"),
        (replace(RESULT, delivered=3), "3 callbacks accepted, expected at least 4"),
        (
            # Time was up; the slowest pace brings 3 in a second.
            replace(RESULT, options=SoakOptions(minutes=10.0)),
            "4 callbacks accepted, expected at least 2400",
        ),
        (
            replace(RESULT, dispatched=100, given_up=2),
            "2 given up, expected at most 1% of 100",
        ),
        (
            replace(RESULT, dispatched=100, given_up=1, given_up_in_calm=1),
            "1 given up while nothing was broken",
        ),
        (replace(RESULT, recoveries=RECOVERIES[1:]), "2 faults, expected at least 3"),
        (
            replace(RESULT, recoveries=[], sending_seconds=1.0, memory=[]),
            "0 faults, expected at least 1",
        ),
        (replace(RESULT, memory=OTHERS), "memory of notify was not measured"),
        (
            replace(RESULT, memory=OTHERS, sending_seconds=10.0),
            "memory of notify was not measured",
        ),
        (
            replace(RESULT, memory=[*OTHERS, replace(MEMORY, middle_bytes=0)]),
            "memory of notify was not measured to the end",
        ),
        (
            replace(RESULT, memory=[*OTHERS, replace(MEMORY, end_bytes=0)]),
            "memory of notify was not measured to the end",
        ),
    ],
)
def test_a_run_that_proves_nothing_has_not_passed(result: Result, failure: str) -> None:
    assert [failure] == result.failures
    assert f"FAILED: {failure}" in render(result)


def test_a_run_in_which_nothing_happened_fails_in_every_part() -> None:
    nothing = History(sent={}, accepted={}, files={}, hearings={}, stored=frozenset())
    result = replace(
        RESULT,
        options=SoakOptions(),
        sending_seconds=14_400.0,
        verdict=check(nothing),
        recoveries=[],
        memory=[],
        dispatched=0,
        delivered=0,
        refused={0: 100_000, 500: 7},
        given_up=100_000,
        dead_lettered={},
        replayed=0,
        ends={"dedupe-3": "by itself, with [1]", "ingress-1": "by itself, with [-11]"},
    )

    assert [
        "archive was told of nothing",
        "studio was told of nothing",
        "shop was told of nothing",
        "no file was stored",
        "0 callbacks accepted, expected at least 43200",
        "7 answers of 500",
        "100000 given up, expected at most 1% of 0",
        "dedupe-3 ended by itself, with [1]",
        "ingress-1 ended by itself, with [-11]",
        "0 faults, expected at least 60",
        "memory of ingress was not measured",
        "memory of dedupe was not measured",
        "memory of download was not measured",
        "memory of notify was not measured",
    ] == result.failures


def test_callbacks_that_the_provider_gave_up_while_something_was_broken() -> None:
    options = SoakOptions(callbacks=100)
    result = replace(RESULT, options=options, dispatched=100, given_up=1, delivered=99)

    accepted = replace(VERDICT, accepted=99)

    assert [] == replace(result, verdict=accepted).failures


def test_where_time_was_up_not_all_has_to_be_sent() -> None:
    result = replace(
        RESULT,
        options=SoakOptions(minutes=10.0),
        verdict=replace(VERDICT, accepted=2_400),
        dispatched=2_400,
        delivered=2_400,
    )

    assert [] == result.failures


def test_where_all_promises_hold_it_has_passed() -> None:
    text = render(RESULT)

    assert [] == RESULT.failures
    assert text.endswith("passed\n")
    assert "sent and accepted     4, 4" in text
    assert "dead-lettered         5, replayed 5, left 0" in text
    assert "notify.archive: NotificationFailed: 5" in text
    assert "other answers         4 none, 1 408, 3 503, given up 0" in text


def test_memory_is_not_judged_in_a_run_that_is_too_short() -> None:
    grown = replace(MEMORY, end_bytes=90 * MIB)
    result = replace(RESULT, memory=[*OTHERS, grown], sending_seconds=30.0)

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


@pytest.mark.parametrize(
    "arguments",
    [
        ["--only", "earthquake"],
        # There is no server that could have it.
        ["--only", "disk alarm", "--broker", "embedded"],
        ["--callbacks", "0"],
        ["--minutes", "-1"],
        ["--rate", "0"],
    ],
)
def test_a_soak_that_would_do_nothing_is_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(arguments)

    assert 2 == ended.value.code
    assert f"{arguments[0]}: expected" in capsys.readouterr().err


def test_the_long_form_sends_a_hundred_thousand_callbacks() -> None:
    options = parse([])

    assert 100_000 == options.callbacks
    assert ("rabbitmq", "postgres") == (options.broker, options.ledger)
