"""Between the ledger's rows and jobs: the same for every database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import orjson

from pipeline.ledger.asking import milliseconds
from pipeline.ledger.jobs import Job, JobId, JobState
from pipeline.ledger.text import storable
from pipeline.message import from_milliseconds, to_milliseconds
from pipeline.task import TaskId

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence
    from datetime import datetime, timedelta

    from pipeline.ledger.expectations import Expectation
    from pipeline.ledger.jobs import Intent, NamedJob
    from pipeline.ledger.port import Claim
    from pipeline.ledger.rows import Row

#: Said of a job that nobody is sending any more, and nobody has told of.
NOT_TOLD: Final = "whoever sent it was cut off, or has lost the ledger"


def begin_bindings(intent: Intent, lasts: timedelta) -> Row:
    """Write the bindings of ``BEGIN_JOB``."""
    return (
        intent.job_id,
        intent.mark,
        intent.operation,
        intent.door,
        intent.digest,
        orjson.dumps(dict(intent.source_seconds)).decode(),
        to_milliseconds(intent.begun_at),
        milliseconds(lasts),
    )


def keep_bindings(intent: Intent, lasts: timedelta) -> Row:
    """Write the bindings of ``KEEP_JOB``."""
    return (milliseconds(lasts), intent.job_id, intent.mark)


def end_bindings(intent: Intent, state: JobState, reason: str, at: datetime) -> Row:
    """Write the bindings of ``END_JOB``."""
    settled_at = to_milliseconds(at) if state is JobState.REFUSED else None
    return (state.value, storable(reason), settled_at, intent.job_id, intent.mark)


def unlink_bindings(intent: Intent, expectation: Expectation) -> Row:
    """Write the bindings of ``UNLINK_TASK``."""
    return (intent.job_id, intent.job_id, expectation.task_id)


def accept_bindings(intent: Intent, expectation: Expectation) -> Row:
    """Write the bindings of ``ACCEPT_JOB``."""
    at = to_milliseconds(expectation.submitted_at)
    return (expectation.task_id, at, intent.job_id, intent.mark)


def newly_named(
    claims: Iterable[Claim], known: Container[TaskId]
) -> Sequence[tuple[TaskId, NamedJob]]:
    """Give the jobs that claims on tasks not yet known name, the first for each task.

    Always in the same order, so that two who link the same jobs do not wait for each
    other.
    """
    found: dict[TaskId, NamedJob] = {}
    for claim in claims:
        if claim.job is not None and claim.update.task_id not in known:
            found.setdefault(claim.update.task_id, claim.job)
    return sorted(found.items(), key=lambda one: one[1].mark)


def link_bindings(task_id: TaskId, job: NamedJob) -> tuple[Row, Row]:
    """Write the bindings of ``LINK_JOB`` and of ``LINK_TASK``."""
    return (task_id, job.mark, job.operation, task_id), (job.mark, task_id)


def jobs(found: Iterable[Row]) -> list[Job]:
    """Read rows of jobs."""
    return [_job(row) for row in found]


def first_job(found: Iterable[Row]) -> Job | None:
    """Read the row of a job, if there is one."""
    return next((_job(row) for row in found), None)


def _job(row: Row) -> Job:
    state, reason = JobState(row[6]), row[10]
    is_held = row[11] > 0
    if state is JobState.SENDING and not is_held:
        state, reason = JobState.UNKNOWN, NOT_TOLD
    return Job(
        job_id=JobId(row[0]),
        mark=row[1],
        operation=row[2],
        door=row[3],
        digest=row[4],
        source_seconds=orjson.loads(row[5]),
        begun_at=from_milliseconds(row[7]),
        state=state,
        task_id=None if row[8] is None else TaskId(row[8]),
        settled_at=None if row[9] is None else from_milliseconds(row[9]),
        reason=reason,
    )
