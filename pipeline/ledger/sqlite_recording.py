"""What the SQLite ledger reads and writes for a batch of claims."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.ledger import rows
from pipeline.ledger import statements as sql
from pipeline.ledger.recording import names_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import apsw

    from pipeline.ledger.port import Claim, TaskRecord
    from pipeline.ledger.recording import Changes, Known


def read_known(connection: apsw.Connection, claims: Sequence[Claim]) -> Known:
    """Read what there is about the claims, with one SELECT for each table."""
    events = list({(claim.update.task_id, claim.event_id) for claim in claims})
    task_ids = list({claim.update.task_id for claim in claims})
    with_files = list(
        {claim.update.task_id for claim in claims if names_files(claim.update)}
    )
    return rows.known(
        _select(connection, sql.select_seen(events)),
        _select_in(connection, sql.TASK_COLUMNS, "tasks", "task_id", task_ids),
        _select_in(connection, sql.ASSET_COLUMNS, "assets", "task_id", with_files),
    )


def _select_in(
    connection: apsw.Connection,
    columns: str,
    table: str,
    key: str,
    values: Sequence[str],
) -> Iterator[rows.Row]:
    return _select(connection, sql.select_in(columns, table, key, values))


def _select(
    connection: apsw.Connection, statements: Iterable[tuple[str, tuple[str, ...]]]
) -> Iterator[rows.Row]:
    for statement, bindings in statements:
        yield from connection.execute(statement, bindings)


def write_changes(connection: apsw.Connection, changes: Changes) -> None:
    """Write everything that is not empty."""
    if changes.updates:
        connection.executemany(
            sql.INSERT_UPDATE, [rows.update_bindings(*one) for one in changes.updates]
        )
    if changes.duplicates:
        connection.executemany(
            sql.INSERT_DUPLICATE,
            [rows.duplicate_bindings(*one) for one in changes.duplicates],
        )
    if changes.tasks:
        connection.executemany(
            sql.PUT_TASK, [rows.task_bindings(task) for task in changes.tasks.values()]
        )
    if changes.assets:
        connection.executemany(
            sql.PUT_ASSET, [rows.asset_bindings(row) for row in changes.assets.values()]
        )


def task_records(
    connection: apsw.Connection, found: Iterable[rows.Row]
) -> list[TaskRecord]:
    """Make tasks of rows, with the tracks that all their updates told of."""
    tasks = list(found)
    told = _select_in(
        connection,
        "task_id, stage, tracks",
        "updates",
        "task_id",
        [row[0] for row in tasks],
    )
    return rows.task_records(tasks, told)
