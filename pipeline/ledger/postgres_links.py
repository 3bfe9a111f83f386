"""Links that expire, in the PostgreSQL ledger."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from pipeline.ledger import leasing, link_rows
from pipeline.ledger import postgres_statements as sql
from pipeline.ledger.links import PAGE, Links
from pipeline.ledger.postgres_locks import lock
from pipeline.ledger.rows import columns

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime, timedelta

    from pipeline.ledger.lease import Lease
    from pipeline.ledger.links import Recovery, Renewal, UnfetchedLink
    from pipeline.ledger.postgres_connections import Connections
    from pipeline.ledger.rows import Row
    from pipeline.task import TaskId


class PostgresLinks(Links):
    """The part of the PostgreSQL ledger that knows of links that expire."""

    _connections: Connections

    async def renew_link(self, renewal: Renewal, *, lease: Lease) -> None:
        async def run(connection: Any) -> None:
            bindings = link_rows.renew_bindings(renewal, lease)
            leasing.require(await connection.fetch(sql.RENEW_LINK, *bindings), lease)
            row = link_rows.renewal_bindings(renewal)
            await connection.execute(sql.PUT_RENEWAL, *row)

        # Whoever records a callback of this task writes back the link that it read.
        await self._connections.transact(run, first=lock([renewal.key.task_id]))

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
        found = await self._select(sql.NOTE_WARNINGS, *columns(bindings))
        new = {tuple(row) for row in found}
        return [one for one, row in zip(warnings, bindings, strict=True) if row in new]

    async def claim_recovery(self, task_id: TaskId, *, again_after: timedelta) -> bool:
        bindings = link_rows.claim_bindings(task_id, again_after)
        return bool(await self._select(sql.CLAIM_RECOVERY, *bindings))

    async def note_recovery(self, task_id: TaskId, recovery_id: TaskId) -> None:
        await self._select(sql.NOTE_RECOVERY, recovery_id, task_id)

    async def drop_recovery(self, task_id: TaskId) -> None:
        await self._select(sql.DROP_RECOVERY, task_id)

    async def find_recovery(self, task_id: TaskId) -> Recovery | None:
        return link_rows.recovery(await self._select(sql.SELECT_RECOVERY, task_id))

    @abstractmethod
    async def _select(self, statement: str, *bindings: object) -> list[Row]:
        """Read rows."""
