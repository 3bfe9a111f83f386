"""Write callbacks as the cousin among the doors does: clips with states. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pipeline.simulator.operations import Family, family_of
from pipeline.simulator.payloads import callback_body
from pipeline.task import Stage

if TYPE_CHECKING:
    from pipeline.simulator.bodies import Body, Link
    from pipeline.simulator.plan import CallbackPlan, TaskPlan, TrackPlan

_EVENTS: Final = {
    Stage.TEXT: "song.streaming",
    Stage.FIRST: "song.streaming",
    Stage.COMPLETE: "song.completed",
    Stage.FAILED: "song.failed",
}
_UNKNOWN_EVENT: Final = "song.updated"


def event_name(stage: Stage) -> str:
    """Give what the cousin calls a stage, as its header says it, too."""
    return _EVENTS.get(stage, _UNKNOWN_EVENT)


def cousin_body(task: TaskPlan, callback: CallbackPlan, link: Link) -> Body:
    """Write the body of a callback.

    Only songs are documented; other operations are written as at the other doors.
    """
    if family_of(task.operation) is not Family.AUDIO:
        return callback_body(task, callback, link)
    failure = task.failure if callback.stage is Stage.FAILED else None
    return {
        "code": 200 if failure is None else failure.code,
        "message": "success" if failure is None else failure.message,
        "task_id": task.task_id,
        "platform": "suno",
        "event": event_name(callback.stage),
        "data": [
            _clip(track, _state(callback.stage, number), link)
            for number, track in enumerate(task.tracks)
        ],
    }


def _state(stage: Stage, number: int) -> str:
    if stage is Stage.FAILED:
        return "failed"
    is_first = stage is Stage.FIRST and number == 0
    return "succeeded" if is_first or stage is Stage.COMPLETE else "streaming"


def _clip(track: TrackPlan, state: str, link: Link) -> Body:
    """Write a clip. While it is made its audio is the stream, which is not final."""
    audio = {"succeeded": track.audio.path, "streaming": track.stream_path}.get(state)
    return {
        "clip_id": track.audio_id,
        "state": state,
        "title": track.title,
        "tags": track.tags,
        "lyrics": track.prompt,
        "image_url": link(track.image.path),
        "audio_url": link(audio) if audio else "",
        "video_url": None,
        "created_at": f"{track.created_at:%Y-%m-%dT%H:%M:%S.000Z}",
        "duration": f"{track.duration_seconds:.2f}",
        "mv": track.model_name,
    }
