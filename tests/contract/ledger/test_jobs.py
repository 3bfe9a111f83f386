"""A submission is noted before it is sent, and known by its callback if need be."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from pipeline.ledger.expectations import Expectation
from pipeline.ledger.jobs import Intent, Job, JobId, JobState, NamedJob
from pipeline.task import Stage, TaskId
from tests.callbacks import TASK, make_claim, make_update
from tests.waiting import eventually

if TYPE_CHECKING:
    from pipeline.ledger.port import Ledger
    from tests.contract.ledger.conftest import OpenAgain

NOW = datetime.now(UTC).replace(microsecond=0)
LONG = timedelta(seconds=60)
NOTHING = timedelta(0)
LINK = "https://files.example.com/ä.mp3"
DIGEST = "d" * 64


def intent(
    job_id: str = "order-7",
    *,
    mark: str = "1" * 32,
    digest: str = DIGEST,
    begun_at: datetime = NOW,
    operation: str = "upload-extend",
) -> Intent:
    return Intent(
        job_id=JobId(job_id),
        mark=mark,
        operation=operation,
        door="kie-ai",
        digest=digest,
        begun_at=begun_at,
        source_seconds={LINK: 92.4},
    )


def expectation(one: Intent, task_id: str = TASK) -> Expectation:
    at = one.begun_at + timedelta(seconds=1)
    return Expectation(
        task_id=TaskId(task_id),
        operation=one.operation,
        submitted_at=at,
        due_at=at + LONG,
        job_id=one.job_id,
    )


async def found(ledger: Ledger, one: Intent) -> Job:
    job = await ledger.find_job(one.job_id)
    assert job is not None
    return job


async def call_back(
    ledger: Ledger,
    one: Intent,
    *,
    task_id: str = TASK,
    operation: str | None = None,
    stage: Stage = Stage.TEXT,
) -> None:
    """A callback comes to the address that was made for a job."""
    named = NamedJob(mark=one.mark, operation=operation or one.operation)
    update = make_update(stage, task_id=task_id)
    await ledger.record([make_claim(update, job=named)])


async def test_job_is_noted_before_it_is_sent(ledger: Ledger) -> None:
    one = intent()

    begun = await ledger.begin_job(one, lasts=LONG)

    expected = Job(
        job_id=one.job_id,
        mark=one.mark,
        operation="upload-extend",
        door="kie-ai",
        digest=DIGEST,
        begun_at=NOW,
        source_seconds={LINK: 92.4},
        state=JobState.SENDING,
        task_id=None,
        settled_at=None,
        reason="",
    )
    assert expected == begun
    assert expected == await ledger.find_job(one.job_id)
    assert await ledger.find_job(JobId("another")) is None


async def test_of_many_who_begin_a_job_one_gets_it(
    ledger: Ledger, open_again: OpenAgain
) -> None:
    handles = [ledger, await open_again(), await open_again()]
    intents = [intent(mark=f"{number:032x}") for number in range(12)]

    begun = await asyncio.gather(
        *(handles[n % 3].begin_job(one, lasts=LONG) for n, one in enumerate(intents))
    )

    assert 1 == len({job.mark for job in begun})
    ours = [
        one for one, job in zip(intents, begun, strict=True) if one.mark == job.mark
    ]
    assert 1 == len(ours)


async def test_job_that_is_begun_again_by_the_same_stays_its_own(
    ledger: Ledger,
) -> None:
    first = await ledger.begin_job(intent(), lasts=LONG)

    assert first == await ledger.begin_job(intent(), lasts=LONG)


async def test_accepted_job_has_its_task_which_is_expected(ledger: Ledger) -> None:
    one = intent()
    await ledger.begin_job(one, lasts=LONG)

    await ledger.accept_job(one, expectation(one))
    await ledger.accept_job(one, expectation(one))

    job, expected = await found(ledger, one), await ledger.find_expected(TASK)
    assert (JobState.ACCEPTED, TASK) == (job.state, job.task_id)
    assert job.settled_at == NOW + timedelta(seconds=1)
    assert expected is not None
    assert (one.job_id, job.settled_at) == (expected.job_id, expected.submitted_at)
    assert expected.due_at is not None
    assert [] == list(await ledger.list_open_jobs())


@pytest.mark.parametrize("state", [JobState.UNKNOWN, None])
async def test_job_that_holds_is_nobody_elses(
    ledger: Ledger, state: JobState | None
) -> None:
    """Whether it was accepted, or nobody knows."""
    one, other = intent(), intent(mark="2" * 32, digest="e" * 64)
    await ledger.begin_job(one, lasts=LONG)
    if state is None:
        await ledger.accept_job(one, expectation(one))
    else:
        await ledger.end_job(one, state, reason="no answer", at=NOW)

    begun = await ledger.begin_job(other, lasts=LONG)

    assert (one.mark, one.digest) == (begun.mark, begun.digest)


async def test_refused_job_is_free_for_another_request(ledger: Ledger) -> None:
    one, other = intent(), intent(mark="2" * 32, digest="e" * 64)
    await ledger.begin_job(one, lasts=LONG)
    ended = await ledger.end_job(one, JobState.REFUSED, reason="no\0 credits", at=NOW)

    begun = await ledger.begin_job(other, lasts=LONG)
    late = await ledger.end_job(one, JobState.UNKNOWN, reason="late", at=NOW)

    assert ended is not None
    assert (JobState.REFUSED, "no credits") == (ended.state, ended.reason)
    assert NOW == ended.settled_at
    assert (other.mark, other.digest) == (begun.mark, begun.digest)
    assert (JobState.SENDING, "", None) == (begun.state, begun.reason, begun.settled_at)
    # Whoever had it before changes nothing any more.
    assert begun == late


async def test_job_of_one_that_died_is_unknown_after_a_while(ledger: Ledger) -> None:
    one = intent()
    begun = await ledger.begin_job(one, lasts=NOTHING)
    kept = await ledger.begin_job(intent("order-8", mark="2" * 32), lasts=NOTHING)
    await ledger.keep_job(intent("order-8", mark="2" * 32), lasts=LONG)

    assert JobState.UNKNOWN is begun.state
    assert begun.reason
    assert JobState.UNKNOWN is kept.state
    assert JobState.SENDING is (await found(ledger, intent("order-8"))).state
    opened = await ledger.list_open_jobs()
    assert ["order-7", "order-8"] == [job.job_id for job in opened]
    assert ["order-7"] == [job.job_id for job in await ledger.list_open_jobs(limit=1)]


async def test_end_that_comes_late_is_noted_all_the_same(ledger: Ledger) -> None:
    """Of a process that was frozen for longer than its job was held."""
    one = intent()
    await ledger.begin_job(one, lasts=NOTHING)

    await ledger.accept_job(one, expectation(one))

    assert TASK == (await found(ledger, one)).task_id


async def test_end_of_a_job_that_is_not_known_is_no_job(ledger: Ledger) -> None:
    assert await ledger.end_job(intent(), JobState.REFUSED, reason="", at=NOW) is None


@pytest.mark.parametrize("is_unknown", [True, False])
async def test_job_without_an_answer_is_known_by_its_callback(
    ledger: Ledger, *, is_unknown: bool
) -> None:
    """Though its process has died, or never got the answer."""
    one = intent()
    await ledger.begin_job(one, lasts=NOTHING)
    if is_unknown:
        await ledger.end_job(one, JobState.UNKNOWN, reason="no answer", at=NOW)

    await call_back(ledger, one)
    await call_back(ledger, one, stage=Stage.FIRST)

    job, expected = await found(ledger, one), await ledger.find_expected(TASK)
    task = await ledger.find_task(TASK)
    assert (JobState.ACCEPTED, TASK, "") == (job.state, job.task_id, job.reason)
    assert expected is not None
    assert (one.job_id, NOW) == (expected.job_id, expected.submitted_at)
    assert task is not None
    assert Stage.FIRST is task.stage
    assert task.first_seen_at <= NOW


async def test_callback_may_be_faster_than_the_answer(ledger: Ledger) -> None:
    one = intent()
    await ledger.begin_job(one, lasts=LONG)
    await call_back(ledger, one)

    ended = await ledger.end_job(one, JobState.UNKNOWN, reason="no answer", at=NOW)

    assert ended is not None
    assert (JobState.ACCEPTED, TASK) == (ended.state, ended.task_id)


async def test_answer_counts_more_than_a_callback(ledger: Ledger) -> None:
    """Whoever has seen the address may have named another task."""
    one = intent()
    await ledger.begin_job(one, lasts=LONG)
    await call_back(ledger, one, task_id="forged")

    await ledger.accept_job(one, expectation(one))

    forged = await ledger.find_expected(TaskId("forged"))
    expected = await ledger.find_expected(TASK)
    assert TASK == (await found(ledger, one)).task_id
    assert forged is not None
    assert (None, None) == (forged.job_id, forged.submitted_at)
    assert expected is not None
    assert one.job_id == expected.job_id


async def test_callback_that_names_a_job_with_a_task_changes_nothing(
    ledger: Ledger,
) -> None:
    one = intent()
    await ledger.begin_job(one, lasts=LONG)
    await ledger.accept_job(one, expectation(one))

    await call_back(ledger, one, task_id="forged")

    forged = await ledger.find_expected(TaskId("forged"))
    assert TASK == (await found(ledger, one)).task_id
    assert forged is not None
    assert forged.job_id is None


@pytest.mark.parametrize(
    "other", [intent(operation="wav"), intent(mark="2" * 32)], ids=["operation", "mark"]
)
async def test_callback_of_another_operation_or_mark_is_no_word_of_the_job(
    ledger: Ledger, other: Intent
) -> None:
    one = intent()
    await ledger.begin_job(one, lasts=NOTHING)

    await call_back(ledger, other)

    assert (await found(ledger, one)).task_id is None


async def test_callback_of_a_refused_job_is_no_word_of_it(ledger: Ledger) -> None:
    one = intent()
    await ledger.begin_job(one, lasts=LONG)
    await ledger.end_job(one, JobState.REFUSED, reason="no credits", at=NOW)

    await call_back(ledger, one)

    assert JobState.REFUSED is (await found(ledger, one)).state


async def test_task_that_is_known_otherwise_is_not_the_jobs(ledger: Ledger) -> None:
    """Seen before, or another job's: the address of this one proves nothing."""
    first, second = intent(), intent("order-8", mark="2" * 32)
    await ledger.record([make_claim(make_update(Stage.TEXT, task_id="seen"))])
    await ledger.begin_job(first, lasts=LONG)
    await ledger.accept_job(first, expectation(first))
    await ledger.begin_job(second, lasts=NOTHING)

    await call_back(ledger, second, task_id="seen", stage=Stage.FIRST)
    await call_back(ledger, second, task_id=TASK)

    assert (await found(ledger, second)).task_id is None


async def test_one_batch_with_two_tasks_for_a_job_gives_it_one(ledger: Ledger) -> None:
    one = intent()
    named = NamedJob(mark=one.mark, operation=one.operation)
    await ledger.begin_job(one, lasts=NOTHING)
    claims = [
        make_claim(make_update(Stage.TEXT, task_id=name), job=named)
        for name in ("a", "b", "a")
    ]

    await ledger.record(claims)

    expected = [await ledger.find_expected(TaskId(name)) for name in ("a", "b")]
    named_by = [one.job_id for one in expected if one is not None and one.job_id]
    assert ["order-7"] == named_by
    assert (await found(ledger, one)).task_id in ("a", "b")


async def test_callbacks_of_many_jobs_are_linked_at_the_same_time(
    ledger: Ledger, open_again: OpenAgain
) -> None:
    handles = [ledger, await open_again()]
    intents = [intent(f"order-{n}", mark=f"{n:032x}") for n in range(20)]
    for one in intents:
        await ledger.begin_job(one, lasts=NOTHING)
    claims = [
        make_claim(
            make_update(Stage.TEXT, task_id=f"task-{one.job_id}"),
            job=NamedJob(mark=one.mark, operation=one.operation),
        )
        for one in intents
    ]

    await asyncio.gather(handles[0].record(claims), handles[1].record(claims[::-1]))

    linked = {one.job_id: (await found(ledger, one)).task_id for one in intents}
    assert {one.job_id: f"task-{one.job_id}" for one in intents} == linked


async def test_job_is_forgotten_with_its_task(ledger: Ledger) -> None:
    one = intent()
    await ledger.begin_job(one, lasts=LONG)
    await ledger.accept_job(one, expectation(one))
    later = NOW + timedelta(hours=1)

    assert 0 == await ledger.count_old_jobs(later)
    assert 0 == await ledger.prune_jobs(later)
    assert 1 == await ledger.prune(later)

    assert await ledger.find_job(one.job_id) is None


async def test_old_jobs_without_a_task_are_forgotten(ledger: Ledger) -> None:
    """But for those that are being sent."""
    hour = timedelta(hours=1)
    for number, lasts in enumerate((NOTHING, NOTHING, NOTHING, LONG)):
        one = intent(f"order-{number}", mark=f"{number:032x}", begun_at=NOW - 2 * hour)
        await ledger.begin_job(one, lasts=lasts)
    young = intent("young", mark="a" * 32)
    await ledger.begin_job(young, lasts=NOTHING)

    async def is_over() -> bool:
        return 3 == await ledger.count_old_jobs(NOW - hour)

    await eventually(is_over)

    assert 2 == await ledger.prune_jobs(NOW - hour, limit=2)
    assert 1 == await ledger.prune_jobs(NOW - hour, limit=2)
    assert 0 == await ledger.prune_jobs(NOW - hour, limit=2)
    left = [job.job_id for job in await ledger.list_open_jobs()]
    assert ["order-3", "young"] == left
