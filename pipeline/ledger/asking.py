"""Between the ledger's rows and expectations: the same for every database."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from pipeline.ledger.expectations import Expected, Open, Question
from pipeline.ledger.rows import STAGES
from pipeline.ledger.turns import Turn
from pipeline.message import from_milliseconds, to_milliseconds
from pipeline.task import Stage

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from pipeline.ledger.expectations import Expectation
    from pipeline.ledger.rows import Row
    from pipeline.ledger.turns import Window
    from pipeline.task import EventId

_MILLISECOND: Final = timedelta(milliseconds=1)
#: More questions than anybody asks.
_ANY_NUMBER: Final = 2**31 - 1


def milliseconds(span: timedelta) -> int:
    """Write a span."""
    return span // _MILLISECOND


def expect_bindings(expectations: Iterable[Expectation]) -> list[Row]:
    """Write the bindings of ``EXPECT``; of those of one task the last one counts."""
    return list(
        {
            one.task_id: (
                one.task_id,
                one.operation,
                Stage.UNKNOWN.value,
                None,
                "",
                to_milliseconds(one.submitted_at),
                to_milliseconds(one.submitted_at),
                one.door,
                to_milliseconds(one.due_at),
                to_milliseconds(one.submitted_at),
                None if one.job_id is None else one.job_id.replace("\0", ""),
            )
            for one in expectations
        }.values()
    )


def note_bindings(
    question: Question, next_in: timedelta, answered: EventId | None
) -> Row:
    """Write the bindings of ``NOTE_ANSWER``."""
    return (milliseconds(next_in), answered, question.task_id, question.number)


def turns(left: int, *, most: int, pause: timedelta) -> int:
    """Tell how many turns begin within the next ``most`` pauses.

    ``left`` is the time to the first free one, in milliseconds; negative: passed.
    """
    return most - -(-max(0, left) // max(1, milliseconds(pause)))


def held(most: int, lasts: timedelta, pause: timedelta) -> int:
    """Say for how long taken questions are nobody else's, in milliseconds."""
    return milliseconds(lasts + most * pause)


def questions(rows: Sequence[Row], left: int, pause: timedelta) -> list[Question]:
    """Read rows of ``SELECT_DUE``; their turns follow each other, ``left`` from now."""
    first = max(0, left) * _MILLISECOND
    return [
        Question(
            task_id=row[0],
            operation=row[1],
            stage=STAGES[row[2]],
            age=row[3] * _MILLISECOND,
            late=row[4] * _MILLISECOND,
            wait=first + number * pause,
            number=row[5] + 1,
            answered=row[6],
        )
        for number, row in enumerate(rows)
    ]


def marks(taken: Sequence[Question]) -> list[tuple[str, int]]:
    """Say of tasks that were taken when they are asked for, in milliseconds."""
    return [(one.task_id, milliseconds(one.wait)) for one in taken]


def window_bindings(window: Window | None) -> tuple[int, int]:
    """Write the window of ``SELECT_DUE``; without one nothing is ever full."""
    if window is None:
        return 0, _ANY_NUMBER
    return milliseconds(window.span), window.most


def until_free(last: Sequence[Row], window: Window) -> int:
    """Say how long a window is full, in milliseconds.

    ``last`` has the turn that leaves it next, from now, unless it never was full.
    """
    return max(0, last[0][0] + milliseconds(window.span)) if last else 0


def turn(left: int, full: int) -> Turn:
    """Say whose turn it is: there is a free one in ``left``, the window is full."""
    left = max(0, left)
    return Turn(wait=max(left, full) * _MILLISECOND, is_taken=full <= left)


def expected(found: Iterable[Row]) -> Expected | None:
    """Read the row of ``SELECT_EXPECTED``."""
    for row in found:
        return Expected(
            task_id=row[0],
            submitted_at=_time(row[1]),
            job_id=row[2],
            due_at=_time(row[3]),
            questions=row[4],
            given_up_at=_time(row[5]),
        )
    return None


def until(found: Iterable[Row]) -> timedelta | None:
    """Read the row of ``SELECT_NEXT_DUE``."""
    return next((row[0] * _MILLISECOND for row in found), None)


def opened(found: Iterable[Row]) -> Open:
    """Read the row of ``COUNT_OPEN``."""
    ((tasks, overdue),) = found
    return Open(tasks=tasks, overdue=overdue)


def _time(value: int | None) -> datetime | None:
    return None if value is None else from_milliseconds(value)
