"""Jobs in the SQLite ledger."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, TypeVar

from pipeline.ledger import asking, job_rows
from pipeline.ledger import job_statements as sql
from pipeline.ledger.jobs import Jobs
from pipeline.ledger.statements import EXPECT
from pipeline.message import to_milliseconds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime, timedelta

    import apsw

    from pipeline.ledger.expectations import Expectation
    from pipeline.ledger.jobs import Intent, Job, JobId, JobState, NamedJob
    from pipeline.ledger.rows import Row
    from pipeline.task import TaskId

T = TypeVar("T")


class SqliteJobs(Jobs):
    """The part of the SQLite ledger that knows what was submitted."""

    async def begin_job(self, intent: Intent, *, lasts: timedelta) -> Job:
        def run(connection: apsw.Connection) -> Job:
            connection.execute(sql.BEGIN_JOB, job_rows.begin_bindings(intent, lasts))
            found = connection.execute(sql.SELECT_JOB, (intent.job_id,))
            (job,) = job_rows.jobs(found)
            return job

        return await self._write(run)

    async def keep_job(self, intent: Intent, *, lasts: timedelta) -> None:
        bindings = job_rows.keep_bindings(intent, lasts)
        await self._write(
            lambda connection: list(connection.execute(sql.KEEP_JOB, bindings))
        )

    async def accept_job(self, intent: Intent, expectation: Expectation) -> None:
        def run(connection: apsw.Connection) -> None:
            unlink = job_rows.unlink_bindings(intent, expectation)
            connection.execute(sql.UNLINK_TASK, unlink)
            accept = job_rows.accept_bindings(intent, expectation)
            connection.execute(sql.ACCEPT_JOB, accept)
            connection.executemany(EXPECT, asking.expect_bindings([expectation]))

        await self._write(run)

    async def end_job(
        self, intent: Intent, state: JobState, *, reason: str, at: datetime
    ) -> Job | None:
        def run(connection: apsw.Connection) -> Job | None:
            bindings = job_rows.end_bindings(intent, state, reason, at)
            connection.execute(sql.END_JOB, bindings)
            found = connection.execute(sql.SELECT_JOB, (intent.job_id,))
            return job_rows.first_job(list(found))

        return await self._write(run)

    async def find_job(self, job_id: JobId) -> Job | None:
        return job_rows.first_job(await self._select(sql.SELECT_JOB, job_id))

    async def list_open_jobs(self, *, limit: int = 100) -> Sequence[Job]:
        return job_rows.jobs(await self._select(sql.SELECT_OPEN_JOBS, limit))

    async def count_old_jobs(self, before: datetime) -> int:
        (row,) = await self._select(sql.COUNT_OLD_JOBS, to_milliseconds(before))
        return int(row[0])

    async def prune_jobs(self, before: datetime, *, limit: int = 200) -> int:
        bindings = (to_milliseconds(before), limit)
        return await self._write(
            lambda connection: len(list(connection.execute(sql.PRUNE_JOBS, bindings)))
        )

    @abstractmethod
    async def _select(self, statement: str, *bindings: str | int) -> list[Row]:
        """Read rows."""

    @abstractmethod
    async def _write(self, run: Callable[[apsw.Connection], T]) -> T:
        """Call ``run`` in a transaction that has the file for itself."""


def link_jobs(
    connection: apsw.Connection, named: Sequence[tuple[TaskId, NamedJob]]
) -> None:
    """Give jobs that wait for a task the one whose callback has named them."""
    for task_id, job in named:
        of_job, of_task = job_rows.link_bindings(task_id, job)
        connection.execute(sql.LINK_JOB, of_job)
        connection.execute(sql.LINK_TASK, of_task)
