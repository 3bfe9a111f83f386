"""The ledger in PostgreSQL, for any number of processes on any number of machines.

A transaction that writes holds the locks of the tasks concerned from its start, so
what is read in it cannot change before it is written; those of other tasks go on at
the same time. What to write is decided in ``recording.py``.
"""

from __future__ import annotations

from datetime import timedelta
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, Self

from pipeline.ledger import job_rows, leasing, rows
from pipeline.ledger import postgres_statements as sql
from pipeline.ledger.port import Ledger, Settled
from pipeline.ledger.postgres_connections import Connections
from pipeline.ledger.postgres_expectations import PostgresExpectations
from pipeline.ledger.postgres_jobs import PostgresJobs, link_jobs
from pipeline.ledger.postgres_links import PostgresLinks
from pipeline.ledger.postgres_locks import lock
from pipeline.ledger.postgres_schema import prepare
from pipeline.ledger.postgres_turns import PostgresTurns
from pipeline.ledger.recording import names_files, ready_stages, record
from pipeline.ledger.records import EVERY_TASK
from pipeline.ledger.rows import columns
from pipeline.message import to_milliseconds
from pipeline.task import AssetKey

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
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
        StoredAsset,
        TaskRecord,
        Totals,
    )
    from pipeline.ledger.recording import AssetRow, Changes, Known
    from pipeline.ledger.records import Place, TaskSelection
    from pipeline.task import EventId, TaskId

#: The longest for one call.
DEADLINE: Final = timedelta(seconds=10)

#: A server takes 100 connections if nobody has changed that.
CONNECTIONS: Final = 8


class PostgresLedger(
    PostgresExpectations, PostgresLinks, PostgresTurns, PostgresJobs, Ledger
):
    """The ledger in the database at ``url``; its tables are made if need be.

    Args:
        url: ``postgresql://user:password@host:port/database``, with options as
            asyncpg has them.
        deadline: the longest for one call; then it is ``LedgerUnavailable``.
        connections: how many there are at most.
        must_exist: to enter raises ``ConfigurationError`` if there is no ledger.
    """

    def __init__(
        self,
        url: str,
        *,
        deadline: timedelta = DEADLINE,
        connections: int = CONNECTIONS,
        must_exist: bool = False,
    ) -> None:
        self._must_exist = must_exist
        self._connections = Connections(url, deadline=deadline, most=connections)

    async def __aenter__(self) -> Self:
        await self._connections.open()
        try:
            await prepare(self._connections, must_exist=self._must_exist)
        except BaseException:
            await self._connections.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._connections.close()

    async def record(self, claims: Sequence[Claim]) -> Sequence[Recorded]:
        if not claims:
            return []

        async def run(connection: Any) -> Sequence[Recorded]:
            known = await _read_known(connection, claims)
            named = job_rows.newly_named(claims, known.tasks)
            answers, changes = record(claims, known)
            await _write_changes(connection, changes)
            await link_jobs(connection, named)
            return answers

        first = lock(claim.update.task_id for claim in claims)
        return await self._connections.transact(run, first=first)

    async def find_asset(self, key: AssetKey) -> Asset | None:
        found = await self._select(
            sql.SELECT_ASSET, key.task_id, key.track_id, key.kind
        )
        return rows.asset_row(found[0]).asset() if found else None

    async def begin_asset(
        self, key: AssetKey, *, owner: str, lasts: timedelta
    ) -> BegunAsset | None:
        bindings = leasing.begin_asset_bindings(key, owner, lasts)
        begun = leasing.begun_asset(await self._select(sql.BEGIN_ASSET, *bindings))
        if begun is not None:
            return begun
        bindings = leasing.key_bindings(key)
        return leasing.held_asset(await self._select(sql.SELECT_HELD_ASSET, *bindings))

    async def renew(self, lease: Lease, *, lasts: timedelta) -> None:
        is_asset = isinstance(lease.work, AssetKey)
        statement = sql.RENEW_ASSET if is_asset else sql.RENEW_NOTIFICATION
        bindings = leasing.renew_bindings(lease, lasts)
        leasing.require(await self._select(statement, *bindings), lease)

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

        task_ids = {key.task_id for key in keys}

        async def run(connection: Any) -> Sequence[Settled]:
            if lease is not None:
                # Its row is ours until the end: nobody takes the lease over meanwhile.
                bindings = leasing.renew_bindings(lease, timedelta(0))
                taken = await connection.fetch(sql.RENEW_ASSET, *bindings)
                leasing.require(taken, lease)
            found = await connection.fetch(sql.KNOWN_ASSETS, list(task_ids))
            files = rows.known((), (), found).files
            changed: dict[AssetKey, AssetRow] = {}
            answers = []
            for key in keys:
                of_task = files.get(key.task_id, {})
                row = of_task.get((key.track_id, key.kind))
                if row is None:
                    answers.append(Settled(asset=None))
                    continue
                if row.settle(result, at=to_milliseconds(at)):
                    changed[key] = row
                ready = tuple(ready_stages(row, of_task.values()))
                answers.append(Settled(asset=row.asset(), ready=ready))
            if changed:
                settled = (rows.asset_bindings(row) for row in changed.values())
                await connection.execute(sql.PUT_ASSETS, *columns(settled))
            return answers

        return await self._connections.transact(run, first=lock(task_ids))

    async def add_attempts(self, attempts: Sequence[Attempt]) -> None:
        if not attempts:
            return
        bindings = rows.attempt_bindings(attempts)
        await self._execute(sql.INSERT_ATTEMPTS, *columns(bindings))

    async def begin_notification(
        self, notification: Notification, *, owner: str, lasts: timedelta
    ) -> BegunNotification:
        bindings = leasing.begin_notification_bindings(notification, owner, lasts)
        taken = await self._select(sql.BEGIN_NOTIFICATION, *bindings)
        begun = leasing.begun_notification(taken, notification)
        if begun is not None:
            return begun
        found = await self._select(
            sql.SELECT_HELD_NOTIFICATION,
            notification.subscription,
            notification.event_id,
        )
        return leasing.held_notification(found, notification)

    async def note_notification(
        self, notification: Notification, *, lease: Lease
    ) -> None:
        bindings = leasing.note_bindings(notification, lease)
        leasing.require(await self._select(sql.NOTE_NOTIFICATION, *bindings), lease)

    async def find_task(self, task_id: TaskId) -> TaskRecord | None:
        found = await self._task_records(sql.SELECT_TASK, task_id)
        return found[0] if found else None

    async def list_task_ids(self, start: str, *, limit: int) -> Sequence[TaskId]:
        found = await self._select(sql.SELECT_TASK_IDS, start, limit)
        return rows.task_ids(found, start)

    async def list_tasks(
        self,
        chosen: TaskSelection = EVERY_TASK,
        *,
        after: Place | None = None,
        limit: int = 100,
    ) -> Sequence[TaskRecord]:
        statement, bindings = sql.select_tasks(chosen, after, limit)
        return await self._task_records(statement, *bindings)

    async def list_updates(self, task_id: TaskId) -> Sequence[SeenUpdate]:
        found = await self._select(sql.SELECT_UPDATES, task_id)
        repeats = await self._select(sql.SELECT_REPEATS, task_id)
        return rows.seen_updates(found, repeats)

    async def find_body(self, task_id: TaskId, event: EventId) -> bytes | None:
        found = await self._select(sql.SELECT_BODY, task_id, event)
        return bytes(found[0][0]) if found else None

    async def list_assets(self, task_id: TaskId) -> Sequence[Asset]:
        found = await self._select(sql.SELECT_ASSETS, task_id)
        return [rows.asset_row(row).asset() for row in found]

    async def list_attempts(self, task_id: TaskId) -> Sequence[Attempt]:
        found = await self._select(sql.SELECT_ATTEMPTS, task_id)
        return [rows.attempt(row) for row in found]

    async def list_notifications(self, task_id: TaskId) -> Sequence[Notification]:
        found = await self._select(sql.SELECT_NOTIFICATIONS, task_id)
        return [rows.notification(row) for row in found]

    async def describe(self) -> Description:
        ((version, schema, now),) = await self._select(sql.DESCRIBE)
        return rows.description(f"PostgreSQL {version}", schema, now)

    async def totals(self) -> Totals:
        (row,) = await self._select(sql.SELECT_TOTALS)
        return rows.totals(row)

    async def count_old(self, before: datetime) -> int:
        (row,) = await self._select(sql.COUNT_OLD, to_milliseconds(before))
        return int(row[0])

    async def prune(self, before: datetime, *, limit: int = 200) -> int:
        at = to_milliseconds(before)

        async def run(connection: Any) -> int:
            found = await connection.fetch(sql.SELECT_OLD, at, limit)
            await connection.execute(lock(row[0] for row in found))
            left = [row[0] for row in found]
            still = await connection.fetch(sql.STILL_OLD, at, left)
            old = [row[0] for row in still]
            for statement in sql.FORGET if old else ():
                await connection.execute(statement, old)
            return len(old)

        return await self._connections.transact(run)

    async def _select(self, statement: str, *bindings: object) -> list[rows.Row]:
        async def run(connection: Any) -> list[rows.Row]:
            found: list[rows.Row] = await connection.fetch(statement, *bindings)
            return found

        return await self._connections.call(run)

    async def _execute(self, statement: str, *bindings: object) -> None:
        await self._connections.call(
            lambda connection: connection.execute(statement, *bindings)
        )

    async def _task_records(
        self, statement: str, *bindings: object
    ) -> list[TaskRecord]:
        async def run(connection: Any) -> list[TaskRecord]:
            found = await connection.fetch(statement, *bindings)
            told = await connection.fetch(sql.TOLD, [row[0] for row in found])
            return rows.task_records(found, told)

        return await self._connections.call(run)


async def _read_known(connection: Any, claims: Sequence[Claim]) -> Known:
    """Read all there is about the claims."""
    events = {(claim.update.task_id, claim.event_id) for claim in claims}
    task_ids = list({claim.update.task_id for claim in claims})
    with_files = list(
        {claim.update.task_id for claim in claims if names_files(claim.update)}
    )
    found = await connection.fetchrow(sql.KNOWN, *columns(events), task_ids, with_files)
    return rows.known(*found)


async def _write_changes(connection: Any, changes: Changes) -> None:
    """Write everything that is not empty, by one statement."""
    bindings: dict[str, Iterable[rows.Row]] = {
        "updates": [rows.update_bindings(*one) for one in changes.updates],
        "duplicates": [rows.duplicate_bindings(*one) for one in changes.duplicates],
        "tasks": [rows.task_bindings(task) for task in changes.tasks.values()],
        "assets": [rows.asset_bindings(row) for row in changes.assets.values()],
    }
    tables = {table: found for table, found in bindings.items() if found}
    if tables:
        arrays = chain.from_iterable(map(columns, tables.values()))
        await connection.execute(sql.write(*tables), *arrays)
