"""How fast dead letters are listed and replayed, and how much memory that takes.

    python -m benchmarks.replay                                  # SQLite
    python -m benchmarks.replay --broker-url amqp://guest:guest@127.0.0.1/

Fills a queue under a prefix of its own, then runs the command line as a user would,
once on few and once on many dead letters: the peak memory of both should be close.
Last comes a replay at a given rate, and how far it was from that.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import aio_pika

from benchmarks.results import (
    Comparison,
    Results,
    Target,
    add_json_option,
    finish,
    number,
    reason,
    table,
)
from pipeline.broker import open_broker
from pipeline.dead_letters import Selection, replay
from pipeline.errors import Reject
from pipeline.logs import configure_logs
from pipeline.message import TASK_ID, Envelope, failed, new_message_id
from pipeline.topology import (
    DOWNLOAD,
    Topology,
    build_topology,
    dead_letter,
    dead_letter_queue,
)

if TYPE_CHECKING:
    from pipeline.broker.port import Broker
    from pipeline.dead_letters import Progress
    from pipeline.message import Publication

ROOT = Path(__file__).parent.parent
#: Beside the many: to see that memory does not grow with them.
FEW = 2_000
#: Asked for, of a second; and replayed at that rate.
RATE = 500
PACED = 2_000
BODY = b'{"code": 200, "data": "' + b"x" * 2_200 + b'"}'
DEADLINE = timedelta(seconds=30)
#: Memory does not grow with the number of letters; a rate is kept.
FLAT = Target(at_most=1.25)
KEPT = Target(at_least=0.95, at_most=1.05)
FAST = Target(at_least=1_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one run of the command line took."""

    command: str
    messages: int
    seconds: float
    peak_mib: float

    @property
    def rate(self) -> float:
        """Messages a second, with the start of the process."""
        return self.messages / self.seconds


def measure(command: str, environ: dict[str, str], count: int) -> Measured:
    """Run ``pipeline dead-letters`` in a process of its own.

    Raises:
        RuntimeError: it failed, or did not see every dead letter.
    """
    arguments = [sys.executable, "-m", "pipeline", "dead-letters", command, "--json"]
    with tempfile.TemporaryFile() as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            arguments, stdout=output, env=os.environ | environ, cwd=ROOT
        )
        peak_mib = 0.0
        while process.poll() is None:
            peak_mib = max(peak_mib, peak_of(process.pid))
            time.sleep(0.02)
        seconds = time.perf_counter() - started
        output.seek(0)
        seen = sum(1 for line in output if line.startswith(b"{"))
        if command == "replay":
            output.seek(0)
            seen = json.load(output)["replayed"]
    if process.returncode or seen != count:
        message = f"expected {count} dead letters, {command} gave {seen}"
        raise RuntimeError(message)
    return Measured(
        command=command,
        messages=count,
        seconds=seconds,
        peak_mib=peak_mib,
    )


def peak_of(process_id: int) -> float:
    """Read the peak memory of a process, in MiB; 0 once it has ended.

    The figure of ``wait4`` would not do: a child inherits that of its parent.
    """
    status = Path(f"/proc/{process_id}/status").read_text(encoding="ascii")
    lines = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(lines[0].split()[1]) / 1024 if lines else 0.0


async def fill(broker: Broker, count: int) -> None:
    """Publish ``count`` dead letters."""
    for start in range(0, count, 1000):
        await broker.publish(
            *(make_letter(n) for n in range(start, min(start + 1000, count)))
        )


def make_letter(number: int) -> Publication:
    """Make a dead letter such as the download worker leaves."""
    envelope = Envelope(
        body=BODY,
        routing_key="asset.requested",
        message_id=new_message_id(),
        headers={TASK_ID: f"task-{number}"},
        attempt=7,
    )
    noted = failed(
        envelope, queue=DOWNLOAD, error=Reject("too large"), at=datetime.now(UTC)
    )
    return dead_letter(DOWNLOAD, noted)


async def prepare(url: str, topology: Topology, count: int) -> float:
    """Fill up and return how long that took; what an earlier round left is counted."""
    async with open_broker(url, deadline=DEADLINE) as broker:
        await broker.declare(topology)
        left = (await broker.depth(dead_letter_queue(DOWNLOAD))).ready
        started = time.perf_counter()
        await fill(broker, count - left)
        return time.perf_counter() - started


async def paced_rate(url: str, topology: Topology) -> float:
    """Replay at ``RATE`` and give the rate there was, start-up not counted."""
    noted: list[tuple[float, int]] = []

    def note(progress: Progress) -> None:
        noted.append((time.perf_counter(), progress.matched))

    async with open_broker(url, deadline=DEADLINE) as broker:
        await broker.declare(topology)
        await replay(broker, [DOWNLOAD], Selection(), rate=RATE, on_progress=note)
    (start, first), (end, last) = noted[0], noted[-1]
    if last != PACED:
        message = f"expected {PACED} dead letters replayed, got {last}"
        raise RuntimeError(message)
    return (last - first) / (end - start)


def run(url: str, messages: int) -> tuple[list[Measured], float]:
    """Measure both commands on few and on many dead letters, and a paced replay."""
    prefix = f"bench-{uuid.uuid4().hex[:8]}"
    topology = build_topology(prefix=prefix)
    environ = {"PIPELINE_BROKER_URL": url, "PIPELINE_BROKER__PREFIX": prefix}
    found = []
    try:
        for count in (FEW, messages):
            seconds = asyncio.run(prepare(url, topology, count))
            print(f"# {count:,} dead letters made in {seconds:.1f} s", file=sys.stderr)
            found += [measure(c, environ, count) for c in ("list", "replay")]
        asyncio.run(prepare(url, topology, PACED))
        rate = asyncio.run(paced_rate(url, topology))
    finally:
        if url.startswith("amqp"):
            asyncio.run(delete(url, topology))
    return found, rate


async def delete(url: str, topology: Topology) -> None:
    """Delete what was made on RabbitMQ."""
    async with await aio_pika.connect(url) as connection:
        channel = await (await connection.channel()).get_underlay_channel()
        for queue in topology.queues:
            await channel.queue_delete(topology.queue_name(queue.name))
        for exchange in topology.exchanges:
            await channel.exchange_delete(topology.exchange_name(exchange.name))


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--broker-url", help="default: the embedded broker")
    add_json_option(parser)
    options = parser.parse_args()
    if options.messages <= FEW:
        parser.error(f"expected --messages above {FEW}, got {options.messages}")
    configure_logs(level="ERROR", form="text", stream=sys.stderr)
    results = Results()
    found: list[Measured] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        url = options.broker_url or f"sqlite:///{folder}/broker.db"
        broker = "RabbitMQ" if url.startswith("amqp") else "embedded"
        try:
            found, rate = run(url, options.messages)
        except Exception as error:  # noqa: BLE001  shown as failed, whatever it was
            traceback.print_exc()
            results.failed["all"] = reason(error)
        else:
            results.comparisons = _comparisons(f"replay, {broker}", found, rate)
    results.cases = {
        f"{one.command} {one.messages}": {
            "rate": one.rate,
            "peak_mib": one.peak_mib,
        }
        for one in found
    }
    finish(results, [_table(broker, found)], options.json)


def _comparisons(name: str, found: list[Measured], rate: float) -> list[Comparison]:
    """Set many beside few, and the rate there was beside the one asked for."""
    peaks = {(one.command, one.messages > FEW): one.peak_mib for one in found}
    memory = [
        Comparison(
            benchmark=name,
            figure=f"{command}, peak MiB of many",
            ours=peaks[command, True],
            peer=f"{FEW:,} letters",
            theirs=peaks[command, False],
            target=FLAT,
        )
        for command in ("list", "replay")
    ]
    paced = Comparison(
        benchmark=name,
        figure=f"replay --rate {RATE}, per s",
        ours=rate,
        peer="asked for",
        theirs=RATE,
        target=KEPT,
    )
    many = max(found, key=lambda one: (one.command == "replay", one.messages))
    fast = Comparison(
        benchmark=name,
        figure=f"replay of {many.messages:,}, per s",
        ours=many.rate,
        target=FAST,
    )
    return [fast, *memory, paced]


def _table(broker: str, found: list[Measured]) -> str:
    rows = [
        [
            one.command,
            f"{one.messages:,}",
            number(one.seconds),
            number(one.rate),
            number(one.peak_mib),
        ]
        for one in found
    ]
    title = (
        f"Dead letters on the {broker} broker: `pipeline dead-letters`, with the start"
        " of its process.\n\n"
    )
    header = ["command", "letters", "seconds", "letters/s", "peak MiB"]
    return title + (table(header, rows) if rows else "failed")


if __name__ == "__main__":
    main()
