"""Turns in the PostgreSQL ledger."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pipeline.ledger import asking
from pipeline.ledger import postgres_statements as sql
from pipeline.ledger.rows import columns
from pipeline.ledger.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.ledger.postgres_connections import Connections
    from pipeline.ledger.turns import Turn, Window
    from pipeline.task import TaskId


class PostgresTurns(Turns):
    """The part of the PostgreSQL ledger that knows who calls when."""

    _connections: Connections

    async def take_question(
        self, task_id: TaskId | None, *, pause: timedelta, window: Window
    ) -> Turn:
        async def run(connection: Any) -> Turn:
            # Whoever has this row takes; the others wait for their turn here.
            left: int = await connection.fetchval(sql.SELECT_TURN)
            full = 0
            if task_id is not None:
                last = await connection.fetch(
                    sql.SELECT_TASK_TURN, task_id, window.most - 1
                )
                full = asking.until_free(last, window)
            turn = asking.turn(left, full)
            if turn.is_taken:
                await connection.execute(sql.PASS_TURNS, asking.milliseconds(pause))
                wait = asking.milliseconds(turn.wait)
                if task_id is not None:
                    await mark_questions(connection, [(task_id, wait)], window)
            return turn

        return await self._connections.transact(run)

    async def take_submission(self, window: Window) -> timedelta:
        async def run(connection: Any) -> timedelta:
            await connection.execute(sql.LOCK_SUBMISSIONS)
            last = await connection.fetch(sql.SELECT_SUBMISSION_TURN, window.most - 1)
            wait = asking.until_free(last, window)
            await connection.execute(sql.INSERT_SUBMISSION_TURN, wait)
            span = asking.milliseconds(window.span)
            await connection.execute(sql.FORGET_SUBMISSION_TURNS, span)
            return timedelta(milliseconds=wait)

        return await self._connections.transact(run)


async def mark_questions(
    connection: Any, waits: Sequence[tuple[str, int]], window: Window
) -> None:
    """Remember that tasks are asked for in so many milliseconds each."""
    await connection.execute(sql.INSERT_TASK_TURNS, *columns(waits))
    span = asking.milliseconds(window.span)
    await connection.execute(sql.FORGET_TASK_TURNS, span)
