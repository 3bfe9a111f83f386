"""How often the provider is called: its limits, kept on our side of the line.

Whoever waits is let in in the order of arrival. One that gives up while it waits
takes no turn away from those behind it.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import timedelta

#: Added to a span: clocks differ, and so does what a server calls ten seconds.
SLACK_SECONDS: Final = 0.25
#: Tasks remembered before those of which nothing was asked lately are forgotten.
MOST_TASKS: Final = 1000


class EvenPace:
    """Gives turns at even distances.

    Args:
        per_second: the most turns in a second.
    """

    def __init__(self, per_second: float) -> None:
        self._pause_seconds = 1 / per_second
        self._queue = asyncio.Lock()
        self._next_turn = 0.0

    async def turn(self) -> None:
        """Wait until it is our turn."""
        loop = asyncio.get_running_loop()
        async with self._queue:
            await asyncio.sleep(self._next_turn - loop.time())
            self._next_turn = loop.time() + self._pause_seconds


class WindowPace:
    """Gives so many turns at once, and no more within any span of time.

    A turn counts until the span has passed since its end: when within it the other
    side has counted it is not known here.

    Args:
        most: turns within the span.
        span: how long each of them counts.
    """

    def __init__(self, most: int, span: timedelta) -> None:
        self._most = most
        self._span_seconds = span.total_seconds() + SLACK_SECONDS
        self._idle_from = 0.0
        #: When each of the turns can be had again; those that are taken are not in it.
        self._free_at: asyncio.Queue[float] = asyncio.Queue()
        for _ in range(most):
            self._free_at.put_nowait(0.0)
        self._queue = asyncio.Lock()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until it is our turn; it ends with the context."""
        loop = asyncio.get_running_loop()
        async with self._queue:
            free_at = await self._free_at.get()
            try:
                await asyncio.sleep(free_at - loop.time())
            except asyncio.CancelledError:
                self._free_at.put_nowait(free_at)
                raise
        try:
            yield
        finally:
            self._idle_from = loop.time() + self._span_seconds
            self._free_at.put_nowait(self._idle_from)

    def is_idle(self, now: float) -> bool:
        """Tell whether nobody waits, and nobody who came now would have to."""
        is_asked = self._queue.locked() or self._free_at.qsize() < self._most
        return not is_asked and self._idle_from <= now


class PaceOfEach:
    """Gives each task turns of its own, in bounded memory.

    Args:
        most: turns of one task within the span.
        span: how long each of them counts.
    """

    def __init__(self, most: int, span: timedelta) -> None:
        self._most = most
        self._span = span
        self._paces: dict[str, WindowPace] = {}

    def __len__(self) -> int:
        return len(self._paces)

    @asynccontextmanager
    async def turn(self, task_id: str) -> AsyncIterator[None]:
        """Wait until it is the turn of this task; it ends with the context."""
        pace = self._paces.get(task_id)
        if pace is None:
            self._forget()
            pace = self._paces[task_id] = WindowPace(self._most, self._span)
        async with pace.turn():
            yield

    def _forget(self) -> None:
        if len(self._paces) < MOST_TASKS:
            return
        now = asyncio.get_running_loop().time()
        self._paces = {
            k: pace for k, pace in self._paces.items() if not pace.is_idle(now)
        }
