"""What only the embedded broker has: a file, other processes, leases and a clock."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import apsw
import pytest
from structlog.testing import capture_logs

from pipeline.broker import sqlite_routing
from pipeline.broker.sqlite import SqliteBroker
from pipeline.broker.sqlite_consumer import BUFFER_BYTES
from pipeline.broker.sqlite_message import CLAIM_BYTES
from pipeline.errors import (
    BrokerUnavailable,
    DeliveryLost,
    FetchFailed,
    PublishRefused,
    TopologyMismatch,
)
from pipeline.sqlite import Database, migrate
from pipeline.topology import (
    DEDUPE,
    DELIVERY_LIMIT,
    DOWNLOAD,
    SUSPECT_DELIVERIES,
    ExchangeKind,
    Topology,
    dead_letter_queue,
    hand_to,
)
from tests.factories import (
    SHORT_DELAY,
    make_envelope,
    make_publication,
    make_publications,
    make_topology,
)
from tests.waiting import eventually, receive, receive_nothing, receive_one

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from pipeline.broker.port import Consumer, Delivery

REPOSITORY = Path(__file__).parents[2]
#: More than it takes to make a file, with a dozen syncs, on a disk that others keep
#: busy.
DEADLINE = timedelta(seconds=25)
#: Outlasts renewals that such a disk holds up.
LEASE = timedelta(seconds=5)
#: For those whose lease is to run out, and whom it does no harm when that is early.
SHORT_LEASE = timedelta(seconds=0.6)
#: For those who are to give up: in this time a lock is not let go.
HASTY = timedelta(seconds=1)
#: How much later than it should be a busy machine may be.
LATE_SECONDS = 10.0
#: How many messages ``broker_process.py`` acknowledges at once.
BATCH = 10
AT = datetime(2026, 11, 2, 12, 0, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "broker.db"


@pytest.fixture
def topology() -> Topology:
    return make_topology()


@pytest.fixture
async def broker(path: Path, topology: Topology) -> AsyncIterator[SqliteBroker]:
    async with SqliteBroker(path, deadline=DEADLINE, lease=LEASE) as opened:
        await opened.declare(topology)
        yield opened


@pytest.fixture
async def other(path: Path, topology: Topology) -> AsyncIterator[SqliteBroker]:
    async with SqliteBroker(path, deadline=DEADLINE, lease=LEASE) as opened:
        await opened.declare(topology)
        yield opened


@contextlib.contextmanager
def locked(path: Path, *hasty: SqliteBroker) -> Iterator[None]:
    """Hold the write lock, as a stuck process would.

    Handles that are ``hasty`` wait for it no longer than that; only meanwhile, or a
    slow disk alone would be too much for them.
    """
    holder = apsw.Connection(str(path))
    holder.set_busy_timeout(20_000)
    holder.execute("BEGIN IMMEDIATE")
    for broker in hasty:
        _set_patience(broker, HASTY)
    try:
        yield
    finally:
        for broker in hasty:
            _set_patience(broker, DEADLINE)
        holder.close()


def _set_patience(broker: SqliteBroker, deadline: timedelta) -> None:
    database = broker._session.database
    database._deadline_seconds = deadline.total_seconds()
    database._file._busy_seconds = deadline.total_seconds()


async def until_available(call: Callable[[], Awaitable[object]]) -> None:
    """Repeat a call until it was answered in time: a slow disk may be in its way."""

    async def is_answered() -> bool:
        try:
            await call()
        except BrokerUnavailable:
            return False
        return True

    await eventually(is_answered)


async def receive_next(broker: SqliteBroker, consumer: Consumer) -> Delivery | None:
    """Receive one delivery; ``None``: nobody holds anything, and nothing waits."""
    receiving = asyncio.create_task(receive_one(consumer))
    while not (await asyncio.wait((receiving,), timeout=0.05))[0]:
        depth = await broker.depth(DEDUPE)
        if (0, 0) == (depth.ready, depth.held):
            receiving.cancel()
            await asyncio.wait((receiving,))
            return None
    return await receiving


async def freeze(broker: SqliteBroker) -> None:
    """Let its upkeep stand still, as a stopped process would."""
    upkeep = broker._session._upkeep
    assert upkeep is not None
    upkeep.cancel()
    await asyncio.wait((upkeep,))


async def crash(broker: SqliteBroker, consumer: Consumer) -> None:
    """End the lease of a consumer as if its process had died long ago."""
    number = consumer.id  # type: ignore[attr-defined]
    await broker._session.write(
        lambda c: c.execute("DELETE FROM consumers WHERE id = ?", (number,)).get
    )


async def test_frozen_worker_loses_its_messages_and_does_no_harm(
    path: Path, topology: Topology, other: SqliteBroker
) -> None:
    """A process that stood still is fenced off when it wakes up."""
    async with SqliteBroker(path, deadline=DEADLINE, lease=SHORT_LEASE) as broker:
        await broker.declare(topology)
        await broker.publish(*make_publications(3))
        async with broker.consume(DEDUPE, prefetch=3) as frozen:
            held = await receive(frozen, 3)
            await freeze(broker)

            async with other.consume(DEDUPE, prefetch=3) as consumer:
                taken = await receive(consumer, 3)
                await taken[0].ack()

                with pytest.raises(DeliveryLost, match="3 of 3"):
                    await frozen.ack(held, [hand_to(DOWNLOAD, make_envelope())])

                assert all(delivery.redelivered for delivery in taken)
                await consumer.ack(taken[1:])
    assert (await other.depth(DEDUPE)).ready == 0
    assert (await other.depth(DOWNLOAD)).ready == 0


async def test_lease_is_renewed_while_the_process_lives(
    broker: SqliteBroker, other: SqliteBroker
) -> None:
    """A handler may take longer than a lease."""
    await broker.publish(make_publication())
    async with broker.consume(DEDUPE, prefetch=1) as slow:
        delivery = await receive_one(slow)
        async with other.consume(DEDUPE, prefetch=1) as waiting:
            seconds = 1.2 * LEASE.total_seconds()
            assert await receive_nothing(waiting, seconds=seconds)

        await delivery.ack()


async def test_clock_that_jumps_takes_nothing_from_a_living_process(
    path: Path, topology: Topology
) -> None:
    """After a laptop has slept, all leases look old; ours are still ours."""
    ahead = 0.0
    lease = timedelta(seconds=60)

    def clock() -> float:
        return time.time() + ahead

    async with SqliteBroker(
        path, deadline=DEADLINE, lease=lease, clock=clock
    ) as broker:
        await broker.declare(topology)
        await broker.publish(*make_publications(2))
        async with broker.consume(DEDUPE, prefetch=1) as consumer:
            first = await receive_one(consumer)
            ahead = 3600.0

            await broker.depth(DEDUPE)
            await first.ack()

            assert (await receive_one(consumer)).envelope.body == b"1"


async def test_poison_is_dead_lettered_and_its_neighbours_are_not(
    broker: SqliteBroker,
) -> None:
    """What was fetched ahead together with poison must not be counted for it."""
    await broker.publish(*make_publications(10))
    deliveries: Counter[bytes] = Counter()
    while (await broker.depth(dead_letter_queue(DEDUPE))).ready == 0:
        consumer = broker.consume(DEDUPE, prefetch=10)
        async with consumer:
            body = b""
            while body != b"0":  # the message that takes its worker down
                delivery = await receive_next(broker, consumer)
                if delivery is None:
                    break
                body = delivery.envelope.body
                deliveries[body] += 1
                if body != b"0":
                    await delivery.ack()
            await crash(broker, consumer)

    assert deliveries[b"0"] == DELIVERY_LIMIT
    assert set(deliveries) == {str(n).encode() for n in range(10)}
    assert max(deliveries[str(n).encode()] for n in range(1, 10)) == 1
    assert (await broker.depth(dead_letter_queue(DEDUPE))).ready == 1
    assert (await broker.depth(DEDUPE)).ready == 0
    assert SUSPECT_DELIVERIES < DELIVERY_LIMIT


async def test_fetching_ahead_is_no_delivery(
    broker: SqliteBroker, other: SqliteBroker
) -> None:
    """A message that nobody received is not redelivered, however often it was near."""
    await broker.publish(*make_publications(2))
    for _ in range(DELIVERY_LIMIT + 5):
        async with broker.consume(DEDUPE, prefetch=2) as consumer:

            async def has_fetched(of: SqliteBroker = broker) -> bool:
                return (await of.depth(DEDUPE)).unacked == 2

            await eventually(has_fetched)

    async with other.consume(DEDUPE, prefetch=2) as consumer:
        deliveries = await receive(consumer, 2)
    assert [False, False] == [delivery.redelivered for delivery in deliveries]


async def test_what_was_fetched_ahead_is_forgotten_with_its_lease(
    broker: SqliteBroker, other: SqliteBroker
) -> None:
    """After standing still, a consumer does not deliver what others have now."""
    await broker.publish(*make_publications(3))
    async with broker.consume(DEDUPE, prefetch=3) as consumer:

        async def has_fetched() -> bool:
            return (await broker.depth(DEDUPE)).unacked == 3

        await eventually(has_fetched)
        await freeze(broker)
        await crash(broker, consumer)
        async with other.consume(DEDUPE, prefetch=3) as taker:
            taken = await receive(taker, 3)

            await broker._session.maintain(())  # what its upkeep does on waking up

            assert (await broker.depth(DEDUPE)).unacked == 0
            assert await receive_nothing(consumer, seconds=0.2)
            await taker.ack(taken)


async def test_consumer_that_starts_on_a_locked_file_gets_its_messages_later(
    broker: SqliteBroker, path: Path
) -> None:
    """Subscribing goes on by itself; until then the consumer is not active."""
    await broker.publish(make_publication())
    with locked(path, broker):
        consumer = broker.consume(DEDUPE, prefetch=1)
        await consumer.__aenter__()

        async def has_problem() -> bool:
            return broker.problem is not None

        await eventually(has_problem)
        assert not consumer.is_active

    await (await receive_one(consumer)).ack()
    assert consumer.is_active
    await consumer.__aexit__(None, None, None)


async def test_release_that_failed_can_be_repeated(
    broker: SqliteBroker, path: Path
) -> None:
    """As with an acknowledgement, a locked file does not settle anything."""
    await broker.publish(make_publication())
    async with broker.consume(DEDUPE, prefetch=1) as consumer:
        delivery = await receive_one(consumer)
        with locked(path, broker), pytest.raises(BrokerUnavailable):
            await delivery.release()

        await delivery.release()

        assert (await receive_one(consumer)).redelivered


async def test_locked_file_is_unavailable_in_time_and_recovers(
    broker: SqliteBroker, path: Path, topology: Topology
) -> None:
    """A stuck process holds up nobody for longer than the deadline."""
    async with (
        broker.consume(DEDUPE, prefetch=2) as consumer,
        SqliteBroker(path, deadline=HASTY) as hasty,
    ):
        await until_available(lambda: hasty.declare(topology))
        with locked(path):
            began = time.monotonic()
            with pytest.raises(BrokerUnavailable):
                await hasty.publish(make_publication())
            took = time.monotonic() - began
            assert hasty.problem is not None

        assert took < HASTY.total_seconds() + LATE_SECONDS
        # Now it is the disk that may take its time.
        _set_patience(hasty, DEADLINE)
        await hasty.publish(make_publication())
        delivery = await receive_one(consumer)
        await delivery.ack()
        await _until(lambda: hasty.problem is None)


async def test_settlement_that_failed_can_be_repeated(
    broker: SqliteBroker, path: Path
) -> None:
    """A locked file does not settle a delivery."""
    await broker.publish(make_publication())
    async with broker.consume(DEDUPE, prefetch=1) as consumer:
        delivery = await receive_one(consumer)
        with locked(path, broker), pytest.raises(BrokerUnavailable):
            await delivery.ack()

        await delivery.ack()

    assert (await broker.depth(DEDUPE)).ready == 0


async def test_problem_goes_away_without_anybody_publishing(
    broker: SqliteBroker, path: Path
) -> None:
    """Readiness must not depend on the traffic that it keeps away."""
    with locked(path, broker), pytest.raises(BrokerUnavailable):
        await broker.publish(make_publication())
    assert broker.problem is not None

    async def is_well() -> bool:
        return broker.problem is None

    await eventually(is_well)


async def test_closing_works_while_the_file_is_locked(
    broker: SqliteBroker, path: Path, topology: Topology
) -> None:
    """What could not be given back comes back when the lease has run out."""
    await broker.publish(make_publication())
    async with SqliteBroker(path, deadline=HASTY, lease=SHORT_LEASE) as hasty:
        await until_available(lambda: hasty.declare(topology))
        consumer = hasty.consume(DEDUPE, prefetch=1)
        await consumer.__aenter__()
        await receive_one(consumer)
        with locked(path):
            began = time.monotonic()
            await hasty.__aexit__(None, None, None)
            took = time.monotonic() - began

    # One deadline for the consumer, one for the file.
    assert took < 2 * HASTY.total_seconds() + LATE_SECONDS
    async with broker.consume(DEDUPE, prefetch=1) as consumer:
        assert (await receive_one(consumer)).redelivered


async def test_topology_is_declared_again_when_the_file_is_gone(
    broker: SqliteBroker, path: Path, topology: Topology
) -> None:
    """A deleted file is made anew, and consumers go on."""
    async with broker.consume(DEDUPE, prefetch=1) as consumer:
        # The file itself last: the broker notices at once, and tidies up the others.
        for suffix in ("-wal", "-shm", ""):
            path.with_name(path.name + suffix).unlink()

        publication = make_publication()
        await broker.publish(publication)

        delivery = await receive_one(consumer)
        assert publication.envelope == delivery.envelope
        await delivery.ack()
    assert [] == list(await broker.check(topology))


async def test_full_disk_refuses_and_recovers(broker: SqliteBroker) -> None:
    """Nothing half is stored, and consuming makes room again."""
    session = broker._session
    pages = await session.write(lambda c: c.pragma("page_count"))
    await session.write(lambda c: c.pragma("max_page_count", pages + 10))
    big = [make_publication(make_envelope(body=b"x" * 4000)) for _ in range(200)]

    results = await asyncio.gather(
        *(broker.publish(publication) for publication in big), return_exceptions=True
    )

    stored = results.count(None)
    failed = [result for result in results if result is not None]
    assert failed
    assert all(isinstance(result, BrokerUnavailable) for result in failed)
    assert "full" in str(failed[0])
    for publication in big:
        with contextlib.suppress(BrokerUnavailable):
            await broker.publish(publication)
            stored += 1
    assert (await broker.depth(DEDUPE)).ready == stored
    assert 0 < stored < 200
    async with broker.consume(DEDUPE, prefetch=stored) as consumer:
        await consumer.ack(await receive(consumer, stored))
    await broker.publish(make_publication())


async def test_file_of_another_kind_is_a_mismatch(
    path: Path, topology: Topology
) -> None:
    """The ledger's file is not taken for a broker."""
    async with Database(path) as ledger:
        await ledger.write(
            lambda c: migrate(c, ["CREATE TABLE x (y)"], application_id=7)
        )

    async with SqliteBroker(path, deadline=DEADLINE) as broker:
        with pytest.raises(TopologyMismatch, match="a file each"):
            await broker.declare(topology)
        assert broker.problem is not None


async def test_surplus_binding_is_a_difference(
    broker: SqliteBroker, topology: Topology
) -> None:
    """A pattern that was taken out of a subscription still delivers."""
    wider = make_topology(
        prefix=topology.prefix, patterns=("task.complete", "task.first")
    )
    await broker.declare(wider)

    (difference,) = await broker.check(topology)

    assert "task.first" in difference.text


async def test_another_process_learns_of_new_bindings(
    broker: SqliteBroker, other: SqliteBroker, topology: Topology
) -> None:
    """Routes that were worked out are thrown away when the topology changes."""
    event = make_publication(make_envelope(routing_key="task.first"), exchange="events")
    await other.publish(event)

    await broker.declare(
        make_topology(prefix=topology.prefix, patterns=("task.complete", "task.first"))
    )
    await other.publish(event)

    assert (await broker.depth("notify.orders")).ready == 1


async def test_delayed_message_without_a_target_is_kept(
    broker: SqliteBroker, topology: Topology
) -> None:
    """It waits until its queue exists, and holds up nothing that comes after it."""
    stray = topology.retry("nowhere", make_envelope(body=b"stray"), SHORT_DELAY)
    await broker.publish(stray)
    await broker.publish(*make_publications(1))
    async with broker.consume(DEDUPE, prefetch=1) as consumer:
        delivery = await receive_one(consumer)
        await delivery.retry(SHORT_DELAY, FetchFailed("503"), at=AT)

        assert (await receive_one(consumer)).envelope.body == b"0"

    assert (await broker.depth(DEDUPE)).delayed == 1


@pytest.mark.parametrize("text", ["\ud800", "key.\udfff"])
async def test_text_that_is_no_unicode_is_refused(
    broker: SqliteBroker, text: str
) -> None:
    """A lone surrogate cannot be stored, in a header or in a key."""
    for envelope in (
        make_envelope(headers={"name": text}),
        make_envelope(routing_key=text),
    ):
        with pytest.raises(PublishRefused):
            await broker.publish(make_publication(envelope))


async def test_consumers_do_not_pile_up_in_the_handle(broker: SqliteBroker) -> None:
    """A process that browses for years keeps nothing of it."""
    for _ in range(20):
        async with broker.consume(DEDUPE, prefetch=1):
            pass

    assert not broker._session.consumers
    rows = await broker._session.read(
        lambda c: c.execute("SELECT count(*) FROM consumers").get
    )
    assert rows == 0


@pytest.fixture
async def processes() -> AsyncIterator[list[asyncio.subprocess.Process]]:
    """Child processes, none of which outlives its test."""
    started: list[asyncio.subprocess.Process] = []
    yield started
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.slow
async def test_processes_share_one_file(
    path: Path, topology: Topology, processes: list[asyncio.subprocess.Process]
) -> None:
    """Two publish, three consume, one of these is killed: nothing is lost."""
    url = f"sqlite:///{path}?lease_seconds=5"
    each = 600
    seen: Counter[str] = Counter()

    async def spawn(what: str) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(Path(__file__).with_name("broker_process.py"))),
            *(url, topology.prefix, what, str(each)),
            stdout=asyncio.subprocess.PIPE,
            env={"PYTHONPATH": str(REPOSITORY)},
        )
        processes.append(process)
        return process

    async def follow(process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            seen[line.decode().strip()] += 1

    publishers = [await spawn("publish") for _ in range(2)]
    victim, *consumers = [await spawn("consume") for _ in range(3)]
    followers = [asyncio.create_task(follow(p)) for p in (victim, *consumers)]

    async def has_begun() -> bool:
        return seen.total() > each // 4

    async def is_complete() -> bool:
        # The victim may have died between an acknowledgement and its line.
        return set(seen) == expected and seen.total() >= 2 * each - BATCH

    expected = {str(number) for number in range(each)}
    await eventually(has_begun, within=30)
    victim.kill()
    codes = [await publisher.wait() for publisher in publishers]
    await eventually(is_complete, within=40)
    for process in consumers:
        process.kill()
    await asyncio.wait(followers)

    assert [0, 0] == codes
    assert 2 * each - BATCH <= seen.total() <= 2 * each + BATCH


async def test_topology_that_cannot_be_declared_again_is_told_once(
    broker: SqliteBroker, other: SqliteBroker, topology: Topology
) -> None:
    """The consumer waits for it to be mended, and does not fill the log meanwhile."""
    first, *_ = topology.exchanges
    exchanges = (replace(first, kind=ExchangeKind.DIRECT),)
    changed = replace(topology, exchanges=exchanges, queues=(), bindings=())

    def replaced(connection: apsw.Connection) -> None:
        sqlite_routing.delete(connection, topology)
        sqlite_routing.declare(connection, changed)

    async with broker.consume(DEDUPE, prefetch=1) as consumer:
        await _until(lambda: consumer.is_active)
        with capture_logs() as logs:
            # In one step, or it would be declared again in between.
            await other._session.write(replaced)
            await _until(lambda: not consumer.is_active)
            assert await receive_nothing(consumer, seconds=0.5)

        await other.delete(changed)

        await _until(lambda: consumer.is_active)
        await broker.publish(make_publication())
        await (await receive_one(consumer)).ack()
    assert ["topology_mismatch"] == [line["event"] for line in logs]


async def _until(condition: Callable[[], bool]) -> None:
    async def is_met() -> bool:
        return condition()

    await eventually(is_met)


async def test_large_bodies_are_fetched_a_few_at_a_time(broker: SqliteBroker) -> None:
    """However many may be prefetched: memory is what they would take."""
    bodies = [b"%d" % number + b"x" * 2**20 for number in range(40)]
    await broker.publish(*(make_publication(make_envelope(body=b)) for b in bodies))
    received: list[bytes] = []

    async with broker.consume(DEDUPE, prefetch=1000) as consumer:
        while len(received) < len(bodies):
            deliveries = await consumer.receive(1000)
            held = (await broker.depth(DEDUPE)).unacked
            assert held * 2**20 <= BUFFER_BYTES + CLAIM_BYTES + len(deliveries) * 2**20
            assert len(deliveries) * 2**20 <= BUFFER_BYTES + CLAIM_BYTES
            await consumer.ack(deliveries)
            received += [delivery.envelope.body for delivery in deliveries]

    assert bodies == received
