"""Tasks that are still to end are asked for in turn, each by one at a time."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import pytest

from pipeline.ledger.expectations import Expectation, Open
from pipeline.ledger.port import Verdict
from pipeline.message import from_milliseconds, to_milliseconds
from pipeline.task import EventId, Stage, TaskId
from tests.callbacks import TASK, make_claim, make_update
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.ledger.expectations import Question
    from pipeline.ledger.port import Ledger
    from tests.contract.ledger.conftest import OpenAgain

NO_PAUSE: Final = timedelta(0)
LONG: Final = timedelta(minutes=1)
SHORT: Final = timedelta(milliseconds=80)
HOUR: Final = timedelta(hours=1)


def ago(seconds: float) -> datetime:
    """Give a time in the past, or in the future, in whole milliseconds."""
    at = datetime.now(UTC) - timedelta(seconds=seconds)
    return from_milliseconds(to_milliseconds(at))


def expectation(
    task_id: str = TASK,
    *,
    submitted_at: datetime | None = None,
    due_at: datetime | None = None,
    job_id: str | None = None,
) -> Expectation:
    """Make one that is due, unless said otherwise."""
    return Expectation(
        task_id=TaskId(task_id),
        operation="generate",
        submitted_at=ago(120) if submitted_at is None else submitted_at,
        due_at=ago(1) if due_at is None else due_at,
        job_id=job_id,
    )


async def take(
    ledger: Ledger,
    most: int = 100,
    *,
    lasts: timedelta = LONG,
    pause: timedelta = NO_PAUSE,
) -> Sequence[Question]:
    return await ledger.take_due(most=most, lasts=lasts, pause=pause)


async def due_at(ledger: Ledger, task_id: str = TASK) -> datetime | None:
    expected = await ledger.find_expected(TaskId(task_id))
    assert expected is not None
    return expected.due_at


async def test_what_was_submitted_is_asked_for_when_it_is_due(ledger: Ledger) -> None:
    await ledger.expect(
        [
            expectation("later", due_at=ago(-60)),
            expectation("due", submitted_at=ago(120)),
        ]
    )

    (question,) = await take(ledger)

    assert ("due", "generate") == (question.task_id, question.operation)
    assert Stage.UNKNOWN is question.stage
    assert 1 == question.number
    assert question.answered is None
    assert timedelta(seconds=120) <= question.age < timedelta(seconds=150)
    assert timedelta(seconds=1) <= question.late < timedelta(seconds=30)
    assert timedelta(0) == question.wait


async def test_what_was_seen_is_asked_for_when_it_is_due(ledger: Ledger) -> None:
    update = make_update(Stage.TEXT)
    await ledger.record([make_claim(update, received_at=ago(120), due_at=ago(1))])

    (question,) = await take(ledger)

    assert (TASK, Stage.TEXT) == (question.task_id, question.stage)
    assert question.age >= timedelta(seconds=120)


async def test_a_task_that_nobody_wants_to_know_of_is_never_due(
    ledger: Ledger,
) -> None:
    await ledger.record([make_claim(make_update(Stage.TEXT))])

    assert [] == list(await take(ledger))
    assert await ledger.until_due() is None


@pytest.mark.parametrize("stage", [Stage.COMPLETE, Stage.FAILED])
async def test_a_task_that_has_ended_is_not_asked_for(
    ledger: Ledger, stage: Stage
) -> None:
    ended = make_update(stage)
    started = make_update(Stage.TEXT)
    await ledger.expect([expectation()])

    await ledger.record([make_claim(started, due_at=ago(1))])
    await ledger.record([make_claim(ended, due_at=ago(1))])
    await ledger.record([make_claim(started, due_at=ago(1))])  # again, and late

    assert [] == list(await take(ledger))
    assert await due_at(ledger) is None


async def test_a_task_that_ends_in_the_batch_that_tells_of_it_is_not_asked_for(
    ledger: Ledger,
) -> None:
    stages = [Stage.TEXT, Stage.COMPLETE, Stage.FIRST]

    await ledger.record([make_claim(make_update(s), due_at=ago(1)) for s in stages])

    assert [] == list(await take(ledger))


async def test_news_puts_the_question_off_and_repeats_do_not(ledger: Ledger) -> None:
    later = ago(-60)
    first = make_update(Stage.FIRST)
    await ledger.record([make_claim(make_update(Stage.TEXT), due_at=ago(1))])

    await ledger.record([make_claim(first, due_at=later)])
    await ledger.record([make_claim(first, due_at=ago(-600), received_at=ago(-5))])

    assert later == await due_at(ledger)
    assert [] == list(await take(ledger))


async def test_news_brings_no_question_forward(ledger: Ledger) -> None:
    later = ago(-60)
    await ledger.record([make_claim(make_update(Stage.TEXT), due_at=later)])

    await ledger.record([make_claim(make_update(Stage.FIRST), due_at=ago(1))])

    assert later == await due_at(ledger)


async def test_an_answer_that_was_asked_for_leaves_the_time_as_it_is(
    ledger: Ledger,
) -> None:
    later = ago(-60)
    await ledger.record([make_claim(make_update(Stage.TEXT), due_at=later)])

    await ledger.record([make_claim(make_update(Stage.FIRST), origin="poll")])

    assert later == await due_at(ledger)


async def test_a_callback_may_come_before_its_task_is_expected(ledger: Ledger) -> None:
    """The provider may be faster than whoever has submitted the task."""
    seen_at = ago(5)
    update = make_update(Stage.TEXT)
    await ledger.record([make_claim(update, received_at=seen_at, due_at=ago(-60))])

    await ledger.expect([expectation(submitted_at=ago(10), job_id="job-7")])

    expected = await ledger.find_expected(TASK)
    task = await ledger.find_task(TASK)
    assert expected is not None
    assert task is not None
    assert "job-7" == expected.job_id
    assert Stage.TEXT is task.stage
    assert task.first_seen_at == expected.submitted_at
    assert task.last_seen_at == seen_at


async def test_what_has_ended_before_it_is_expected_is_not_asked_for(
    ledger: Ledger,
) -> None:
    await ledger.record([make_claim(make_update(Stage.COMPLETE), due_at=ago(1))])

    await ledger.expect([expectation(job_id="job-7")])

    assert [] == list(await take(ledger))
    assert Stage.COMPLETE is (await ledger.list_tasks())[0].stage


async def test_expecting_again_changes_nothing(ledger: Ledger) -> None:
    one = expectation(due_at=ago(-60), job_id="job-7")
    await ledger.expect([one])
    before = await ledger.find_expected(TASK)

    await ledger.expect([one, one])
    await ledger.expect([expectation(due_at=ago(-90), job_id="job-8")])

    assert before == await ledger.find_expected(TASK)
    assert 1 == len(await ledger.list_tasks())


async def test_the_first_callback_of_an_expected_task_is_new(ledger: Ledger) -> None:
    await ledger.expect([expectation()])

    (recorded,) = await ledger.record([make_claim(make_update(Stage.TEXT))])

    assert (Verdict.NEW, Stage.TEXT) == (recorded.verdict, recorded.stage)


async def test_nothing_to_expect_is_expected(ledger: Ledger) -> None:
    await ledger.expect([])

    assert [] == list(await ledger.list_tasks())


async def test_several_share_the_work_and_nothing_is_asked_twice(
    ledger: Ledger, open_again: OpenAgain
) -> None:
    handles = [ledger, await open_again(), await open_again()]
    await ledger.expect([expectation(f"task-{number}") for number in range(60)])

    shares = await asyncio.gather(*(take(handles[n % 3], 10) for n in range(12)))

    taken = [question.task_id for share in shares for question in share]
    assert sorted({*taken}) == sorted(taken)
    assert 60 == len(taken)


async def test_what_was_due_first_is_asked_for_first(ledger: Ledger) -> None:
    await ledger.expect([expectation(f"t{n}", due_at=ago(n)) for n in (2, 9, 4, 7)])

    taken = await take(ledger, 3)

    assert ["t9", "t7", "t4"] == [question.task_id for question in taken]


async def test_what_was_taken_by_one_that_died_is_due_again(ledger: Ledger) -> None:
    """And what was taken by one that is still at it is not."""
    await ledger.expect([expectation("held")])
    await take(ledger, lasts=LONG)
    assert [] == list(await take(ledger))
    await ledger.expect([expectation("left")])
    (first,) = await take(ledger, lasts=SHORT)
    found: list[Question] = []

    async def is_due_again() -> bool:
        found.extend(await take(ledger))
        return bool(found)

    await eventually(is_due_again)

    assert [("left", first.number + 1)] == [(q.task_id, q.number) for q in found]


async def test_whoever_asks_notes_when_to_ask_again(ledger: Ledger) -> None:
    await ledger.expect([expectation()])
    (question,) = await take(ledger)

    noted = await ledger.note_answer(
        question, next_in=timedelta(0), answered=EventId("e1")
    )
    (again,) = await take(ledger)

    assert noted
    assert (2, "e1") == (again.number, again.answered)
    assert await ledger.note_answer(again, next_in=LONG)
    assert [] == list(await take(ledger))
    due = await due_at(ledger)
    assert due is not None
    assert timedelta(seconds=30) < due - datetime.now(UTC) < timedelta(seconds=90)


async def test_an_answer_with_nothing_new_leaves_the_last_one_noted(
    ledger: Ledger,
) -> None:
    await ledger.expect([expectation()])
    for answered in (EventId("e1"), None):
        (question,) = await take(ledger)
        await ledger.note_answer(question, next_in=NO_PAUSE, answered=answered)

    (question,) = await take(ledger)

    assert "e1" == question.answered


async def test_an_answer_of_one_that_was_overtaken_is_not_noted(
    ledger: Ledger,
) -> None:
    await ledger.expect([expectation()])
    (late,) = await take(ledger, lasts=NO_PAUSE)
    (question,) = await take(ledger)
    assert late.number < question.number

    assert not await ledger.note_answer(late, next_in=HOUR)
    assert not await ledger.give_up(late)

    assert await ledger.note_answer(question, next_in=LONG)


async def test_a_task_that_ends_while_it_is_asked_for_stays_ended(
    ledger: Ledger,
) -> None:
    await ledger.expect([expectation()])
    (question,) = await take(ledger)
    await ledger.record([make_claim(make_update(Stage.COMPLETE))])

    assert not await ledger.note_answer(question, next_in=NO_PAUSE)
    assert not await ledger.give_up(question)

    expected = await ledger.find_expected(TASK)
    assert expected is not None
    assert (None, None) == (expected.due_at, expected.given_up_at)


async def test_what_was_given_up_is_asked_for_no_more(ledger: Ledger) -> None:
    await ledger.expect([expectation()])
    (question,) = await take(ledger)

    assert await ledger.give_up(question)
    assert not await ledger.give_up(question)
    await ledger.expect([expectation()])

    expected = await ledger.find_expected(TASK)
    assert expected is not None
    assert expected.given_up_at is not None
    assert expected.due_at is None
    assert 1 == expected.questions


async def test_news_of_a_task_that_was_given_up_makes_it_expected(
    ledger: Ledger,
) -> None:
    await ledger.expect([expectation()])
    (question,) = await take(ledger)
    await ledger.give_up(question)

    await ledger.record([make_claim(make_update(Stage.TEXT), due_at=ago(1))])

    expected = await ledger.find_expected(TASK)
    assert expected is not None
    assert expected.given_up_at is None
    (again,) = await take(ledger)
    assert 2 == again.number


async def test_turns_are_a_pause_apart_whoever_takes_them(
    ledger: Ledger, open_again: OpenAgain
) -> None:
    pause = timedelta(seconds=100)
    await ledger.expect([expectation(f"task-{number}") for number in range(9)])

    taken = await take(ledger, 3, pause=pause)
    others = await take(await open_again(), 3, pause=pause)
    more = await take(ledger, 6, pause=pause)

    waits = [question.wait.total_seconds() for question in (*taken, *more)]
    assert [] == list(others)
    assert [0, 100, 200, 300, 400, 500] == [round(wait, -2) for wait in waits]


async def test_turns_that_nobody_has_taken_are_gone(ledger: Ledger) -> None:
    await ledger.expect([expectation("a"), expectation("b", due_at=ago(-60))])
    await take(ledger, 1, pause=timedelta(milliseconds=1))
    await ledger.expect([expectation(f"task-{number}") for number in range(4)])

    async def is_free() -> bool:
        return bool(await take(ledger, 1, pause=timedelta(milliseconds=1)))

    await eventually(is_free)
    taken = await take(ledger, 4, pause=timedelta(seconds=100))

    assert [0, 100, 200] == [round(q.wait.total_seconds(), -2) for q in taken]


async def test_how_long_it_is_until_the_next_question_is_known(
    ledger: Ledger,
) -> None:
    assert await ledger.until_due() is None

    await ledger.expect([expectation("a", due_at=ago(-60))])
    left = await ledger.until_due()
    await ledger.expect([expectation("b", due_at=ago(60))])
    late = await ledger.until_due()

    assert left is not None
    assert timedelta(seconds=30) < left <= timedelta(seconds=60)
    assert late is not None
    assert timedelta(seconds=-90) < late <= timedelta(seconds=-60)


async def test_open_expectations_are_counted(ledger: Ledger) -> None:
    await ledger.expect(
        [
            expectation("a", due_at=ago(-60)),
            expectation("b", due_at=ago(5)),
            expectation("c", due_at=ago(120)),
        ]
    )
    await ledger.record([make_claim(make_update(task_id="d"))])

    assert Open(tasks=3, overdue=1) == await ledger.count_open(overdue=LONG)
    assert Open(tasks=3, overdue=2) == await ledger.count_open(overdue=NO_PAUSE)


async def test_an_expected_task_is_forgotten_like_any_other(ledger: Ledger) -> None:
    await ledger.expect([expectation(submitted_at=ago(120))])

    assert 1 == await ledger.prune(ago(60))

    assert await ledger.find_expected(TASK) is None
    assert [] == list(await take(ledger))
