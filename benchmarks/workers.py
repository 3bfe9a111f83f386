"""The dedupe worker beside a bare aio-pika consumer that only acknowledges.

    python -m benchmarks.workers --broker-url amqp://guest:guest@127.0.0.1:5672/

Ours parses each callback, claims it in the ledger on disk, publishes its event with
a confirm, writes its log line and acknowledges; the peer acknowledges. "ours" has
no subscription, so the broker drops the events; with "ours-heard" it stores each of
them in the queue of one. All get the same bodies with the same prefetch from quorum
queues; rounds are interleaved. The clock stops when the last callback is settled.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from contextlib import (
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

import aio_pika
import uvloop

from benchmarks.broker import broker_for_benchmarks
from benchmarks.postgres import make_ledger, postgres_for_benchmarks
from benchmarks.results import (
    Results,
    Target,
    add_json_option,
    compare,
    finish,
    interleave,
    medians_of,
    number,
    table,
)
from pipeline.broker import open_broker
from pipeline.ledger import open_ledger
from pipeline.ledger.postgres import PostgresLedger
from pipeline.logs import configure_logs
from pipeline.message import OPERATION, Envelope, Publication, new_message_id
from pipeline.metrics import DELIVERIES
from pipeline.retry import RetryPolicy
from pipeline.simulator import LoadOptions, plan_load
from pipeline.topology import (
    CALLBACKS,
    DEDUPE,
    Topology,
    build_topology,
    notify_queue,
)
from pipeline.worker import Worker
from pipeline.workers.dedupe import Dedupe
from tests.postgres_node import drop_schema
from tests.rabbitmq_node import delete_topology
from tests.server_package import ServerMissing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from pipeline.broker.port import Broker
    from pipeline.ledger.port import Ledger

BATCH = 100
CONCURRENCY = 2
PREFETCH = BATCH * CONCURRENCY
#: Its queue gets every event.
SUBSCRIPTION = "archive"
LOOK_SECONDS = 0.005
WARM_UP_CALLBACKS = 1_000
#: A round that takes longer than this has failed.
ROUND_SECONDS = 120
OURS: Final = "ours"
HEARD: Final = "ours-heard"
POSTGRES: Final = "ours-postgres"
ABOUT: Final = {
    OURS: "parse, record on disk, publish with confirm, log, acknowledge",
    HEARD: "the same, and the broker stores each event for a subscription",
    POSTGRES: "as ours, recorded in PostgreSQL",
    "bare": "aio-pika that only acknowledges",
}
#: To do all that at the speed at which others do nothing.
WANTED: Final = (
    ("bare", "rate", "callbacks/s", Target(at_least=1)),
    ("bare", "cpu_per_1000", "CPU s per 1000", None),
)
#: With a server between, which has to share two cores with the broker and with us.
WANTED_ON_POSTGRES: Final = (
    ("bare", "rate", "callbacks/s", Target(at_least=0.8)),
    ("bare", "cpu_per_1000", "CPU s per 1000", None),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What one round of one case gave."""

    rate: float
    cpu_per_1000: float


def main() -> None:
    """Measure all of them and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--broker-url", help="default: a private RabbitMQ")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--callbacks", type=int, default=20_000)
    add_json_option(parser)
    options = parser.parse_args()
    results = Results()
    with ExitStack() as stack:
        stack.enter_context(logs_to_nowhere())
        url = options.broker_url or stack.enter_context(broker_for_benchmarks())
        names = list(ABOUT)
        postgres = ""
        try:
            postgres = stack.enter_context(postgres_for_benchmarks())
        except ServerMissing as missing:
            names.remove(POSTGRES)
            results.left_out[POSTGRES] = str(missing)

        def measure(name: str, number_of_round: int) -> Round:
            count = options.callbacks if number_of_round else WARM_UP_CALLBACKS
            case = _case(name, url, postgres, count)
            return uvloop.run(asyncio.wait_for(case, ROUND_SECONDS))

        rounds = interleave(
            names,
            options.rounds,
            measure,
            failed=results.failed,
            describe=lambda found: f"{found.rate:.0f}/s",
        )
    _compare(results, rounds)
    finish(results, [_table(rounds, options)], options.json)


@contextmanager
def logs_to_nowhere() -> Iterator[None]:
    """Have log lines written, since they cost time, but to nowhere."""
    with Path(os.devnull).open("w") as nowhere:
        configure_logs(form="json", stream=nowhere)
        yield


async def _case(name: str, url: str, postgres: str, count: int) -> Round:
    """Run one case in a ledger of its own."""
    if name == "bare":
        return await bare(url, count)
    if name == POSTGRES:
        place = await make_ledger(postgres)
        try:
            return await dedupe(url, count, ledger_url=place)
        finally:
            await drop_schema(place)
    with tempfile.TemporaryDirectory() as folder:
        place = f"sqlite:///{folder}/ledger.db"
        return await dedupe(url, count, ledger_url=place, is_heard=name == HEARD)


def _compare(results: Results, rounds: dict[str, list[Round]]) -> None:
    results.cases = {
        name: medians_of(found, ("rate", "cpu_per_1000"))
        for name, found in rounds.items()
    }
    for case, benchmark, wanted in (
        (OURS, "workers", WANTED),
        (HEARD, "workers, heard", WANTED),
        (POSTGRES, "workers, PostgreSQL", WANTED_ON_POSTGRES),
    ):
        results.comparisons += compare(
            benchmark,
            case,
            wanted,
            results.cases,
            failed=results.failed,
            left_out=results.left_out,
        )


def _table(rounds: dict[str, list[Round]], options: argparse.Namespace) -> str:
    rows = []
    for name, about in ABOUT.items():
        rates = [found.rate for found in rounds.get(name, ())]
        cpus = [found.cpu_per_1000 for found in rounds.get(name, ())]
        if rates:
            figures = [
                number(median(rates)),
                f"{min(rates):.0f}-{max(rates):.0f}",
                number(median(cpus)),
            ]
        else:
            figures = ["failed", "-", "-"]
        rows.append([name, about, *figures])
    title = (
        f"Workers: {options.callbacks:,} callbacks from a quorum queue, prefetch"
        f" {PREFETCH}, rounds: {options.rounds}.\n\n"
    )
    header = ["case", "what it is", "callbacks/s", "min-max", "CPU s/1000"]
    return title + table(header, rows)


async def dedupe(
    url: str,
    count: int,
    *,
    ledger_url: str,
    is_heard: bool = False,
    seed: int = 1,
) -> Round:
    """Our worker, on callbacks of which one in five is a repeat.

    Another seed gives other tasks: for a ledger that has seen those of the first.
    """
    async with (
        _topology(url, is_heard=is_heard) as topology,
        open_broker(url, deadline=timedelta(seconds=30)) as broker,
        open_ledger(ledger_url) as ledger,
    ):
        await broker.declare(topology)
        callbacks = plan_load(LoadOptions(callbacks=count, seed=seed))
        publications = [_publication(c.body, c.stage) for c in callbacks]
        for start in range(0, count, 1000):
            await broker.publish(*publications[start : start + 1000])
        worker = _worker(broker, ledger)
        before = await _recorded(ledger_url)
        stopping = asyncio.Event()
        started, cpu = time.perf_counter(), time.process_time()
        goal = _settled() + count
        running = asyncio.create_task(worker.run(stopping))
        # A look at a counter of this process: nothing that is measured is asked.
        while _settled() < goal and not running.done():
            await asyncio.wait({running}, timeout=LOOK_SECONDS)
        elapsed, spent = time.perf_counter() - started, time.process_time() - cpu
        stopping.set()
        await running
        await _check(
            broker, before, await _recorded(ledger_url), count, is_heard=is_heard
        )
    return Round(rate=count / elapsed, cpu_per_1000=spent / count * 1000)


def _worker(broker: Broker, ledger: Ledger) -> Worker:
    return Worker(
        broker,
        DEDUPE,
        Dedupe(ledger, clock=lambda: datetime.now(UTC)).handle,
        deadline=timedelta(seconds=30),
        policy=RetryPolicy(),
        concurrency=CONCURRENCY,
        batch_size=BATCH,
    )


async def bare(url: str, count: int) -> Round:
    """aio-pika as its tutorial shows: acknowledge each message, do nothing else."""
    bodies = [c.body for c in plan_load(LoadOptions(callbacks=count))]
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(await aio_pika.connect(url))
        channel = await connection.channel()
        queue = await channel.declare_queue(
            f"bench.bare.{time.time_ns()}",
            durable=True,
            arguments={"x-queue-type": "quorum"},
        )
        stack.push_async_callback(queue.delete, if_unused=False, if_empty=False)
        for start in range(0, count, 500):
            await asyncio.gather(
                *(
                    channel.default_exchange.publish(
                        aio_pika.Message(body, delivery_mode=2), queue.name
                    )
                    for body in bodies[start : start + 500]
                )
            )
        await channel.set_qos(PREFETCH)
        seen = 0
        done = asyncio.Event()

        async def acknowledge(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            nonlocal seen
            await message.ack()
            seen += 1
            if seen == count:
                done.set()

        started, cpu = time.perf_counter(), time.process_time()
        tag = await queue.consume(acknowledge)
        await done.wait()
        elapsed, spent = time.perf_counter() - started, time.process_time() - cpu
        await queue.cancel(tag)
    return Round(rate=count / elapsed, cpu_per_1000=spent / count * 1000)


def _settled() -> int:
    """Count what the worker has settled, whatever the outcome; after the broker."""
    return sum(
        int(sample.value)
        for metric in DELIVERIES.collect()
        for sample in metric.samples
        if sample.name.endswith("_total") and sample.labels["queue"] == DEDUPE
    )


async def _recorded(ledger_url: str) -> tuple[int, int]:
    """Count events and repeats, however long that takes where there are millions."""
    if not ledger_url.startswith("postgresql"):
        async with open_ledger(ledger_url) as ledger:
            totals = await ledger.totals()
    else:
        async with PostgresLedger(ledger_url, deadline=timedelta(minutes=5)) as ledger:
            totals = await ledger.totals()
    return totals.updates, totals.duplicates


async def _check(
    broker: Broker,
    before: tuple[int, int],
    after: tuple[int, int],
    count: int,
    *,
    is_heard: bool,
) -> None:
    """Make sure that what was measured is what should have been done.

    Raises:
        RuntimeError: callbacks or events are missing.
    """
    updates, duplicates = after[0] - before[0], after[1] - before[1]
    queue = notify_queue(SUBSCRIPTION)
    stored = (await broker.depth(queue)).ready if is_heard else 0
    events = updates if is_heard else 0
    left = (await broker.depth(DEDUPE)).ready
    done = updates + duplicates
    if (done, stored, left) != (count, events, 0):
        message = (
            f"expected {count} callbacks recorded, {events} events stored and"
            f" nothing left, got {done}, {stored} and {left}"
        )
        raise RuntimeError(message)


def _publication(body: bytes, stage: str) -> Publication:
    envelope = Envelope(
        body=body,
        routing_key=f"callback.upload-extend.{stage}",
        message_id=new_message_id(),
        headers={OPERATION: "upload-extend"},
        published_at=datetime.now(UTC),
    )
    return Publication(exchange=CALLBACKS, envelope=envelope)


@asynccontextmanager
async def _topology(url: str, *, is_heard: bool) -> AsyncIterator[Topology]:
    """Give names of our own, and delete what is under them."""
    topology = build_topology(
        prefix=f"bench-{os.getpid()}-{time.time_ns()}",
        subscriptions={SUBSCRIPTION: ["#"]} if is_heard else {},
    )
    try:
        yield topology
    finally:
        await delete_topology(url, topology)


if __name__ == "__main__":
    main()
