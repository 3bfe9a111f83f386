"""What the options of ``pipeline simulate`` make of the simulated provider."""

from __future__ import annotations

from dataclasses import fields
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.cli.simulate_choices import (
    provider_of,
    read_limits,
    read_operations,
    read_shares,
    read_spans,
    scenario_of,
)
from pipeline.cli.simulate_options import EPILOG, DoorName
from pipeline.settings.doors import GENERIC, built_in_doors
from pipeline.simulator import OPERATIONS, PLAIN, ScenarioOptions

if TYPE_CHECKING:
    from pipeline.simulator import ProviderOptions

SHARES = {
    "losses": 0.3,
    "unreachable": 0.1,
    "duplicates": 0.2,
    "reordered": 0.3,
    "missing": 0.4,
    "failures": 0.5,
    "oddities": 0.6,
    "dead-links": 0.7,
    "renewable": 0.8,
    "recoverable": 0.9,
}


def chosen(**changes: Any) -> ProviderOptions:
    given: dict[str, Any] = {
        "shares": {},
        "spans": {},
        "limits": {},
        "door": DoorName.SUNOAPI_ORG,
        "webhook_key": None,
        "real_time": False,
        "seed": 1,
    }
    return provider_of(**(given | changes))


def test_every_share_gets_where_it_belongs() -> None:
    given = read_shares([f"{name}={share}" for name, share in SHARES.items()])

    provider = chosen(shares=given)
    scenario = scenario_of(given, tasks=9, operations=None, seed=4)

    rules = provider.posting
    assert SHARES == given
    assert (0.3, 0.1) == (rules.loss_rate, rules.unreachable_rate)
    for options in (provider.behaviour, scenario):
        assert (0.2, 0.3, 0.4) == (
            options.duplicate_rate,
            options.reorder,
            options.missing_rate,
        )
        assert (0.5, 0.6) == (options.failure_rate, options.oddity_rate)
        assert (0.7, 0.8, 0.9) == (
            options.expired_rate,
            options.renewable_rate,
            options.recoverable_rate,
        )
    assert (9, 4) == (scenario.tasks, scenario.seed)


def test_a_share_that_is_not_given_is_as_before() -> None:
    """Submitted tasks go well; tasks of its own show a bit of everything."""
    assert ScenarioOptions() == scenario_of({}, tasks=None, operations=None, seed=None)
    calm = chosen().behaviour

    assert {"seed"} >= {
        field.name
        for field in fields(calm)
        if getattr(calm, field.name) != getattr(PLAIN, field.name)
    }


def test_spans_and_limits_get_where_they_belong() -> None:
    spans = ["links=20m", "recovery=3s", "answer=7s", "retries=1s,2s"]
    limits = ["submissions=4", "questions=2", "credits=6"]

    provider = chosen(
        spans=read_spans(spans), limits=read_limits(limits), real_time=True
    )

    assert timedelta(minutes=20) == provider.link_lifetime
    assert timedelta(seconds=3) == provider.recovery_takes
    assert timedelta(seconds=7) == provider.posting.timeout
    assert (timedelta(seconds=1), timedelta(seconds=2)) == provider.posting.retry_waits
    rates = provider.rates
    assert (4, 2, True) == (rates.submissions, rates.questions, rates.in_real_time)
    assert 6 == provider.credits


def test_doors_are_those_of_the_setting() -> None:
    assert built_in_doors().keys() - {GENERIC} == {*DoorName}


@pytest.mark.parametrize(
    ("door", "name", "signed"),
    [
        (DoorName.KIE_AI, "K", "task-and-time"),
        (DoorName.MUSICAPI_AI, "M", "time-and-body"),
        (DoorName.SUNOAPI_COM, "M", "body"),
    ],
)
def test_callbacks_are_signed_as_the_door_does(
    door: DoorName, name: str, signed: str
) -> None:
    provider = chosen(door=door, webhook_key="key")

    posting = provider.posting
    assert (name, "key", signed) == (provider.door, posting.webhook_key, posting.signed)


def test_submitted_tasks_are_others_each_time() -> None:
    """Or a pipeline that stays would take them for repeats."""
    seeds = {chosen(seed=None).seed for _ in range(5)}

    assert len(seeds) > 1


def test_all_operations_are_those_that_can_be_submitted() -> None:
    assert {*OPERATIONS} - {"recovery"} == {*read_operations(["all"])}


@pytest.mark.parametrize("name", [*SHARES, "links", "answer", "questions", "credits"])
def test_help_says_what_can_be_given(name: str) -> None:
    assert f"\n  {name} " in EPILOG
