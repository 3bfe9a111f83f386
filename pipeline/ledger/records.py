"""What the ledger shows of tasks: for people, and for those who sum up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.values import value

if TYPE_CHECKING:
    from datetime import datetime

    from pipeline.ledger.port import Verdict
    from pipeline.task import EventId, Stage, TaskId, Track


@value
class SeenUpdate:
    """One recorded update of a task, for its timeline."""

    event_id: EventId
    stage: Stage
    verdict: Verdict
    origin: str
    received_at: datetime
    #: How many further messages said the same.
    duplicates: int


@value
class TaskRecord:
    """A task as it stands."""

    task_id: TaskId
    operation: str
    stage: Stage
    message: str
    code: int | None
    tracks: tuple[Track, ...]
    first_seen_at: datetime
    last_seen_at: datetime


@value
class Description:
    """What holds the ledger, for ``doctor``."""

    #: Name and version, such as ``PostgreSQL 17.2``.
    software: str
    #: How many migrations its schema has had.
    schema: int
    #: The present time by its clock.
    now: datetime


@value
class Totals:
    """Sums over everything, for the demo, the console and ``doctor``."""

    tasks: int
    updates: int
    duplicates: int
    assets_pending: int
    assets_stored: int
    assets_expired: int
    notifications_delivered: int
