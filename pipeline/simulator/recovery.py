"""Bring back lost files, as the recovery endpoint does: a job, a callback, details."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from pipeline.simulator.failures import Failure, FailureData
from pipeline.simulator.plan import CallbackPlan
from pipeline.simulator.results import for_operation
from pipeline.task import Stage

if TYPE_CHECKING:
    from pipeline.simulator.files import FileShelf
    from pipeline.simulator.plan import TaskPlan, TrackPlan

NAME: Final = "recovery"
_NOTHING: Final = Failure(
    callback_type="error",
    code=500,
    message="no_audio_id_mappings",
    data=FailureData.EMPTY,
    status="GENERATE_AUDIO_FAILED",
)
_AT_ONCE: Final = timedelta(0)


def plan_recovery(task: TaskPlan, shelf: FileShelf, takes: timedelta) -> TaskPlan:
    """Plan the recovery of a task's audio, and put what it brings on the shelf.

    A file that is there is told of as it is. One that is lost comes back under another
    address, or not at all.
    """
    tracks = tuple(_recovered(track, shelf) for track in task.tracks)
    is_hopeless = all(track.audio.expiry for track in tracks)
    stage = Stage.FAILED if is_hopeless else Stage.COMPLETE
    plan = replace(
        task,
        starts_at=_AT_ONCE,
        tracks=tracks,
        milestones=((stage, takes),),
        callbacks=(CallbackPlan(stage=stage, at=takes),),
        failure=_NOTHING if is_hopeless else None,
    )
    return for_operation(plan, NAME)


def _recovered(track: TrackPlan, shelf: FileShelf) -> TrackPlan:
    audio = shelf.find(track.audio.path) or track.audio
    expiry = audio.expiry
    if expiry is not None and (expiry.recoverable or expiry.renewable):
        stem, _, suffix = audio.path.rpartition(".")
        audio = replace(audio, path=f"{stem}-recovered.{suffix}", expiry=None)
        shelf.add([audio])
    return replace(track, audio=audio)
