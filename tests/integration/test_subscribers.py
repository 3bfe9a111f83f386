"""Subscribers that want to hear nothing more, and subscribers that are slow."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import pytest
from prometheus_client import REGISTRY

from pipeline.broker import open_broker
from pipeline.errors import Reject, SubscriberGone
from pipeline.events.publications import task_event
from pipeline.ledger import open_ledger
from pipeline.message import Envelope, MessageId, Publication
from pipeline.retry import RetryPolicy
from pipeline.subscriptions import Subscription
from pipeline.task import event_id
from pipeline.topology import EVENTS, build_topology, notify_queue
from pipeline.worker import Worker, one_by_one
from pipeline.workers.notify import Notify, make_session
from tests.callbacks import TASK, after, make_update
from tests.file_server import FileServer, answer, silent
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import aiohttp

    from pipeline.ledger.port import Ledger

SHOP: Final = "shop"


@pytest.fixture
async def server() -> AsyncIterator[FileServer]:
    async with FileServer() as running:
        yield running


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    async with open_ledger(f"sqlite:///{tmp_path}/ledger.db") as opened:
        yield opened


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with make_session() as opened:
        yield opened


@pytest.fixture
def event() -> Envelope:
    """An event as dedupe publishes it."""
    update = make_update()
    return task_event(
        update,
        event_id(update),
        late=False,
        origin="callback",
        received_at=after(0),
        source="/pipeline",
        at=after(1),
    ).envelope


@pytest.fixture
def notify(
    ledger: Ledger, session: aiohttp.ClientSession, server: FileServer
) -> Notify:
    """The handler under test."""
    return make_notify(ledger, session, server.url("/hook"))


def make_notify(
    ledger: Ledger,
    session: aiohttp.ClientSession,
    url: str,
    name: str = SHOP,
    *,
    timeout_seconds: float | None = None,
) -> Notify:
    subscription = Subscription(
        name=name, url=url, events=("#",), timeout_seconds=timeout_seconds
    )
    return Notify(subscription, ledger, session, clock=lambda: after(100))


async def test_subscriber_that_answers_410_is_sent_nothing_more(
    notify: Notify, event: Envelope, server: FileServer, ledger: Ledger
) -> None:
    """What is for it becomes dead letters at once, and it is not asked again."""
    server.add("/hook", answer(status=410))

    with pytest.raises(Reject, match="shop: expected 2xx, got 410") as first:
        await notify.handle(event)
    with pytest.raises(Reject, match="shop: it has answered 410") as second:
        await notify.handle(replace(event, message_id=MessageId("another")))

    assert isinstance(first.value.__cause__, SubscriberGone)
    assert isinstance(second.value.__cause__, SubscriberGone)
    assert 1 == len(server.requests)
    (noted,) = await ledger.list_notifications(TASK)
    assert (410, None) == (noted.status, noted.delivered_at)
    assert 1.0 == is_disabled()


async def test_replay_is_sent_to_a_subscriber_that_was_gone(
    notify: Notify, event: Envelope, server: FileServer
) -> None:
    """Somebody wants it tried; when it answers 2xx, it is told of everything again."""
    server.add("/hook", answer(status=410))
    with pytest.raises(Reject):
        await notify.handle(event)
    with pytest.raises(Reject, match="got 410"):
        await notify.handle(replace(event, replays=1))
    server.add("/hook", answer())

    await notify.handle(replace(event, replays=2))
    await notify.handle(replace(event, message_id=MessageId("another")))

    assert 4 == len(server.requests)
    assert 0.0 == is_disabled()


async def test_slow_subscriber_holds_up_no_other(
    ledger: Ledger,
    session: aiohttp.ClientSession,
    server: FileServer,
    event: Envelope,
    sqlite_url: str,
) -> None:
    """One that never answers has all its requests in progress; others do not notice."""
    topology = build_topology(
        prefix="slow", subscriptions={"slow": ["#"], "quick": ["#"]}
    )
    stopping = asyncio.Event()
    async with open_broker(sqlite_url, deadline=timedelta(seconds=10)) as broker:
        await broker.declare(topology)
        workers = []
        for name, how in (("slow", silent()), ("quick", answer())):
            url = server.add(f"/{name}", how)
            # Longer than the others take on a slow disk: none is given up meanwhile.
            made = make_notify(ledger, session, url, name, timeout_seconds=50)
            workers.append(
                Worker(
                    broker,
                    notify_queue(name),
                    one_by_one(made.handle),
                    deadline=timedelta(seconds=60),
                    policy=RetryPolicy(),
                    concurrency=4,
                    drain=timedelta(0),
                )
            )
        running = [asyncio.create_task(worker.run(stopping)) for worker in workers]
        events = [replace(event, message_id=MessageId(f"m{n}")) for n in range(20)]
        await broker.publish(
            *(Publication(exchange=EVENTS, envelope=e) for e in events)
        )

        async def is_told() -> bool:
            asked = [request.target for request in server.requests]
            return 20 == asked.count("/quick")

        await eventually(is_told, within=45)
        held = [request.target for request in server.requests].count("/slow")
        stopping.set()
        await asyncio.gather(*running)

    assert 1 <= held <= 4


def is_disabled() -> float | None:
    """Read whether anything is sent to the shop."""
    name = "pipeline_subscription_disabled"
    return REGISTRY.get_sample_value(name, {"subscription": SHOP})
