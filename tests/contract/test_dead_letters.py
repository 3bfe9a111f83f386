"""Browsing, replaying and discarding dead letters, on every broker alike."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from pipeline.dead_letters import Progress, Selection, browse, discard, find, replay
from pipeline.dead_letters.walk import PAGE
from pipeline.errors import LinkExpired, Reject
from pipeline.message import Envelope, failed
from pipeline.retry import RetryPolicy
from pipeline.topology import (
    DEDUPE,
    DOWNLOAD,
    dead_letter,
    dead_letter_queue,
    notify_queue,
)
from pipeline.worker import Worker, one_by_one
from tests.factories import SUBSCRIPTION, make_envelope
from tests.waiting import eventually, receive, receive_nothing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from pipeline.broker.port import Broker
    from pipeline.message import Publication

    OpenAgain = Callable[[], Awaitable[Broker]]

NOTIFY = notify_queue(SUBSCRIPTION)
QUEUES = (DEDUPE, DOWNLOAD, NOTIFY)
NOW = datetime.now(UTC).replace(microsecond=0)
EVERYTHING = Selection()
#: One consumer's prefetch is not enough for so many.
OVER_A_PAGE = PAGE * 2 + 100


@pytest.fixture(autouse=True)
def _given_back_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for what was given back longer than people would.

    Else it is counted too early on a busy machine.
    """
    monkeypatch.setattr("pipeline.dead_letters.walk.GIVE_BACK_SECONDS", 20)


@pytest.fixture
def _nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take no pause of a busy machine for others who have taken the rest."""
    monkeypatch.setattr("pipeline.dead_letters.walk.IDLE_SECONDS", 20)


async def bury(
    broker: Broker,
    *envelopes: Envelope,
    queue: str = DOWNLOAD,
    error: Exception | None = None,
    at: datetime = NOW,
) -> None:
    """Put envelopes into the dead-letter queue of ``queue``."""
    noted = [
        failed(envelope, queue=queue, error=error or Reject("poison"), at=at)
        for envelope in envelopes
    ]
    await broker.publish(*(dead_letter(queue, envelope) for envelope in noted))


def make_envelopes(count: int) -> list[Envelope]:
    return [make_envelope(message_id=f"m{n}", attempt=7) for n in range(count)]


async def seen_ids(
    broker: Broker, selection: Selection = EVERYTHING, queues: Sequence[str] = QUEUES
) -> list[str]:
    async with aclosing(browse(broker, queues, selection)) as letters:
        return [letter.envelope.message_id async for letter in letters]


async def ready(broker: Broker, queue: str) -> int:
    return (await broker.depth(queue)).ready


async def has_dead(broker: Broker, count: int, queue: str = DOWNLOAD) -> None:
    """Wait until ``count`` dead letters are there: giving back takes a moment."""

    async def as_many() -> bool:
        return count == await ready(broker, dead_letter_queue(queue))

    await eventually(as_many)


async def test_browsing_shows_everything_and_changes_nothing(broker: Broker) -> None:
    await bury(broker, make_envelope(message_id="a", attempt=3), queue=DEDUPE)
    await bury(broker, make_envelope(message_id="b"), queue=NOTIFY)

    for _ in range(3):
        async with aclosing(browse(broker, QUEUES, EVERYTHING)) as letters:
            found = [letter async for letter in letters]

        shown = [(x.queue, x.envelope.message_id, x.envelope.attempt) for x in found]
        expected = [(DEDUPE, "a", 3), (NOTIFY, "b", 1)]
        assert expected == shown


@pytest.mark.usefixtures("_nobody_else")
async def test_browsing_sees_each_once_when_there_are_more_than_a_consumer_may_hold(
    broker: Broker,
) -> None:
    await bury(broker, *make_envelopes(OVER_A_PAGE))

    ids = await seen_ids(broker)

    expected = [f"m{n}" for n in range(OVER_A_PAGE)]
    assert expected == ids
    assert OVER_A_PAGE == await ready(broker, dead_letter_queue(DOWNLOAD))


async def test_leaving_in_the_middle_gives_everything_back(broker: Broker) -> None:
    await bury(broker, *make_envelopes(20))

    async with aclosing(browse(broker, QUEUES, EVERYTHING)) as letters:
        await anext(letters)

    assert 20 == await ready(broker, dead_letter_queue(DOWNLOAD))


async def test_what_was_looked_at_is_there_again_when_the_look_ends(
    broker: Broker,
) -> None:
    """A list that is followed by a replay at once leaves nothing for it to miss."""
    await bury(broker, *make_envelopes(PAGE))

    for _ in range(20):
        await seen_ids(broker)

        assert PAGE == await ready(broker, dead_letter_queue(DOWNLOAD))


async def test_browsing_empty_queues_ends_at_once(broker: Broker) -> None:
    started = time.monotonic()

    ids = await seen_ids(broker)

    assert not ids
    # To wait for something at each of them would take six.
    assert time.monotonic() - started < 5.5


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(message_id="old"), ["old"]),
        (Selection(task_id="t1"), ["old", "new"]),
        (Selection(stage="first"), ["new"]),
        (Selection(error_type="LinkExpired"), ["new", "other"]),
        (Selection(before=NOW - timedelta(hours=1)), ["old"]),
        (Selection(since=NOW - timedelta(hours=1)), ["new", "other"]),
        (Selection(task_id="t1", error_type="LinkExpired"), ["new"]),
        (Selection(task_id="t1", stage="text"), []),
    ],
)
async def test_every_part_of_a_selection_must_hold(
    broker: Broker, selection: Selection, expected: list[str]
) -> None:
    day = timedelta(days=1)
    old = make_envelope(message_id="old", headers={"task-id": "t1"})
    new = make_envelope(message_id="new", headers={"task-id": "t1", "stage": "first"})
    other = make_envelope(message_id="other", headers={"task-id": "t2"})
    await bury(broker, old, at=NOW - day)
    await bury(broker, new, other, error=LinkExpired("gone"))

    assert expected == await seen_ids(broker, selection)


async def test_one_is_found_by_its_id(broker: Broker) -> None:
    await bury(broker, *make_envelopes(3))

    letter = await find(broker, QUEUES, "m1")

    assert letter is not None
    assert letter.queue == DOWNLOAD
    assert await find(broker, QUEUES, "nobody") is None


async def test_a_replay_returns_to_its_own_queue_and_to_no_other(
    broker: Broker,
) -> None:
    event = make_envelope(message_id="e", routing_key="task.complete", attempt=7)
    await bury(broker, event, queue=DOWNLOAD)

    done = await replay(broker, QUEUES, EVERYTHING)

    assert done.matched == 1
    assert done.by_queue == {DOWNLOAD: 1}
    async with broker.consume(DOWNLOAD, prefetch=1) as consumer:
        (delivery,) = await receive(consumer)
        expected = replace(event, attempt=1, replays=1)
        assert expected == delivery.envelope
        await delivery.ack()
    assert await ready(broker, NOTIFY) == 0
    assert await ready(broker, dead_letter_queue(DOWNLOAD)) == 0


@pytest.mark.usefixtures("_nobody_else")
async def test_only_the_selected_are_replayed_and_the_others_stay(
    broker: Broker,
) -> None:
    envelopes = make_envelopes(OVER_A_PAGE)
    await bury(broker, *envelopes[::2], error=LinkExpired("gone"))
    await bury(broker, *envelopes[1::2], error=Reject("poison"))

    done = await replay(broker, QUEUES, Selection(error_type="LinkExpired"))

    assert done.seen == OVER_A_PAGE
    assert done.matched == OVER_A_PAGE // 2
    await has_dead(broker, OVER_A_PAGE // 2)
    assert await ready(broker, DOWNLOAD) == OVER_A_PAGE // 2
    stayed = Counter(await seen_ids(broker))
    expected = Counter(e.message_id for e in envelopes[1::2])
    assert expected == stayed


async def test_a_dry_run_counts_and_changes_nothing(broker: Broker) -> None:
    await bury(broker, *make_envelopes(5))

    done = await replay(broker, QUEUES, EVERYTHING, dry_run=True)

    assert done.matched == 5
    await has_dead(broker, 5)
    assert await ready(broker, DOWNLOAD) == 0


async def test_a_limit_is_kept_over_all_queues(broker: Broker) -> None:
    await bury(broker, *make_envelopes(3), queue=DEDUPE)
    await bury(broker, *make_envelopes(3), queue=DOWNLOAD)

    done = await replay(broker, QUEUES, EVERYTHING, limit=4)

    assert done.matched == 4
    assert done.by_queue == {DEDUPE: 3, DOWNLOAD: 1}
    await has_dead(broker, 2)


async def test_a_rate_is_kept_within_five_percent(broker: Broker) -> None:
    """None is faster; others may hold up the disk during some, but not during each."""
    rates = []
    for _ in range(15):
        await bury(broker, *make_envelopes(150))
        rates.append(await _rate_of_replay(broker, 150, rate=75))
        assert rates[-1] <= 75 * 1.05
        if rates[-1] >= 75 * 0.95:
            return
    pytest.fail(f"expected 75 within 5 percent, found {rates}")


async def _rate_of_replay(broker: Broker, count: int, *, rate: float) -> float:
    noted: list[tuple[float, int]] = []
    await replay(
        broker,
        QUEUES,
        EVERYTHING,
        rate=rate,
        on_progress=lambda now: noted.append((time.monotonic(), now.matched)),
    )

    (start, first), (end, last) = noted[0], noted[-1]
    assert count == last
    return (last - first) / (end - start)


async def test_progress_is_reported_up_to_the_total(broker: Broker) -> None:
    await bury(broker, *make_envelopes(450))
    reports: list[tuple[int, int]] = []

    def note(progress: Progress) -> None:
        reports.append((progress.seen, progress.total))

    await replay(broker, QUEUES, EVERYTHING, on_progress=note)

    assert reports == sorted(reports)
    assert reports[-1] == (450, 450)
    assert len(reports) > 1


@pytest.mark.usefixtures("_nobody_else")
async def test_what_fails_again_meanwhile_is_not_replayed_twice(
    broker: Broker, open_again: OpenAgain
) -> None:
    count = OVER_A_PAGE
    await bury(broker, *make_envelopes(count))

    async def refuse(_: Envelope) -> Sequence[Publication]:
        raise Reject("poison")

    worker = Worker(
        await open_again(),
        DOWNLOAD,
        one_by_one(refuse),
        deadline=timedelta(seconds=5),
        policy=RetryPolicy(waits=()),
        concurrency=50,
    )
    stopping = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(worker.run(stopping))
        done = await replay(broker, QUEUES, EVERYTHING)
        await has_dead(broker, count)
        stopping.set()

    assert done.matched == count
    replays = Counter[int]()
    async with aclosing(browse(broker, QUEUES, EVERYTHING)) as letters:
        async for letter in letters:
            replays[letter.envelope.replays] += 1
    assert replays == {1: count}


async def test_a_replay_that_is_broken_off_loses_nothing(
    broker: Broker, open_again: OpenAgain
) -> None:
    count = 600
    await bury(broker, *make_envelopes(count))
    half_way = asyncio.Event()

    def note(progress: Progress) -> None:
        if progress.matched >= count // 2:
            half_way.set()

    other = await open_again()
    job = asyncio.create_task(
        replay(other, QUEUES, EVERYTHING, rate=2000, on_progress=note)
    )
    await half_way.wait()
    job.cancel()
    await asyncio.gather(job, return_exceptions=True)

    replayed = await ready(broker, DOWNLOAD)
    assert count // 2 <= replayed < count

    async def nothing_is_lost() -> bool:
        dead = await ready(broker, dead_letter_queue(DOWNLOAD))
        return await ready(broker, DOWNLOAD) + dead >= count

    await eventually(nothing_is_lost)
    async with broker.consume(DOWNLOAD, prefetch=count) as consumer:
        ids = {str(d.envelope.message_id) for d in await receive(consumer, replayed)}
    ids.update(await seen_ids(broker))
    assert ids == {f"m{n}" for n in range(count)}


async def test_discarding_removes_the_selected_for_ever(broker: Broker) -> None:
    await bury(broker, *make_envelopes(3), queue=DEDUPE)
    await bury(broker, *make_envelopes(3), queue=DOWNLOAD)

    counted = await discard(broker, [DEDUPE], EVERYTHING, dry_run=True)
    removed = await discard(broker, [DEDUPE], EVERYTHING)

    assert counted.matched == removed.matched == 3
    assert await ready(broker, dead_letter_queue(DEDUPE)) == 0
    await has_dead(broker, 3)
    async with broker.consume(DEDUPE, prefetch=1) as consumer:
        assert await receive_nothing(consumer, seconds=0.3)


async def test_what_somebody_else_holds_is_left_to_them(
    broker: Broker, open_again: OpenAgain
) -> None:
    await bury(broker, *make_envelopes(4))
    other = await open_again()
    name = dead_letter_queue(DOWNLOAD)

    async with other.consume(name, prefetch=2) as holder:
        await receive(holder, 2)
        done = await replay(broker, QUEUES, EVERYTHING)

    assert done.matched == 2
    await has_dead(broker, 2)


@pytest.mark.parametrize("count", [2, 4], ids=["some", "all"])
async def test_what_somebody_else_holds_is_known_to_be_missed(
    broker: Broker, open_again: OpenAgain, count: int
) -> None:
    """Nobody takes what others hold for what is not there."""
    await bury(broker, *make_envelopes(4))
    other = await open_again()

    async with other.consume(dead_letter_queue(DOWNLOAD), prefetch=count) as holder:
        await receive(holder, count)
        looked, sought = Progress(), Progress()
        async with aclosing(
            browse(broker, QUEUES, EVERYTHING, progress=looked)
        ) as letters:
            seen = [letter async for letter in letters]
        found = await find(broker, QUEUES, "m0", progress=sought)
        counted = await replay(broker, QUEUES, EVERYTHING, dry_run=True)
        removed = await discard(broker, QUEUES, EVERYTHING, dry_run=True)

    assert 4 - count == len(seen) == counted.matched == removed.matched
    assert found is None
    for progress in (looked, sought, counted, removed):
        assert 4 - count == progress.total == progress.seen
        assert progress.missed in {count, None}


@pytest.mark.usefixtures("_nobody_else")
async def test_nothing_is_missed_where_nobody_else_looks(broker: Broker) -> None:
    """A command right behind another one is not warned of it."""
    await bury(broker, *make_envelopes(OVER_A_PAGE))

    for _ in range(5):
        looked = Progress()
        async with aclosing(
            browse(broker, QUEUES, EVERYTHING, progress=looked)
        ) as letters:
            async for _letter in letters:
                pass
        assert (OVER_A_PAGE, 0) == (looked.seen, looked.missed)
    replayed = await replay(broker, QUEUES, EVERYTHING)
    again = await replay(broker, QUEUES, EVERYTHING)

    assert (OVER_A_PAGE, 0) == (replayed.matched, replayed.missed)
    assert (0, 0) == (again.total, again.missed)


async def test_two_replays_at_once_share_the_work_and_both_end(
    broker: Broker, open_again: OpenAgain
) -> None:
    count = OVER_A_PAGE
    await bury(broker, *make_envelopes(count))
    other = await open_again()

    async with asyncio.TaskGroup() as group:
        first = group.create_task(replay(broker, QUEUES, EVERYTHING))
        second = group.create_task(replay(other, QUEUES, EVERYTHING))

    assert count == first.result().matched + second.result().matched
    assert await ready(broker, DOWNLOAD) == count
    await has_dead(broker, 0)
