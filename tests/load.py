"""Callbacks at a steady rate for a while, and what each answer took."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import aiohttp

from tests.outage import body_of, names

if TYPE_CHECKING:
    from collections.abc import Sequence

#: No answer at all: far above what the provider waits.
GIVEN_UP_SECONDS: Final = 30.0
HEADERS: Final = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What came back, and how long each took from when it was due to be sent."""

    task_ids: Sequence[str]
    statuses: Sequence[int]
    #: In ascending order.
    seconds: Sequence[float]

    @property
    def slowest_seconds(self) -> float:
        """The longest that anybody waited."""
        return self.seconds[-1]

    def within(self, share: float) -> float:
        """Give the seconds within which a share of the answers came."""
        return self.seconds[min(len(self.seconds) - 1, int(share * len(self.seconds)))]

    def __str__(self) -> str:
        """Give the figures in one line."""
        shown = ", ".join(
            f"p{share:g} {1000 * self.within(share / 100):.1f} ms"
            for share in (50, 90, 99)
        )
        slowest = f"slowest {1000 * self.slowest_seconds:.1f} ms"
        return f"{len(self.seconds)} answers: {shown}, {slowest}"


async def send_steadily(
    base: str, *, rate: int, seconds: float, start: int = 0
) -> Answers:
    """Send ``rate`` callbacks a second, however long the answers take.

    Args:
        base: the address of an ingress.
        start: the number of the first task.
    """
    loop = asyncio.get_running_loop()
    took: list[float] = []
    began = loop.time()

    async def send(task_id: str, due_at: float) -> int:
        await asyncio.sleep(max(0.0, due_at - loop.time()))
        url = f"{base}/callbacks/upload-extend"
        async with session.post(url, data=body_of(task_id), headers=HEADERS) as answer:
            await answer.read()
        took.append(loop.time() - due_at)
        return answer.status

    task_ids = names(int(rate * seconds), start)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=GIVEN_UP_SECONDS),
    ) as session:
        sending = (send(name, began + n / rate) for n, name in enumerate(task_ids))
        statuses = await asyncio.gather(*sending)
    return Answers(task_ids=task_ids, statuses=statuses, seconds=sorted(took))
