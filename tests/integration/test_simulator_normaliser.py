"""The simulator and the normaliser agree on what a callback says.

They were written apart, from the provider's pages: the simulator names an
occurrence by the body it writes, the normaliser by what it reads.
"""

from __future__ import annotations

from itertools import count

import pytest

from pipeline.provider.callback import normalise, peek
from pipeline.simulator import (
    OPERATIONS,
    LoadOptions,
    ScenarioOptions,
    plan_load,
    plan_scenario,
)
from pipeline.simulator.cousin import cousin_body
from pipeline.simulator.payloads import (
    callback_body,
    encode,
    record_info,
    semantic_id,
    told_files,
)
from pipeline.task import Stage, event_id

BASE = "http://127.0.0.1:1"


def link(path: str) -> str:
    return BASE + path


@pytest.mark.parametrize("seed", range(3))
def test_every_planned_callback_is_understood_as_it_was_meant(seed: int) -> None:
    """Task, stage and files are the planned ones, however odd the body is."""
    number = count()

    def fresh_link(path: str) -> str:
        return f"{BASE}{path}?Number={next(number)}"

    options = ScenarioOptions(
        tasks=120,
        seed=seed,
        oddity_rate=0.6,
        duplicate_rate=0.4,
        failure_rate=0.3,
        operations=OPERATIONS,
    )
    names: dict[str, set[str]] = {}
    for task in plan_scenario(options).tasks:
        for callback in task.callbacks:
            body = encode(callback_body(task, callback, fresh_link))
            update = normalise(body, task.operation)
            told = {file.path for file in told_files(task, callback)}
            read = {
                link.removeprefix(BASE).partition("?")[0]
                for track in update.tracks
                for link in track.links.values()
                if callback.stage in (Stage.FIRST, Stage.COMPLETE)
            }

            assert update.task_id == task.task_id
            assert update.stage is callback.stage, callback.oddity
            assert peek(body, task.operation).stage is callback.stage
            assert read == told, callback.oddity
            said = semantic_id(task, callback)
            names.setdefault(said, set()).add(event_id(update))

    assert {len(ids) for ids in names.values()} == {1}, "a repeat has another id"
    assert len(names) == len(set().union(*names.values())), "two events share an id"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_details_of_every_operation_are_understood(operation: str) -> None:
    """How it has ended, and with which files; before that there is no end."""
    options = ScenarioOptions(tasks=30, operations=(operation,), failure_rate=0.3)
    for task in plan_scenario(options).tasks:
        end = task.milestones[-1][0]

        early = normalise(encode(record_info(task, None, link)), operation)
        late = normalise(encode(record_info(task, end, link)), operation)

        assert not early.stage.is_final
        assert late.stage is end
        assert early.task_id == late.task_id == task.task_id
        links = [url for track in late.tracks for url in track.links.values()]
        kept = [f for f in task.files if operation != "recovery" or not f.expiry]
        if end is Stage.COMPLETE:
            assert {BASE + file.path for file in kept} == set(links)


def test_what_the_cousin_says_is_understood() -> None:
    """Clips that are still streaming are no final files."""
    options = ScenarioOptions(tasks=20, failure_rate=0.3, oddity_rate=0)
    for task in plan_scenario(options).tasks:
        for callback in task.callbacks:
            update = normalise(encode(cousin_body(task, callback, link)), "generate")
            found = {t.links["audio"] for t in update.tracks if "audio" in t.links}
            told = {BASE + file.path for file in told_files(task, callback)}

            assert update.task_id == task.task_id
            assert found == {url for url in told if url.endswith((".mp3", ".wav"))}
            if callback.stage.is_final:
                assert update.stage is callback.stage


@pytest.mark.parametrize("links", [(), (f"{BASE}/files/a.mp3",)])
def test_every_callback_of_a_load_is_understood(links: tuple[str, ...]) -> None:
    """As many occurrences are read as were planned."""
    callbacks = plan_load(LoadOptions(callbacks=600, links=links))

    updates = [normalise(callback.body, "generate") for callback in callbacks]

    assert [update.stage for update in updates] == [c.stage for c in callbacks]
    assert len({event_id(update) for update in updates}) == 480
