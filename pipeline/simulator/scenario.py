"""Decide, from a seed, everything that a simulated run will do.

Pure: no clock, no network, no files. The same options give the same scenario, and
with it the same bodies byte for byte, apart from what links carry (the address of
the server, the time of signing, the signature). Rates are met exactly, by choosing
a number of tasks or callbacks, not by throwing dice for each: a short demo shows
what it was asked to show. Formats depend on whether PyAV is installed, unless they
are given.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import count
from typing import TYPE_CHECKING, Final

from pipeline.simulator.audio import audio_format
from pipeline.simulator.chance import seeded
from pipeline.simulator.failures import FAILURES, Failure
from pipeline.simulator.music import CREATED_FROM, Formats, make_tracks
from pipeline.simulator.oddities import apply_oddities, make_files_odd
from pipeline.simulator.options import ScenarioOptions
from pipeline.simulator.picture import PictureFormat, picture_formats
from pipeline.simulator.plan import CallbackPlan, Expiry, TaskPlan, TrackPlan
from pipeline.simulator.results import for_operation
from pipeline.task import Stage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from random import Random

#: What a link may answer once it has expired.
EXPIRED_STATUSES: Final = (404, 403, 410, 441)

#: Fewer tasks cannot show a success, a failure and a dead link side by side.
_TASKS_FOR_ONE_OF_EACH: Final = 3
#: Tasks that are planned at a time where nobody says how many there will be.
_BLOCK: Final = 20
_MODELS: Final = ("V4_5", "V5", "V4_5PLUS", "V5_5")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A planned run."""

    options: ScenarioOptions
    tasks: tuple[TaskPlan, ...]

    @property
    def callbacks(self) -> int:
        """How many callbacks will be delivered, repeats included."""
        return sum(len(task.callbacks) for task in self.tasks)

    @property
    def duplicates(self) -> int:
        """How many of them repeat an earlier one."""
        return sum(c.repeat > 0 for task in self.tasks for c in task.callbacks)

    @property
    def failures(self) -> int:
        """How many tasks fail."""
        return sum(task.failure is not None for task in self.tasks)

    @property
    def expired_links(self) -> int:
        """How many files have a link that is dead from the beginning."""
        return sum(f.expiry is not None for task in self.tasks for f in task.files)

    @property
    def lasts(self) -> timedelta:
        """When the last callback leaves, after the start."""
        times = (c.at for task in self.tasks for c in task.callbacks)
        return max(times, default=timedelta(0))


def plan_scenario(options: ScenarioOptions | None = None) -> Scenario:
    """Plan a run. The same options give an equal scenario."""
    options = options or ScenarioOptions()
    tasks = [
        _plan_task(options, number, fate)
        for number, fate in enumerate(_draw_fates(options))
    ]
    originals = sum(len(task.callbacks) for task in tasks)
    odd = _quota(options, options.oddity_rate, originals)
    tasks = apply_oddities(tasks, odd, seeded("oddities", options.seed))
    return Scenario(options=options, tasks=tuple(_add_repeats(tasks, options)))


def plan_endlessly(options: ScenarioOptions, *, seed: int) -> Iterator[TaskPlan]:
    """Plan one task after the other, of the audio kind, which others are made of.

    They are planned in blocks, in each of which the rates are met exactly.
    """
    for block in count():
        chance = seeded("block", f"{seed}.{options.seed}.{block}")
        changed = replace(
            options,
            tasks=_BLOCK,
            seed=chance.getrandbits(48),
            operations=("upload-extend",),
        )
        yield from plan_scenario(changed).tasks


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fate:
    """What was drawn for one task."""

    failure: Failure | None = None
    expiry: Expiry | None = None
    missing: Stage | None = None
    is_reordered: bool = False
    has_odd_files: bool = False


def _draw_fates(options: ScenarioOptions) -> list[_Fate]:
    """Draw which tasks fail, have a dead link, miss a stage and so on."""
    chance = seeded("fates", options.seed)
    fates = [_Fate() for _ in range(options.tasks)]
    order = chance.sample(range(options.tasks), options.tasks)
    failing = _quota(options, options.failure_rate, options.tasks)
    for turn, number in enumerate(order[:failing]):
        failure = FAILURES[turn % len(FAILURES)]
        fates[number] = replace(fates[number], failure=failure)
    finished = order[failing:]
    expired = _quota(options, options.expired_rate, len(finished))
    renewable = round(options.renewable_rate * expired)
    recoverable = round(options.recoverable_rate * (expired - renewable))
    for turn, number in enumerate(finished[:expired]):
        status = EXPIRED_STATUSES[turn % len(EXPIRED_STATUSES)]
        expiry = Expiry(
            status=status,
            renewable=turn >= expired - renewable,
            recoverable=turn < recoverable,
        )
        fates[number] = replace(fates[number], expiry=expiry)
    missing = _quota(options, options.missing_rate, len(finished))
    for number in finished[len(finished) - missing :]:
        # Without its last stage nobody would ever hear of a task's dead link.
        stages = [Stage.TEXT, Stage.FIRST]
        stages += [] if fates[number].expiry else [Stage.COMPLETE]
        fates[number] = replace(fates[number], missing=chance.choice(stages))
    reordered = _quota(options, options.reorder, len(finished))
    for number in chance.sample(finished, reordered):
        fates[number] = replace(fates[number], is_reordered=True)
    odd = _quota(options, options.oddity_rate, len(finished))
    for number in chance.sample(finished, odd):
        fates[number] = replace(fates[number], has_odd_files=True)
    return fates


def _quota(options: ScenarioOptions, rate: float, whole: int) -> int:
    """Say how many of ``whole`` a rate means."""
    wanted = round(rate * whole)
    if rate and options.at_least_one and options.tasks >= _TASKS_FOR_ONE_OF_EACH:
        wanted = max(1, wanted)
    return min(wanted, whole)


def _plan_task(options: ScenarioOptions, number: int, fate: _Fate) -> TaskPlan:
    chance = seeded("task", options.seed, number)
    start_seconds = round(2.0 * number + chance.uniform(0, 2), 3)
    model = chance.choice(_MODELS)
    tracks = make_tracks(
        chance,
        count=options.tracks_per_task,
        model=model,
        created_at=CREATED_FROM + timedelta(seconds=int(start_seconds)),
        formats=_formats(options, number),
    )
    if fate.has_odd_files:
        tracks = make_files_odd(tracks, number)
    if fate.expiry:
        tracks = _expire_one(tracks, fate.expiry, chance)
    milestones = _draw_milestones(chance, start_seconds, fate.failure)
    operation = options.operations[number % len(options.operations)]
    task = TaskPlan(
        task_id=f"{chance.getrandbits(128):032x}",
        operation=operation,
        model=model,
        starts_at=timedelta(seconds=start_seconds),
        tracks=tracks,
        milestones=milestones,
        callbacks=_plan_callbacks(chance, milestones, fate),
        failure=fate.failure,
    )
    return for_operation(task, operation)


def _formats(options: ScenarioOptions, number: int) -> Formats:
    here: Sequence[PictureFormat] = picture_formats()
    return Formats(
        audio=options.audio_format or audio_format(),
        picture=options.picture_format or here[number % len(here)],
    )


def _expire_one(
    tracks: tuple[TrackPlan, ...], expiry: Expiry, chance: Random
) -> tuple[TrackPlan, ...]:
    """Let the audio of one track be gone; its siblings stay."""
    at = chance.randrange(len(tracks))
    audio = replace(tracks[at].audio, expiry=expiry)
    return (*tracks[:at], replace(tracks[at], audio=audio), *tracks[at + 1 :])


def _draw_milestones(
    chance: Random, start_seconds: float, failure: Failure | None
) -> tuple[tuple[Stage, timedelta], ...]:
    """Draw when each stage is reached: some 20 s, a minute, two to three minutes."""
    times = [
        timedelta(seconds=round(start_seconds + chance.uniform(low, high), 3))
        for low, high in ((8, 20), (35, 80), (90, 170))
    ]
    stages = [Stage.TEXT, Stage.FIRST, Stage.COMPLETE]
    if failure is not None:
        reached = chance.choice((0, 1, 1, 2))
        stages = [*stages[:reached], Stage.FAILED]
    return tuple(zip(stages, times, strict=False))


def _plan_callbacks(
    chance: Random, milestones: Iterable[tuple[Stage, timedelta]], fate: _Fate
) -> tuple[CallbackPlan, ...]:
    told = [(stage, at) for stage, at in milestones if stage is not fate.missing]
    stages = [stage for stage, _ in told]
    if fate.is_reordered and len(stages) > 1:
        # Turned by one or more places: never the order that it was before.
        turn = chance.randrange(1, len(stages))
        stages = stages[turn:] + stages[:turn]
    return tuple(
        CallbackPlan(stage=stage, at=at)
        for stage, (_, at) in zip(stages, told, strict=True)
    )


def _add_repeats(tasks: Sequence[TaskPlan], options: ScenarioOptions) -> list[TaskPlan]:
    """Repeat callbacks until the wanted share of all are repeats."""
    chance = seeded("repeats", options.seed)
    originals = [(n, c) for n, task in enumerate(tasks) for c in task.callbacks]
    rate = options.duplicate_rate
    count = round(len(originals) * rate / (1 - rate)) if originals else 0
    if rate and originals and options.at_least_one:
        count = max(1, count)
    added: dict[int, list[CallbackPlan]] = {}
    repeats: Counter[tuple[int, CallbackPlan]] = Counter()
    for turn in range(count):
        number, callback = chance.choice(originals)
        repeats[number, callback] += 1
        later = timedelta(seconds=round(chance.uniform(0.5, 90), 3))
        repeat = replace(
            callback,
            at=callback.at + later,
            repeat=repeats[number, callback],
            fresh_links=turn % 2 == 0,
        )
        added.setdefault(number, []).append(repeat)
    return [
        replace(task, callbacks=_by_time([*task.callbacks, *added.get(number, ())]))
        for number, task in enumerate(tasks)
    ]


def _by_time(callbacks: Iterable[CallbackPlan]) -> tuple[CallbackPlan, ...]:
    return tuple(sorted(callbacks, key=lambda callback: callback.at))
