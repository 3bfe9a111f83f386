"""Let callbacks and files differ from what is documented, as they do in life."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from pipeline.simulator.audio import audio_format
from pipeline.simulator.music import in_format, with_spaces
from pipeline.simulator.operations import Family, family_of
from pipeline.simulator.plan import CallbackPlan, Oddity, TaskPlan, TrackPlan
from pipeline.task import Stage

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

_EVERY: Final = frozenset(Stage)
_WITH_TRACKS: Final = frozenset({Stage.FIRST, Stage.COMPLETE})

#: At which stages each oddity makes sense.
_STAGES: Final = {
    Oddity.TEXT_WITH_TRACKS: frozenset({Stage.TEXT}),
    Oddity.FIRST_WITH_ALL_TRACKS: frozenset({Stage.FIRST}),
    Oddity.CAMEL_TASK_ID: _EVERY,
    Oddity.UNKNOWN_STAGE: _EVERY,
    Oddity.RECORD_INFO_SHAPE: _EVERY,
    Oddity.UPPER_CASE_TYPE: _EVERY,
    Oddity.CREATE_TIME_IN_MILLISECONDS: _WITH_TRACKS,
    Oddity.TEXT_WITH_NULL: frozenset({Stage.TEXT}),
    Oddity.CODE_AS_TEXT: _EVERY,
    Oddity.CAMEL_CASE_TRACKS: _WITH_TRACKS,
    Oddity.TOP_LEVEL_TASK_ID: _EVERY,
    Oddity.SPARSE_TRACKS: _WITH_TRACKS,
    Oddity.NEW_FIELDS: _EVERY,
}
#: How long after another callback the one of an unknown stage leaves.
_UNKNOWN_LATER: Final = timedelta(seconds=3)


def apply_oddities(
    tasks: Sequence[TaskPlan], count: int, chance: Random
) -> list[TaskPlan]:
    """Make ``count`` callbacks odd; every kind comes before one comes again.

    Only those of audio operations: each of the others has several shapes anyway.
    """
    changed = [list(task.callbacks) for task in tasks]
    places = [
        (n, i)
        for n, task in enumerate(tasks)
        if family_of(task.operation) is Family.AUDIO
        for i in range(len(task.callbacks))
    ]
    kinds = deque(chance.sample(list(_STAGES), len(_STAGES)))
    for number, index in chance.sample(places, min(count, len(places))):
        callback = changed[number][index]
        oddity = next(
            kind
            for kind in kinds
            if callback.stage in _STAGES[kind]
            and _fits(kind, tasks[number], changed[number])
        )
        kinds.remove(oddity)
        kinds.append(oddity)
        if oddity is Oddity.UNKNOWN_STAGE:
            at = callback.at + _UNKNOWN_LATER
            extra = CallbackPlan(stage=Stage.UNKNOWN, at=at, oddity=oddity)
            changed[number].append(extra)
        else:
            changed[number][index] = replace(callback, oddity=oddity)
    return [
        replace(task, callbacks=tuple(callbacks))
        for task, callbacks in zip(tasks, changed, strict=True)
    ]


def make_files_odd(tracks: tuple[TrackPlan, ...], number: int) -> tuple[TrackPlan, ...]:
    """Change the first track's audio file: by turns its type, address or format."""
    first = tracks[0]
    match number % 3:
        case 0:
            audio = replace(first.audio, content_type="application/octet-stream")
        case 1:
            audio = with_spaces(first.audio)
        case _ if first.audio.file_format == audio_format() == "mp3":
            audio = in_format(first.audio, "m4a")
        case _:
            audio = in_format(first.audio, "wav")
    return (replace(first, audio=audio), *tracks[1:])


def _fits(kind: Oddity, task: TaskPlan, callbacks: Sequence[CallbackPlan]) -> bool:
    if kind is Oddity.FIRST_WITH_ALL_TRACKS:
        return len(task.tracks) > 1
    if kind is Oddity.UNKNOWN_STAGE:
        # A second one would say the same and be a repeat that nobody counts.
        return all(callback.stage is not Stage.UNKNOWN for callback in callbacks)
    return True
