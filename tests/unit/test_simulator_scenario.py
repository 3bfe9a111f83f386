"""Scenarios are decided by their options alone, and contain what was asked for."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.simulator import (
    PLAIN,
    Oddity,
    Scenario,
    ScenarioOptions,
    plan_scenario,
)
from pipeline.simulator.payloads import callback_body, encode, semantic_id
from pipeline.task import Stage

if TYPE_CHECKING:
    from datetime import timedelta

BODIES = """
from pipeline.simulator import ScenarioOptions, plan_scenario
from pipeline.simulator.payloads import callback_body, encode
import hashlib
scenario = plan_scenario(ScenarioOptions(tasks=30, seed=11, audio_format="mp3",
                                         picture_format="png"))
digest = hashlib.sha256()
for task in scenario.tasks:
    for callback in task.callbacks:
        digest.update(encode(callback_body(task, callback, lambda path: path)))
print(digest.hexdigest())
"""


def bodies(scenario: Scenario) -> list[bytes]:
    return [
        encode(callback_body(task, callback, lambda path: path))
        for task in scenario.tasks
        for callback in task.callbacks
    ]


@pytest.mark.parametrize("seed", range(30))
def test_six_tasks_show_a_success_a_failure_a_repeat_and_a_dead_link(seed: int) -> None:
    """The default is enough for a demo, whatever the seed."""
    scenario = plan_scenario(ScenarioOptions(tasks=6, seed=seed))
    told = [
        task
        for task in scenario.tasks
        if any(callback.stage is Stage.COMPLETE for callback in task.callbacks)
        and any(file.expiry for file in task.files)
    ]

    assert scenario.duplicates >= 1
    assert scenario.failures >= 1
    assert scenario.expired_links >= 1
    assert told, "no complete callback tells of a dead link"
    assert any(
        task.failure is None and not any(file.expiry for file in task.files)
        for task in scenario.tasks
    )


def test_whatever_has_a_rate_shows_at_least_once() -> None:
    """Rates far below one in six still show; and not at all if that is not wanted."""
    wanted = ScenarioOptions(
        tasks=6,
        duplicate_rate=0.01,
        missing_rate=0.01,
        failure_rate=0.01,
        expired_rate=0.01,
    )
    shown = plan_scenario(wanted)
    hidden = plan_scenario(replace(wanted, at_least_one=False))

    def counts(scenario: Scenario) -> list[int]:
        missing = sum(task.has_missing_stage for task in scenario.tasks)
        return [
            scenario.duplicates,
            missing,
            scenario.failures,
            scenario.expired_links,
        ]

    assert counts(shown) == [1, 1, 1, 1]
    assert counts(hidden) == [0, 0, 0, 0]


def test_every_dead_link_is_told_of_by_the_last_callback() -> None:
    """A missing stage never hides that a link is dead."""
    options = ScenarioOptions(
        tasks=30, failure_rate=0, expired_rate=1, missing_rate=1, tracks_per_task=3
    )

    for task in plan_scenario(options).tasks:
        assert task.has_missing_stage
        assert Stage.COMPLETE in {callback.stage for callback in task.callbacks}


def test_the_same_seed_plans_the_same_bodies() -> None:
    options = ScenarioOptions(tasks=40, seed=5)

    first, second = plan_scenario(options), plan_scenario(options)

    assert first == second
    assert bodies(first) == bodies(second)
    assert bodies(first) != bodies(plan_scenario(ScenarioOptions(tasks=40, seed=6)))


def test_the_same_seed_plans_the_same_bodies_in_another_process() -> None:
    """Hash randomisation of the interpreter has no part in it."""
    digests = {
        subprocess.run(
            [sys.executable, "-c", BODIES],
            check=True,
            capture_output=True,
            text=True,
            env={"PYTHONHASHSEED": str(seed), "PYTHONPATH": ":".join(sys.path)},
            timeout=30,
        ).stdout
        for seed in (1, 2)
    }

    assert len(digests) == 1


def test_rates_are_met_exactly() -> None:
    options = ScenarioOptions(
        tasks=200,
        seed=2,
        duplicate_rate=0.2,
        failure_rate=0.1,
        expired_rate=0.25,
        missing_rate=0.05,
        oddity_rate=0,
    )

    scenario = plan_scenario(options)

    assert scenario.failures == 20
    assert scenario.expired_links == 45
    assert sum(task.has_missing_stage for task in scenario.tasks) == 9
    assert scenario.duplicates / scenario.callbacks == pytest.approx(0.2, abs=0.002)


def test_a_plain_scenario_has_the_documented_callbacks_in_order() -> None:
    """text, first, complete, and nothing else."""
    scenario = plan_scenario(PLAIN)

    for task in scenario.tasks:
        stages = [callback.stage for callback in task.callbacks]
        assert stages == [Stage.TEXT, Stage.FIRST, Stage.COMPLETE]
        assert all(callback.oddity is None for callback in task.callbacks)
    assert scenario.failures == scenario.duplicates == scenario.expired_links == 0


def test_a_reordered_task_does_not_send_its_stages_in_order() -> None:
    options = ScenarioOptions(
        tasks=20, duplicate_rate=0, failure_rate=0, missing_rate=0, reorder=1
    )

    for task in plan_scenario(options).tasks:
        ranks = [c.stage.rank for c in task.callbacks if c.stage is not Stage.UNKNOWN]
        assert ranks != sorted(ranks)
        assert len(set(ranks)) == 3


def test_both_spellings_of_failure_show_in_two_failures() -> None:
    options = ScenarioOptions(tasks=4, failure_rate=0.5, oddity_rate=0)

    types = {
        task.failure.callback_type
        for task in plan_scenario(options).tasks
        if task.failure is not None
    }

    assert types == {"error", "failed"}


def test_every_oddity_shows_in_a_larger_run() -> None:
    options = ScenarioOptions(tasks=60, oddity_rate=0.5)
    scenario = plan_scenario(options)

    seen = {c.oddity for task in scenario.tasks for c in task.callbacks if c.oddity}

    assert seen == set(Oddity)


def test_a_repeat_never_comes_before_its_original() -> None:
    scenario = plan_scenario(ScenarioOptions(tasks=50, duplicate_rate=0.5))

    for task in scenario.tasks:
        first_at: dict[str, timedelta] = {}
        for callback in task.callbacks:
            said = semantic_id(task, callback)
            if callback.repeat == 0:
                first_at[said] = callback.at
            assert first_at[said] <= callback.at


def test_a_repeat_says_the_same_as_its_original() -> None:
    """However odd it is: repeats count as one occurrence, originals as many."""
    scenario = plan_scenario(
        ScenarioOptions(tasks=80, duplicate_rate=0.4, oddity_rate=0.6, reorder=0.5)
    )

    said = {semantic_id(t, c) for t in scenario.tasks for c in t.callbacks}

    assert scenario.callbacks - scenario.duplicates == len(said)


@settings(max_examples=60, deadline=None)
@given(
    tasks=st.integers(0, 12),
    tracks=st.integers(1, 3),
    rates=st.lists(st.sampled_from([0, 0.1, 0.5, 0.9]), min_size=6, max_size=6),
    seed=st.integers(0, 2**32),
)
def test_any_options_give_a_plan_that_can_be_written(
    tasks: int, tracks: int, rates: list[float], seed: int
) -> None:
    """No combination of rates is impossible, and time only goes forward."""
    names = (
        "duplicate_rate",
        "reorder",
        "missing_rate",
        "failure_rate",
        "oddity_rate",
        "expired_rate",
    )
    chosen: dict[str, Any] = dict(zip(names, rates, strict=True))
    options = ScenarioOptions(
        tasks=tasks, tracks_per_task=tracks, seed=seed, operations=("extend",), **chosen
    )

    scenario = plan_scenario(options)

    assert len(scenario.tasks) == tasks
    assert all(body.startswith(b"{") for body in bodies(scenario))
    for task in scenario.tasks:
        assert task.operation == "extend"
        assert all(callback.at >= task.starts_at for callback in task.callbacks)


def test_every_wrong_option_is_named_at_once() -> None:
    with pytest.raises(ValueError, match="duplicate_rate") as caught:
        ScenarioOptions(
            duplicate_rate=1, tasks=-1, tracks_per_task=0, operations=("karaoke",)
        )

    for part in ("tasks: ", "tracks_per_task: ", "operations: ", "karaoke"):
        assert part in str(caught.value)
