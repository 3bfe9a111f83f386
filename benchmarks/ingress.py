"""The ingress beside its peers: POST, stored on disk, 200.

    python -m benchmarks.ingress --broker-url amqp://guest:guest@127.0.0.1:5672/

"ours" and the peers publish with a confirm to a quorum queue; "ours, embedded" is the
same on the SQLite broker, with fsync; "no-op" stores nothing. Ours has token check,
parsing and metrics switched on. Rounds are interleaved (A B C A B C …), so that a
change in the machine's speed meets every case alike. Needs wrk; the fastify peer needs
node and npm, and is left out with a line that says so where they are missing.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import aio_pika

from benchmarks.broker import broker_for_benchmarks
from benchmarks.measure import Sample, Server, free_port, median, spread, table, wrk

HERE = Path(__file__).parent
TOKEN = "0123456789abcdef0123456789abcdef"
QUEUE = "bench.ingress"
PREFIX = "bench-ingress"


def main() -> None:
    """Measure every case and print the table."""
    options = _options()
    with ExitStack() as stack:
        url = options.broker_url or stack.enter_context(broker_for_benchmarks())
        asyncio.run(_declare_queue(url))
        servers = _start_servers(stack, url, options.only)
        samples: dict[str, list[Sample]] = {name: [] for name, *_ in servers}
        for number in range(options.rounds + 1):
            for name, server, path in servers:
                sample = wrk(
                    server,
                    path,
                    script=HERE / "post.lua",
                    connections=options.connections,
                    seconds=options.seconds if number else 1,
                )
                asyncio.run(_empty_queues(url))
                if number:  # the first round only warms up
                    samples[name].append(sample)
                print(f"round {number} {name}: {sample.rate:.0f}/s", file=sys.stderr)
        print(_report(samples, options.connections))
        if {"ours, embedded", "no-op"} <= samples.keys():
            ratio = median(samples["ours, embedded"], "rate") / median(
                samples["no-op"], "rate"
            )
            print(f"\nembedded broker, rate beside a no-op: {ratio:.2f}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--broker-url", help="default: a private RabbitMQ")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--only", nargs="*", help="names of cases, such as ours naive")
    return parser.parse_args()


def _start_servers(
    stack: ExitStack, url: str, only: list[str] | None
) -> list[tuple[str, Server, str]]:
    peer = {"BENCH_BROKER_URL": url, "BENCH_QUEUE": QUEUE}
    path = "/callbacks/upload-extend"
    python = [sys.executable, "-m"]
    cases: dict[str, tuple[list[str], dict[str, str], Path | None, str]] = {
        "ours": (
            [*python, "pipeline", "ingress"],
            {
                "PIPELINE_BROKER_URL": url,
                "PIPELINE_BROKER__PREFIX": PREFIX,
                "PIPELINE_INGRESS__TOKENS": TOKEN,
            },
            None,
            f"{path}/{TOKEN}",
        ),
        "ours, embedded": (
            [*python, "pipeline", "ingress"],
            {
                "PIPELINE_BROKER_URL": f"sqlite:///{stack.enter_context(_folder())}/b",
                "PIPELINE_INGRESS__TOKENS": TOKEN,
            },
            None,
            f"{path}/{TOKEN}",
        ),
        "no-op": ([*python, "benchmarks.peers.noop"], {}, None, path),
        "naive": ([*python, "benchmarks.peers.naive"], peer, None, path),
        "fastapi": ([*python, "benchmarks.peers.fastapi_faststream"], peer, None, path),
    }
    if (folder := _fastify(stack)) is not None:
        cases["fastify"] = (["node", "server.js"], peer, folder, path)
    servers = []
    for name, (command, environment, folder, address) in cases.items():
        if only and name not in only:
            continue
        port = free_port()
        if name.startswith("ours"):
            environment["PIPELINE_INGRESS__PORT"] = str(port)
        else:
            command.append(str(port))
        server = Server(command, port=port, environment=environment, cwd=folder)
        stack.callback(server.close)
        servers.append((name, server, address))
    return servers


def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="bench-")


def _fastify(stack: ExitStack) -> Path | None:
    """Install the node peer into a temporary folder."""
    if not shutil.which("node") or not shutil.which("npm"):
        print("fastify is left out: node and npm are not installed", file=sys.stderr)
        return None
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    for name in ("package.json", "server.js"):
        shutil.copy(HERE / "peers" / "fastify" / name, folder)
    command = ["npm", "install", "--silent", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=folder, check=False)
    if done.returncode:
        print("fastify is left out: npm install failed", file=sys.stderr)
        return None
    return folder


async def _declare_queue(url: str) -> None:
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        await channel.declare_queue(
            QUEUE, durable=True, arguments={"x-queue-type": "quorum"}
        )


async def _empty_queues(url: str) -> None:
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        for name in (QUEUE, f"{PREFIX}.v1.dedupe"):
            queue = await channel.get_queue(name, ensure=False)
            await queue.purge()


def _report(samples: dict[str, list[Sample]], connections: int) -> str:
    base = samples.get("naive") or next(iter(samples.values()))
    rows = []
    for name, own in samples.items():
        rate, cpu, p99 = (median(own, f) for f in ("rate", "cpu_per_1000", "p99_ms"))
        rows.append(
            [
                name,
                f"{rate:.0f}",
                spread(own, "rate"),
                f"{rate / median(base, 'rate'):.2f}",
                f"{cpu:.4f}",
                f"{cpu / median(base, 'cpu_per_1000'):.2f}",
                f"{median(own, 'p50_ms'):.1f}",
                f"{p99:.1f}",
                f"{p99 / median(base, 'p99_ms'):.2f}",
                f"{max(s.rss_mb for s in own):.0f}",
                str(sum(s.errors for s in own)),
            ]
        )
    header = [
        f"ingress, {connections} connections",
        "req/s",
        "min-max",
        "x naive",
        "CPU s/1000",
        "x naive",
        "p50 ms",
        "p99 ms",
        "x naive",
        "RSS MB",
        "errors",
    ]
    return table(header, rows)


if __name__ == "__main__":
    main()
