"""A clock that runs faster than the real one, so that 21 minutes take seconds."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta


class SimulatedClock:
    """Aware UTC time that starts now and runs ``time_scale`` times as fast.

    Args:
        time_scale: simulated seconds per real second; 1 is real time.

    Raises:
        ValueError: the scale is not above 0.
    """

    def __init__(self, time_scale: float = 1.0) -> None:
        if not time_scale > 0:
            message = f"expected a time scale above 0, got {time_scale}"
            raise ValueError(message)
        self._scale = time_scale
        self._started_at = datetime.now(UTC)
        self._origin_seconds = time.monotonic()

    def now(self) -> datetime:
        """Tell the simulated time."""
        passed_seconds = time.monotonic() - self._origin_seconds
        return self._started_at + timedelta(seconds=passed_seconds * self._scale)

    def advance(self, simulated: timedelta) -> None:
        """Let a simulated span have passed at once, for all that compares times.

        Who sleeps already wakes when it would have.

        Raises:
            ValueError: the span is negative; time does not run backwards.
        """
        if simulated < timedelta():
            message = f"expected a span of 0 or more, got {simulated}"
            raise ValueError(message)
        self._started_at += simulated

    def real_seconds(self, simulated: timedelta) -> float:
        """Convert a simulated span into real seconds."""
        return simulated.total_seconds() / self._scale

    async def sleep(self, simulated: timedelta) -> None:
        """Wait for a simulated span; a negative one yields once."""
        await asyncio.sleep(max(0.0, self.real_seconds(simulated)))

    async def sleep_until(self, at: datetime) -> None:
        """Wait for a simulated time."""
        await self.sleep(at - self.now())
