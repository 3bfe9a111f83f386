"""Turn the plan of an audio task into that of a sibling operation. Pure.

What is drawn for a task (when it ends, whether it fails, which link is dead) is the
same for every operation; what it brings is not.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final
from uuid import UUID

from pipeline.simulator.chance import seeded
from pipeline.simulator.music import in_format, with_spaces
from pipeline.simulator.operations import BY_NAME, Family, family_of
from pipeline.simulator.plan import FilePlan, ResultPlan, TaskPlan
from pipeline.simulator.video import VIDEO_TYPE

if TYPE_CHECKING:
    from datetime import timedelta
    from random import Random

    from pipeline.simulator.plan import CallbackPlan

#: Stems beside voice and accompaniment, where a task makes all of them; others that
#: are documented stay empty.
STEMS: Final = ("backing_vocals", "drums", "bass", "guitar")
#: Groups of the stems that are made one by one.
STEM_GROUPS: Final = ("Lead Vocal", "Drum Kit")


def for_operation(task: TaskPlan, operation: str) -> TaskPlan:
    """Give what becomes of an audio task if it is one of another operation.

    Operations that say nothing before their end lose what was told before it. Oddities
    are those of audio bodies: others have none.
    """
    changed = replace(task, operation=operation)
    family = family_of(operation)
    if family is not Family.AUDIO:
        changed = replace(changed, own_results=_results(task, family))
    known = BY_NAME.get(operation)
    if known is None or not known.is_silent_till_end:
        return changed
    last = task.milestones[-1]
    callbacks = [
        _calm(callback, family, not_before=last[1])
        for callback in task.callbacks
        if callback.stage is last[0]
    ]
    callbacks.sort(key=lambda callback: callback.at)
    return replace(changed, milestones=(last,), callbacks=tuple(callbacks))


def shape_of(task: TaskPlan) -> Random:
    """Give the chance that decides which of several documented shapes a task has."""
    return seeded("shape", task.task_id)


def stem_kind(task: TaskPlan) -> int:
    """Say how vocals were taken apart: 0 in two, 1 into stems, 2 one by one."""
    return shape_of(task).randrange(3)


def _calm(
    callback: CallbackPlan, family: Family, *, not_before: timedelta
) -> CallbackPlan:
    at = max(callback.at, not_before)
    oddity = callback.oddity if family is Family.AUDIO else None
    return replace(callback, at=at, oddity=oddity)


def _results(task: TaskPlan, family: Family) -> tuple[ResultPlan, ...]:
    match family:
        case Family.WAV:
            return (_result("track-1", "audio", _wav(task)),)
        case Family.VOCALS:
            return _stems(task)
        case Family.VIDEO:
            return (_result("track-1", "video", _video(task)),)
        case Family.COVER:
            return tuple(
                _result(f"track-{number}", "image", _renamed(track.image, "cover"))
                for number, track in enumerate(task.tracks, 1)
            )
        case Family.RECOVERY:
            return tuple(
                _result(track.audio_id, "audio", track.audio) for track in task.tracks
            )
        case _:
            return ()


def _result(track_id: str, name: str, file: FilePlan) -> ResultPlan:
    return ResultPlan(track_id=track_id, name=name, file=file)


def _wav(task: TaskPlan) -> FilePlan:
    return _renamed(in_format(_source(task), "wav"), "wav")


def _video(task: TaskPlan) -> FilePlan:
    source = _source(task)
    stem = source.path.rpartition(".")[0]
    return replace(
        source,
        path=f"{stem}.mp4",
        kind="video",
        file_format="mp4",
        content_type=VIDEO_TYPE,
    )


def _stems(task: TaskPlan) -> tuple[ResultPlan, ...]:
    kind = stem_kind(task)
    source = _source(task)
    if kind == 2:  # noqa: PLR2004 - as ``stem_kind`` says
        chance = seeded("stems", task.task_id)
        names = ("extract", "remove", *STEM_GROUPS)
        return tuple(
            _result(
                str(UUID(int=chance.getrandbits(128), version=4)),
                "audio",
                _stem(source, name, number),
            )
            for number, name in enumerate(names)
        )
    names = ("vocal", "instrumental", *(STEMS if kind else ()))
    return tuple(
        _result("track-1", name, _stem(source, name, number))
        for number, name in enumerate(names)
    )


def _stem(source: FilePlan, name: str, number: int) -> FilePlan:
    """Make a stem; the first has the fate of the file that it is made from."""
    made = _renamed(source, name.lower().replace(" ", "-"))
    if number == 0:
        return with_spaces(made)
    return replace(made, expiry=None)


def _source(task: TaskPlan) -> FilePlan:
    """Give the audio it is made from: one whose link is dead, if there is one."""
    files = [track.audio for track in task.tracks]
    return next((file for file in files if file.expiry), files[0])


def _renamed(file: FilePlan, word: str) -> FilePlan:
    stem, _, suffix = file.path.rpartition(".")
    path = f"{stem}-{word}.{suffix}"
    return replace(file, path=path, comment=f"{file.comment} {word}")
