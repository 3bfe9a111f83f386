"""Callbacks become events that are heard of once: dedupe on a real ledger."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from prometheus_client import REGISTRY

from pipeline.broker import open_broker
from pipeline.errors import LedgerUnavailable, Reject
from pipeline.events.catalogue import AssetRequested, TaskEvent, parse_event
from pipeline.ledger import open_ledger
from pipeline.ledger.jobs import Intent, JobId
from pipeline.ledger.port import StoredAsset
from pipeline.message import Envelope, MessageId, to_milliseconds
from pipeline.retry import RetryPolicy
from pipeline.task import Stage
from pipeline.topology import DEDUPE, DOWNLOAD, dead_letter_queue
from pipeline.worker import Worker
from pipeline.workers.dedupe import Dedupe, operation_of
from tests.callbacks import (
    START,
    TASK,
    after,
    make_body,
    make_content,
    make_item,
)
from tests.factories import (
    SUBSCRIPTION,
    make_envelope,
    make_publication,
    make_topology,
)
from tests.waiting import eventually, receive

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from pipeline.events.catalogue import Event
    from pipeline.ledger.port import Ledger
    from pipeline.message import HeaderValue, Publication

STORED = StoredAsset(
    sha256="ab" * 32,
    size_bytes=17,
    content_type="audio/mpeg",
    location="sha256/ab/abab.mp3",
)


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    """An open ledger in a file of its own."""
    async with open_ledger(f"sqlite:///{tmp_path}/ledger.db") as opened:
        yield opened


@pytest.fixture
def dedupe(ledger: Ledger) -> Dedupe:
    """The handler under test, at a fixed time."""
    return Dedupe(ledger, clock=lambda: after(60), source="/studio")


def make_callback(
    body: bytes | None = None,
    *,
    message_id: str | None = None,
    seconds: float = 0,
    **headers: HeaderValue,
) -> Envelope:
    """Make a callback as the ingress publishes it."""
    return make_envelope(
        body=make_body(items=[make_item(1)]) if body is None else body,
        message_id=message_id,
        headers={
            "operation": "upload-extend",
            "origin": "callback",
            "received-at": to_milliseconds(after(seconds)),
            **headers,
        },
    )


def make_midi(pitch: int) -> bytes:
    """Write a MIDI callback of one note."""
    notes = [{"pitch": pitch, "start": 0, "end": "0.2", "velocity": 0.8}]
    data = {"taskId": TASK, "instruments": [{"name": "Piano", "notes": notes}]}
    return orjson.dumps({"code": 200, "msg": "success", "data": data})


async def handled(dedupe: Dedupe, *envelopes: Envelope) -> list[list[Publication]]:
    """Handle a batch in which nothing may fail."""
    results = await dedupe.handle(envelopes)
    assert not [result for result in results if isinstance(result, Exception)]
    return [list(result) for result in results if not isinstance(result, Exception)]


def events(publications: Sequence[Publication]) -> list[Event]:
    return [parse_event(one.envelope.body) for one in publications]


def types(publications: Sequence[Publication]) -> list[str]:
    return [one.envelope.routing_key for one in publications]


async def test_a_new_callback_publishes_its_event_and_asks_for_its_files(
    dedupe: Dedupe,
) -> None:
    callback = make_callback(seconds=1)

    (publications,) = await handled(dedupe, callback)

    told, audio, image = events(publications)
    assert isinstance(told, TaskEvent)
    assert (told.type, told.subject, told.source) == ("task.complete", TASK, "/studio")
    assert (told.time, told.data.late, told.data.origin) == (
        after(1),
        False,
        "callback",
    )
    assert isinstance(audio, AssetRequested)
    assert isinstance(image, AssetRequested)
    assert (audio.data.url, image.data.kind) == (make_item(1)["audio_url"], "image")
    assert ["events", "work", "work"] == [one.exchange for one in publications]
    assert [None, DOWNLOAD, DOWNLOAD] == [one.key for one in publications]
    assert {after(60)} == {one.envelope.published_at for one in publications}


async def test_a_duplicate_publishes_nothing(dedupe: Dedupe, ledger: Ledger) -> None:
    await handled(dedupe, make_callback())

    assert await handled(dedupe, make_callback()) == [[]]

    assert (await ledger.totals()).duplicates == 1


async def test_a_repeat_with_fresh_links_is_a_duplicate_that_refreshes(
    dedupe: Dedupe, ledger: Ledger
) -> None:
    fresh = make_body(
        items=[make_item(1, audio_url="https://files.example.com/1.mp3?2")]
    )
    await handled(dedupe, make_callback())

    assert await handled(dedupe, make_callback(fresh, seconds=1)) == [[]]

    audio = (await ledger.list_assets(TASK))[0]
    assert audio.url == "https://files.example.com/1.mp3?2"


async def test_two_of_a_kind_in_one_batch_are_one_event(dedupe: Dedupe) -> None:
    one, two = make_callback(), make_callback()

    published = await handled(dedupe, one, two, one)

    assert [3, 0, 3] == [len(publications) for publications in published]
    assert ids(published[0]) == ids(published[2])


def ids(publications: Sequence[Publication]) -> list[MessageId]:
    return [one.envelope.message_id for one in publications]


async def test_a_redelivery_publishes_the_same_again(dedupe: Dedupe) -> None:
    """A crash between the ledger and the broker must not lose an event."""
    callback = make_callback()
    (first,) = await handled(dedupe, callback)

    (again,) = await handled(dedupe, callback)

    assert first == again


async def test_a_late_stage_is_published_once_and_says_so(dedupe: Dedupe) -> None:
    text = make_body("text", items=[])
    await handled(dedupe, make_callback())

    (late,) = await handled(dedupe, make_callback(text))

    (event,) = events(late)
    assert isinstance(event, TaskEvent)
    assert (event.data.stage, event.data.late) == (Stage.TEXT, True)
    assert await handled(dedupe, make_callback(text)) == [[]]


async def test_one_unreadable_body_is_rejected_alone(dedupe: Dedupe) -> None:
    good, bad = make_callback(), make_callback(b"[" * 1000)

    results = await dedupe.handle([bad, good, bad])

    assert [True, False, True] == [isinstance(result, Reject) for result in results]
    assert "expected a JSON object" in str(results[0])
    good_result = results[1]
    assert not isinstance(good_result, Exception)
    assert types(good_result)[0] == "task.complete"


async def test_a_batch_of_nothing_readable_is_rejected(dedupe: Dedupe) -> None:
    (result,) = await dedupe.handle([make_callback(b"")])

    assert isinstance(result, Reject)


async def test_an_unknown_stage_is_published_with_its_reason_and_kept(
    dedupe: Dedupe, ledger: Ledger
) -> None:
    body = make_body("task_completed")

    (publications,) = await handled(dedupe, make_callback(body))

    (event,) = events(publications)
    assert isinstance(event, TaskEvent)
    assert event.type == "task.unknown"
    assert "task_completed" in event.data.unknown_reason
    (update,) = await ledger.list_updates(TASK)
    assert await ledger.find_body(TASK, update.event_id) == body


async def test_other_notes_of_a_task_are_another_event(
    dedupe: Dedupe, ledger: Ledger
) -> None:
    """And each body is kept: the notes are nowhere else."""
    bodies = [make_midi(60), make_midi(61), make_midi(60)]
    told = [make_callback(body, operation="midi") for body in bodies]

    first, other, again = [events(one) for one in await handled(dedupe, *told)]

    assert (1, 1, 0) == (len(first), len(other), len(again))
    assert first[0].id != other[0].id
    kept = [
        await ledger.find_body(TASK, update.event_id)
        for update in await ledger.list_updates(TASK)
    ]
    assert {*bodies} == {*kept}


async def test_a_failure_of_the_provider_is_an_event_like_others(
    dedupe: Dedupe,
) -> None:
    content = make_content("error", code=531, items=[])

    (publications,) = await handled(dedupe, make_callback(orjson.dumps(content)))

    (event,) = events(publications)
    assert isinstance(event, TaskEvent)
    assert (event.type, event.data.code) == ("task.failed", 531)


async def test_a_file_that_expired_is_asked_for_again_by_a_duplicate(
    dedupe: Dedupe, ledger: Ledger
) -> None:
    (first,) = await handled(dedupe, make_callback())
    audio = (await ledger.list_assets(TASK))[0]
    await ledger.settle_asset(audio.key, "410 Gone", at=after(1))
    fresh = make_body(
        items=[make_item(1, audio_url="https://files.example.com/1.mp3?2")]
    )

    (again,) = await handled(dedupe, make_callback(fresh, seconds=2))

    (event,) = events(again)
    assert isinstance(event, AssetRequested)
    assert event.data.url == "https://files.example.com/1.mp3?2"
    assert event.id not in ids(first)


async def test_complete_with_files_that_first_has_brought_is_ready_at_once(
    dedupe: Dedupe, ledger: Ledger
) -> None:
    await handled(dedupe, make_callback(make_body("first", items=[make_item(1)])))
    for asset in await ledger.list_assets(TASK):
        await ledger.settle_asset(asset.key, STORED, at=after(1))

    (publications,) = await handled(dedupe, make_callback())

    assert types(publications) == ["task.complete", "task.assets_ready"]


async def test_a_poll_after_the_callback_is_a_duplicate(dedupe: Dedupe) -> None:
    callback, poll = make_callback(), make_callback(origin="poll", seconds=30)

    assert [3, 0] == [len(one) for one in await handled(dedupe, callback, poll)]


@pytest.mark.parametrize(
    ("changes", "is_known"),
    [
        ({}, True),
        ({"origin": "poll"}, False),
        ({"operation": "wav"}, False),
        ({"operation": "tango"}, False),
        ({"job": "a\0b"}, False),
        ({"job": "x" * 100_000}, False),
        ({"job": "\ud800"}, False),
        ({"job": 7}, False),
    ],
)
async def test_job_without_an_answer_is_known_by_its_callback(
    dedupe: Dedupe, ledger: Ledger, changes: dict[str, Any], *, is_known: bool
) -> None:
    """Whatever else stands in its place harms nobody."""
    mark = "0123456789abcdef" * 2
    intent = Intent(
        job_id=JobId("order-7"),
        mark=mark,
        operation="upload-extend",
        door="kie-ai",
        digest="d",
        begun_at=START,
        source_seconds={},
    )
    await ledger.begin_job(intent, lasts=timedelta(0))

    await handled(dedupe, make_callback(**{"job": mark, **changes}))

    job = await ledger.find_job(intent.job_id)
    assert job is not None
    assert (TASK if is_known else None) == job.task_id


@pytest.mark.parametrize(
    ("routing_key", "headers", "expected"),
    [
        ("callback.extend.text", {"operation": "generate"}, "generate"),
        ("callback.extend.text", {}, "extend"),
        ("callback.extend.text", {"operation": 7}, "extend"),
        ("dedupe", {}, "unknown"),
        ("callback..text", {}, "unknown"),
    ],
)
def test_the_operation_is_read_from_the_header_or_the_routing_key(
    routing_key: str, headers: dict[str, Any], expected: str
) -> None:
    envelope = make_envelope(routing_key=routing_key, headers=headers)

    assert expected == operation_of(envelope)


@pytest.mark.parametrize("value", [10**30, -(10**30), "soon", True])
async def test_a_strange_time_of_receipt_is_replaced_by_the_present(
    dedupe: Dedupe, value: Any
) -> None:
    (publications,) = await handled(dedupe, make_callback(**{"received-at": value}))

    assert events(publications)[0].time == after(60)


async def test_updates_are_counted_by_stage_and_verdict(dedupe: Dedupe) -> None:
    def count(verdict: str) -> float:
        labels = {"stage": "complete", "verdict": verdict}
        return REGISTRY.get_sample_value("pipeline_updates_total", labels) or 0.0

    before = count("new"), count("duplicate")

    await handled(dedupe, make_callback(), make_callback(), make_callback())

    assert (1, 2) == (count("new") - before[0], count("duplicate") - before[1])


async def test_a_ledger_that_is_away_is_told_to_the_worker(tmp_path: Path) -> None:
    ledger = open_ledger(f"sqlite:///{tmp_path}/ledger.db")
    dedupe = Dedupe(ledger, clock=lambda: START)

    with pytest.raises(LedgerUnavailable):
        await dedupe.handle([make_callback()])


async def test_a_storm_of_callbacks_in_random_order_ends_with_each_event_once(
    ledger: Ledger, tmp_path: Path
) -> None:
    """Through a real broker and worker: nothing lost, nothing heard of twice."""
    tasks = 60
    bodies = [
        make_body(stage, items=items, task_id=f"task-{number}")
        for number in range(tasks)
        for stage, items in (
            ("text", []),
            ("first", [make_item(1)]),
            ("complete", [make_item(1), make_item(2)]),
        )
    ]
    sent = bodies + random.Random(3).choices(bodies, k=len(bodies) // 2) + [b"poison"]
    random.Random(4).shuffle(sent)
    topology = make_topology(patterns=["task.*"])

    async with open_broker(
        f"sqlite:///{tmp_path}/broker.db", deadline=timedelta(seconds=10)
    ) as broker:
        await broker.declare(topology)
        await broker.publish(*(make_publication(make_callback(body)) for body in sent))
        worker = Worker(
            broker,
            DEDUPE,
            Dedupe(ledger, clock=lambda: START).handle,
            deadline=timedelta(seconds=10),
            policy=RetryPolicy(),
            batch_size=32,
            concurrency=2,
        )
        stopping = asyncio.Event()
        running = asyncio.create_task(worker.run(stopping))
        heard, asked = tasks * 3, tasks * 4

        async def is_settled() -> bool:
            depth = await broker.depth(f"notify.{SUBSCRIPTION}")
            waiting = await broker.depth(DEDUPE)
            return depth.ready >= heard and waiting.ready + waiting.unacked == 0

        await eventually(is_settled)
        stopping.set()
        await running

        async with broker.consume(f"notify.{SUBSCRIPTION}", prefetch=heard) as consumer:
            told = Counter(
                (d.envelope.headers["task-id"], d.envelope.routing_key)
                for d in await receive(consumer, heard)
            )
        assert (await broker.depth(DOWNLOAD)).ready == asked
        assert (await broker.depth(dead_letter_queue(DEDUPE))).ready == 1
    assert len(told) == heard
    assert set(told.values()) == {1}
    totals = await ledger.totals()
    assert (tasks, heard) == (totals.tasks, totals.updates)
    assert totals.duplicates == len(sent) - 1 - heard
