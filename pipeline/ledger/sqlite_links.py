"""Links that expire, in the SQLite ledger."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, TypeVar

from pipeline.ledger import leasing, link_rows
from pipeline.ledger import statements as sql
from pipeline.ledger.links import PAGE, Links

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime, timedelta

    import apsw

    from pipeline.ledger.lease import Lease
    from pipeline.ledger.links import Recovery, Renewal, UnfetchedLink
    from pipeline.ledger.rows import Row
    from pipeline.task import TaskId

T = TypeVar("T")


class SqliteLinks(Links):
    """The part of the SQLite ledger that knows of links that expire."""

    async def renew_link(self, renewal: Renewal, *, lease: Lease) -> None:
        def run(connection: apsw.Connection) -> None:
            bindings = link_rows.renew_bindings(renewal, lease)
            leasing.require(list(connection.execute(sql.RENEW_LINK, bindings)), lease)
            connection.execute(sql.PUT_RENEWAL, link_rows.renewal_bindings(renewal))

        await self._write(run)

    async def list_renewals(self, task_id: TaskId) -> Sequence[Renewal]:
        return link_rows.renewals(await self._select(sql.SELECT_RENEWALS, task_id))

    async def list_unfetched(
        self,
        *,
        received_before: datetime,
        after: UnfetchedLink | None = None,
        limit: int = PAGE,
    ) -> Sequence[UnfetchedLink]:
        bindings = link_rows.unfetched_bindings(received_before, after, limit)
        return link_rows.unfetched(await self._select(sql.SELECT_UNFETCHED, *bindings))

    async def note_warnings(
        self, warnings: Sequence[tuple[UnfetchedLink, int]]
    ) -> Sequence[tuple[UnfetchedLink, int]]:
        bindings = [link_rows.warning_bindings(*one) for one in warnings]
        if not bindings:
            return []
        new = await self._write(
            lambda connection: set(connection.executemany(sql.NOTE_WARNING, bindings))
        )
        return [one for one, row in zip(warnings, bindings, strict=True) if row in new]

    async def claim_recovery(self, task_id: TaskId, *, again_after: timedelta) -> bool:
        bindings = link_rows.claim_bindings(task_id, again_after)
        return await self._changes(sql.CLAIM_RECOVERY, bindings)

    async def note_recovery(self, task_id: TaskId, recovery_id: TaskId) -> None:
        await self._changes(sql.NOTE_RECOVERY, (recovery_id, task_id))

    async def drop_recovery(self, task_id: TaskId) -> None:
        await self._changes(sql.DROP_RECOVERY, (task_id,))

    async def find_recovery(self, task_id: TaskId) -> Recovery | None:
        return link_rows.recovery(await self._select(sql.SELECT_RECOVERY, task_id))

    async def _changes(self, statement: str, bindings: Row) -> bool:
        """Execute a statement that gives a row if it has changed one."""
        return await self._write(
            lambda connection: bool(list(connection.execute(statement, bindings)))
        )

    @abstractmethod
    async def _select(self, statement: str, *bindings: str | int) -> list[Row]:
        """Read rows."""

    @abstractmethod
    async def _write(self, run: Callable[[apsw.Connection], T]) -> T:
        """Call ``run`` in a transaction that has the file for itself."""
