"""Files in the SQLite ledger: read and settled within a transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.ledger import rows
from pipeline.ledger import statements as sql
from pipeline.ledger.port import Settled
from pipeline.ledger.recording import ready_stages
from pipeline.message import to_milliseconds

if TYPE_CHECKING:
    from datetime import datetime

    import apsw

    from pipeline.ledger.recording import AssetRow
    from pipeline.task import AssetKey, StoredAsset, TaskId


def find_file(connection: apsw.Connection, key: AssetKey) -> AssetRow | None:
    """Read one file."""
    found = connection.execute(sql.SELECT_ASSET, (key.task_id, key.track_id, key.kind))
    return next((rows.asset_row(row) for row in found), None)


def files_of(connection: apsw.Connection, task_id: TaskId) -> list[AssetRow]:
    """Read the files of a task, by track and kind."""
    found = connection.execute(sql.SELECT_ASSETS, (task_id,))
    return [rows.asset_row(row) for row in found]


def settle_file(
    connection: apsw.Connection,
    key: AssetKey,
    result: StoredAsset | str,
    *,
    at: datetime,
) -> Settled:
    """Note what became of one file, if it is known."""
    row = find_file(connection, key)
    if row is None:
        return Settled(asset=None)
    if row.settle(result, at=to_milliseconds(at)):
        connection.execute(sql.PUT_ASSET, rows.asset_bindings(row))
    ready = ready_stages(row, files_of(connection, key.task_id))
    return Settled(asset=row.asset(), ready=tuple(ready))
