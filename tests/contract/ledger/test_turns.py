"""Whoever calls the provider takes a turn first, over all handles on the ledger."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from pipeline.ledger.expectations import Expectation
from pipeline.ledger.turns import Window
from pipeline.task import TaskId
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pipeline.ledger.expectations import Question
    from pipeline.ledger.port import Ledger
    from pipeline.ledger.turns import Turn
    from tests.contract.ledger.conftest import OpenAgain

#: Long enough for waits to be told apart however slow the machine is.
PAUSE: Final = timedelta(seconds=100)
NO_PAUSE: Final = timedelta(0)
MINUTE: Final = timedelta(minutes=1)
SPAN: Final = 6 * PAUSE
TWICE: Final = Window(most=2, span=SPAN)


def rounded(waits: Iterable[timedelta]) -> list[float]:
    """Give waits in hundreds of seconds."""
    return [round(wait.total_seconds(), -2) for wait in waits]


async def ask(
    ledger: Ledger,
    task_id: str | None = None,
    *,
    pause: timedelta = PAUSE,
    window: Window = TWICE,
) -> Turn:
    name = None if task_id is None else TaskId(task_id)
    return await ledger.take_question(name, pause=pause, window=window)


async def expect(ledger: Ledger, *task_ids: str) -> None:
    """Expect tasks that are due."""
    now = datetime.now(UTC)
    await ledger.expect(
        [
            Expectation(
                task_id=TaskId(task_id),
                operation="generate",
                submitted_at=now - MINUTE,
                due_at=now - timedelta(seconds=5) + timedelta(milliseconds=number),
            )
            for number, task_id in enumerate(task_ids)
        ]
    )


async def poll(
    ledger: Ledger, most: int, *, pause: timedelta = PAUSE, window: Window = TWICE
) -> Sequence[Question]:
    return await ledger.take_due(most=most, lasts=MINUTE, pause=pause, window=window)


async def test_questions_are_a_pause_apart_whoever_asks_them(
    ledger: Ledger, open_again: OpenAgain
) -> None:
    handles = [ledger, await open_again(), await open_again()]

    turns = await asyncio.gather(
        *(ask(handles[n % 3], f"task-{n}") for n in range(9)), ask(ledger)
    )

    waits = sorted(turn.wait for turn in turns)
    assert all(turn.is_taken for turn in turns)
    assert [*range(0, 1000, 100)] == rounded(waits)


async def test_a_task_whose_window_is_full_has_no_turn_and_keeps_none_from_others(
    ledger: Ledger, open_again: OpenAgain
) -> None:
    other = await open_again()
    taken = [await ask(ledger, "one"), await ask(other, "one")]

    refused = await ask(ledger, "one")
    another = await ask(other, "another")

    assert [0, 100] == rounded(turn.wait for turn in taken)
    assert (False, [600]) == (refused.is_taken, rounded([refused.wait]))
    assert (True, [200]) == (another.is_taken, rounded([another.wait]))


async def test_a_task_may_be_asked_for_again_when_its_window_has_passed(
    ledger: Ledger,
) -> None:
    """The one in a short window; that none is too early is seen in a long one."""
    once = Window(most=1, span=SPAN)
    first = await ask(ledger, "one", pause=NO_PAUSE, window=once)
    refused = await ask(ledger, "one", pause=NO_PAUSE, window=once)
    short = Window(most=1, span=timedelta(milliseconds=80))
    await ask(ledger, "two", pause=NO_PAUSE, window=short)

    async def is_free() -> bool:
        return (await ask(ledger, "two", pause=NO_PAUSE, window=short)).is_taken

    await eventually(is_free)

    assert (True, False) == (first.is_taken, refused.is_taken)
    assert SPAN / 2 < refused.wait <= SPAN


async def test_a_wait_that_is_longer_than_the_window_fills_nothing(
    ledger: Ledger,
) -> None:
    """What counts is when a turn is, not when it was taken."""
    window = Window(most=1, span=PAUSE / 2)
    for number in range(3):
        await ask(ledger, f"task-{number}")

    turns = [await ask(ledger, "one", window=window) for _ in range(2)]

    assert all(turn.is_taken for turn in turns)
    assert [300, 400] == rounded(turn.wait for turn in turns)


async def test_those_who_poll_and_those_who_ask_share_the_turns(
    ledger: Ledger, open_again: OpenAgain
) -> None:
    other = await open_again()
    await expect(ledger, "a", "b", "c")

    polled = await poll(ledger, 2)
    asked = await ask(other, "urgent")
    others = await poll(other, 2)

    assert [0, 100] == rounded(question.wait for question in polled)
    assert [200] == rounded([asked.wait])
    assert [] == list(others)


async def test_those_who_ask_come_before_those_who_poll(ledger: Ledger) -> None:
    """Whatever is due: who polls reaches no further ahead than it may take."""
    await expect(ledger, *(f"task-{number}" for number in range(9)))
    await poll(ledger, 3)

    asked = [await ask(ledger, f"urgent-{number}") for number in range(3)]

    assert [] == list(await poll(ledger, 3))
    assert [300, 400, 500] == rounded(turn.wait for turn in asked)


async def test_questions_of_those_who_poll_count_for_their_tasks(
    ledger: Ledger, open_again: OpenAgain
) -> None:
    await expect(ledger, "one")
    await poll(ledger, 1)
    await ask(ledger, "one")

    refused = await ask(await open_again(), "one")

    assert not refused.is_taken


async def test_a_task_that_was_asked_for_too_often_is_left_by_those_who_poll(
    ledger: Ledger,
) -> None:
    await expect(ledger, "often", "once")
    for _ in range(2):
        await ask(ledger, "often", pause=NO_PAUSE)

    taken = await poll(ledger, 3, pause=NO_PAUSE)
    later = await ledger.take_due(most=3, lasts=MINUTE, pause=NO_PAUSE)

    assert ["once"] == [question.task_id for question in taken]
    assert ["often"] == [question.task_id for question in later]


async def test_submissions_fill_one_window_whoever_submits(
    ledger: Ledger, open_again: OpenAgain
) -> None:
    """As many at once as it takes, then as many again when it has passed."""
    handles = [ledger, await open_again(), await open_again()]
    window = Window(most=3, span=SPAN)

    waits = await asyncio.gather(
        *(handles[n % 3].take_submission(window) for n in range(7))
    )

    assert [0, 0, 0, 600, 600, 600, 1200] == rounded(sorted(waits))


async def test_submissions_and_questions_do_not_wait_for_each_other(
    ledger: Ledger,
) -> None:
    await ask(ledger, "one")
    await ledger.take_submission(TWICE)

    assert [0] == rounded([await ledger.take_submission(TWICE)])
    assert [100] == rounded([(await ask(ledger, "two")).wait])


async def test_a_submission_counts_no_more_when_its_window_has_passed(
    ledger: Ledger,
) -> None:
    window = Window(most=1, span=timedelta(milliseconds=10))
    await ledger.take_submission(window)

    async def is_free() -> bool:
        return await ledger.take_submission(window) == timedelta(0)

    await eventually(is_free)
