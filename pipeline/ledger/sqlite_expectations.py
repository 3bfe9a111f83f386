"""Expectations in the SQLite ledger."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, TypeVar

import orjson

from pipeline.ledger import asking
from pipeline.ledger import statements as sql
from pipeline.ledger.expectations import Expectations
from pipeline.ledger.sqlite_turns import mark_questions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import timedelta

    import apsw

    from pipeline.ledger.expectations import Expectation, Expected, Open, Question
    from pipeline.ledger.rows import Row
    from pipeline.ledger.turns import Window
    from pipeline.task import EventId, TaskId

T = TypeVar("T")


class SqliteExpectations(Expectations):
    """The part of the SQLite ledger that knows what is still to come."""

    async def expect(self, expectations: Sequence[Expectation]) -> None:
        bindings = asking.expect_bindings(expectations)
        await self._write(
            lambda connection: list(connection.executemany(sql.EXPECT, bindings))
        )

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
        def run(connection: apsw.Connection) -> Sequence[Question]:
            ((left,),) = connection.execute(sql.SELECT_TURN)
            count = asking.turns(left, most=most, pause=pause)
            if count < 1:
                return []
            bindings = (*asking.window_bindings(window), count)
            due = list(connection.execute(sql.SELECT_DUE, bindings))
            taken = asking.questions(due, left, pause)
            if taken:
                names = orjson.dumps([one.task_id for one in taken]).decode()
                until = asking.held(most, lasts, pause)
                connection.execute(sql.PUT_OFF, (until, names))
                after = asking.milliseconds(len(taken) * pause)
                connection.execute(sql.PASS_TURNS, (after,))
                if window is not None:
                    mark_questions(connection, asking.marks(taken), window)
            return taken

        return await self._write(run)

    async def note_answer(
        self, question: Question, *, next_in: timedelta, answered: EventId | None = None
    ) -> bool:
        bindings = asking.note_bindings(question, next_in, answered)
        return await self._change(sql.NOTE_ANSWER, bindings)

    async def give_up(self, question: Question) -> bool:
        return await self._change(sql.GIVE_UP, (question.task_id, question.number))

    async def count_open(self, *, overdue: timedelta) -> Open:
        longer = asking.milliseconds(overdue)
        return asking.opened(await self._select(sql.COUNT_OPEN, longer))

    async def _change(self, statement: str, bindings: Row) -> bool:
        return await self._write(
            lambda connection: bool(list(connection.execute(statement, bindings)))
        )

    @abstractmethod
    async def _select(self, statement: str, *bindings: str | int) -> list[Row]:
        """Read rows."""

    @abstractmethod
    async def _write(self, run: Callable[[apsw.Connection], T]) -> T:
        """Call ``run`` in a transaction that has the file for itself."""
