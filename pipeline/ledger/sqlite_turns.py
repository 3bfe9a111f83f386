"""Turns in the SQLite ledger."""

from __future__ import annotations

from abc import abstractmethod
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from pipeline.ledger import asking
from pipeline.ledger import statements as sql
from pipeline.ledger.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable

    import apsw

    from pipeline.ledger.turns import Turn, Window
    from pipeline.task import TaskId

T = TypeVar("T")


class SqliteTurns(Turns):
    """The part of the SQLite ledger that knows who calls when."""

    async def take_question(
        self, task_id: TaskId | None, *, pause: timedelta, window: Window
    ) -> Turn:
        def run(connection: apsw.Connection) -> Turn:
            ((left,),) = connection.execute(sql.SELECT_TURN)
            full = 0
            if task_id is not None:
                bindings = (task_id, window.most - 1)
                last = list(connection.execute(sql.SELECT_TASK_TURN, bindings))
                full = asking.until_free(last, window)
            turn = asking.turn(left, full)
            if turn.is_taken:
                connection.execute(sql.PASS_TURNS, (asking.milliseconds(pause),))
                wait = asking.milliseconds(turn.wait)
                if task_id is not None:
                    mark_questions(connection, [(task_id, wait)], window)
            return turn

        return await self._write(run)

    async def take_submission(self, window: Window) -> timedelta:
        def run(connection: apsw.Connection) -> timedelta:
            bindings: tuple[int, ...] = (window.most - 1,)
            last = list(connection.execute(sql.SELECT_SUBMISSION_TURN, bindings))
            wait = asking.until_free(last, window)
            connection.execute(sql.INSERT_SUBMISSION_TURN, (wait,))
            bindings = (asking.milliseconds(window.span),)
            connection.execute(sql.FORGET_SUBMISSION_TURNS, bindings)
            return timedelta(milliseconds=wait)

        return await self._write(run)

    @abstractmethod
    async def _write(self, run: Callable[[apsw.Connection], T]) -> T:
        """Call ``run`` in a transaction that has the file for itself."""


def mark_questions(
    connection: apsw.Connection, waits: list[tuple[str, int]], window: Window
) -> None:
    """Remember that tasks are asked for in so many milliseconds each."""
    connection.executemany(sql.INSERT_TASK_TURN, waits)
    span = asking.milliseconds(window.span)
    connection.execute(sql.FORGET_TASK_TURNS, (span,))
