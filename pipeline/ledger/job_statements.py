"""The SQL of jobs, for SQLite; ``postgres_statements.py`` makes its own of it."""
# ruff: noqa: S608 - put together of constants; values are always bound

from __future__ import annotations

from typing import Final

from pipeline.ledger.statements import NOW

_COLUMNS: Final = (
    "job_id, mark, operation, door, digest, source_seconds, state, begun_at, task_id,"
    f" settled_at, reason, held_until - {NOW}"
)
#: Changes nothing if there is one of this id, unless that was refused.
BEGIN_JOB: Final = (
    "INSERT INTO jobs (job_id, mark, operation, door, digest, source_seconds, state,"
    " begun_at, reason, held_until)"
    f" VALUES (?, ?, ?, ?, ?, ?, 'sending', ?, '', {NOW} + ?)"
    " ON CONFLICT (job_id) DO UPDATE SET mark = excluded.mark,"
    " operation = excluded.operation, door = excluded.door, digest = excluded.digest,"
    " source_seconds = excluded.source_seconds, state = excluded.state,"
    " begun_at = excluded.begun_at, reason = '', settled_at = NULL,"
    " held_until = excluded.held_until WHERE jobs.state = 'refused'"
)
_OURS: Final = "job_id = ? AND mark = ?"
KEEP_JOB: Final = (
    f"UPDATE jobs SET held_until = {NOW} + ? WHERE {_OURS} AND state = 'sending'"
    " RETURNING 1"
)
END_JOB: Final = (
    "UPDATE jobs SET state = ?, reason = ?, settled_at = ?"
    f" WHERE {_OURS} AND state = 'sending'"
)
#: A task that only a callback has given to the job; before ``ACCEPT_JOB``.
UNLINK_TASK: Final = (
    "UPDATE tasks SET job_id = NULL, submitted_at = NULL WHERE job_id = ?"
    " AND task_id = (SELECT task_id FROM jobs WHERE job_id = ? AND task_id <> ?)"
)
ACCEPT_JOB: Final = (
    "UPDATE jobs SET state = 'accepted', task_id = ?, settled_at = ?, reason = ''"
    f" WHERE {_OURS}"
)
#: Anybody may have written the mark: only a job that waits for a task takes one, and
#: none that is another's.
LINK_JOB: Final = (
    "UPDATE jobs SET state = 'accepted', task_id = ?, settled_at = begun_at,"
    " reason = '' WHERE mark = ? AND operation = ? AND task_id IS NULL"
    " AND state IN ('sending', 'unknown')"
    " AND NOT EXISTS (SELECT 1 FROM jobs AS other WHERE other.task_id = ?)"
)
#: After ``LINK_JOB``, if that has given the job this task.
LINK_TASK: Final = (
    "UPDATE tasks SET job_id = jobs.job_id, submitted_at = jobs.begun_at,"
    " first_seen_at = CASE WHEN jobs.begun_at < tasks.first_seen_at"
    " THEN jobs.begun_at ELSE tasks.first_seen_at END"
    " FROM jobs WHERE jobs.mark = ? AND jobs.task_id = tasks.task_id"
    " AND tasks.task_id = ? AND tasks.job_id IS NULL"
)
SELECT_JOB: Final = f"SELECT {_COLUMNS} FROM jobs WHERE job_id = ?"
SELECT_OPEN_JOBS: Final = (
    f"SELECT {_COLUMNS} FROM jobs WHERE task_id IS NULL"
    " AND state IN ('sending', 'unknown') ORDER BY begun_at, job_id LIMIT ?"
)
_IS_OLD: Final = f"task_id IS NULL AND begun_at < ? AND held_until <= {NOW}"
COUNT_OLD_JOBS: Final = f"SELECT COUNT(*) FROM jobs WHERE {_IS_OLD}"
PRUNE_JOBS: Final = (
    "DELETE FROM jobs WHERE task_id IS NULL AND job_id IN"
    f" (SELECT job_id FROM jobs WHERE {_IS_OLD} ORDER BY begun_at, job_id LIMIT ?)"
    " RETURNING 1"
)
