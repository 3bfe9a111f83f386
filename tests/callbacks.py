"""Makes the provider's bodies, and claims on them; every argument has a default."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import orjson

from pipeline.events.publications import asset_requested
from pipeline.ledger.port import Claim
from pipeline.message import MessageId, new_message_id
from pipeline.task import (
    Asset,
    AssetKey,
    AssetState,
    Stage,
    TaskId,
    TaskUpdate,
    Track,
    event_id,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.ledger.jobs import NamedJob
    from pipeline.message import JSONValue, Publication

TASK: Final = TaskId("2fac6f1d9f72")
#: When the first callback of a test comes in.
START: Final = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


def after(seconds: float) -> datetime:
    """Give the time some seconds after the start."""
    return START + timedelta(seconds=seconds)


def make_item(number: int = 1, **changes: JSONValue) -> dict[str, Any]:
    """Make a track as the provider's callbacks show it."""
    return {
        "id": f"8551-{number}",
        "audio_url": f"https://files.example.com/{number}.mp3?sig=1",
        "source_audio_url": f"https://upstream.example.com/{number}.mp3",
        "stream_audio_url": f"https://stream.example.com/{number}",
        "image_url": f"https://files.example.com/{number}.jpeg?sig=1",
        "prompt": "[Verse] Night city lights",
        "model_name": "chirp-v4",
        "title": "Iron Man",
        "tags": "electrifying, rock",
        "createTime": "2026-11-20 11:58:00",
        "duration": 198.44,
        **changes,
    }


def make_content(
    callback_type: str | None = "complete",
    *,
    items: Sequence[JSONValue] | None = None,
    code: JSONValue = 200,
    task_id: str = TASK,
    **data: JSONValue,
) -> dict[str, Any]:
    """Make the body of a callback of an audio operation, not yet encoded."""
    inner: dict[str, Any] = {"task_id": task_id, **data}
    if callback_type is not None:
        inner["callbackType"] = callback_type
    inner["data"] = [make_item(1), make_item(2)] if items is None else list(items)
    return {"code": code, "msg": "All generated successfully.", "data": inner}


def make_body(
    callback_type: str | None = "complete",
    *,
    items: Sequence[JSONValue] | None = None,
    code: JSONValue = 200,
    task_id: str = TASK,
    **data: JSONValue,
) -> bytes:
    """Make the body of a callback of an audio operation."""
    return orjson.dumps(
        make_content(callback_type, items=items, code=code, task_id=task_id, **data)
    )


def make_record_info(status: str = "SUCCESS", **data: JSONValue) -> bytes:
    """Make an answer of the details endpoint."""
    return orjson.dumps(
        {
            "code": 200,
            "msg": "success",
            "data": {
                "taskId": TASK,
                "param": '{"prompt":"..."}',
                "response": {"taskId": TASK, "sunoData": [make_camel_item()]},
                "status": status,
                "type": "chirp-v4",
                "operationType": "upload_extend",
                "errorCode": None,
                "errorMessage": None,
                **data,
            },
        }
    )


def make_camel_item(number: int = 1) -> dict[str, Any]:
    """Make the same track as ``make_item``, as the details endpoint shows it."""
    item = make_item(number)
    return {
        "id": item["id"],
        "audioUrl": item["audio_url"],
        "sourceAudioUrl": item["source_audio_url"],
        "streamAudioUrl": item["stream_audio_url"],
        "imageUrl": item["image_url"],
        "prompt": item["prompt"],
        "modelName": item["model_name"],
        "title": item["title"],
        "tags": item["tags"],
        "createTime": 1_763_639_880_000,
        "duration": item["duration"],
    }


def make_track(track_id: str = "8551-1", **changes: Any) -> Track:
    """Make a finished track with two files."""
    values: dict[str, Any] = {
        "title": "Iron Man",
        "links": {
            "audio": f"https://files.example.com/{track_id}.mp3?sig=1",
            "image": f"https://files.example.com/{track_id}.jpeg?sig=1",
        },
    }
    return Track(track_id=track_id, **(values | changes))


def make_update(
    stage: Stage = Stage.COMPLETE,
    *,
    task_id: str = TASK,
    tracks: Sequence[Track] | None = None,
    links: Mapping[str, str] | None = None,
    operation: str = "upload-extend",
    code: int | None = 200,
    message: str = "",
) -> TaskUpdate:
    """Make an update; ``links`` are those of its only track."""
    if tracks is None and stage in (Stage.FIRST, Stage.COMPLETE):
        tracks = [make_track() if links is None else make_track(links=links)]
    return TaskUpdate(
        task_id=TaskId(task_id),
        operation=operation,
        stage=stage,
        code=code,
        message=message,
        tracks=tuple(tracks or ()),
    )


def make_claim(
    update: TaskUpdate | None = None,
    *,
    owner: str | None = None,
    origin: str = "callback",
    received_at: datetime = START,
    body: bytes = b"",
    due_at: datetime | None = None,
    replayed: bool = False,
    door: str = "",
    job: NamedJob | None = None,
) -> Claim:
    """Make a claim on an update, by a message of its own."""
    update = make_update() if update is None else update
    return Claim(
        update=update,
        event_id=event_id(update),
        owner=new_message_id() if owner is None else MessageId(owner),
        origin=origin,
        received_at=received_at,
        body=body,
        due_at=due_at,
        replayed=replayed,
        door=door,
        job=job,
    )


def make_request(number: int, url: str) -> Publication:
    """Ask for a file that no ledger knows; later ones were told of later."""
    key = AssetKey(task_id=TASK, track_id=str(number), kind="audio")
    asset = Asset(key=key, operation="generate", url=url, state=AssetState.PENDING)
    owner = MessageId(f"callback-{number}")
    return asset_requested(
        asset, owner=owner, stage=Stage.FIRST, source="/pipeline", at=after(number)
    )
