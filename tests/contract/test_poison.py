"""Messages that take their worker down, or hold it up for ever."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.retry import RetryPolicy
from pipeline.topology import (
    DEDUPE,
    DELIVERY_LIMIT,
    DOWNLOAD,
    SUSPECT_DELIVERIES,
    dead_letter_queue,
    hand_to,
)
from pipeline.worker import Worker
from tests.factories import (
    SHORT_DELAY,
    make_envelope,
    make_publication,
    make_publications,
)
from tests.waiting import eventually, receive, receive_one

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from pipeline.broker.port import Broker
    from pipeline.message import Envelope, Publication
    from pipeline.topology import Topology

    OpenAgain = Callable[[], Awaitable[Broker]]

REPOSITORY = Path(__file__).parents[2]
POISON = b"poison"
#: Before and behind the poison.
NEIGHBOURS = [f"neighbour {number}".encode() for number in range(8)]
#: Leases of the embedded broker: each death costs one.
LEASE = "lease_seconds=0.3"


@pytest.mark.parametrize("batch_size", [1, 10])
async def test_poison_that_crashes_the_worker_process(
    broker: Broker, mortal_url: str, topology: Topology, batch_size: int
) -> None:
    """So many redeliveries, then it is a dead letter; its neighbours are handled."""
    bodies = [*NEIGHBOURS[:2], POISON, *NEIGHBOURS[2:]]
    await broker.publish(*(make_publication(make_envelope(body=b)) for b in bodies))
    url = mortal_url.replace("lease_seconds=1", LEASE)
    assert LEASE in url or url.startswith("amqp")

    async with crashing(url, topology.prefix, batch_size) as deaths:
        # What was handed on right before a death and not acknowledged comes twice.
        handled: set[bytes] = set()
        async with (
            asyncio.timeout(90),
            broker.consume(DOWNLOAD, prefetch=100) as consumer,
        ):
            while handled != set(NEIGHBOURS):
                handled |= {d.envelope.body for d in await consumer.receive()}

        async def is_dead() -> bool:
            return (await broker.depth(dead_letter_queue(DEDUPE))).ready == 1

        await eventually(is_dead, within=90)

    async with broker.consume(dead_letter_queue(DEDUPE), prefetch=10) as consumer:
        letter = (await receive_one(consumer)).envelope
        assert letter.failure is not None
        assert (POISON, "DeliveryLimitExceeded") == (
            letter.body,
            letter.failure.error_type,
        )
    assert len(deaths) <= DELIVERY_LIMIT + 1


@pytest.mark.parametrize("batch_size", [1, 10])
async def test_what_came_back_again_and_again_is_handled_beside_what_is_new(
    open_again: OpenAgain, batch_size: int
) -> None:
    """Alone, but soon: neither waits for the other for ever."""
    broker = await open_again()
    await broker.publish(*make_publications(40))
    for _ in range(SUSPECT_DELIVERIES):
        leaving = await open_again()
        async with leaving.consume(DEDUPE, prefetch=20) as consumer:
            await receive(consumer, 20)
        await leaving.__aexit__(None, None, None)
    handled: list[bytes] = []

    async def handle(envelopes: Sequence[Envelope]) -> Sequence[Sequence[Publication]]:
        await asyncio.sleep(0)
        handled.extend(envelope.body for envelope in envelopes)
        return [[hand_to(DOWNLOAD, envelope)] for envelope in envelopes]

    worker = Worker(
        broker,
        DEDUPE,
        handle,
        deadline=timedelta(seconds=10),
        policy=RetryPolicy(),
        batch_size=batch_size,
        concurrency=4,
    )

    async def is_over() -> bool:
        return (await broker.depth(DOWNLOAD)).ready == 50

    stopping = asyncio.Event()
    working = asyncio.create_task(worker.run(stopping))
    await broker.publish(*make_publications(10))
    await eventually(is_over, within=20)
    stopping.set()
    await working

    assert 50 == len(handled)


async def test_what_only_waited_for_its_turn_is_no_poison(broker: Broker) -> None:
    """However often a worker was stopped in order while it was next to come."""
    bodies = {b"%d" % number for number in range(8)}
    await broker.publish(*(make_publication(make_envelope(body=b)) for b in bodies))
    for _ in range(SUSPECT_DELIVERIES + 1):
        async with broker.consume(DEDUPE, prefetch=8) as consumer:

            async def has_all() -> bool:
                return (await broker.depth(DEDUPE)).unacked == 8

            await eventually(has_all)
            await consumer.stop()

    async with broker.consume(DEDUPE, prefetch=8) as consumer:
        received = await receive(consumer, 8)

        # None of them has to be alone: all are held at the same time.
        assert bodies == {delivery.envelope.body for delivery in received}
        assert {1} == {delivery.envelope.attempt for delivery in received}


async def test_poison_that_hangs_the_worker(broker: Broker) -> None:
    """A deadline for each message; passing it counts as an attempt."""
    calls = []

    async def handle(envelopes: Sequence[Envelope]) -> Sequence[Sequence[Publication]]:
        calls.append([(envelope.body, envelope.attempt) for envelope in envelopes])
        if any(envelope.body == POISON for envelope in envelopes):
            await asyncio.Event().wait()
        return [[hand_to(DOWNLOAD, envelope)] for envelope in envelopes]

    worker = Worker(
        broker,
        DEDUPE,
        handle,
        deadline=timedelta(milliseconds=200),
        policy=RetryPolicy(waits=(SHORT_DELAY,)),
        batch_size=10,
    )
    bodies = [*NEIGHBOURS, POISON]
    await broker.publish(*(make_publication(make_envelope(body=b)) for b in bodies))
    stopping = asyncio.Event()
    working = asyncio.create_task(worker.run(stopping))
    async with broker.consume(dead_letter_queue(DEDUPE), prefetch=1) as consumer:
        letter = (await receive_one(consumer)).envelope
    stopping.set()
    await working

    assert letter.failure is not None
    assert (POISON, "DeadlineExceeded", 2) == (
        letter.body,
        letter.failure.error_type,
        letter.attempt,
    )
    assert len(NEIGHBOURS) == (await broker.depth(DOWNLOAD)).ready
    assert [(POISON, 2)] == calls[-1]


@asynccontextmanager
async def crashing(
    url: str, prefix: str, batch_size: int
) -> AsyncIterator[Sequence[bytes]]:
    """Run a worker that is started again after each death; gives the deaths so far."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("crashing_worker.py")),
        *(url, prefix, str(batch_size)),
        stdout=asyncio.subprocess.PIPE,
        env={"PYTHONPATH": str(REPOSITORY)},
        start_new_session=True,
    )
    deaths: list[bytes] = []

    async def listen() -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            deaths.extend([line] * (line == b"died\n"))  # it logs as well

    listening = asyncio.create_task(listen())
    try:
        yield deaths
    finally:
        # The session is of this process and its children alone.
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        await listening
