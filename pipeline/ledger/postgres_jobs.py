"""Jobs in the PostgreSQL ledger."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from pipeline.ledger import asking, job_rows
from pipeline.ledger import postgres_statements as sql
from pipeline.ledger.jobs import Jobs
from pipeline.ledger.postgres_locks import lock
from pipeline.ledger.rows import columns
from pipeline.message import to_milliseconds

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime, timedelta

    from pipeline.ledger.expectations import Expectation
    from pipeline.ledger.jobs import Intent, Job, JobId, JobState, NamedJob
    from pipeline.ledger.postgres_connections import Connections
    from pipeline.ledger.rows import Row
    from pipeline.task import TaskId


class PostgresJobs(Jobs):
    """The part of the PostgreSQL ledger that knows what was submitted."""

    _connections: Connections

    async def begin_job(self, intent: Intent, *, lasts: timedelta) -> Job:
        async def run(connection: Any) -> Job:
            # Its row is locked from here on, whether this has changed it or not.
            bindings = job_rows.begin_bindings(intent, lasts)
            await connection.execute(sql.BEGIN_JOB, *bindings)
            (job,) = job_rows.jobs(await connection.fetch(sql.SELECT_JOB, bindings[0]))
            return job

        return await self._connections.transact(run)

    async def keep_job(self, intent: Intent, *, lasts: timedelta) -> None:
        await self._select(sql.KEEP_JOB, *job_rows.keep_bindings(intent, lasts))

    async def accept_job(self, intent: Intent, expectation: Expectation) -> None:
        async def run(connection: Any) -> None:
            unlink = job_rows.unlink_bindings(intent, expectation)
            await connection.execute(sql.UNLINK_TASK, *unlink)
            accept = job_rows.accept_bindings(intent, expectation)
            await connection.execute(sql.ACCEPT_JOB, *accept)
            bindings = asking.expect_bindings([expectation])
            await connection.execute(sql.EXPECT, *columns(bindings))

        first = lock([expectation.task_id])
        await self._connections.transact(run, first=first)

    async def end_job(
        self, intent: Intent, state: JobState, *, reason: str, at: datetime
    ) -> Job | None:
        async def run(connection: Any) -> Job | None:
            bindings = job_rows.end_bindings(intent, state, reason, at)
            await connection.execute(sql.END_JOB, *bindings)
            found = await connection.fetch(sql.SELECT_JOB, intent.job_id)
            return job_rows.first_job(found)

        return await self._connections.transact(run)

    async def find_job(self, job_id: JobId) -> Job | None:
        return job_rows.first_job(await self._select(sql.SELECT_JOB, job_id))

    async def list_open_jobs(self, *, limit: int = 100) -> Sequence[Job]:
        return job_rows.jobs(await self._select(sql.SELECT_OPEN_JOBS, limit))

    async def count_old_jobs(self, before: datetime) -> int:
        (row,) = await self._select(sql.COUNT_OLD_JOBS, to_milliseconds(before))
        return int(row[0])

    async def prune_jobs(self, before: datetime, *, limit: int = 200) -> int:
        found = await self._select(sql.PRUNE_JOBS, to_milliseconds(before), limit)
        return len(found)

    @abstractmethod
    async def _select(self, statement: str, *bindings: object) -> list[Row]:
        """Read rows."""


async def link_jobs(connection: Any, named: Sequence[tuple[TaskId, NamedJob]]) -> None:
    """Give jobs that wait for a task the one whose callback has named them."""
    for task_id, job in named:
        of_job, of_task = job_rows.link_bindings(task_id, job)
        await connection.execute(sql.LINK_JOB, *of_job)
        await connection.execute(sql.LINK_TASK, *of_task)
