"""Callbacks at a steady rate, and what the answers of an ingress took."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from pipeline.broker import open_broker
from pipeline.message import TASK_ID
from tests.command_line import CommandLine
from tests.disk import watched_disk
from tests.outage import body_of
from tests.waiting import eventually, receive

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from pipeline.topology import Topology
    from tests.disk import Disk

#: What is aimed at, in callbacks a second.
RATE: Final = 200
#: How much of what a busy machine bears is asked of it; else callers would queue up
#: before it, and only their queue would be measured.
SHARE: Final = 0.3
#: Callers that find out what that is, and for how long.
CALLERS: Final = 10
FINDING_SECONDS: Final = 2.0
#: No answer at all: far above what the provider waits.
GIVEN_UP_SECONDS: Final = 60.0
#: Between two looks at how late our own loop is.
LOOK_SECONDS: Final = 0.02
HEADERS: Final = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What came back, and how long each took from when it was due to be sent."""

    statuses: Sequence[int]
    #: In ascending order.
    seconds: Sequence[float]
    #: What the disk did meanwhile.
    disk: Disk
    #: The most by which the loop of the callers themselves was late.
    late_seconds: float

    @property
    def slowest_seconds(self) -> float:
        """The longest that anybody waited."""
        return self.seconds[-1]

    @property
    def p99_seconds(self) -> float:
        """What 99 of 100 took at most."""
        return self.seconds[int(0.99 * (len(self.seconds) - 1))]

    def __str__(self) -> str:
        """Give the figures in one line."""
        return (
            f"{len(self.seconds)} answers, p99 {1000 * self.p99_seconds:.0f} ms,"
            f" slowest {1000 * self.slowest_seconds:.0f} ms,"
            f" disk {1000 * self.disk.longest_seconds:.0f} ms,"
            f" late {1000 * self.late_seconds:.0f} ms"
        )


class Caller:
    """Calls an ingress with one task after the other."""

    def __init__(self, base: str, session: aiohttp.ClientSession, folder: Path) -> None:
        self._base = base
        self._folder = folder
        self._session = session
        self._numbers = itertools.count()
        #: Tasks that were answered 200.
        self.accepted: set[str] = set()
        #: Tasks that were answered 503, and may have been stored all the same.
        self.refused: set[str] = set()
        #: What the machine bears, in callbacks a second.
        self.rate = float(RATE)

    async def find_rate(self) -> None:
        """See what the machine bears, and ask no more than a share of it."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + FINDING_SECONDS

        async def call() -> int:
            count = 0
            while loop.time() < ends_at:
                status = await self._post()
                statuses.add(status)
                count += status == 200
            return count

        statuses: set[int] = set()
        async with watched_disk(self._folder) as disk:
            done = sum(await asyncio.gather(*(call() for _ in range(CALLERS))))
        assert statuses <= ({200, 503} if disk.may_refuse else {200})
        self.rate = min(RATE, SHARE * max(1, done) / FINDING_SECONDS)

    async def call(self, seconds: float) -> Answers:
        """Call at a steady rate, however long the answers take."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        took: list[float] = []

        async def call(due_at: float) -> int:
            await asyncio.sleep(max(0.0, due_at - loop.time()))
            status = await self._post()
            took.append(loop.time() - due_at)
            return status

        count = max(1, int(self.rate * seconds))
        calls = (call(began + n / self.rate) for n in range(count))
        async with watched_disk(self._folder) as disk, _watched_loop() as late:
            statuses = await asyncio.gather(*calls)
        answers = Answers(
            statuses=statuses,
            seconds=sorted(took),
            disk=disk,
            late_seconds=max(late),
        )
        print(f"{self.rate:.0f}/s: {answers}")  # noqa: T201  shown with a failure
        return answers

    async def ready(self) -> dict[str, Any]:
        """Ask how the ingress is."""
        async with self._session.get(f"{self._base}/readyz") as answer:
            return dict(await answer.json())

    async def until(self, status: str, *, within: float = 30) -> None:
        """Wait until it says of itself that it is ready, or degraded."""

        async def is_so() -> bool:
            return bool((await self.ready())["status"] == status)

        await eventually(is_so, within=within)

    async def check_that_nothing_is_lost(self, url: str, topology: Topology) -> None:
        """Wait until the spool is empty and all that was answered for has come."""
        await self.until("ready", within=90)
        found: set[str] = set()
        async with open_broker(url, deadline=timedelta(seconds=10)) as broker:
            await broker.declare(topology)
            async with broker.consume("dedupe", prefetch=500) as consumer:
                while not self.accepted <= found:
                    (delivery,) = await receive(consumer, 1)
                    await delivery.ack()
                    found.add(str(delivery.envelope.headers[TASK_ID]))
        assert found - self.accepted <= self.refused

    async def _post(self) -> int:
        task_id = f"task-{next(self._numbers):06}"
        url = f"{self._base}/callbacks/upload-extend"
        async with self._session.post(
            url, data=body_of(task_id), headers=HEADERS
        ) as answer:
            await answer.read()
        if answer.status == 200:
            self.accepted.add(task_id)
        elif answer.status == 503:
            self.refused.add(task_id)
        return answer.status


@asynccontextmanager
async def _watched_loop() -> AsyncIterator[Sequence[float]]:
    """Note again and again by how much this loop is late."""
    loop = asyncio.get_running_loop()
    late = [0.0]

    async def watch() -> None:
        while True:
            due_at = loop.time() + LOOK_SECONDS
            await asyncio.sleep(LOOK_SECONDS)
            late.append(loop.time() - due_at)

    watching = asyncio.create_task(watch())
    try:
        yield late
    finally:
        watching.cancel()
        await asyncio.wait({watching})


@asynccontextmanager
async def called_ingress(
    url: str, topology: Topology, folder: Path
) -> AsyncIterator[Caller]:
    """Run an ingress in a process of its own, and give it a caller."""
    cli = CommandLine(folder, {"PIPELINE_BROKER__PREFIX": topology.prefix})
    with cli.running("ingress", "--port", "0", "--broker-url", url) as run:
        base = await asyncio.to_thread(run.address)
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=GIVEN_UP_SECONDS),
        ) as session:
            caller = Caller(base, session, folder)
            await caller.until("ready")
            await caller.find_rate()
            yield caller
