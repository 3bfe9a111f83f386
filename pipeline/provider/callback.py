"""From a callback's raw bytes to what it says, whichever shape it came in.

``peek`` is for the ingress: task and stage at a glance. ``normalise`` is for the
workers: everything. Both take callbacks and answers of the details endpoint, of
every operation. A body that is no JSON object or names no task is ``Unreadable``;
everything else is kept, as stage ``unknown`` with a reason if need be.

Code outranks type: a body whose ``code`` is not 200 tells of a failure, whatever
else it says. What is a failure and what is a result is in ``stages.py``, where the
results are in ``shapes.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import orjson

from pipeline.errors import Unreadable
from pipeline.provider import shapes
from pipeline.provider.door import generic_door
from pipeline.provider.notes import read_notes
from pipeline.provider.stages import (
    MUSIC_VIDEO,
    is_callback_exception,
    read_stage,
    reported_code,
    reported_message,
    reported_status,
)
from pipeline.task import ID_LIMIT, Stage, TaskId, TaskUpdate, Track, join_tracks
from pipeline.values import value

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.message import JSONValue
    from pipeline.provider.door import Door
    from pipeline.provider.shapes import TrackReader
    from pipeline.task import Notes

#: Longer texts of the provider are cut.
MESSAGE_LIMIT: Final = 2000
_NO_TASK_ID: Final = (
    "expected a task id in data.task_id, data.taskId, task_id or taskId, found none"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """How the bodies of one of the provider's operations are read."""

    tracks: TrackReader
    #: Kinds of file of which ``complete`` must bring one; ``None``: any kind will
    #: do; empty: no file, but a track, or notes, or there is no result.
    needs: frozenset[str] | None = frozenset({shapes.AUDIO})
    #: Whether there are notes in its bodies.
    has_notes: bool = False


_AUDIO: Final = Operation(tracks=shapes.audio_tracks)
_VOICE: Final = Operation(tracks=shapes.voices, needs=frozenset())

#: Every operation that we know, by the name it has in addresses and routing keys.
OPERATIONS: Final[Mapping[str, Operation]] = MappingProxyType(
    {
        "upload-extend": _AUDIO,
        "generate": _AUDIO,
        "extend": _AUDIO,
        "upload-cover": _AUDIO,
        "add-instrumental": _AUDIO,
        "add-vocals": _AUDIO,
        "mashup": _AUDIO,
        "sounds": _AUDIO,
        "replace-section": _AUDIO,
        "recovery": _AUDIO,
        "lyrics": Operation(tracks=shapes.lyrics, needs=frozenset()),
        "wav": Operation(tracks=shapes.wav),
        "vocal-removal": Operation(tracks=shapes.separated_vocals, needs=None),
        MUSIC_VIDEO: Operation(
            tracks=shapes.music_video, needs=frozenset({shapes.VIDEO})
        ),
        "cover-image": Operation(
            tracks=shapes.cover_images, needs=frozenset({shapes.IMAGE})
        ),
        "midi": Operation(tracks=shapes.no_tracks, needs=frozenset(), has_notes=True),
        "voice": _VOICE,
        "voice-validate": _VOICE,
    }
)


@value
class Peek:
    """What the ingress has to know of a body."""

    task_id: TaskId
    #: At a glance; ``normalise`` looks closer and may see it differently.
    stage: Stage


def peek(body: bytes, operation: str | None = None) -> Peek:
    """Read task and stage, in a few microseconds.

    Args:
        body: as it was received; it may be hostile.
        operation: where it was sent to, if known. Only decides whether code 0 is
            a success.

    Raises:
        Unreadable: no JSON object, no task id, or one that is too long or cannot
            be printed.
    """
    content, data = _parsed(body)
    stage, _ = read_stage(content, data, operation)
    return Peek(task_id=_task_id(content, data), stage=stage)


def normalise(body: bytes, operation: str, door: Door | None = None) -> TaskUpdate:
    """Read everything a body says, in the shape that its operation has.

    ``complete`` without a result becomes ``unknown``: the task is not finished, and
    has to be asked for; with results that have all failed it becomes ``failed``. Of a
    track that is not finished there is no audio file, whatever its fields hold. An
    operation that is not known is read like audio.

    Args:
        body: as it was received; it may be hostile.
        operation: where it was sent to, or what was asked for.
        door: knows what codes mean; ``None``: what they mean at every door.

    Raises:
        Unreadable: as ``peek``.
    """
    content, data = _parsed(body)
    task_id = _task_id(content, data)
    stage, reason = read_stage(content, data, operation)
    shape = OPERATIONS.get(operation, _AUDIO)
    tracks = _unique(shape.tracks(content, data))
    if stage is Stage.COMPLETE and tracks and all(track.error for track in tracks):
        stage = Stage.FAILED
    notes = read_notes(data) if shape.has_notes else None
    if stage is Stage.COMPLETE:
        reason = _missing(shape, tracks, notes, data)
        if reason:
            stage = Stage.UNKNOWN
    elif stage is not Stage.FIRST:
        tracks = [_unfinished(track) for track in tracks]
    code = reported_code(content, data)
    failure = None
    if stage is Stage.FAILED:
        failure = (door or generic_door()).failure(code, reported_status(data))
    return TaskUpdate(
        task_id=task_id,
        operation=operation,
        stage=stage,
        code=code,
        message=reported_message(content, data)[:MESSAGE_LIMIT],
        tracks=tuple(tracks),
        unknown_reason=reason,
        failure=failure,
        notes=notes,
    )


def _parsed(body: bytes) -> tuple[dict[str, JSONValue], dict[str, JSONValue]]:
    """Parse the body; give it and its ``data``, empty unless that is an object."""
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        message = f"expected a JSON object, got {len(body)} bytes: {error}"
        raise Unreadable(message) from error
    if type(content) is not dict:
        message = f"expected a JSON object, got a {type(content).__name__}"
        raise Unreadable(message)
    data = content.get("data")
    return content, data if type(data) is dict else {}


def _task_id(content: dict[str, JSONValue], data: dict[str, JSONValue]) -> TaskId:
    """Find the task id: the first of its four places that has one, as documented."""
    for found in (
        data.get("task_id"),
        data.get("taskId"),
        content.get("task_id"),
        content.get("taskId"),
    ):
        if type(found) is int:
            return TaskId(str(found))  # the same id, as everything needs it
        if type(found) is str and found.strip():
            return _usable(found)
    raise Unreadable(_NO_TASK_ID)


def _usable(task_id: str) -> TaskId:
    if len(task_id) > ID_LIMIT:
        message = (
            f"expected a task id of at most {ID_LIMIT} characters, got {len(task_id)}"
        )
        raise Unreadable(message)
    if not task_id.isprintable():
        message = f"expected a task id that can be printed, got {task_id!r}"
        raise Unreadable(message)
    return TaskId(task_id)


def _unique(tracks: list[Track]) -> list[Track]:
    """Merge tracks that share an id."""
    if len(tracks) < 2:  # noqa: PLR2004 - one track shares its id with nobody
        return tracks
    by_id: dict[str, Track] = {}
    for track in tracks:
        same = by_id.get(track.track_id)
        by_id[track.track_id] = track if same is None else join_tracks(same, track)
    return list(by_id.values())


def _missing(
    shape: Operation,
    tracks: list[Track],
    notes: Notes | None,
    data: dict[str, JSONValue],
) -> str:
    """Say what ``complete`` lacks; nothing if it is what it says."""
    if shape.has_notes:
        return "" if notes and notes.instruments else "complete, but without notes"
    if shape.needs is not None and not shape.needs:
        return "" if tracks else "complete, but without a result"
    complete = [
        bool(track.links if shape.needs is None else shape.needs & track.links.keys())
        for track in tracks
    ]
    if not any(complete) or (is_callback_exception(data) and not all(complete)):
        return "complete, but without the address of a file"
    return ""


def _unfinished(track: Track) -> Track:
    if shapes.AUDIO not in track.links:
        return track
    links = {kind: link for kind, link in track.links.items() if kind != shapes.AUDIO}
    return replace(track, links=links)
