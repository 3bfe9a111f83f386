"""Rows of the failure matrix in which several parts have a share, on both brokers."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import apsw
import pytest

from pipeline.broker import open_broker
from pipeline.errors import Reject
from pipeline.ledger import open_ledger
from pipeline.metrics import WORKER_PAUSED
from pipeline.retry import RetryPolicy
from pipeline.topology import DEDUPE, dead_letter_queue, notify_queue
from pipeline.worker import Worker
from pipeline.workers.dedupe import Dedupe
from tests.callbacks import TASK, make_body
from tests.factories import (
    SHORT_DELAY,
    SUBSCRIPTION,
    make_envelope,
    make_publication,
    make_topology,
)
from tests.ingress import running_ingress
from tests.outage import names, running_outage, until_drained, until_up
from tests.rabbitmq_node import delete_topology
from tests.tcp_proxy import Direction, TcpProxy
from tests.waiting import eventually, receive, receive_nothing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from pipeline.broker.port import Broker
    from pipeline.message import Envelope
    from pipeline.topology import Topology
    from pipeline.worker import BatchHandler
    from tests.rabbitmq_node import RabbitNode

DEADLINE = timedelta(seconds=10)
EVENTS = notify_queue(SUBSCRIPTION)


@pytest.fixture(params=["sqlite", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def broker_url(request: pytest.FixtureRequest) -> str:
    """Address of the broker."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
async def topology(broker_url: str) -> AsyncIterator[Topology]:
    made = make_topology(patterns=("task.#",))
    yield made
    if broker_url.startswith("amqp"):
        await delete_topology(broker_url, made)


@pytest.fixture
async def broker(broker_url: str, topology: Topology) -> AsyncIterator[Broker]:
    async with open_broker(broker_url, deadline=DEADLINE) as opened:
        await opened.declare(topology)
        yield opened


@asynccontextmanager
async def working(
    broker: Broker, handler: BatchHandler, *, batch_size: int = 10
) -> AsyncIterator[Worker]:
    """Run a worker of the queue ``dedupe``."""
    worker = Worker(
        broker,
        DEDUPE,
        handler,
        deadline=DEADLINE,
        policy=RetryPolicy(waits=(SHORT_DELAY,)),
        batch_size=batch_size,
    )
    stopping = asyncio.Event()
    task = asyncio.create_task(worker.run(stopping))
    try:
        yield worker
    finally:
        stopping.set()
        await asyncio.wait_for(task, timeout=30)


async def test_duplicates_50_at_once(
    broker_url: str, topology: Topology, tmp_path: Path
) -> None:
    """The same callback, and two workers that do not know of each other."""
    ledger_url = f"sqlite:///{tmp_path}/ledger.db"
    async with (
        running_ingress(broker_url, topology=topology) as ingress,
        open_ledger(ledger_url) as first,
        open_ledger(ledger_url) as second,
        working(ingress.broker, _dedupe(first), batch_size=3),
        working(ingress.broker, _dedupe(second), batch_size=3),
    ):
        body = make_body(items=[])
        answers = await asyncio.gather(*(ingress.post(data=body) for _ in range(50)))
        await eventually(lambda: _is_empty(ingress.broker, DEDUPE))
        events = await ingress.published(EVENTS)
        more = await ingress.count(EVENTS)
        updates = await first.list_updates(TASK)

    assert {200} == {answer.status for answer in answers}
    assert (1, 0, 1) == (len(events), more, len(updates))


async def test_ledger_database_is_locked(broker: Broker, tmp_path: Path) -> None:
    """The worker waits with what it has: nothing is given back, nothing is counted."""
    path = tmp_path / "ledger.db"
    pauses = WORKER_PAUSED.labels(DEDUPE)._value
    before = pauses.get()
    async with open_ledger(f"sqlite:///{path}") as ledger:
        await broker.publish(
            *(
                make_publication(make_envelope(body=make_body("text", task_id=name)))
                for name in names(30)
            )
        )
        lock = apsw.Connection(str(path))
        lock.execute("BEGIN EXCLUSIVE")
        seen: list[Envelope] = []

        async def handle(envelopes: Sequence[Envelope]) -> Sequence[object]:
            seen.extend(envelopes)
            return await _dedupe(ledger)(envelopes)

        async with working(broker, handle):  # type: ignore[arg-type]
            await eventually(lambda: _is_above(pauses, before), within=30)
            held = {envelope.message_id for envelope in seen}
            depth = await broker.depth(DEDUPE)
            lock.execute("ROLLBACK")
            await eventually(lambda: _is_empty(broker, DEDUPE), within=30)
        lock.close()
        totals = len(await ledger.list_tasks(limit=100))

    assert 1 <= len(held) <= 10
    assert (20, 0) == (depth.ready, depth.delayed)
    assert 30 == totals
    assert {1} == {envelope.attempt for envelope in seen}
    assert 0 == (await broker.depth(dead_letter_queue(DEDUPE))).ready


@pytest.mark.rabbitmq
@pytest.mark.timeout(180)
async def test_dead_letter_queue_full(
    rabbitmq_node: RabbitNode, tmp_path: Path
) -> None:
    """The source keeps what cannot be put aside, says so, and goes on with the rest."""
    topology = make_topology()
    name = topology.queue_name(dead_letter_queue(DEDUPE))
    pauses = WORKER_PAUSED.labels(DEDUPE)._value
    before = pauses.get()

    async def handle(envelopes: Sequence[Envelope]) -> Sequence[object]:
        return [Reject("poison") if e.body == b"poison" else () for e in envelopes]

    async with open_broker(rabbitmq_node.url, deadline=DEADLINE) as broker:
        await broker.declare(topology)
        policy = ("full", f"^{name}$", '{"max-length": 1}')
        await asyncio.to_thread(rabbitmq_node.control, "set_policy", *policy)
        try:
            bodies = [b"poison"] * 12 + [b"good"] * 3
            made = [make_publication(make_envelope(body=body)) for body in bodies]
            await broker.publish(*made)
            async with working(broker, handle, batch_size=15):  # type: ignore[arg-type]
                await eventually(lambda: _is_above(pauses, before), within=30)
                dead = (await broker.depth(dead_letter_queue(DEDUPE))).ready
                room = ("full", f"^{name}$", '{"max-length": 1000}')
                await asyncio.to_thread(rabbitmq_node.control, "set_policy", *room)
                await eventually(
                    lambda: _holds(broker, dead_letter_queue(DEDUPE), 12), within=30
                )
                await eventually(lambda: _is_empty(broker, DEDUPE))
        finally:
            await asyncio.to_thread(rabbitmq_node.control, "clear_policy", "full")
    await delete_topology(rabbitmq_node.url, topology)

    assert dead < 12


@pytest.mark.rabbitmq
async def test_confirm_lost(rabbitmq_url: str, tmp_path: Path) -> None:
    """The broker has it and the spool has it: two messages, one effect."""
    topology = make_topology(patterns=("task.#",))
    async with (
        TcpProxy.to(rabbitmq_url) as proxy,
        open_broker(rabbitmq_url, deadline=DEADLINE) as broker,
    ):
        await broker.declare(topology)
        url = proxy.url_for(rabbitmq_url)
        async with running_outage(url, topology, tmp_path) as outage:
            await until_up(outage)
            proxy.drop(Direction.TO_CLIENT)
            status = (await outage.ingress.post(data=make_body("text"))).status
            spooled = outage.spool.messages
            proxy.resume()
            proxy.cut()
            await until_drained(outage)
        # A late confirm makes the forwarder send it once more.
        count = (await broker.depth(DEDUPE)).ready
        async with broker.consume(DEDUPE, prefetch=10) as consumer:
            copies = [d.envelope for d in await receive(consumer, max(2, count))]
        async with (
            open_ledger(f"sqlite:///{tmp_path}/ledger.db") as ledger,
            working(broker, _dedupe(ledger)),
            broker.consume(EVENTS, prefetch=10) as subscriber,
        ):
            told = await receive(subscriber, len(copies))
            events = {delivery.envelope.message_id for delivery in told}
            nothing = await receive_nothing(subscriber, seconds=0.3)
            updates = len(await ledger.list_updates(TASK))
    await delete_topology(rabbitmq_url, topology)

    # What is stored while the spool is measured may be counted twice.
    assert 200 == status
    assert spooled >= 1
    assert 1 == len({envelope.message_id for envelope in copies})
    # All claim the event under one message id: it is told again, with the same id.
    assert (1, 1, True) == (len(events), updates, nothing)


def _dedupe(ledger: object) -> BatchHandler:
    handler: BatchHandler = Dedupe(ledger, clock=lambda: datetime.now(UTC)).handle  # type: ignore[arg-type]
    return handler


async def _is_empty(broker: Broker, queue: str) -> bool:
    depth = await broker.depth(queue)
    return not depth.ready + depth.unacked + depth.delayed


async def _holds(broker: Broker, queue: str, count: int) -> bool:
    return (await broker.depth(queue)).ready == count


async def _is_above(value: object, before: float) -> bool:
    return bool(value.get() > before)  # type: ignore[attr-defined]
