"""Make the messages that carry events, ready to be published.

Built without the models, because dedupe makes one for every callback; the unit
tests hold every one of them against its model. Headers repeat what a consumer may
want to filter by, so that nobody has to parse a body for that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import orjson

from pipeline.events.catalogue import (
    ASSET_EXPIRED,
    ASSET_REQUESTED,
    ASSET_STORED,
    ASSETS_READY,
    CONTENT_TYPE,
    GIVEN_UP,
    RECOVERED,
    TASK_TYPES,
)
from pipeline.message import (
    EVENT_TYPE,
    OPERATION,
    STAGE,
    TASK_ID,
    Envelope,
    MessageId,
    Publication,
)
from pipeline.task import AssetState, bare_link, derived_id
from pipeline.topology import DOWNLOAD, EVENTS, hand_to

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from pipeline.message import HeaderValue, JSONValue
    from pipeline.task import Asset, EventId, Stage, StageReady, TaskId, TaskUpdate

_OPTIONS: Final = orjson.OPT_UTC_Z
#: Of a settled file, what ``task.assets_ready`` says beside track, kind and state.
_SETTLED_FIELDS: Final = ("sha256", "size_bytes", "content_type", "location", "reason")


def task_event(
    update: TaskUpdate,
    event: EventId,
    *,
    late: bool,
    origin: str,
    received_at: datetime,
    source: str,
    at: datetime,
) -> Publication:
    """Say what the provider said, as ``task.<stage>``.

    Args:
        update: what it said.
        event: the update's event id, which becomes the id of the event.
        late: whether the task was past this stage already.
        origin: ``callback`` or ``poll``.
        received_at: the time of the event.
        source: the CloudEvents source.
        at: the time of publishing.
    """
    stage = update.stage
    envelope = _envelope(
        event,
        TASK_TYPES[stage],
        task_id=update.task_id,
        operation=update.operation,
        stage=stage,
        time=received_at,
        source=source,
        at=at,
        data=_said(update, late=late, origin=origin),
    )
    return Publication(exchange=EVENTS, envelope=envelope)


def asset_requested(
    asset: Asset, *, owner: MessageId, stage: Stage, source: str, at: datetime
) -> Publication:
    """Ask the download worker for a file; the same owner asks with the same id.

    ``stage`` is that of the update which told of the file: so that dead letters
    can be looked for by it.
    """
    event = _asset_id(asset, ASSET_REQUESTED, owner)
    data = {**_named(asset), "url": asset.url}
    envelope = _asset_envelope(
        asset, event, ASSET_REQUESTED, data, source=source, at=at, stage=stage
    )
    return hand_to(DOWNLOAD, envelope)


def asset_settled(asset: Asset, *, source: str, at: datetime) -> Publication:
    """Say that a file is stored or has expired.

    Raises:
        ValueError: it is still pending.
    """
    if asset.state is AssetState.STORED:
        kind = ASSET_STORED
        event = _asset_id(asset, kind, asset.sha256 or "")
        data = {
            **_named(asset),
            "sha256": asset.sha256,
            "size_bytes": asset.size_bytes,
            "content_type": asset.content_type,
            "location": asset.location,
        }
    elif asset.state is AssetState.EXPIRED:
        kind = ASSET_EXPIRED
        # Not the time: whoever hears of it twice shall see that it is one thing.
        event = _asset_id(asset, kind, bare_link(asset.url))
        data = {**_named(asset), "reason": asset.reason or ""}
    else:
        message = f"expected a file that is stored or expired, got {asset.key} pending"
        raise ValueError(message)
    envelope = _asset_envelope(asset, event, kind, data, source=source, at=at)
    return Publication(exchange=EVENTS, envelope=envelope)


def assets_ready(ready: StageReady, *, source: str, at: datetime) -> Publication:
    """Say that every file of a stage is settled.

    The id depends on what became of each file: two workers that settle the last
    two files at once say the same, and a file that is recovered later is news.
    """
    envelope = _envelope(
        derived_id(ASSETS_READY, ready.task_id, ready.stage, *_fates(ready)),
        ASSETS_READY,
        task_id=ready.task_id,
        operation=ready.operation,
        stage=ready.stage,
        time=max((a.settled_at for a in ready.assets if a.settled_at), default=at),
        source=source,
        at=at,
        data={
            "task_id": ready.task_id,
            "operation": ready.operation,
            "stage": ready.stage,
            "assets": [
                {
                    "track_id": asset.key.track_id,
                    "kind": asset.key.kind,
                    "state": asset.state,
                    **{name: getattr(asset, name) for name in _SETTLED_FIELDS},
                }
                for asset in ready.assets
            ],
        },
    )
    return Publication(exchange=EVENTS, envelope=envelope)


def task_given_up(
    task_id: TaskId,
    operation: str,
    stage: Stage,
    *,
    reason: str,
    questions: int,
    source: str,
    at: datetime,
) -> Publication:
    """Say that a task is not asked for any more.

    Once for each stage that it stopped at: to be told again is no news.
    """
    envelope = _envelope(
        derived_id(GIVEN_UP, task_id, stage),
        GIVEN_UP,
        task_id=task_id,
        operation=operation,
        stage=stage,
        time=at,
        source=source,
        at=at,
        data={
            "task_id": task_id,
            "operation": operation,
            "stage": stage,
            "reason": reason,
            "questions": questions,
        },
    )
    return Publication(exchange=EVENTS, envelope=envelope)


def task_recovered(
    update: TaskUpdate,
    event: EventId,
    *,
    received_at: datetime,
    source: str,
    at: datetime,
) -> Publication:
    """Say that asking has brought a stage that no callback has told of.

    Once for each stage of a task; ``event`` is the id of the stage's own event.
    """
    stage = update.stage
    envelope = _envelope(
        derived_id(RECOVERED, update.task_id, stage),
        RECOVERED,
        task_id=update.task_id,
        operation=update.operation,
        stage=stage,
        time=received_at,
        source=source,
        at=at,
        data={
            "task_id": update.task_id,
            "operation": update.operation,
            "stage": stage,
            "event_id": event,
        },
    )
    return Publication(exchange=EVENTS, envelope=envelope)


def _said(update: TaskUpdate, *, late: bool, origin: str) -> dict[str, JSONValue]:
    failure = update.failure
    notes = update.notes
    return {
        "task_id": update.task_id,
        "operation": update.operation,
        "stage": update.stage,
        "late": late,
        "code": update.code,
        "message": update.message,
        "unknown_reason": update.unknown_reason,
        "failure": failure,
        "advice": "" if failure is None else failure.advice,
        "origin": origin,
        "notes": None
        if notes is None
        else {"instruments": notes.instruments, "notes": notes.notes},
        "tracks": update.tracks,
    }


def _asset_id(asset: Asset, kind: str, what: str) -> EventId:
    key = asset.key
    return derived_id(kind, key.task_id, key.track_id, key.kind, what)


def _named(asset: Asset) -> dict[str, JSONValue]:
    return {
        "task_id": asset.key.task_id,
        "track_id": asset.key.track_id,
        "kind": asset.key.kind,
        "operation": asset.operation,
    }


def _fates(ready: StageReady) -> Iterator[str]:
    """Give what became of each file."""
    for asset in ready.assets:
        yield asset.key.track_id
        yield asset.key.kind
        yield asset.sha256 or str(asset.state)


def _asset_envelope(
    asset: Asset,
    event: EventId,
    kind: str,
    data: dict[str, JSONValue],
    *,
    source: str,
    at: datetime,
    stage: Stage | None = None,
) -> Envelope:
    return _envelope(
        event,
        kind,
        task_id=asset.key.task_id,
        operation=asset.operation,
        stage=stage,
        time=asset.settled_at or at,
        source=source,
        at=at,
        data=data,
    )


def _envelope(
    event: EventId,
    kind: str,
    *,
    task_id: TaskId,
    operation: str,
    stage: Stage | None,
    time: datetime,
    source: str,
    at: datetime,
    data: dict[str, JSONValue],
) -> Envelope:
    body = {
        "specversion": "1.0",
        "id": event,
        "source": source,
        "type": kind,
        "subject": task_id,
        "time": time,
        "datacontenttype": "application/json",
        "data": data,
    }
    headers: dict[str, HeaderValue] = {
        EVENT_TYPE: kind,
        TASK_ID: task_id,
        OPERATION: operation,
    }
    if stage is not None:
        headers[STAGE] = stage.value
    return Envelope(
        body=orjson.dumps(body, option=_OPTIONS),
        routing_key=kind,
        message_id=MessageId(event),
        content_type=CONTENT_TYPE,
        headers=headers,
        published_at=at,
    )
