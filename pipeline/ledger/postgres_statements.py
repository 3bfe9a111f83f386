"""The ledger's SQL for PostgreSQL, made of that for SQLite.

Only three things differ: how values are bound, how the time is asked for, and that
many rows are written, and rows of many keys are read, by one statement with arrays.
"""
# ruff: noqa: S608 - put together of constants; values are always bound

from __future__ import annotations

import re
from functools import cache
from itertools import count
from typing import TYPE_CHECKING, Final

from pipeline.ledger import job_statements as job_sql
from pipeline.ledger import statements as sql
from pipeline.ledger import task_statements as shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pipeline.ledger.records import Place, TaskSelection
    from pipeline.ledger.task_statements import Binding

#: Not that of the transaction's start: a statement may have waited.
NOW: Final = "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)"


def _numbered(statement: str) -> str:
    """Write ``$1``, ``$2``… for the question marks."""
    numbers = count(1)
    own = statement.replace(sql.NOW, NOW)
    return re.sub(r"\?", lambda _: f"${next(numbers)}", own)


def _many(statement: str, types: str) -> str:
    """Let an INSERT of one row take an array of each column's values."""
    arrays = (f"?::{kind}[]" for kind in types.split(", "))
    rows = f"SELECT * FROM unnest({', '.join(arrays)})"
    return re.sub(r"VALUES \([?, ]+\)", rows, statement)


_ASSET_TYPES: Final = (
    "text, text, text, text, text, bigint, text, integer, text, text, bigint,"
    " text, text, text, bigint"
)
_ATTEMPT_TYPES: Final = (
    "text, text, text, text, integer, text, text, double precision, bigint, integer"
)

_INSERT_UPDATES: Final = _many(
    sql.INSERT_UPDATE,
    "text, text, text, text, text, text, bigint, text, bytea, integer",
)
_INSERT_DUPLICATES: Final = _many(sql.INSERT_DUPLICATE, "text, text, bigint, text")
_PUT_TASKS: Final = _many(
    sql.PUT_TASK, "text, text, text, bigint, text, bigint, bigint, text, bigint"
)
_PUT_ASSETS: Final = _many(sql.PUT_ASSET, _ASSET_TYPES)
PUT_ASSETS: Final = _numbered(_PUT_ASSETS)
INSERT_ATTEMPTS: Final = _numbered(_many(sql.INSERT_ATTEMPT, _ATTEMPT_TYPES))

EXPECT: Final = _numbered(
    _many(
        sql.EXPECT,
        "text, text, text, bigint, text, bigint, bigint, text, bigint, bigint, text",
    )
)
SELECT_EXPECTED: Final = _numbered(sql.SELECT_EXPECTED)
SELECT_NEXT_DUE: Final = _numbered(sql.SELECT_NEXT_DUE)
#: Locks the turns until the transaction ends.
SELECT_TURN: Final = f"{_numbered(sql.SELECT_TURN)} FOR UPDATE"
PASS_TURNS: Final = _numbered(sql.PASS_TURNS)
SELECT_TASK_TURN: Final = _numbered(sql.SELECT_TASK_TURN)
INSERT_TASK_TURNS: Final = (
    f"INSERT INTO task_turns (task_id, turn_at) SELECT task_id, {NOW} + wait"
    " FROM unnest($1::text[], $2::bigint[]) AS taken (task_id, wait)"
)
FORGET_TASK_TURNS: Final = _numbered(sql.FORGET_TASK_TURNS)
#: Locks all submissions' turns until the transaction ends.
LOCK_SUBMISSIONS: Final = "SELECT next_at FROM turns WHERE name = 'submit' FOR UPDATE"
SELECT_SUBMISSION_TURN: Final = _numbered(sql.SELECT_SUBMISSION_TURN)
INSERT_SUBMISSION_TURN: Final = _numbered(sql.INSERT_SUBMISSION_TURN)
FORGET_SUBMISSION_TURNS: Final = _numbered(sql.FORGET_SUBMISSION_TURNS)
#: A task that is being recorded at this moment is news, and not due any more.
SELECT_DUE: Final = f"{_numbered(sql.SELECT_DUE)} FOR UPDATE SKIP LOCKED"
PUT_OFF: Final = _numbered(sql.PUT_OFF).replace(
    "IN (SELECT value FROM json_each($2))", "= ANY($2::text[])"
)
NOTE_ANSWER: Final = _numbered(sql.NOTE_ANSWER)
GIVE_UP: Final = _numbered(sql.GIVE_UP)
COUNT_OPEN: Final = _numbered(sql.COUNT_OPEN)

BEGIN_ASSET: Final = _numbered(sql.BEGIN_ASSET)
SELECT_HELD_ASSET: Final = _numbered(sql.SELECT_HELD_ASSET)
RENEW_ASSET: Final = _numbered(sql.RENEW_ASSET)
BEGIN_NOTIFICATION: Final = _numbered(sql.BEGIN_NOTIFICATION)
SELECT_HELD_NOTIFICATION: Final = _numbered(sql.SELECT_HELD_NOTIFICATION)
RENEW_NOTIFICATION: Final = _numbered(sql.RENEW_NOTIFICATION)
NOTE_NOTIFICATION: Final = _numbered(sql.NOTE_NOTIFICATION)

#: Waits until nobody else has one of these; held until the transaction ends.
LOCK_TASKS: Final = "SELECT pg_advisory_xact_lock(key) FROM unnest($1::bigint[]) AS key"
KNOWN_ASSETS: Final = (
    f"SELECT {sql.ASSET_COLUMNS} FROM assets WHERE task_id = ANY($1::text[])"
)


def select_tasks(
    chosen: TaskSelection, after: Place | None, limit: int
) -> tuple[str, tuple[Binding, ...]]:
    """Give the statement that lists tasks, and its bindings."""
    statement, bindings = shown.select_tasks(chosen, after, limit)
    in_array = statement.replace(shown.IN_LIST, "= ANY(?::text[])")
    return _numbered(in_array), bindings


def lock_tasks(keys: Iterable[int]) -> str:
    """Write ``LOCK_TASKS`` with its values: numbers, so that nothing can be hidden."""
    return LOCK_TASKS.replace("$1", f"'{{{','.join(map(str, keys))}}}'")


def _rows_of(columns: str, table: str, key: str, number: int) -> str:
    """Give all rows with the keys of an array as one array of rows."""
    where = f"{key} = ANY(${number}::text[])"
    return f"ARRAY(SELECT ROW({columns}) FROM {table} WHERE {where})"


_KNOWN_EVENTS: Final = (
    f"ARRAY(SELECT ROW({sql.SEEN_COLUMNS}) FROM updates WHERE (task_id, event_id)"
    " IN (SELECT * FROM unnest($1::text[], $2::text[])))"
)
#: One row of three arrays: events by their tasks and ids, tasks and files by tasks.
KNOWN: Final = "SELECT " + ", ".join(
    (
        _KNOWN_EVENTS,
        _rows_of(sql.TASK_COLUMNS, "tasks", "task_id", 3),
        _rows_of(sql.ASSET_COLUMNS, "assets", "task_id", 4),
    )
)

#: What a batch can change, in the order in which it is written.
_CHANGES: Final = {
    "updates": _INSERT_UPDATES,
    "duplicates": _INSERT_DUPLICATES,
    "tasks": _PUT_TASKS,
    "assets": _PUT_ASSETS,
}


@cache
def write(*tables: str) -> str:
    """Write into several tables with one statement; arrays follow in their order."""
    parts = ", ".join(f"{table}_ AS ({_CHANGES[table]})" for table in tables)
    return _numbered(f"WITH {parts} SELECT")


TOLD: Final = (
    "SELECT task_id, stage, tracks FROM updates WHERE task_id = ANY($1::text[])"
)

RENEW_LINK: Final = _numbered(sql.RENEW_LINK)
PUT_RENEWAL: Final = _numbered(sql.PUT_RENEWAL)
SELECT_RENEWALS: Final = _numbered(sql.SELECT_RENEWALS)
SELECT_UNFETCHED: Final = _numbered(sql.SELECT_UNFETCHED)
NOTE_WARNINGS: Final = _numbered(
    _many(sql.NOTE_WARNING, "text, text, text, text, integer")
)
CLAIM_RECOVERY: Final = _numbered(sql.CLAIM_RECOVERY)
NOTE_RECOVERY: Final = _numbered(sql.NOTE_RECOVERY)
DROP_RECOVERY: Final = _numbered(sql.DROP_RECOVERY)
SELECT_RECOVERY: Final = _numbered(sql.SELECT_RECOVERY)

SELECT_TASK: Final = _numbered(shown.SELECT_TASK)
SELECT_TASK_IDS: Final = _numbered(shown.SELECT_TASK_IDS)
SELECT_REPEATS: Final = _numbered(shown.SELECT_REPEATS)
SELECT_ASSET: Final = _numbered(sql.SELECT_ASSET)
SELECT_ASSETS: Final = _numbered(sql.SELECT_ASSETS)
SELECT_BODY: Final = _numbered(sql.SELECT_BODY)
SELECT_ATTEMPTS: Final = _numbered(sql.SELECT_ATTEMPTS)
SELECT_NOTIFICATIONS: Final = _numbered(sql.SELECT_NOTIFICATIONS)
SELECT_UPDATES: Final = _numbered(sql.SELECT_UPDATES)
DESCRIBE: Final = (
    "SELECT split_part(current_setting('server_version'), ' ', 1),"
    f" (SELECT version FROM ledger_schema), {NOW}"
)
SELECT_TOTALS: Final = sql.SELECT_TOTALS
COUNT_OLD: Final = _numbered(sql.COUNT_OLD)
SELECT_OLD: Final = _numbered(sql.SELECT_OLD)
#: Looks again once nobody else can change them.
STILL_OLD: Final = (
    f"SELECT task_id FROM tasks WHERE {_numbered(sql.IS_OLD)}"
    " AND task_id = ANY($2::text[])"
)
FORGET: Final = tuple(
    statement.replace("IN (SELECT value FROM json_each(?))", "= ANY($1::text[])")
    for statement in sql.FORGET
)

BEGIN_JOB: Final = _numbered(job_sql.BEGIN_JOB)
KEEP_JOB: Final = _numbered(job_sql.KEEP_JOB)
END_JOB: Final = _numbered(job_sql.END_JOB)
UNLINK_TASK: Final = _numbered(job_sql.UNLINK_TASK)
ACCEPT_JOB: Final = _numbered(job_sql.ACCEPT_JOB)
LINK_JOB: Final = _numbered(job_sql.LINK_JOB)
LINK_TASK: Final = _numbered(job_sql.LINK_TASK)
SELECT_JOB: Final = _numbered(job_sql.SELECT_JOB)
SELECT_OPEN_JOBS: Final = _numbered(job_sql.SELECT_OPEN_JOBS)
COUNT_OLD_JOBS: Final = _numbered(job_sql.COUNT_OLD_JOBS)
PRUNE_JOBS: Final = _numbered(job_sql.PRUNE_JOBS)
