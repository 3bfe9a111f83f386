"""What recording a batch of claims changes: pure, and the same for every database.

An adapter reads what is known about the claims (``Known``), calls ``record``, and
writes what ``Changes`` lists, all in one transaction in which nobody else changes
the tasks concerned.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

from pipeline.ledger.port import Claim, Recorded, Verdict
from pipeline.ledger.text import storable
from pipeline.message import from_milliseconds, to_milliseconds
from pipeline.task import (
    Asset,
    AssetKey,
    AssetState,
    EventId,
    Stage,
    StageReady,
    StoredAsset,
    TaskId,
    TaskUpdate,
    leads,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Stages that bring files which are worth fetching.
FILE_STAGES: Final = (Stage.FIRST, Stage.COMPLETE)
_BITS: Final = {stage: 1 << stage.rank for stage in Stage}


@dataclass(slots=True)
class SeenEvent:
    """Who holds the claim on an event, and what came of it."""

    owner: str
    verdict: Verdict
    #: Whether it moved its task on to a later stage.
    moved: bool


@dataclass(slots=True)
class TaskRow:
    """A row of ``tasks``."""

    task_id: TaskId
    operation: str
    stage: Stage
    code: int | None
    message: str
    first_seen_at: int
    last_seen_at: int
    #: Of the provider; empty: not known.
    door: str = ""
    #: When to ask for it; ``None``: as it was before. Written only, never read.
    due_at: int | None = None

    def told(self) -> TaskUpdate:
        """Give what leads so far as an update, without tracks."""
        return TaskUpdate(
            task_id=self.task_id,
            operation=self.operation,
            stage=self.stage,
            code=self.code,
            message=self.message,
        )


@dataclass(slots=True)
class AssetRow:
    """A row of ``assets``."""

    task_id: TaskId
    track_id: str
    kind: str
    operation: str
    url: str
    url_received_at: int
    state: AssetState
    stages: int
    requested_by: str
    sha256: str | None = None
    size_bytes: int | None = None
    content_type: str | None = None
    location: str | None = None
    reason: str | None = None
    settled_at: int | None = None

    def settle(self, result: StoredAsset | str, *, at: int) -> bool:
        """Note that the file is stored, or why it expired; tell what that changed.

        Stored is for ever; expired only until the file is stored or asked for anew.
        """
        if isinstance(result, StoredAsset):
            if self.state is AssetState.STORED:
                return False
            self.state = AssetState.STORED
            self.sha256, self.size_bytes = result.sha256, result.size_bytes
            self.content_type, self.location = result.content_type, result.location
            self.reason = None
        else:
            if self.state is not AssetState.PENDING:
                return False
            self.state = AssetState.EXPIRED
            self.reason = storable(result)
        self.settled_at = at
        return True

    def asset(self) -> Asset:
        """Give the file as the port shows it."""
        return Asset(
            key=AssetKey(task_id=self.task_id, track_id=self.track_id, kind=self.kind),
            operation=self.operation,
            url=self.url,
            state=self.state,
            sha256=self.sha256,
            size_bytes=self.size_bytes,
            content_type=self.content_type,
            location=self.location,
            reason=self.reason,
            settled_at=(
                None if self.settled_at is None else from_milliseconds(self.settled_at)
            ),
        )


#: The files of a task by track and kind.
Files: TypeAlias = dict[tuple[str, str], AssetRow]


@dataclass(slots=True, kw_only=True)
class Known:
    """What the ledger holds about the claims of a batch; ``record`` changes it."""

    events: dict[EventId, SeenEvent]
    tasks: dict[TaskId, TaskRow]
    #: Only of tasks for which ``names_files`` holds of a claim.
    files: dict[TaskId, Files]


@dataclass(slots=True, kw_only=True)
class Changes:
    """What has to be written; rows of ``tasks`` and ``assets`` replace others.

    The number beside a claim is its time of receipt, in milliseconds.
    """

    #: With what came of each; the last is 1 if it moved its task on.
    updates: list[tuple[Claim, Verdict, int, int]] = field(default_factory=list)
    duplicates: list[tuple[Claim, int]] = field(default_factory=list)
    tasks: dict[TaskId, TaskRow] = field(default_factory=dict)
    assets: dict[tuple[str, str, str], AssetRow] = field(default_factory=dict)


def names_files(update: TaskUpdate) -> bool:
    """Tell whether the files of the update's stage are to be looked after."""
    return update.stage in FILE_STAGES


def record(claims: Iterable[Claim], known: Known) -> tuple[list[Recorded], Changes]:
    """Answer each claim in turn, and say what has to be written."""
    changes = Changes()
    return [_record_one(claim, known, changes) for claim in claims], changes


def ready_stages(row: AssetRow, files: Iterable[AssetRow]) -> list[StageReady]:
    """Give the stages that name ``row`` and whose files are all settled."""
    rows = list(files)
    return [
        ready
        for stage in FILE_STAGES
        if row.stages & _BITS[stage] and (ready := _ready(stage, rows)) is not None
    ]


def _record_one(claim: Claim, known: Known, changes: Changes) -> Recorded:
    update = claim.update
    at = to_milliseconds(claim.received_at)
    task = known.tasks.get(update.task_id)
    had_ended = task is not None and task.stage.is_final
    verdict, moved = _judge(claim, at, task, known, changes)
    task = _note_task(task, claim, at, known, changes)
    ended = task.stage.is_final and not had_ended
    if not names_files(update):
        return Recorded(verdict=verdict, stage=task.stage, ended=ended, moved=moved)
    files = known.files.setdefault(update.task_id, {})
    requested = _note_files(claim, at, files, changes)
    ready = None
    if verdict is not Verdict.DUPLICATE and not requested:
        ready = _ready(update.stage, files.values())
    return Recorded(
        verdict=verdict,
        stage=task.stage,
        requested=requested,
        ready=ready,
        ended=ended,
        moved=moved,
    )


def _judge(
    claim: Claim, at: int, task: TaskRow | None, known: Known, changes: Changes
) -> tuple[Verdict, bool]:
    """Give the verdict on a claim, and whether it moves its task on."""
    seen = known.events.get(claim.event_id)
    if seen is None:
        rank = claim.update.stage.rank
        known_rank = 0 if task is None else task.stage.rank
        verdict = Verdict.LATE if rank < known_rank else Verdict.NEW
        moved = rank > known_rank
        known.events[claim.event_id] = SeenEvent(claim.owner, verdict, moved)
        changes.updates.append((claim, verdict, at, int(moved)))
        return verdict, moved
    if seen.owner == claim.owner:
        return seen.verdict, seen.moved
    changes.duplicates.append((claim, at))
    return Verdict.DUPLICATE, False


def _note_task(
    task: TaskRow | None, claim: Claim, at: int, known: Known, changes: Changes
) -> TaskRow:
    """Move the task on if the update leads; times and stage never go back."""
    update = claim.update
    if task is None:
        task = TaskRow(
            update.task_id,
            update.operation,
            update.stage,
            update.code,
            update.message,
            at,
            at,
            claim.door,
        )
        known.tasks[update.task_id] = task
        task.due_at = _due(claim, None)
    else:
        is_leading = leads(update, task.told())
        if not is_leading and task.first_seen_at <= at <= task.last_seen_at:
            return task
        if is_leading:
            task.operation, task.stage = update.operation, update.stage
            task.code, task.message = update.code, update.message
            task.due_at = _due(claim, task.due_at)
        task.door = task.door or claim.door
        task.first_seen_at = min(task.first_seen_at, at)
        task.last_seen_at = max(task.last_seen_at, at)
    changes.tasks[update.task_id] = task
    return task


def _due(claim: Claim, before: int | None) -> int | None:
    """Say when to ask for a task after news of it; one that has ended is not due."""
    if claim.update.stage.is_final:
        return None
    return before if claim.due_at is None else to_milliseconds(claim.due_at)


def _note_files(
    claim: Claim, at: int, files: Files, changes: Changes
) -> tuple[Asset, ...]:
    """Note every link of the update; give the files that its owner has to request."""
    requested = []
    for track in claim.update.tracks:
        for kind, link in track.links.items():
            place = (track.track_id, kind)
            row = files.get(place)
            if row is None:
                row = files[place] = _new_file(claim, at, track.track_id, kind, link)
                is_changed = True
            else:
                is_changed = _note_link(row, claim, at, link)
            if is_changed:
                changes.assets[claim.update.task_id, *place] = row
            if row.requested_by == claim.owner:
                requested.append(row.asset())
    return tuple(requested)


def _new_file(claim: Claim, at: int, track_id: str, kind: str, link: str) -> AssetRow:
    update = claim.update
    return AssetRow(
        task_id=update.task_id,
        track_id=track_id,
        kind=kind,
        operation=update.operation,
        url=link,
        url_received_at=at,
        state=AssetState.PENDING,
        stages=_BITS[update.stage],
        requested_by=claim.owner,
    )


def _note_link(row: AssetRow, claim: Claim, at: int, link: str) -> bool:
    """Take a link that was received later; tell whether the row has changed."""
    bit = _BITS[claim.update.stage]
    is_changed = not row.stages & bit
    row.stages |= bit
    # Compared by the time of receipt, because claims may come in any order.
    if row.state is AssetState.STORED or (at, link) <= (row.url_received_at, row.url):
        return is_changed
    if row.state is AssetState.EXPIRED and link != row.url:
        row.state = AssetState.PENDING
        row.requested_by = claim.owner
        row.reason = row.settled_at = None
    row.url, row.url_received_at = link, at
    return True


def _ready(stage: Stage, files: Iterable[AssetRow]) -> StageReady | None:
    """Give the stage if it has files and all of them are settled."""
    bit = _BITS[stage]
    rows = [row for row in files if row.stages & bit]
    if not rows or any(row.state is AssetState.PENDING for row in rows):
        return None
    rows.sort(key=lambda row: (row.track_id, row.kind))
    return StageReady(
        task_id=rows[0].task_id,
        operation=rows[0].operation,
        stage=stage,
        assets=tuple(row.asset() for row in rows),
    )
