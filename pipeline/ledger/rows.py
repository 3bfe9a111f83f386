"""Between the ledger's rows and its values."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import orjson

from pipeline.ledger.port import (
    AssetState,
    Attempt,
    Description,
    Notification,
    Verdict,
)
from pipeline.ledger.recording import AssetRow, Files, Known, SeenEvent, TaskRow
from pipeline.ledger.records import (
    Repeat,
    SeenUpdate,
    TaskRecord,
    TaskState,
    Totals,
)
from pipeline.ledger.text import storable
from pipeline.message import from_milliseconds, to_milliseconds
from pipeline.task import EventId, Stage, TaskId, Track, merge_tracks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pipeline.ledger.port import Claim

#: A row as the database gives it.
Row: TypeAlias = tuple[Any, ...]

STAGES: Final = {stage.value: stage for stage in Stage}
VERDICTS: Final = {verdict.value: verdict for verdict in Verdict}
STATES: Final = {state.value: state for state in AssetState}


def columns(bindings: Iterable[Row]) -> list[list[Any]]:
    """Turn rows into one list for each column."""
    return [list(column) for column in zip(*bindings, strict=True)]


def description(software: str, schema: int, now: int) -> Description:
    """Read what a ledger says of itself."""
    return Description(software=software, schema=schema, now=from_milliseconds(now))


def task_row(row: Row) -> TaskRow:
    """Read a row of ``TASK_COLUMNS``."""
    task = TaskRow(*row)
    task.stage = STAGES[row[2]]
    return task


def task_bindings(task: TaskRow) -> Row:
    """Write ``TASK_COLUMNS`` and the time of the next question."""
    return (
        task.task_id,
        task.operation,
        task.stage.value,
        task.code,
        task.message,
        task.first_seen_at,
        task.last_seen_at,
        task.door,
        task.due_at,
    )


def asset_row(row: Row) -> AssetRow:
    """Read a row of ``ASSET_COLUMNS``."""
    asset = AssetRow(*row)
    asset.state = STATES[row[6]]
    return asset


def asset_bindings(row: AssetRow) -> Row:
    """Write ``ASSET_COLUMNS``."""
    return (
        row.task_id,
        row.track_id,
        row.kind,
        row.operation,
        row.url,
        row.url_received_at,
        row.state.value,
        row.stages,
        row.requested_by,
        row.sha256,
        row.size_bytes,
        row.content_type,
        row.location,
        row.reason,
        row.settled_at,
    )


def update_bindings(claim: Claim, verdict: Verdict, at: int, moved: int) -> Row:
    """Write a row of ``updates``."""
    update = claim.update
    return (
        update.task_id,
        claim.event_id,
        claim.owner,
        update.stage.value,
        verdict.value,
        claim.way_in,
        at,
        encode_tracks(update.tracks),
        claim.body,
        moved,
    )


def duplicate_bindings(claim: Claim, at: int) -> Row:
    """Write a row of ``duplicates``."""
    return claim.event_id, claim.owner, at, claim.way_in


def encode_tracks(tracks: Sequence[Track]) -> str:
    """Write tracks as a JSON text."""
    return orjson.dumps(tracks, option=orjson.OPT_UTC_Z).decode() if tracks else "[]"


def decode_tracks(text: str) -> list[Track]:
    """Read what ``encode_tracks`` wrote; fields of newer versions are left out."""
    tracks = []
    for item in orjson.loads(text):
        known = {k: v for k, v in item.items() if k in Track.__dataclass_fields__}
        if known.get("created_at") is not None:
            at = datetime.fromisoformat(known["created_at"])
            known["created_at"] = at.astimezone(UTC)
        tracks.append(Track(**known))
    return tracks


def known(events: Iterable[Row], tasks: Iterable[Row], files: Iterable[Row]) -> Known:
    """Read what there is about a batch of claims.

    Args:
        events: event id, owner, verdict, and whether it moved its task on.
        tasks: ``TASK_COLUMNS``.
        files: ``ASSET_COLUMNS``.
    """
    of_tasks: dict[TaskId, Files] = {}
    for row in files:
        file = asset_row(row)
        of_tasks.setdefault(file.task_id, {})[file.track_id, file.kind] = file
    return Known(
        events={
            EventId(row[0]): SeenEvent(row[1], VERDICTS[row[2]], bool(row[3]))
            for row in events
        },
        tasks={TaskId(row[0]): task_row(row) for row in tasks},
        files=of_tasks,
    )


def task_ids(found: Iterable[Row], start: str) -> list[TaskId]:
    """Give those of ``SELECT_TASK_IDS`` that start with ``start``."""
    return [TaskId(row[0]) for row in found if row[0].startswith(start)]


def task_records(found: Iterable[Row], told: Iterable[Row]) -> list[TaskRecord]:
    """Make tasks of rows of ``SELECT_TASK``, in their order.

    ``told`` has task id, stage and tracks of all their updates.
    """
    listed = list(found)
    tracks: dict[str, list[tuple[Stage, list[Track]]]] = {row[0]: [] for row in listed}
    for task_id, stage, text in told:
        tracks[task_id].append((STAGES[stage], decode_tracks(text)))
    return [
        TaskRecord(
            task_id=row[0],
            operation=row[1],
            stage=STAGES[row[2]],
            code=row[3],
            message=row[4],
            first_seen_at=from_milliseconds(row[5]),
            last_seen_at=from_milliseconds(row[6]),
            door=row[7],
            state=TaskState(row[8]),
            submitted_at=moment(row[9]),
            job_id=row[10],
            due_at=moment(row[11]),
            given_up_at=moment(row[12]),
            origin=row[13],
            files_expected=row[14],
            files_stored=row[15],
            files_expired=row[16],
            tracks=merge_tracks(tracks[row[0]]),
        )
        for row in listed
    ]


def moment(value: int | None) -> datetime | None:
    """Read a time that may be missing."""
    return None if value is None else from_milliseconds(value)


def attempt_bindings(attempts: Iterable[Attempt]) -> Iterator[Row]:
    """Write ``ATTEMPT_COLUMNS``."""
    for one in attempts:
        yield (
            one.queue,
            one.message_id,
            one.task_id,
            one.subject,
            one.number,
            one.outcome,
            storable(one.detail),
            one.duration_seconds,
            to_milliseconds(one.finished_at),
            one.replays,
        )


def attempt(row: Row) -> Attempt:
    """Read a row of ``ATTEMPT_COLUMNS``."""
    return Attempt(
        queue=row[0],
        message_id=row[1],
        task_id=row[2],
        subject=row[3],
        number=row[4],
        outcome=row[5],
        detail=row[6],
        duration_seconds=row[7],
        finished_at=from_milliseconds(row[8]),
        replays=row[9],
    )


def notification(row: Row) -> Notification:
    """Read a row of ``NOTIFICATION_COLUMNS``."""
    return Notification(
        subscription=row[0],
        event_id=row[1],
        event_type=row[2],
        task_id=row[3],
        attempts=row[4],
        delivered_at=None if row[5] is None else from_milliseconds(row[5]),
        status=row[6],
    )


def seen_updates(found: Iterable[Row], repeats: Iterable[Row]) -> list[SeenUpdate]:
    """Read rows of ``SELECT_UPDATES``, in order of arrival.

    ``repeats`` are rows of ``SELECT_REPEATS``.
    """
    of_events: dict[str, list[Repeat]] = {}
    for event, origin, at in repeats:
        repeat = Repeat(origin=origin, received_at=from_milliseconds(at))
        of_events.setdefault(event, []).append(repeat)
    updates = [
        SeenUpdate(
            event_id=row[0],
            stage=STAGES[row[1]],
            verdict=VERDICTS[row[2]],
            origin=row[3],
            received_at=from_milliseconds(row[4]),
            duplicates=row[5],
            repeats=tuple(of_events.get(row[0], ())),
        )
        for row in found
    ]
    updates.sort(key=lambda one: (one.received_at, one.stage.rank, one.event_id))
    return updates


def totals(row: Row) -> Totals:
    """Read the row of ``SELECT_TOTALS``."""
    return Totals(
        tasks=row[0],
        updates=row[1],
        duplicates=row[2],
        assets_pending=row[3],
        assets_stored=row[4],
        assets_expired=row[5],
        notifications_delivered=row[6],
    )
