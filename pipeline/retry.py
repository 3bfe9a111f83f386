"""When a failed delivery is tried again. Pure: the clock and chance are given."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

#: Tried after these waits: in all about seven hours, then the dead-letter queue.
DEFAULT_WAITS: Final = tuple(
    timedelta(seconds=seconds) for seconds in (5, 30, 120, 600, 3600, 21600)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often a delivery is tried, and how long to wait in between.

    ``waits[0]`` passes between the first and the second attempt. A delivery gets
    ``len(waits) + 1`` attempts in all.
    """

    #: The waits, in order; none may be shorter than the one before it.
    waits: tuple[timedelta, ...] = DEFAULT_WAITS

    def __post_init__(self) -> None:
        """Refuse waits that are negative or grow shorter.

        Raises:
            ValueError: they do.
        """
        if any(wait < timedelta(0) for wait in self.waits):
            message = f"expected waits of zero or more, got {self.waits}"
            raise ValueError(message)
        if list(self.waits) != sorted(self.waits):
            message = f"expected waits that never grow shorter, got {self.waits}"
            raise ValueError(message)

    @property
    def max_attempts(self) -> int:
        """How often a delivery is tried before it is dead-lettered."""
        return len(self.waits) + 1

    def wait_after(
        self, attempt: int, *, at_least: timedelta | None = None
    ) -> timedelta | None:
        """Give the wait after attempt number ``attempt`` (from 1) has failed.

        ``at_least`` is what the handler asked for. ``None`` means that the
        attempts are used up.
        """
        if attempt >= self.max_attempts:
            return None
        wait = self.waits[max(attempt, 1) - 1]
        return wait if at_least is None else max(wait, at_least)


def read_retry_after(
    header: str | None, *, now: datetime, longest: timedelta
) -> timedelta | None:
    """Read a ``Retry-After`` header, in seconds or as a date (RFC 9110, 10.2.3).

    Returns at most ``longest``, never less than nothing, and ``None`` for a header
    that is missing or makes no sense.
    """
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        # Beyond ten digits only "longest" is left of it, and int() may refuse.
        return min(timedelta(seconds=int(text[:10])), longest)
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    # A date without a zone is in UTC, as all dates of HTTP are.
    wait = (date if date.tzinfo else date.replace(tzinfo=UTC)) - now
    return min(max(wait, timedelta(0)), longest)
