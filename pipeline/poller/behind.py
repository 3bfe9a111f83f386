"""Whether more is due than may be asked, said once and not at every look."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.logs import get_logger
from pipeline.poller.rhythm import follows

if TYPE_CHECKING:
    from datetime import timedelta

    from pipeline.poller.rhythm import Rhythm

log = get_logger("poller")


class Behind:
    """Knows whether tasks wait for longer than an interval beyond their time.

    Args:
        rhythm: how often each task is to be asked for.
        rate_per_second: how many questions all tasks together may have.
    """

    def __init__(self, rhythm: Rhythm, rate_per_second: float) -> None:
        self._interval = rhythm.interval
        self._rate_per_second = rate_per_second
        self._is_behind = False

    def note(self, late: timedelta, *, tasks: int) -> None:
        """Log it if that has changed.

        Args:
            late: how long the task that is due first has been.
            tasks: how many are still to end.
        """
        is_behind = late > self._interval
        if is_behind is self._is_behind:
            return
        self._is_behind = is_behind
        if not is_behind:
            log.info("poller_caught_up", tasks=tasks)
            return
        log.warning(
            "poller_behind",
            late_seconds=round(late.total_seconds()),
            tasks=tasks,
            follows=follows(self._rate_per_second, self._interval),
            rate_per_second=self._rate_per_second,
        )
