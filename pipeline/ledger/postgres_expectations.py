"""Expectations in the PostgreSQL ledger."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from pipeline.ledger import asking
from pipeline.ledger import postgres_statements as sql
from pipeline.ledger.expectations import Expectations
from pipeline.ledger.postgres_locks import lock
from pipeline.ledger.postgres_turns import mark_questions
from pipeline.ledger.rows import columns

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from pipeline.ledger.expectations import Expectation, Expected, Open, Question
    from pipeline.ledger.postgres_connections import Connections
    from pipeline.ledger.rows import Row
    from pipeline.ledger.turns import Window
    from pipeline.task import EventId, TaskId


class PostgresExpectations(Expectations):
    """The part of the PostgreSQL ledger that knows what is still to come."""

    _connections: Connections

    async def expect(self, expectations: Sequence[Expectation]) -> None:
        if not expectations:
            return
        bindings = asking.expect_bindings(expectations)

        async def run(connection: Any) -> None:
            await connection.execute(sql.EXPECT, *columns(bindings))

        first = lock(one.task_id for one in expectations)
        await self._connections.transact(run, first=first)

    async def find_expected(self, task_id: TaskId) -> Expected | None:
        return asking.expected(await self._select(sql.SELECT_EXPECTED, task_id))

    async def until_due(self) -> timedelta | None:
        return asking.until(await self._select(sql.SELECT_NEXT_DUE))

    async def take_due(
        self,
        *,
        most: int,
        lasts: timedelta,
        pause: timedelta,
        window: Window | None = None,
    ) -> Sequence[Question]:
        async def run(connection: Any) -> Sequence[Question]:
            # Whoever has this row takes; the others wait for their turn here.
            left: int = await connection.fetchval(sql.SELECT_TURN)
            count = asking.turns(left, most=most, pause=pause)
            if count < 1:
                return []
            bindings = (*asking.window_bindings(window), count)
            due = await connection.fetch(sql.SELECT_DUE, *bindings)
            taken = asking.questions(due, left, pause)
            if taken:
                names = [one.task_id for one in taken]
                until = asking.held(most, lasts, pause)
                await connection.execute(sql.PUT_OFF, until, names)
                after = asking.milliseconds(len(taken) * pause)
                await connection.execute(sql.PASS_TURNS, after)
                if window is not None:
                    await mark_questions(connection, asking.marks(taken), window)
            return taken

        return await self._connections.transact(run)

    async def note_answer(
        self, question: Question, *, next_in: timedelta, answered: EventId | None = None
    ) -> bool:
        bindings = asking.note_bindings(question, next_in, answered)
        return bool(await self._select(sql.NOTE_ANSWER, *bindings))

    async def give_up(self, question: Question) -> bool:
        bindings = (question.task_id, question.number)
        return bool(await self._select(sql.GIVE_UP, *bindings))

    async def count_open(self, *, overdue: timedelta) -> Open:
        longer = asking.milliseconds(overdue)
        return asking.opened(await self._select(sql.COUNT_OPEN, longer))

    @abstractmethod
    async def _select(self, statement: str, *bindings: object) -> list[Row]:
        """Read rows."""
