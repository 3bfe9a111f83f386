"""Callbacks at a pace, over every ingress, with the provider's patience."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import aiohttp

from pipeline.simulator import LoadOptions, plan_load
from pipeline.simulator.chance import seeded
from tests.soak.history import Said
from tests.soak.servers import digest_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipeline.simulator.load import LoadCallback

#: Of all callbacks, those of tasks that have a file.
WITH_FILES: Final = 0.4
#: The provider's 1, 5 and 15 minutes, sixty times as fast.
RETRY_WAITS: Final = (1.0, 5.0, 15.0)
TIMEOUT_SECONDS: Final = 15.0
#: Requests at the same time.
CONNECTIONS: Final = 300
TICK_SECONDS: Final = 0.05
#: Callbacks are sent so fast that they are told about after so long; more slowly
#: where it takes longer, and faster where it takes less than half of it.
CALM_SECONDS: Final = 1.0
#: While something is broken they come no faster than this share of what was found
#: to be possible: who is fully loaded can never catch up.
HEADROOM: Final = 0.6
LEAST_RATE: Final = 10.0


class Journal:
    """What was sent and what was answered 200."""

    def __init__(self) -> None:
        self.sent: Counter[Said] = Counter()
        self.accepted: Counter[Said] = Counter()
        self.files: dict[str, str] = {}
        #: Callbacks that no try got a 200 for.
        self.given_up = 0
        #: Those of them that nothing broken can explain.
        self.given_up_in_calm = 0
        self.statuses: Counter[int] = Counter()
        self.slowest_seconds = 0.0


def plan(
    callbacks: int, seed: int, files_url: str, journal: Journal
) -> deque[LoadCallback]:
    """Write every callback: those of tasks with files and without, shuffled."""
    with_files = round(callbacks * WITH_FILES)
    count = -(-LoadOptions(callbacks=with_files).distinct // 3)
    links = tuple(f"{files_url}/files/{seed}-{n}.mp3" for n in range(count))
    told = plan_load(LoadOptions(callbacks=with_files, seed=2 * seed, links=links))
    for callback in told:
        name = _file_of(callback)
        if callback.task_id not in journal.files and name:
            journal.files[callback.task_id] = digest_of(name)
    rest = plan_load(LoadOptions(callbacks=callbacks - with_files, seed=2 * seed + 1))
    planned = [*told, *rest]
    seeded("soak", seed).shuffle(planned)
    return deque(planned)


def _file_of(callback: LoadCallback) -> str:
    """Find the name of the file that a callback links to; empty: none."""
    _, mark, after = callback.body.partition(b"/files/")
    return after.partition(b"?")[0].decode() if mark else ""


class Traffic:
    """Sends what is planned until nothing is left or it is stopped.

    Args:
        waiting: what is to be sent, in order.
        doors: callback addresses, used in turn, as a load balancer does.
        backlog: gives how many callbacks are on their way.
        most: the most callbacks in a second.
    """

    def __init__(
        self,
        waiting: deque[LoadCallback],
        doors: Sequence[str],
        journal: Journal,
        *,
        backlog: Callable[[], int],
        most: float,
    ) -> None:
        self.journal = journal
        self.rate = min(50.0, most)
        #: While something is broken the pace is not made faster, and the provider may
        #: give up.
        self.is_calm = True
        self.recent: deque[LoadCallback] = deque(maxlen=200)
        #: Callbacks of the plan that were sent, and those that were accepted.
        self.dispatched = 0
        self.delivered = 0
        self._waiting = waiting
        self._doors = doors
        self._turn = 0
        self._backlog = backlog
        #: Of the backlog, what does not come any more: it is a dead letter.
        self._never = 0
        self._most = most
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONNECTIONS),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Content-Type": "application/json"},
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def run(self, stopping: asyncio.Event) -> None:
        """Send until nothing is left or ``stopping``; then wait for every answer."""
        budget, last, adjusted = 0.0, time.monotonic(), time.monotonic()
        async with asyncio.TaskGroup() as group:
            sending: set[asyncio.Task[None]] = set()
            while self._waiting and not stopping.is_set():
                now = time.monotonic()
                rate = self.rate if self.is_calm else self.rate * HEADROOM
                budget = min(budget + rate * (now - last), rate)
                last = now
                while budget >= 1 and self._waiting and len(sending) < CONNECTIONS:
                    budget -= 1
                    planned = self._waiting.popleft()
                    task = group.create_task(self._deliver_planned(planned))
                    sending.add(task)
                    task.add_done_callback(sending.discard)
                    self.dispatched += 1
                if now - adjusted >= 1:
                    adjusted = now
                    self.adjust()
                await asyncio.sleep(TICK_SECONDS)

    async def deliver(self, callback: LoadCallback) -> bool:
        """Send a callback until it is accepted or the provider gives up."""
        is_calm = True
        for wait in (0.0, *RETRY_WAITS):
            if wait:
                await asyncio.sleep(wait)
            is_calm = is_calm and self.is_calm
            if await self.post(callback):
                self.recent.append(callback)
                return True
            is_calm = is_calm and self.is_calm
        self.journal.given_up += 1
        self.journal.given_up_in_calm += is_calm
        return False

    async def post(self, callback: LoadCallback) -> bool:
        """Send a callback once; tell whether it was answered 200."""
        said = Said(callback.task_id, str(callback.stage))
        self.journal.sent[said] += 1
        status = 0
        started = time.monotonic()
        # A timeout is an OSError too.
        with suppress(aiohttp.ClientError, OSError):
            async with self._session.post(
                self._next_door(), data=callback.body, allow_redirects=False
            ) as response:
                status = response.status
        self.journal.statuses[status] += 1
        if status != HTTPStatus.OK:
            return False
        seconds = time.monotonic() - started
        self.journal.slowest_seconds = max(self.journal.slowest_seconds, seconds)
        self.journal.accepted[said] += 1
        return True

    async def _deliver_planned(self, callback: LoadCallback) -> None:
        if await self.deliver(callback):
            self.delivered += 1

    def _next_door(self) -> str:
        self._turn += 1
        return self._doors[self._turn % len(self._doors)]

    def caught_up(self) -> None:
        """Slow down no more for what is still missing now that all is done."""
        self._never = self._backlog()

    def adjust(self) -> None:
        """Keep so much on its way that the pipeline is busy and not drowned."""
        if not self.is_calm:
            return
        seconds = (self._backlog() - self._never) / self.rate
        if seconds > CALM_SECONDS:
            self.rate = max(LEAST_RATE, self.rate * 0.85)
        elif seconds < CALM_SECONDS / 2:
            self.rate = min(self._most, self.rate * 1.05 + 1)
