"""Publishing alone, beside aio-pika: persistent, mandatory, confirmed one by one.

    python -m benchmarks.publish --broker-url amqp://guest:guest@127.0.0.1:5672/

So many callers publish a message each and wait for its confirm, over and over, as
the requests to an ingress do. Both send the same body with the same headers to a
quorum queue, from one process on uvloop; rounds are interleaved.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import aio_pika
import uvloop

from benchmarks.broker import broker_for_benchmarks
from benchmarks.results import (
    Results,
    add_json_option,
    compare,
    finish,
    interleave,
    medians_of,
    number,
    table,
)
from pipeline.broker import open_broker
from pipeline.logs import configure_logs
from pipeline.message import Envelope, Publication, new_message_id
from pipeline.topology import CALLBACKS, DEDUPE, build_topology
from tests.rabbitmq_node import delete_topology

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from pipeline.topology import Topology

BODY: Final = b'{"code": 200, "data": "' + b"x" * 2_200 + b'"}'
ROUTING_KEY: Final = "callback.upload-extend.complete"
HEADERS: Final = {"task-id": "5c79be8e", "operation": "upload-extend"}
DEADLINE: Final = timedelta(seconds=30)
#: A round that takes longer than this has failed.
ROUND_SECONDS: Final = 120
WARM_UP_MESSAGES: Final = 1_000
OURS: Final = "ours"
ABOUT: Final = {
    OURS: "Broker.publish of the RabbitMQ adapter",
    "aio-pika": "exchange.publish on one channel with confirms",
}
WANTED: Final = (
    ("aio-pika", "rate", "messages/s", None),
    ("aio-pika", "cpu_per_1000", "CPU s per 1000", None),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What one round of one case gave."""

    rate: float
    cpu_per_1000: float


def main() -> None:
    """Measure both and print the tables."""
    options = _options()
    configure_logs(level="ERROR", form="text", stream=sys.stderr)
    results = Results()
    with ExitStack() as stack:
        url = options.broker_url or stack.enter_context(broker_for_benchmarks())

        def measure(name: str, number_of_round: int) -> Round:
            count = options.messages if number_of_round else WARM_UP_MESSAGES
            case = ours if name == OURS else peer
            running = case(url, count, options.callers)
            return uvloop.run(asyncio.wait_for(running, ROUND_SECONDS))

        rounds = interleave(
            list(ABOUT),
            options.rounds,
            measure,
            failed=results.failed,
            describe=lambda found: f"{found.rate:.0f}/s",
        )
    results.cases = {
        name: medians_of(found, ("rate", "cpu_per_1000"))
        for name, found in rounds.items()
    }
    results.comparisons = compare(
        "publish", OURS, WANTED, results.cases, failed=results.failed
    )
    finish(results, [_table(rounds, results, options)], options.json)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--broker-url", help="default: a private RabbitMQ")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--callers", type=int, default=64, help="at the same time")
    add_json_option(parser)
    return parser.parse_args()


async def ours(url: str, count: int, callers: int) -> Round:
    """Publish by way of the port."""
    envelope = Envelope(
        body=BODY,
        routing_key=ROUTING_KEY,
        message_id=new_message_id(),
        headers=HEADERS,
        published_at=datetime.now(UTC),
    )
    publication = Publication(exchange=CALLBACKS, envelope=envelope)
    async with (
        _topology(url) as topology,
        open_broker(url, deadline=DEADLINE) as broker,
    ):
        await broker.declare(topology)
        found = await _timed(lambda: broker.publish(publication), count, callers)
        stored = (await broker.depth(DEDUPE)).ready
    if stored != count:
        raise RuntimeError(f"expected {count} messages stored, got {stored}")
    return found


async def peer(url: str, count: int, callers: int) -> Round:
    """Publish with aio-pika, to the same topology."""
    async with (
        _topology(url) as topology,
        open_broker(url, deadline=DEADLINE) as broker,
        await aio_pika.connect(url) as connection,
    ):
        await broker.declare(topology)
        channel = await connection.channel(on_return_raises=True)
        name = topology.exchange_name(CALLBACKS)
        exchange = await channel.get_exchange(name, ensure=False)

        async def publish() -> None:
            message = aio_pika.Message(
                BODY,
                headers=dict(HEADERS),
                message_id=new_message_id(),
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            )
            await exchange.publish(message, ROUTING_KEY, mandatory=True)

        return await _timed(publish, count, callers)


async def _timed(
    publish: Callable[[], Awaitable[object]], count: int, callers: int
) -> Round:
    """Share ``count`` calls among so many callers."""
    left = iter(range(count))

    async def call() -> None:
        for _ in left:
            await publish()

    started, cpu = time.perf_counter(), time.process_time()
    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(call())
    elapsed, spent = time.perf_counter() - started, time.process_time() - cpu
    return Round(rate=count / elapsed, cpu_per_1000=spent / count * 1000)


@asynccontextmanager
async def _topology(url: str) -> AsyncIterator[Topology]:
    """Give names of our own, and delete what is under them."""
    topology = build_topology(prefix=f"bench-{time.time_ns()}")
    try:
        yield topology
    finally:
        await delete_topology(url, topology)


def _table(
    rounds: dict[str, list[Round]], results: Results, options: argparse.Namespace
) -> str:
    rows = []
    for name, about in ABOUT.items():
        medians = results.cases.get(name)
        if medians is None:
            rows.append([name, about, "failed", "-", "-"])
            continue
        rates = [found.rate for found in rounds[name]]
        rows.append(
            [
                name,
                about,
                number(medians["rate"]),
                f"{min(rates):.0f}-{max(rates):.0f}",
                number(medians["cpu_per_1000"]),
            ]
        )
    title = (
        f"Publish: {options.messages:,} messages of 2.3 kB to a quorum queue,"
        f" {options.callers} in flight, rounds: {options.rounds}.\n\n"
    )
    header = ["case", "what it is", "messages/s", "min-max", "CPU s/1000"]
    return title + table(header, rows)


if __name__ == "__main__":
    main()
