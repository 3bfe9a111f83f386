"""Write callbacks and answers as the provider writes them. Pure.

Shapes: the provider's pages on callbacks and on music generation details. How
links look is decided by the caller: every function that writes them takes a
``Link``, which turns the path of a file into an address.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

import orjson

from pipeline.simulator.failures import FailureData
from pipeline.simulator.operations import Family, family_of
from pipeline.simulator.plan import Oddity, SemanticId
from pipeline.simulator.siblings import sibling_callback, sibling_details
from pipeline.task import Stage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.simulator.bodies import Body, Link
    from pipeline.simulator.failures import Failure
    from pipeline.simulator.plan import CallbackPlan, FilePlan, TaskPlan, TrackPlan

_MESSAGES: Final = {
    Stage.TEXT: "Text generation completed successfully.",
    Stage.FIRST: "First track generated successfully.",
    Stage.COMPLETE: "All generated successfully.",
}
_STATUSES: Final = {
    Stage.TEXT: "TEXT_SUCCESS",
    Stage.FIRST: "FIRST_SUCCESS",
    Stage.COMPLETE: "SUCCESS",
}
_CAMEL: Final = {
    "audio_url": "audioUrl",
    "source_audio_url": "sourceAudioUrl",
    "stream_audio_url": "streamAudioUrl",
    "source_stream_audio_url": "sourceStreamAudioUrl",
    "image_url": "imageUrl",
    "source_image_url": "sourceImageUrl",
    "model_name": "modelName",
}


def encode(body: Mapping[str, Any]) -> bytes:
    """Write a body as it goes over the wire."""
    return orjson.dumps(body)


def callback_body(task: TaskPlan, callback: CallbackPlan, link: Link) -> Body:
    """Write the body of a callback."""
    if family_of(task.operation) is not Family.AUDIO:
        return sibling_callback(task, link)
    if callback.oddity is Oddity.RECORD_INFO_SHAPE:
        return record_info(task, callback.stage, link)
    if callback.stage is Stage.UNKNOWN:
        data = {"task_id": task.task_id, "callbackType": "task_completed"}
        return {
            "code": 200,
            "msg": "success",
            "taskId": task.task_id,
            "data": data,
        }
    if callback.stage is Stage.FAILED:
        assert task.failure is not None, task  # noqa: S101 - a plan promises it
        body = _failure_body(task.task_id, task.failure)
    else:
        body = _progress_body(task, callback, link)
    return _with_odd_envelope(body, callback.oddity)


def record_info(
    task: TaskPlan,
    stage: Stage | None,
    link: Link,
    *,
    callback_gave_up: bool = False,
) -> Body:
    """Write the answer of the details endpoint for a task at ``stage``.

    ``None`` means that nothing is ready yet. ``callback_gave_up`` says that the
    provider could not deliver the callbacks, which it reports as a status.
    """
    if family_of(task.operation) is not Family.AUDIO:
        return sibling_details(task, stage, link, callback_gave_up=callback_gave_up)
    failure = task.failure if stage is Stage.FAILED else None
    if failure is not None:
        status = failure.status
    elif callback_gave_up:
        status = "CALLBACK_EXCEPTION"
    else:
        status = _STATUSES.get(stage, "PENDING") if stage else "PENDING"
    prompt = task.tracks[0].prompt
    data = {
        "taskId": task.task_id,
        "parentMusicId": "",
        "param": encode({"prompt": prompt, "model": task.model}).decode(),
        "response": _response(task, stage, link),
        "status": status,
        "type": task.tracks[0].model_name,
        "operationType": task.operation.replace("-", "_"),
        "errorCode": failure.code if failure else None,
        "errorMessage": failure.message if failure else None,
    }
    return {"code": 200, "msg": "success", "data": data}


def accepted(task_id: str) -> Body:
    """Write the answer to a submit call that was accepted."""
    return {"code": 200, "msg": "success", "data": {"taskId": task_id}}


def refused(code: int, message: str) -> Body:
    """Write the answer to any call that was refused."""
    return {"code": code, "msg": message, "data": None}


def told_files(task: TaskPlan, callback: CallbackPlan) -> tuple[FilePlan, ...]:
    """List the final files whose links a callback brings."""
    if callback.stage not in (Stage.FIRST, Stage.COMPLETE):
        return ()
    if task.own_results is not None:
        lost = family_of(task.operation) is Family.RECOVERY
        return tuple(file for file in task.files if not (lost and file.expiry))
    ready = _ready_tracks(task, callback.stage)
    files = [track.audio for track in ready]
    files += [track.image for track in _shown_tracks(task, callback)]
    return tuple(files)


def semantic_id(task: TaskPlan, callback: CallbackPlan) -> SemanticId:
    """Name what a callback says: the same for repeats with fresh links.

    Task, stage and a digest of the body in which links are bare paths. It is not
    what a receiver computes, only equal and different in the same cases.
    """
    body = callback_body(task, callback, _bare)
    digest = hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS))
    return SemanticId(f"{task.task_id}.{callback.stage}.{digest.hexdigest()[:16]}")


def _bare(path: str) -> str:
    return path


def _ready_tracks(task: TaskPlan, stage: Stage | None) -> tuple[TrackPlan, ...]:
    match stage:
        case Stage.FIRST:
            return task.tracks[:1]
        case Stage.COMPLETE:
            return task.tracks
        case _:
            return ()


def _shown_tracks(task: TaskPlan, callback: CallbackPlan) -> tuple[TrackPlan, ...]:
    showing_all = (
        Oddity.TEXT_WITH_TRACKS,
        Oddity.FIRST_WITH_ALL_TRACKS,
        Oddity.RECORD_INFO_SHAPE,
    )
    if callback.oddity in showing_all:
        return task.tracks
    return _ready_tracks(task, callback.stage)


def _response(task: TaskPlan, stage: Stage | None, link: Link) -> Body | None:
    """Write what the details endpoint says of tracks, as soon as there is text."""
    ready = _ready_tracks(task, stage)
    if not ready and stage is not Stage.TEXT:
        return None
    tracks = []
    for track in task.tracks:
        written = _track(
            task, track, link, is_ready=track in ready, in_milliseconds=True
        )
        # Seen live: 0 here, where callbacks say null.
        written["duration"] = written["duration"] or 0
        tracks.append(_camel(written))
    return {"taskId": task.task_id, "sunoData": tracks}


def _progress_body(task: TaskPlan, callback: CallbackPlan, link: Link) -> Body:
    ready = _ready_tracks(task, callback.stage)
    oddity = callback.oddity
    in_milliseconds = oddity is Oddity.CREATE_TIME_IN_MILLISECONDS
    tracks: list[Body] | None = [
        _with_odd_fields(
            _track(
                task,
                track,
                link,
                is_ready=track in ready,
                in_milliseconds=in_milliseconds,
            ),
            oddity,
        )
        for track in _shown_tracks(task, callback)
    ]
    if oddity is Oddity.TEXT_WITH_NULL:
        tracks = None
    return {
        "code": 200,
        "msg": _MESSAGES[callback.stage],
        "data": {
            "callbackType": str(callback.stage),
            "task_id": task.task_id,
            "data": tracks,
        },
    }


def _failure_body(task_id: str, failure: Failure) -> Body:
    data: Body = {"callbackType": failure.callback_type, "task_id": task_id}
    match failure.data:
        case FailureData.NULL:
            data["data"] = None
        case FailureData.EMPTY:
            data["data"] = []
        case FailureData.REASON:
            data["error"] = failure.message
        case FailureData.ABSENT:
            pass
    return {"code": failure.code, "msg": failure.message, "data": data}


def _track(
    task: TaskPlan,
    track: TrackPlan,
    link: Link,
    *,
    is_ready: bool,
    in_milliseconds: bool,
) -> Body:
    written: Body = {
        "id": track.audio_id,
        "audio_url": link(track.audio.path) if is_ready else "",
        "stream_audio_url": link(track.stream_path),
        "image_url": link(track.image.path),
        "prompt": track.prompt,
        "model_name": track.model_name,
        "title": track.title,
        "tags": track.tags,
        "createTime": (
            int(track.created_at.timestamp() * 1000)
            if in_milliseconds
            else f"{track.created_at:%Y-%m-%d %H:%M:%S}"
        ),
        "duration": track.duration_seconds if is_ready else None,
    }
    if task.operation.startswith("upload-"):
        # Upstream originals: documented, deprecated, and dead sooner than ours.
        upstream = f"/upstream/{track.audio_id}"
        written["source_audio_url"] = link(f"{upstream}.mp3") if is_ready else ""
        written["source_stream_audio_url"] = link(upstream)
        written["source_image_url"] = link(f"{upstream}.jpeg")
    return written


def _with_odd_fields(track: Body, oddity: Oddity | None) -> Body:
    match oddity:
        case Oddity.CAMEL_CASE_TRACKS:
            return _camel(track)
        case Oddity.NEW_FIELDS:
            return {**track, "bpm": 96, "mood": {"valence": 0.4}}
        case Oddity.SPARSE_TRACKS:
            sparse = {"prompt": "", "duration": None, "stream_audio_url": None}
            kept = {k: v for k, v in track.items() if k not in ("tags", "createTime")}
            return kept | sparse
        case _:
            return track


def _with_odd_envelope(body: Body, oddity: Oddity | None) -> Body:
    data: Body = body["data"]
    match oddity:
        case Oddity.CAMEL_TASK_ID:
            data["taskId"] = data.pop("task_id")
        case Oddity.TOP_LEVEL_TASK_ID:
            body["task_id"] = data.pop("task_id")
        case Oddity.CODE_AS_TEXT:
            body["code"] = str(body["code"])
        case Oddity.UPPER_CASE_TYPE:
            data["callbackType"] = data["callbackType"].upper()
        case Oddity.NEW_FIELDS:
            body["requestId"] = f"req-{data['task_id'][:8]}"
            data["progress"] = {"percent": 100}
        case _:
            pass
    return body


def _camel(track: Mapping[str, Any]) -> Body:
    return {_CAMEL.get(name, name): value for name, value in track.items()}
