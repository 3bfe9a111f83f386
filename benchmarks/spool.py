"""The outage spool: callbacks while the broker is away, and draining when it is back.

    python -m benchmarks.spool [--rounds N] [--seconds S]

One ingress and one private RabbitMQ. In each round: callbacks with the broker up,
the same with the broker stopped, then the broker comes back and the time is taken
until the spool is empty, while a caller goes on with 200 callbacks a second. Beside
it stands what publishing alone reaches with 64 callers (``benchmarks.publish``).
Needs wrk, and rabbitmq-server: a broker somewhere else could not be stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import aiohttp
import uvloop

from benchmarks.ingress_cases import HERE, cases
from benchmarks.measure import Sample, Server, wrk
from benchmarks.publish import ours as publish
from benchmarks.results import (
    Comparison,
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
from pipeline.logs import configure_logs
from pipeline.settings import SpoolSettings
from tests.rabbitmq_install import find_server
from tests.rabbitmq_node import RabbitNode, started_node

if TYPE_CHECKING:
    from collections.abc import Callable

UP: Final = "broker up"
DOWN: Final = "broker down"
DRAIN: Final = "draining"
PUBLISH: Final = "publish alone"
ABOUT: Final = {
    UP: "each callback is on RabbitMQ before the answer",
    DOWN: "RabbitMQ is stopped: each is in the spool before the answer",
    DRAIN: "RabbitMQ is back: from the spool to it, beside 200 new ones a second",
    PUBLISH: "messages straight to RabbitMQ, 64 callers",
}
FIELDS: Final = ("rate", "p50_ms", "p99_ms")
CONNECTIONS: Final = 64
#: What goes on coming while the spool is drained.
NEW_PER_SECOND: Final = 200
#: An outage of half an hour at that rate.
OUTAGE_CALLBACKS: Final = 30 * 60 * NEW_PER_SECOND
PUBLISH_MESSAGES: Final = 10_000
WARM_UP_SECONDS: Final = 1.0
#: The longest for the broker, and for the spool to get empty.
PATIENCE_SECONDS: Final = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What one round of one case gave."""

    rate: float
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    #: What one callback takes in the spool.
    spooled_bytes: float = 0.0

    @classmethod
    def of(cls, sample: Sample, spooled_bytes: float = 0.0) -> Found:
        """Take what wrk has found."""
        return cls(
            rate=sample.rate,
            p50_ms=sample.p50_ms,
            p99_ms=sample.p99_ms,
            spooled_bytes=spooled_bytes,
        )


def main() -> None:
    """Measure and print the tables."""
    options = _options()
    configure_logs(level="ERROR", form="text", stream=sys.stderr)
    results = Results()
    find_server("rabbitmq-server")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        (folder / "node").mkdir()
        node = stack.enter_context(started_node(folder / "node"))
        (case,) = [c for c in cases(node.url, folder) if c.name == "ours"]
        outage = Outage(node, case.start(stack), case.path, options.seconds)
        samples = interleave(
            list(ABOUT),
            options.rounds,
            outage.measure,
            failed=results.failed,
            describe=lambda found: f"{found.rate:.0f}/s",
        )
    results.cases = {name: medians_of(own, FIELDS) for name, own in samples.items()}
    results.comparisons = _comparisons(results, samples.get(DOWN, []))
    finish(results, [_table(results, options)], options.json)


class Outage:
    """One ingress whose broker is stopped and started."""

    def __init__(
        self, node: RabbitNode, server: Server, path: str, seconds: float
    ) -> None:
        self._node = node
        self._server = server
        self._seconds = seconds
        self._address = f"http://127.0.0.1:{server.port}"
        self._path = path

    def measure(self, name: str, number_of_round: int) -> Found:
        """Take one sample of a case; they come in the order of ``ABOUT``."""
        take: dict[str, Callable[[float], Found]] = {
            UP: self._up,
            DOWN: self._down,
            DRAIN: self._drain,
            PUBLISH: self._publish,
        }
        return take[name](self._seconds if number_of_round else WARM_UP_SECONDS)

    def _up(self, seconds: float) -> Found:
        self._wait_until(lambda spool: not spool["messages"])
        return Found.of(self._load(seconds))

    def _down(self, seconds: float) -> Found:
        self._node.stop_app()
        # The first callbacks wait for a confirm; then nobody asks the broker.
        self._load(WARM_UP_SECONDS)
        sample = self._load(seconds)
        spool = self._spool()
        return Found.of(sample, spool["used_bytes"] / max(1, spool["messages"]))

    def _drain(self, seconds: float) -> Found:  # noqa: ARG002  as long as it takes
        return asyncio.run(self._drained())

    async def _drained(self) -> Found:
        waiting = self._spool()["messages"]
        await asyncio.to_thread(self._node.start_app)
        calling = asyncio.create_task(self._go_on_calling())
        began = ended = time.monotonic()
        while (left := (await asyncio.to_thread(self._spool))["messages"]) > 0:
            ended = time.monotonic()
            if left >= waiting:
                began = ended  # the way to the broker is not open again yet
            if ended - began > PATIENCE_SECONDS or calling.done():
                break
            await asyncio.sleep(0.05)
        calling.cancel()
        result = (await asyncio.gather(calling, return_exceptions=True))[0]
        if left or not isinstance(result, asyncio.CancelledError):
            raise RuntimeError(f"{left} callbacks are left, and calls: {result!r}")
        return Found(rate=waiting / max(ended - began, 0.001))

    async def _go_on_calling(self) -> None:
        """Send callbacks at a steady rate; each must be answered 200.

        Raises:
            RuntimeError: one was not.
        """
        loop = asyncio.get_running_loop()
        body = b'{"code":200,"data":{"callbackType":"text","task_id":"new"}}'
        headers = {"Content-Type": "application/json"}
        began, count = loop.time(), 0
        async with (
            aiohttp.ClientSession() as session,
            asyncio.TaskGroup() as group,
        ):

            async def call() -> None:
                async with session.post(
                    self._address + self._path, data=body, headers=headers
                ) as answer:
                    if answer.status != 200:
                        raise RuntimeError(f"expected 200, got {answer.status}")

            while True:
                count += 1
                group.create_task(call())
                await asyncio.sleep(began + count / NEW_PER_SECOND - loop.time())

    def _publish(self, seconds: float) -> Found:  # noqa: ARG002  so many messages
        running = publish(self._node.url, PUBLISH_MESSAGES, CONNECTIONS)
        return Found(rate=uvloop.run(running).rate)

    def _load(self, seconds: float) -> Sample:
        return wrk(
            self._server,
            self._path,
            script=HERE / "post.lua",
            connections=CONNECTIONS,
            seconds=seconds,
        )

    def _spool(self) -> dict[str, float]:
        with urllib.request.urlopen(f"{self._address}/readyz", timeout=10) as answer:
            found: dict[str, float] = json.load(answer)["spool"]
            return found

    def _wait_until(self, condition: Callable[[dict[str, float]], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition(self._spool()):
            if time.monotonic() > deadline:
                raise RuntimeError(f"expected an empty spool, got {self._spool()}")
            time.sleep(0.1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4, help="of one round")
    add_json_option(parser)
    return parser.parse_args()


def _comparisons(results: Results, down: list[Found]) -> list[Comparison]:
    found = compare(
        "spool",
        DOWN,
        [(UP, "rate", "requests/s", Target(at_least=1))],
        results.cases,
        failed=results.failed,
    )
    found += compare(
        "spool",
        DRAIN,
        [(PUBLISH, "rate", "messages/s", Target(at_least=0.5))],
        results.cases,
        failed=results.failed,
    )
    if down:
        fits = int(SpoolSettings().max_bytes) / max(f.spooled_bytes for f in down)
        found += [
            Comparison(
                benchmark="spool",
                figure="p99 ms, broker down",
                ours=results.cases[DOWN]["p99_ms"],
                target=Target(at_most=100),
            ),
            Comparison(
                benchmark="spool",
                figure="callbacks that fit",
                ours=fits,
                target=Target(at_least=OUTAGE_CALLBACKS),
            ),
        ]
    return found


def _table(results: Results, options: argparse.Namespace) -> str:
    rows = [
        [name, about, *(number(results.cases[name][field] or None) for field in FIELDS)]
        for name, about in ABOUT.items()
        if name in results.cases
    ]
    title = (
        f"Outage spool: callbacks of 2.3 kB, {CONNECTIONS} connections, rounds of"
        f" {options.seconds:g} s: {options.rounds}.\n\n"
    )
    return title + table(["case", "what it is", "per second", "p50 ms", "p99 ms"], rows)


if __name__ == "__main__":
    main()
