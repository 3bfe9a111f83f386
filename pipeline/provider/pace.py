"""How often the provider is called: its limits, kept on our side of the line.

Whoever waits is let in in the order of arrival. One that gives up while it waits
takes no turn away from those behind it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from datetime import timedelta

#: Added to a span: what leaves us evenly may arrive there closer together.
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

    def is_idle(self, now: float) -> bool:
        """Tell whether nobody waits, and nobody who came now would have to."""
        return not self._queue.locked() and self._next_turn <= now


class WindowPace:
    """Gives so many turns at once, and no more within any span of time.

    Args:
        most: turns within the span.
        span: how long each of them counts.
    """

    def __init__(self, most: int, span: timedelta) -> None:
        self._most = most
        self._span_seconds = span.total_seconds() + SLACK_SECONDS
        self._queue = asyncio.Lock()
        self._turns: deque[float] = deque(maxlen=most)

    async def turn(self) -> None:
        """Wait until it is our turn."""
        loop = asyncio.get_running_loop()
        async with self._queue:
            if len(self._turns) == self._most:
                await asyncio.sleep(self._turns[0] + self._span_seconds - loop.time())
            self._turns.append(loop.time())


class PaceOfEach:
    """Gives each task turns of its own, in bounded memory.

    Args:
        per_second: the most turns of one task in a second.
    """

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._paces: dict[str, EvenPace] = {}

    def __len__(self) -> int:
        return len(self._paces)

    async def turn(self, task_id: str) -> None:
        """Wait until it is the turn of this task."""
        pace = self._paces.get(task_id)
        if pace is None:
            self._forget()
            pace = self._paces[task_id] = EvenPace(self._per_second)
        await pace.turn()

    def _forget(self) -> None:
        if len(self._paces) < MOST_TASKS:
            return
        now = asyncio.get_running_loop().time()
        self._paces = {
            k: pace for k, pace in self._paces.items() if not pace.is_idle(now)
        }
