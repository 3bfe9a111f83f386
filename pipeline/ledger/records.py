"""What the ledger shows of tasks: for people, and for those who sum up."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

from pipeline.values import value

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from pipeline.ledger.port import Verdict
    from pipeline.message import MessageId
    from pipeline.task import EventId, Stage, TaskId, Track

#: Of the repeats of one update only the first so many are shown one by one.
REPEATS_SHOWN: Final = 20


class TaskState(StrEnum):
    """How a task stands with us: its stage, or why it has none."""

    #: It was submitted, and nothing has been heard of it.
    SUBMITTED = "submitted"
    #: Something was heard of it that we do not know yet, and nothing else.
    UNKNOWN = "unknown"
    TEXT = "text"
    FIRST = "first"
    COMPLETE = "complete"
    FAILED = "failed"
    #: It has not ended, and nobody asks the provider for it any more.
    GIVEN_UP = "given_up"


@value
class Repeat:
    """A further message that said the same as an update."""

    #: As of ``SeenUpdate``; empty: it came before that was noted.
    origin: str
    received_at: datetime


@value
class SeenUpdate:
    """One recorded update of a task, for its timeline."""

    event_id: EventId
    stage: Stage
    verdict: Verdict
    #: ``callback``, ``poll``, or ``replay`` for what was a dead letter.
    origin: str
    received_at: datetime
    #: How many further messages said the same.
    duplicates: int
    #: The first ``REPEATS_SHOWN`` of them, in order of arrival.
    repeats: tuple[Repeat, ...] = ()


@value
class TaskRecord:
    """A task as it stands."""

    task_id: TaskId
    operation: str
    stage: Stage
    state: TaskState
    message: str
    code: int | None
    tracks: tuple[Track, ...]
    first_seen_at: datetime
    last_seen_at: datetime
    #: Of the provider; empty: that was not noted.
    door: str
    #: When it was submitted, if it was by us, and what its caller calls it.
    submitted_at: datetime | None
    job_id: str | None
    #: When it is asked for next; ``None``: never.
    due_at: datetime | None
    given_up_at: datetime | None
    #: Of the update that came last, as of ``SeenUpdate``; ``None``: there is none.
    origin: str | None
    #: Files that we were told of, and those of them that are stored, or gone.
    files_expected: int
    files_stored: int
    files_expired: int


@value
class Place:
    """A place in a listing of tasks: behind this one."""

    last_seen_at: datetime
    task_id: TaskId


@value
class TaskSelection:
    """Which tasks; what is ``None`` is not asked for, all else must hold."""

    #: In one of these states.
    states: Collection[TaskState] | None = None
    operation: str | None = None
    door: str | None = None
    #: Seen for the last time at this time or after.
    since: datetime | None = None
    #: Seen for the last time before this.
    until: datetime | None = None
    #: One of these.
    task_ids: Collection[str] | None = None
    #: With a file that is not stored, be it on its way or gone.
    with_missing_files: bool = False


#: No question asked.
EVERY_TASK: Final = TaskSelection()


@value
class Attempt:
    """One try of a download or a notification, successful or not."""

    #: The queue whose worker tried.
    queue: str
    message_id: MessageId
    task_id: TaskId
    #: The file (``track/kind``) or the event type that was tried.
    subject: str
    #: The attempt, counted from 1; starts again with each replay.
    number: int
    #: ``ok`` or the error's type.
    outcome: str
    detail: str
    duration_seconds: float
    finished_at: datetime
    #: How often the message had been replayed.
    replays: int = 0


@value
class Notification:
    """What became of one event for one subscription."""

    subscription: str
    event_id: EventId
    event_type: str
    task_id: TaskId
    attempts: int
    delivered_at: datetime | None
    #: HTTP status of the last answer; ``None``: there was no answer.
    status: int | None


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
