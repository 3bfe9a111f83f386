"""The ledger in one SQLite file, for any number of processes on one machine.

A transaction holds the file's only write lock from its start, so what is read in it
cannot change before it is written. What to write is decided in ``recording.py``.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Self, TypeVar

import apsw
import orjson

from pipeline.errors import (
    ConfigurationError,
    LedgerError,
    LedgerMismatch,
    LedgerUnavailable,
)
from pipeline.ledger import job_rows, rows
from pipeline.ledger import statements as sql
from pipeline.ledger import task_statements as shown
from pipeline.ledger.files import files_of, find_file, settle_file
from pipeline.ledger.migrations import migrations
from pipeline.ledger.port import Ledger
from pipeline.ledger.recording import record
from pipeline.ledger.records import EVERY_TASK
from pipeline.ledger.sqlite_expectations import SqliteExpectations
from pipeline.ledger.sqlite_jobs import SqliteJobs, link_jobs
from pipeline.ledger.sqlite_leases import (
    begin_file,
    begin_telling,
    note_telling,
    renew_lease,
)
from pipeline.ledger.sqlite_links import SqliteLinks
from pipeline.ledger.sqlite_recording import read_known, task_records, write_changes
from pipeline.ledger.sqlite_turns import SqliteTurns
from pipeline.message import to_milliseconds
from pipeline.sqlite import Database, DatabaseUnavailable, SchemaMismatch, migrate

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from datetime import datetime
    from types import TracebackType

    from pipeline.ledger.lease import BegunAsset, BegunNotification, Lease
    from pipeline.ledger.port import (
        Asset,
        Attempt,
        Claim,
        Description,
        Notification,
        Recorded,
        SeenUpdate,
        Settled,
        StoredAsset,
        TaskRecord,
        Totals,
    )
    from pipeline.ledger.records import Place, TaskSelection
    from pipeline.task import AssetKey, EventId, TaskId

T = TypeVar("T")

#: Marks the file as a ledger; the letters PLGR.
APPLICATION_ID: Final = 0x504C4752
#: 16 MiB: keys are as good as random, so each touches other pages of an index; with the
#: usual 2 MiB most were read again and again, a seventh of the ledger's time.
CACHE_KIB: Final = 16 * 1024


class SqliteLedger(SqliteExpectations, SqliteLinks, SqliteTurns, SqliteJobs, Ledger):
    """The ledger in the SQLite file at ``path``, which is made if need be.

    Args:
        path: the file; not the broker's.
        busy_timeout: how long to wait for other processes' locks.
        must_exist: to enter raises ``ConfigurationError`` if there is no file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        busy_timeout: timedelta | None = None,
        must_exist: bool = False,
    ) -> None:
        self._must_exist = must_exist
        scripts = migrations()

        def prepare(connection: apsw.Connection) -> None:
            migrate(connection, scripts, application_id=APPLICATION_ID)

        options = {} if busy_timeout is None else {"busy_timeout": busy_timeout}
        self._database = Database(path, prepare=prepare, cache_kib=CACHE_KIB, **options)

    async def __aenter__(self) -> Self:
        path = self._database.path
        if self._must_exist and not await asyncio.to_thread(path.is_file):
            message = (
                f"ledger_url: expected a ledger that exists, found no file {path};"
                " nothing has run there yet, or it is another place"
            )
            raise ConfigurationError(message)
        await self._database.__aenter__()
        try:
            await self._read(lambda connection: connection.pragma("user_version"))
        except BaseException:
            await self._database.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._database.__aexit__(kind, error, trace)

    async def record(self, claims: Sequence[Claim]) -> Sequence[Recorded]:
        if not claims:
            return []

        def run(connection: apsw.Connection) -> Sequence[Recorded]:
            known = read_known(connection, claims)
            named = job_rows.newly_named(claims, known.tasks)
            answers, changes = record(claims, known)
            write_changes(connection, changes)
            link_jobs(connection, named)
            return answers

        return await self._write(run)

    async def find_asset(self, key: AssetKey) -> Asset | None:
        row = await self._read(lambda connection: find_file(connection, key))
        return None if row is None else row.asset()

    async def begin_asset(
        self, key: AssetKey, *, owner: str, lasts: timedelta
    ) -> BegunAsset | None:
        return await self._write(
            lambda connection: begin_file(connection, key, owner, lasts)
        )

    async def renew(self, lease: Lease, *, lasts: timedelta) -> None:
        await self._write(lambda connection: renew_lease(connection, lease, lasts))

    async def settle_assets(
        self,
        keys: Sequence[AssetKey],
        result: StoredAsset | str,
        *,
        at: datetime,
        lease: Lease | None = None,
    ) -> Sequence[Settled]:
        if not keys:
            return []

        def run(connection: apsw.Connection) -> Sequence[Settled]:
            if lease is not None:
                renew_lease(connection, lease, timedelta(0))
            return [settle_file(connection, key, result, at=at) for key in keys]

        return await self._write(run)

    async def add_attempts(self, attempts: Sequence[Attempt]) -> None:
        bindings = list(rows.attempt_bindings(attempts))
        await self._write(
            lambda connection: _all(
                connection.executemany(sql.INSERT_ATTEMPT, bindings)
            )
        )

    async def begin_notification(
        self, notification: Notification, *, owner: str, lasts: timedelta
    ) -> BegunNotification:
        return await self._write(
            lambda connection: begin_telling(connection, notification, owner, lasts)
        )

    async def note_notification(
        self, notification: Notification, *, lease: Lease
    ) -> None:
        await self._write(
            lambda connection: note_telling(connection, notification, lease)
        )

    async def find_task(self, task_id: TaskId) -> TaskRecord | None:
        def run(connection: apsw.Connection) -> list[TaskRecord]:
            return task_records(
                connection, connection.execute(shown.SELECT_TASK, (task_id,))
            )

        return next(iter(await self._read(run)), None)

    async def list_task_ids(self, start: str, *, limit: int) -> Sequence[TaskId]:
        found = await self._select(shown.SELECT_TASK_IDS, start, limit)
        return rows.task_ids(found, start)

    async def list_tasks(
        self,
        chosen: TaskSelection = EVERY_TASK,
        *,
        after: Place | None = None,
        limit: int = 100,
    ) -> Sequence[TaskRecord]:
        statement, given = shown.select_tasks(chosen, after, limit)
        bindings = tuple(
            orjson.dumps(one).decode() if isinstance(one, list) else one
            for one in given
        )
        return await self._read(
            lambda connection: task_records(
                connection, connection.execute(statement, bindings)
            )
        )

    async def list_updates(self, task_id: TaskId) -> Sequence[SeenUpdate]:
        def run(connection: apsw.Connection) -> Sequence[SeenUpdate]:
            found = connection.execute(sql.SELECT_UPDATES, (task_id,))
            repeats = connection.execute(shown.SELECT_REPEATS, (task_id,))
            return rows.seen_updates(list(found), list(repeats))

        return await self._read(run)

    async def find_body(self, task_id: TaskId, event: EventId) -> bytes | None:
        found = await self._select(sql.SELECT_BODY, task_id, event)
        return bytes(found[0][0]) if found else None

    async def list_assets(self, task_id: TaskId) -> Sequence[Asset]:
        found = await self._read(lambda connection: files_of(connection, task_id))
        return [row.asset() for row in found]

    async def list_attempts(self, task_id: TaskId) -> Sequence[Attempt]:
        found = await self._select(sql.SELECT_ATTEMPTS, task_id)
        return [rows.attempt(row) for row in found]

    async def list_notifications(self, task_id: TaskId) -> Sequence[Notification]:
        found = await self._select(sql.SELECT_NOTIFICATIONS, task_id)
        return [rows.notification(row) for row in found]

    async def describe(self) -> Description:
        ((version, schema, now),) = await self._select(sql.DESCRIBE)
        return rows.description(f"SQLite {version}", schema, now)

    async def totals(self) -> Totals:
        (row,) = await self._select(sql.SELECT_TOTALS)
        return rows.totals(row)

    async def count_old(self, before: datetime) -> int:
        (row,) = await self._select(sql.COUNT_OLD, to_milliseconds(before))
        return int(row[0])

    async def prune(self, before: datetime, *, limit: int = 200) -> int:
        bindings = (to_milliseconds(before), limit)

        def run(connection: apsw.Connection) -> int:
            old = [row[0] for row in connection.execute(sql.SELECT_OLD, bindings)]
            for statement in sql.FORGET if old else ():
                connection.execute(statement, (orjson.dumps(old).decode(),))
            return len(old)

        return await self._write(run)

    async def _select(self, statement: str, *bindings: str | int) -> list[rows.Row]:
        return await self._read(
            lambda connection: _all(connection.execute(statement, bindings))
        )

    async def _read(self, run: Callable[[apsw.Connection], T]) -> T:
        with _translated():
            return await self._database.read(run)

    async def _write(self, run: Callable[[apsw.Connection], T]) -> T:
        with _translated():
            return await self._database.write(run)


@contextmanager
def _translated() -> Iterator[None]:
    """Turn the database's errors into the ledger's."""
    try:
        yield
    except DatabaseUnavailable as error:
        message = f"the ledger is not available: {error}"
        raise LedgerUnavailable(message) from error
    except SchemaMismatch as error:
        raise LedgerMismatch(str(error)) from error
    except apsw.Error as error:
        message = f"the ledger refused a statement: {type(error).__name__}: {error}"
        raise LedgerError(message) from error


def _all(cursor: Iterable[rows.Row]) -> list[rows.Row]:
    return list(cursor)
