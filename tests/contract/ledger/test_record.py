"""Claims on updates: who holds them, what a task looks like in the end."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from itertools import permutations
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.ledger.port import Recorded, Verdict
from pipeline.task import Stage
from tests.callbacks import (
    START,
    TASK,
    after,
    make_claim,
    make_track,
    make_update,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.ledger.port import Claim, Ledger
    from tests.contract.ledger.conftest import OpenAgain


async def record_one(ledger: Ledger, claim: Claim) -> Recorded:
    (recorded,) = await ledger.record([claim])
    return recorded


async def verdicts(ledger: Ledger, claims: Sequence[Claim]) -> list[str]:
    return [answer.verdict for answer in await ledger.record(claims)]


async def test_an_update_that_nobody_has_seen_is_new(ledger: Ledger) -> None:
    recorded = await record_one(ledger, make_claim(make_update(Stage.TEXT)))

    assert Recorded(verdict=Verdict.NEW, stage=Stage.TEXT) == recorded


async def test_nothing_to_record_is_recorded(ledger: Ledger) -> None:
    assert await ledger.record([]) == []


async def test_the_same_owner_gets_the_same_answer_again(
    ledger: Ledger, open_again: OpenAgain
) -> None:
    """A worker may crash between the write and the settlement."""
    claim = make_claim()
    first = await record_one(ledger, claim)

    again = await record_one(await open_again(), claim)

    assert first.verdict is Verdict.NEW
    assert len(first.requested) == 2
    assert first == again
    assert (await ledger.totals()).duplicates == 0


async def test_another_owner_of_the_same_event_is_a_duplicate(ledger: Ledger) -> None:
    first, second = make_claim(), make_claim()
    await ledger.record([first])

    recorded = await record_one(ledger, second)

    assert Recorded(verdict=Verdict.DUPLICATE, stage=Stage.COMPLETE) == recorded


async def test_a_duplicate_that_comes_again_is_counted_once(ledger: Ledger) -> None:
    duplicate = make_claim()
    await ledger.record([make_claim(), duplicate])

    assert await verdicts(ledger, [duplicate]) == ["duplicate"]

    assert (await ledger.totals()).duplicates == 1


async def test_claims_of_one_event_in_one_batch_have_one_winner(
    ledger: Ledger,
) -> None:
    first, second = make_claim(), make_claim()

    answers = await ledger.record([first, second, first])

    assert ["new", "duplicate", "new"] == [answer.verdict for answer in answers]
    assert [2, 0, 2] == [len(answer.requested) for answer in answers]
    assert (await ledger.totals()).updates == 1


async def test_the_first_owner_keeps_a_late_verdict(ledger: Ledger) -> None:
    late = make_claim(make_update(Stage.TEXT))
    await ledger.record([make_claim()])

    assert await verdicts(ledger, [late]) == ["late"]
    assert await verdicts(ledger, [late]) == ["late"]


@pytest.mark.parametrize("stage", [Stage.UNKNOWN, Stage.TEXT, Stage.FIRST])
async def test_a_lower_stage_is_late_and_moves_nothing(
    ledger: Ledger, stage: Stage
) -> None:
    await ledger.record([make_claim(make_update(Stage.FAILED, message="broken"))])

    recorded = await record_one(ledger, make_claim(make_update(stage)))

    assert recorded.verdict is Verdict.LATE
    assert recorded.stage is Stage.FAILED
    task = await ledger.find_task(TASK)
    assert task is not None
    assert (task.stage, task.message) == (Stage.FAILED, "broken")


async def test_other_contents_in_the_same_stage_are_new(ledger: Ledger) -> None:
    one = make_claim(make_update(tracks=[make_track(title="One")]))
    two = make_claim(make_update(tracks=[make_track(title="Two")]))

    assert await verdicts(ledger, [one, two]) == ["new", "new"]


async def test_complete_after_a_failure_moves_the_task_on(ledger: Ledger) -> None:
    failed = make_claim(make_update(Stage.FAILED, code=500, message="broken"))
    complete = make_claim(make_update(message="fine"))

    assert await verdicts(ledger, [failed, complete]) == ["new", "new"]

    task = await ledger.find_task(TASK)
    assert task is not None
    assert (task.stage, task.code, task.message) == (Stage.COMPLETE, 200, "fine")


def make_story() -> list[Claim]:
    """Make everything that was ever said of one task, with a duplicate and a clash."""
    text = make_update(Stage.TEXT, tracks=[make_track(links={}, prompt="la")])
    first = make_update(
        Stage.FIRST, links={"audio": "https://a.example/1.mp3?sig=1"}, message="one"
    )
    fresh = replace(
        first,
        tracks=(make_track(links={"audio": "https://a.example/1.mp3?sig=2"}),),
    )
    failed = make_update(Stage.FAILED, code=500, message="broken")
    complete = make_update(tracks=[make_track(title=""), make_track("8551-2")])
    clash = make_update(tracks=[make_track(title="Other")], message="Other")
    told = [text, first, fresh, failed, complete, clash]
    return [
        make_claim(update, owner=f"m{number}", received_at=after(number))
        for number, update in enumerate(told)
    ]


async def test_any_order_of_claims_ends_in_the_same_state(
    open_again: OpenAgain, ledger: Ledger
) -> None:
    story = make_story()
    orders = list(permutations(range(len(story))))
    random.Random(7).shuffle(orders)
    states = []
    # One task for each order, under a name of its own.
    for number, order in enumerate(orders[:150]):
        name = f"task-{number}"
        claims = [rename(story[index], name) for index in order]
        half = number % len(claims)
        await ledger.record(claims[:half])
        await (ledger if number % 2 else await open_again()).record(claims[half:])
        states.append(await named_state_of(ledger, name))

    assert all(state == states[0] for state in states)
    assert states[0][0] == (Stage.COMPLETE, 200, "Other", START, after(5))
    assert [
        ("audio", "https://files.example.com/8551-1.mp3?sig=1"),
        ("image", "https://files.example.com/8551-1.jpeg?sig=1"),
        ("audio", "https://files.example.com/8551-2.mp3?sig=1"),
        ("image", "https://files.example.com/8551-2.jpeg?sig=1"),
    ] == states[0][2]


def rename(claim: Claim, name: str) -> Claim:
    update = make_update(
        claim.update.stage,
        task_id=name,
        tracks=claim.update.tracks,
        code=claim.update.code,
        message=claim.update.message,
    )
    return make_claim(
        update, owner=f"{name}/{claim.owner}", received_at=claim.received_at
    )


async def named_state_of(ledger: Ledger, name: str) -> tuple[Any, ...]:
    task_id = make_update(task_id=name).task_id
    task = await ledger.find_task(task_id)
    assert task is not None
    said = (task.stage, task.code, task.message, task.first_seen_at, task.last_seen_at)
    files = [(asset.key.kind, asset.url) for asset in await ledger.list_assets(task_id)]
    updates = await ledger.list_updates(task_id)
    heard = sum(1 + update.duplicates for update in updates)
    return said, task.tracks, files, heard


async def test_two_handles_at_once_have_one_winner_for_each_event(
    ledger: Ledger, open_again: OpenAgain
) -> None:
    other = await open_again()
    updates = [make_update(task_id=f"task-{number}") for number in range(40)]

    answers = await asyncio.gather(
        *(
            handle.record([make_claim(update)])
            for update in updates
            for handle in (ledger, other)
        )
    )

    found = [answer.verdict for (answer,) in answers]
    assert (40, 40) == (found.count(Verdict.NEW), found.count(Verdict.DUPLICATE))
    totals = await ledger.totals()
    assert (40, 40, 40) == (totals.tasks, totals.updates, totals.duplicates)


async def test_a_large_batch_is_recorded_as_a_whole(ledger: Ledger) -> None:
    claims = [
        make_claim(make_update(Stage.TEXT, task_id=f"task-{number}"))
        for number in range(700)
    ]

    assert set(await verdicts(ledger, claims)) == {"new"}
    assert set(await verdicts(ledger, claims)) == {"new"}
    assert (await ledger.totals()).tasks == 700


async def test_the_body_of_the_first_claim_is_kept(ledger: Ledger) -> None:
    body = b'{"new": "\xc3\xa9", "x": "\\u0000"}'
    claim = make_claim(body=body)
    await ledger.record([claim, make_claim(body=b"later")])

    assert await ledger.find_body(claim.update.task_id, claim.event_id) == body
    other = make_claim(make_update(task_id="other"))
    assert await ledger.find_body(other.update.task_id, other.event_id) is None


async def test_updates_are_listed_in_order_of_receipt(ledger: Ledger) -> None:
    text = make_claim(make_update(Stage.TEXT), received_at=after(1))
    complete = make_claim(received_at=after(2), origin="poll")
    again = make_claim(received_at=after(3))
    await ledger.record([complete, again, text])

    listed = await ledger.list_updates(TASK)

    assert [
        (text.event_id, Stage.TEXT, "late", "callback", after(1), 0),
        (complete.event_id, Stage.COMPLETE, "new", "poll", after(2), 1),
    ] == [
        (u.event_id, u.stage, u.verdict, u.origin, u.received_at, u.duplicates)
        for u in listed
    ]


async def test_a_task_has_every_field_of_its_tracks(ledger: Ledger) -> None:
    track = make_track(
        tags="rock",
        prompt="la\0é\n" * 50,
        model_name="chirp-v4",
        stream_url="https://a.example/stream",
        duration_seconds=198.44,
        created_at=after(-60),
    )
    await ledger.record([make_claim(make_update(tracks=[track]))])

    task = await ledger.find_task(TASK)

    assert task is not None
    assert (track,) == task.tracks


async def test_an_unknown_task_is_not_found(ledger: Ledger) -> None:
    assert await ledger.find_task(TASK) is None
    assert await ledger.list_updates(TASK) == []


async def test_an_update_tells_whether_it_has_moved_its_task_on(
    ledger: Ledger, open_again: OpenAgain
) -> None:
    """To its owner always the same, whatever has come since."""
    claims = [
        make_claim(make_update(Stage.UNKNOWN)),
        make_claim(make_update(Stage.FIRST)),
        make_claim(make_update(Stage.TEXT)),
        make_claim(make_update(Stage.FIRST, tracks=[make_track(title="Other")])),
        make_claim(make_update(Stage.COMPLETE)),
        make_claim(make_update(Stage.COMPLETE)),
    ]

    first = [answer.moved for answer in await ledger.record(claims)]
    again = [answer.moved for answer in await (await open_again()).record(claims)]

    assert [False, True, False, False, True, False] == first
    assert first == again
