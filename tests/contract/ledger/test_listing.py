"""Tasks are listed by how they stand, page by page."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.ledger.expectations import Expectation
from pipeline.ledger.port import StoredAsset
from pipeline.ledger.records import Place, TaskSelection, TaskState
from pipeline.message import from_milliseconds, to_milliseconds
from pipeline.task import AssetKey, Stage, TaskId
from tests.callbacks import TASK, after, make_claim, make_update
from tests.given_up import give_up

if TYPE_CHECKING:
    from pipeline.ledger.port import Ledger
    from pipeline.ledger.records import TaskRecord

STORED = StoredAsset(
    sha256="ab" * 32, size_bytes=17, content_type="audio/mpeg", location="a.mp3"
)


def submission(task_id: str, **changes: Any) -> Expectation:
    """Make a task that was submitted an hour ago, and is due for as long."""
    at = datetime.now(UTC) - timedelta(hours=1)
    at = from_milliseconds(to_milliseconds(at))
    values: dict[str, Any] = {
        "task_id": TaskId(task_id),
        "operation": "generate",
        "submitted_at": at,
        "due_at": at,
        **changes,
    }
    return Expectation(**values)


async def ids(ledger: Ledger, **asked: Any) -> list[str]:
    return [one.task_id for one in await ledger.list_tasks(TaskSelection(**asked))]


async def found(ledger: Ledger, task_id: str = TASK) -> TaskRecord:
    task = await ledger.find_task(TaskId(task_id))
    assert task is not None
    return task


async def hear(ledger: Ledger, task_id: str, stage: Stage, seconds: float = 0) -> None:
    update = make_update(stage, task_id=task_id, operation="generate")
    await ledger.record([make_claim(update, received_at=after(seconds))])


async def test_tasks_are_listed_by_when_they_were_last_seen(ledger: Ledger) -> None:
    for number, stage in enumerate([Stage.TEXT, Stage.COMPLETE, Stage.TEXT]):
        await hear(ledger, f"task-{number}", stage, number)
    await hear(ledger, "task-0", Stage.FAILED, 9)

    assert await ids(ledger) == ["task-0", "task-2", "task-1"]
    assert await ids(ledger, states=[TaskState.TEXT]) == ["task-2"]
    assert await ids(ledger, states=[TaskState.FIRST]) == []
    assert [] == list(await ledger.list_tasks(limit=0))


async def test_tasks_can_be_listed_by_operation_and_by_time(ledger: Ledger) -> None:
    for number, operation in enumerate(["generate", "extend", "generate"]):
        update = make_update(Stage.TEXT, task_id=f"task-{number}", operation=operation)
        await ledger.record([make_claim(update, received_at=after(number))])

    assert await ids(ledger, operation="generate") == ["task-2", "task-0"]
    assert await ids(ledger, since=after(1)) == ["task-2", "task-1"]
    assert await ids(ledger, until=after(1)) == ["task-0"]
    assert await ids(ledger, since=after(1), until=after(2)) == ["task-1"]
    assert await ids(ledger, operation="generate", since=after(1)) == ["task-2"]
    assert await ids(ledger, operation="wav", since=after(0)) == []
    assert await ids(ledger, operation="generate", states=[TaskState.FIRST]) == []


async def test_tasks_that_look_alike_in_their_stage_have_states_of_their_own(
    ledger: Ledger,
) -> None:
    """Submitted, given up and unknown are three things."""
    await ledger.expect([submission("given-up")])
    await give_up(ledger)
    await ledger.expect([submission("submitted")])
    for stage in Stage:
        await hear(ledger, f"{stage}", stage)

    by_state = {state: await ids(ledger, states=[state]) for state in TaskState}

    assert {
        "submitted": ["submitted"],
        "given_up": ["given-up"],
        **{stage.value: [stage.value] for stage in Stage},
    } == by_state
    states = {one.task_id: one.state for one in await ledger.list_tasks()}
    assert {name: state for state, (name,) in by_state.items()} == states


async def test_several_states_can_be_asked_for(ledger: Ledger) -> None:
    for stage in (Stage.TEXT, Stage.FIRST, Stage.COMPLETE):
        await hear(ledger, f"{stage}", stage, stage.rank)

    listed = await ids(ledger, states=[TaskState.TEXT, TaskState.COMPLETE])

    assert ["complete", "text"] == listed


@pytest.mark.parametrize("stage", [Stage.FAILED, Stage.COMPLETE])
async def test_a_task_that_was_given_up_and_ended_has_ended(
    ledger: Ledger, stage: Stage
) -> None:
    await ledger.expect([submission(TASK)])
    await give_up(ledger)

    await hear(ledger, TASK, stage)

    assert stage.value == (await found(ledger)).state


async def test_a_task_that_nothing_was_heard_of_tells_of_its_submission(
    ledger: Ledger,
) -> None:
    one = submission(TASK, job_id="order-7", door="kie-ai")
    await ledger.expect([one])

    task = await found(ledger)

    assert (TaskState.SUBMITTED, "order-7", "kie-ai") == (
        task.state,
        task.job_id,
        task.door,
    )
    assert (one.submitted_at, one.due_at) == (task.submitted_at, task.due_at)
    assert (None, None) == (task.origin, task.given_up_at)
    assert (0, 0, 0) == (task.files_expected, task.files_stored, task.files_expired)


async def test_a_task_that_was_given_up_tells_when(ledger: Ledger) -> None:
    await ledger.expect([submission(TASK)])
    await give_up(ledger)

    task = await found(ledger)

    expected = await ledger.find_expected(TASK)
    assert expected is not None
    assert expected.given_up_at is not None
    assert (expected.given_up_at, None) == (task.given_up_at, task.due_at)


async def test_a_task_counts_its_files(ledger: Ledger) -> None:
    links = {kind: f"https://a.example/{kind}" for kind in ("audio", "image", "video")}
    await ledger.record([make_claim(make_update(links=links))])
    await ledger.settle_asset(key("audio"), STORED, at=after(1))
    await ledger.settle_asset(key("image"), "gone", at=after(2))

    task = await found(ledger)

    assert (3, 1, 1) == (task.files_expected, task.files_stored, task.files_expired)


async def test_tasks_with_missing_files_can_be_asked_for(ledger: Ledger) -> None:
    """Whether they are still to come, or gone; not those without files."""
    await hear(ledger, "text", Stage.TEXT, 1)
    for number, name in enumerate(["stored", "expired", "pending"]):
        update = make_update(task_id=name, links={"audio": "https://a.example/1"})
        await ledger.record([make_claim(update, received_at=after(number + 2))])
    await ledger.settle_asset(key("audio", "stored"), STORED, at=after(9))
    await ledger.settle_asset(key("audio", "expired"), "gone", at=after(9))

    assert ["pending", "expired"] == await ids(ledger, with_missing_files=True)


async def test_a_task_tells_how_its_last_update_came(ledger: Ledger) -> None:
    text, first = make_update(Stage.TEXT), make_update(Stage.FIRST)
    await ledger.record([make_claim(first, received_at=after(9), origin="poll")])
    await ledger.record([make_claim(text, received_at=after(1))])

    assert "poll" == (await found(ledger)).origin


async def test_tasks_can_be_listed_by_door(ledger: Ledger) -> None:
    """The first that was told of stays."""
    for number, door in enumerate(["kie-ai", "", "api-box"]):
        claim = make_claim(make_update(Stage.TEXT, task_id=f"task-{number}"), door=door)
        await ledger.record([claim])
    later = make_update(Stage.FIRST, task_id="task-1")
    await ledger.record([make_claim(later, door="kie-ai")])
    again = make_update(Stage.FIRST, task_id="task-2")
    await ledger.record([make_claim(again, door="kie-ai")])
    await ledger.expect([submission("task-2", door="kie-ai")])

    assert ["task-0", "task-1"] == await ids(ledger, door="kie-ai")
    assert ["task-2"] == await ids(ledger, door="api-box")


async def test_tasks_can_be_listed_by_their_ids(ledger: Ledger) -> None:
    for number in range(3):
        await hear(ledger, f"task-{number}", Stage.TEXT, number)

    assert ["task-2", "task-0"] == await ids(
        ledger, task_ids={"task-0", "task-2", "nobody"}
    )
    assert [] == await ids(ledger, task_ids=())


async def test_ids_of_tasks_are_found_by_how_they_start(ledger: Ledger) -> None:
    """In order, letter by letter: nothing stands for others, nor small for large."""
    known = ("5c79be", "5c79be-2", "5c79be-1", "5C79be", "5c_9b%", "5c79bf", "5c79é-ü")
    for name in known:
        await hear(ledger, name, Stage.TEXT)

    async def starting(text: str, limit: int = 9) -> list[str]:
        return [*await ledger.list_task_ids(text, limit=limit)]

    assert ["5c79be", "5c79be-1", "5c79be-2"] == await starting("5c79be")
    assert ["5c79be", "5c79be-1"] == await starting("5c79be", 2)
    assert ["5c79be-1", "5c79be-2"] == await starting("5c79be-")
    assert ["5c79é-ü"] == await starting("5c79é")
    assert ["5c_9b%"] == await starting("5c_9b%")
    assert ["5C79be"] == await starting("5C")
    assert sorted(known) == await starting("")
    for text in ("5c7%", "5c_9be", "5c79be-11", "5c79bd", "\U0010ffff", "6"):
        assert [] == await starting(text)
    assert [] == await starting("5c79be", 0)


async def test_pages_are_stable_though_new_tasks_come(ledger: Ledger) -> None:
    """Also among tasks that were seen at the same moment."""
    for number in range(7):
        await hear(ledger, f"task-{number}", Stage.TEXT, number // 3)
    whole = [one.task_id for one in await ledger.list_tasks()]

    pages: list[str] = []
    place = None
    while page := await ledger.list_tasks(after=place, limit=2):
        pages += [one.task_id for one in page]
        last = page[-1]
        place = Place(last_seen_at=last.last_seen_at, task_id=last.task_id)
        await hear(ledger, f"new-{len(pages)}", Stage.TEXT, 60)

    assert ["task-6", "task-3", "task-4", "task-5", "task-0"] == whole[:5]
    assert whole == pages


async def test_repeats_are_listed_with_how_and_when_they_came(ledger: Ledger) -> None:
    update = make_update(Stage.TEXT)
    await ledger.record([make_claim(update, received_at=after(0))])
    await ledger.record(
        [
            make_claim(update, received_at=after(9), replayed=True),
            make_claim(update, received_at=after(5), origin="poll"),
        ]
    )

    (seen,) = await ledger.list_updates(TASK)

    assert 2 == seen.duplicates
    assert [("poll", after(5)), ("replay", after(9))] == [
        (one.origin, one.received_at) for one in seen.repeats
    ]


async def test_of_many_repeats_the_first_are_listed_and_all_are_counted(
    ledger: Ledger,
) -> None:
    update, other = make_update(Stage.TEXT), make_update(Stage.FIRST)
    claims = [make_claim(update, received_at=after(n)) for n in range(31)]
    await ledger.record([*claims, make_claim(other, received_at=after(40))])

    first, second = await ledger.list_updates(TASK)

    assert 30 == first.duplicates
    assert [after(n) for n in range(1, 21)] == [r.received_at for r in first.repeats]
    assert (0, ()) == (second.duplicates, second.repeats)


async def test_what_was_a_dead_letter_is_listed_as_replayed(ledger: Ledger) -> None:
    claim = make_claim(make_update(Stage.TEXT), origin="poll", replayed=True)
    await ledger.record([claim])

    assert ["replay"] == [one.origin for one in await ledger.list_updates(TASK)]


def key(kind: str, task_id: str = TASK) -> AssetKey:
    return AssetKey(task_id=TaskId(task_id), track_id="8551-1", kind=kind)
