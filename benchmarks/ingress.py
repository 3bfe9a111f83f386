"""The ingress beside its peers: POST, stored on disk, 200.

    python -m benchmarks.ingress --broker-url amqp://guest:guest@127.0.0.1:5672/
    python -m benchmarks.ingress --only ours naive --rounds 1 --seconds 1

All but "ours-embedded" and "no-op" publish persistent messages with a confirm to a
quorum queue. Needs wrk; the fastify peer needs node and npm, and is left out with a
line that says so where they are missing.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import aio_pika

from benchmarks.broker import broker_for_benchmarks
from benchmarks.ingress_cases import HERE, PREFIX, QUEUE, Case, LeftOut, cases
from benchmarks.measure import Sample, Server, wrk
from benchmarks.results import (
    Results,
    Target,
    add_json_option,
    compare,
    finish,
    interleave,
    medians_of,
    number,
    reason,
    table,
)
from pipeline.topology import build_topology
from tests.rabbitmq_node import delete_topology

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

FIELDS: Final = ("rate", "p50_ms", "p99_ms", "cpu_per_1000", "rss_mb")
RATE, CPU, P99, RSS = "requests/s", "CPU s per 1000", "p99 ms", "memory MB"
#: What ours is held to: peer, field, figure, target.
WANTED: Final = (
    ("naive", "rate", RATE, Target(at_least=3.5)),
    ("naive", "cpu_per_1000", CPU, Target(at_most=0.25)),
    ("naive", "p99_ms", P99, Target(at_most=0.4)),
    ("tuned", "rate", RATE, None),
    ("tuned", "cpu_per_1000", CPU, None),
    ("tuned", "p99_ms", P99, None),
    ("fastapi", "rate", RATE, None),
    ("fastapi", "cpu_per_1000", CPU, None),
    ("fastify", "rate", RATE, Target(at_least=1)),
    ("fastify", "cpu_per_1000", CPU, None),
    ("fastify", "rss_mb", RSS, None),
    ("no-op", "cpu_per_1000", CPU, None),
)
#: The same on the embedded broker: an fsync is behind each answer.
EMBEDDED_WANTED: Final = (("no-op", "rate", RATE, Target(at_least=0.4)),)
WARM_UP_SECONDS: Final = 1.0


def main() -> None:
    """Measure every case that was asked for and print the tables."""
    options = _options()
    results = Results()
    with ExitStack() as stack:
        url = options.broker_url or stack.enter_context(broker_for_benchmarks())
        asyncio.run(_declare_queue(url))
        stack.callback(lambda: asyncio.run(_delete(url)))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        chosen = _chosen(cases(url, folder), options.only)
        servers = _start(chosen, stack, results)
        samples = interleave(
            list(servers),
            options.rounds,
            _measure(url, {case.name: case for case in chosen}, servers, options),
            failed=results.failed,
            describe=lambda sample: f"{sample.rate:.0f}/s",
        )
    results.cases = {name: medians_of(own, FIELDS) for name, own in samples.items()}
    for name, wanted in (("ours", WANTED), ("ours-embedded", EMBEDDED_WANTED)):
        results.comparisons += compare(
            "ingress" if name == "ours" else "ingress, embedded",
            name,
            wanted,
            results.cases,
            failed=results.failed,
            left_out=results.left_out,
        )
    finish(results, [_table(chosen, samples, results, options)], options.json)


def _measure(
    url: str,
    by_name: Mapping[str, Case],
    servers: Mapping[str, Server],
    options: argparse.Namespace,
) -> Callable[[str, int], Sample]:
    """Give what takes one sample of a case."""

    def measure(name: str, number_of_round: int) -> Sample:
        case = by_name[name]
        sample = wrk(
            servers[name],
            case.path,
            script=HERE / "post.lua",
            connections=options.connections,
            seconds=options.seconds if number_of_round else WARM_UP_SECONDS,
        )
        if case.queue:
            asyncio.run(_purge(url, case.queue))
        return sample

    return measure


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--broker-url", help="default: a private RabbitMQ")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4, help="of one round")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--only", nargs="+", help="names of cases, such as ours naive")
    add_json_option(parser)
    return parser.parse_args()


def _chosen(known: Sequence[Case], names: list[str] | None) -> Sequence[Case]:
    unknown = set(names or ()) - {case.name for case in known}
    if unknown:
        all_names = ", ".join(case.name for case in known)
        sys.exit(f"expected names of {all_names}; got {', '.join(sorted(unknown))}")
    return [case for case in known if not names or case.name in names]


def _start(
    chosen: Sequence[Case], stack: ExitStack, results: Results
) -> dict[str, Server]:
    """Start every server; note what failed and what cannot run here."""
    servers = {}
    for case in chosen:
        try:
            servers[case.name] = case.start(stack)
        except LeftOut as error:
            results.left_out[case.name] = str(error)
        except Exception as error:  # noqa: BLE001  the others go on, whatever it was
            results.failed[case.name] = reason(error)
    return servers


async def _declare_queue(url: str) -> None:
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        await channel.declare_queue(
            QUEUE, durable=True, arguments={"x-queue-type": "quorum"}
        )


async def _purge(url: str, queue: str) -> None:
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        await (await channel.get_queue(queue, ensure=False)).purge()


async def _delete(url: str) -> None:
    """Leave nothing on a broker that is not ours; what is not there is no error."""
    await delete_topology(url, build_topology(prefix=PREFIX))
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        await channel.queue_delete(QUEUE)


def _table(
    chosen: Sequence[Case],
    samples: dict[str, list[Sample]],
    results: Results,
    options: argparse.Namespace,
) -> str:
    rows = []
    for case in chosen:
        own = samples.get(case.name)
        if not own:
            why = "failed" if case.name in results.failed else "left out"
            rows.append([case.name, case.about, why, *["-"] * 6])
            continue
        medians = medians_of(own, FIELDS)
        rates = [sample.rate for sample in own]
        rows.append(
            [
                case.name,
                case.about,
                number(medians["rate"]),
                f"{min(rates):.0f}-{max(rates):.0f}",
                number(medians["cpu_per_1000"]),
                number(medians["p50_ms"]),
                number(medians["p99_ms"]),
                number(medians["rss_mb"]),
                str(sum(s.errors for s in own)),
            ]
        )
    title = (
        f"Ingress: POST a callback of 2.3 kB, stored on disk before the answer;"
        f" {options.connections} connections,\n"
        f"rounds of {options.seconds:g} s: {options.rounds}. CPU is that of the"
        " process that takes callbacks.\n\n"
    )
    columns = ["requests/s", "min-max", "CPU s/1000", "p50 ms", "p99 ms", "MB"]
    return title + table(["case", "what it is", *columns, "errors"], rows)


if __name__ == "__main__":
    main()
