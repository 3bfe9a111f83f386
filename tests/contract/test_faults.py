"""What the broker promises when processes die and many messages are on their way."""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.topology import DEDUPE, DOWNLOAD, hand_to, notify_queue
from tests.factories import SUBSCRIPTION, make_publications
from tests.waiting import eventually, receive

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pipeline.broker.port import Broker
    from pipeline.topology import Topology

    OpenAgain = Callable[[], Awaitable[Broker]]

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
LAST_QUEUE = notify_queue(SUBSCRIPTION)
#: Each queue, and where its worker hands on to.
STAGES = ((DEDUPE, DOWNLOAD), (DOWNLOAD, LAST_QUEUE), (LAST_QUEUE, None))
MESSAGES = 10_000


async def test_what_a_killed_worker_held_is_redelivered(
    broker: Broker, mortal_url: str, topology: Topology
) -> None:
    """After ``kill -9`` nothing is lost, neither received nor fetched ahead."""
    publications = make_publications(5)
    await broker.publish(*publications)
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, str(Path(__file__).with_name("holding_worker.py"))),
        *(mortal_url, topology.prefix, DEDUPE),
        stdout=asyncio.subprocess.PIPE,
        env={"PYTHONPATH": str(REPOSITORY)},
    )
    try:
        async with asyncio.timeout(20):
            held = await _held_by(worker)
    finally:
        worker.kill()
        await worker.wait()

    async with broker.consume(DEDUPE, prefetch=5) as consumer:
        deliveries = await receive(consumer, 5, within=20)
    by_id = {d.envelope.message_id: d for d in deliveries}
    assert {p.envelope.message_id for p in publications} == set(by_id)
    assert publications[0].envelope.message_id == held
    assert by_id[publications[0].envelope.message_id].redelivered


async def _held_by(worker: asyncio.subprocess.Process) -> str:
    """Wait until the worker says which message it holds; it may log before."""
    assert worker.stdout is not None
    async for line in worker.stdout:
        if line.startswith(b"holding "):
            return line.decode().split()[1]
    pytest.fail("the worker ended before it had received anything")


@pytest.mark.timeout(240)
async def test_many_messages_through_three_stages_are_never_lost(
    broker: Broker, open_again: OpenAgain
) -> None:
    """Workers that come and go lose nothing; what is doubled is counted."""
    arrived: Counter[bytes] = Counter()
    publications = make_publications(MESSAGES)
    expected = {p.envelope.body for p in publications}

    async def is_complete() -> bool:
        return expected == set(arrived)

    async with asyncio.TaskGroup() as group:
        workers = [
            group.create_task(_come_and_go(open_again, queue, onward, arrived))
            for queue, onward in STAGES
            for _ in range(2)
        ]
        for start in range(0, MESSAGES, 250):
            await broker.publish(*publications[start : start + 250])
        await eventually(is_complete, within=180)
        for worker in workers:
            worker.cancel()

    # Every acknowledgement was answered, so nothing should come twice on this path.
    doubled = sum(arrived.values()) - MESSAGES
    assert doubled == 0
    for queue, _ in STAGES:
        depth = await broker.depth(queue)
        assert (0, 0, 0) == (depth.ready, depth.unacked, depth.delayed)


async def _come_and_go(
    open_again: OpenAgain, queue: str, onward: str | None, arrived: Counter[bytes]
) -> None:
    """Hand on what is in ``queue``; every now and then leave with a full hand."""
    chance = random.Random(queue)
    while True:
        handle = await open_again()
        try:
            async with handle.consume(queue, prefetch=200) as consumer:
                for _ in range(chance.randrange(10, 60)):
                    deliveries = await consumer.receive(100)
                    envelopes = [delivery.envelope for delivery in deliveries]
                    handed = [hand_to(onward, e) for e in envelopes if onward]
                    await consumer.ack(deliveries, handed)
                    if onward is None:
                        arrived.update(envelope.body for envelope in envelopes)
                await consumer.receive(100)  # taken, and left behind unsettled
        finally:
            await handle.__aexit__(None, None, None)
