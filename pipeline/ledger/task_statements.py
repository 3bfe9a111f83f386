"""The SQL that shows tasks, for SQLite; PostgreSQL's is made of it as all else is."""
# ruff: noqa: S608 - put together of constants; values are always bound

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from pipeline.ledger.records import REPEATS_SHOWN, TaskState
from pipeline.ledger.statements import TASK_COLUMNS
from pipeline.message import to_milliseconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.ledger.records import Place, TaskSelection

#: What is bound: a list is bound as the database has it, in the place of one value.
Binding: TypeAlias = str | int | list[str]

#: Each state that is no stage, and how it is told. A submitted task is ``unknown``
#: from its first row on, and stays so when something was heard that nobody knows.
_HAS_ENDED: Final = "stage IN ('failed', 'complete')"
_IS_SILENT: Final = (
    "stage = 'unknown' AND NOT EXISTS"
    " (SELECT 1 FROM updates WHERE updates.task_id = tasks.task_id)"
)
_STATE: Final = (
    f"CASE WHEN {_HAS_ENDED} THEN stage"
    f" WHEN given_up_at IS NOT NULL THEN '{TaskState.GIVEN_UP}'"
    f" WHEN {_IS_SILENT} THEN '{TaskState.SUBMITTED}' ELSE stage END"
)
_FILES: Final = "SELECT COUNT(*) FROM assets WHERE assets.task_id = tasks.task_id"
_IS_MISSING_FILES: Final = (
    "EXISTS (SELECT 1 FROM assets WHERE assets.task_id = tasks.task_id"
    " AND assets.state <> 'stored')"
)
_LAST_ORIGIN: Final = (
    "SELECT origin FROM updates WHERE updates.task_id = tasks.task_id"
    " ORDER BY received_at DESC, event_id LIMIT 1"
)
_SHOWN: Final = (
    f"SELECT {TASK_COLUMNS}, {_STATE}, submitted_at, job_id, due_at, given_up_at,"
    f" ({_LAST_ORIGIN}), ({_FILES}), ({_FILES} AND state = 'stored'),"
    f" ({_FILES} AND state = 'expired') FROM tasks"
)
SELECT_TASK: Final = f"{_SHOWN} WHERE task_id = ?"
#: Both ledgers compare byte by byte, so those that start with a text are together,
#: from the text itself on: no more rows are read than are asked for.
SELECT_TASK_IDS: Final = (
    "SELECT task_id FROM tasks WHERE task_id >= ? ORDER BY task_id LIMIT ?"
)
#: In a place where a list of texts is bound.
IN_LIST: Final = "IN (SELECT value FROM json_each(?))"

#: The first repeats of each update of a task.
SELECT_REPEATS: Final = (
    "SELECT event_id, origin, received_at FROM (SELECT d.event_id, d.origin,"
    " d.received_at, d.owner, ROW_NUMBER() OVER (PARTITION BY d.event_id"
    " ORDER BY d.received_at, d.owner) AS place FROM updates AS u"
    " JOIN duplicates AS d ON d.event_id = u.event_id WHERE u.task_id = ?) AS r"
    f" WHERE place <= {REPEATS_SHOWN} ORDER BY received_at, owner"
)


def select_tasks(
    chosen: TaskSelection, after: Place | None, limit: int
) -> tuple[str, tuple[Binding, ...]]:
    """Give the statement that lists tasks, and its bindings."""
    clauses: list[str] = []
    bindings: list[Binding] = []
    for clause, values in (*_clauses(chosen), *_behind(after)):
        clauses.append(clause)
        bindings += values
    where = f" WHERE {' AND '.join(clauses)}" if clauses else ""
    order = " ORDER BY last_seen_at DESC, task_id LIMIT ?"
    return f"{_SHOWN}{where}{order}", (*bindings, max(0, limit))


def _clauses(chosen: TaskSelection) -> Iterator[tuple[str, list[Binding]]]:
    if chosen.states is not None:
        yield f"({_STATE}) {IN_LIST}", [sorted(one.value for one in chosen.states)]
    if chosen.operation is not None:
        yield "operation = ?", [chosen.operation]
    if chosen.door is not None:
        yield "door = ?", [chosen.door]
    if chosen.since is not None:
        yield "last_seen_at >= ?", [to_milliseconds(chosen.since)]
    if chosen.until is not None:
        yield "last_seen_at < ?", [to_milliseconds(chosen.until)]
    if chosen.task_ids is not None:
        yield f"task_id {IN_LIST}", [sorted(chosen.task_ids)]
    if chosen.with_missing_files:
        yield _IS_MISSING_FILES, []


def _behind(after: Place | None) -> Iterator[tuple[str, list[Binding]]]:
    if after is not None:
        at = to_milliseconds(after.last_seen_at)
        # The first of these is for the index.
        yield "last_seen_at <= ?", [at]
        yield "(last_seen_at < ? OR task_id > ?)", [at, after.task_id]
