"""Whether publishing is worth a try: a state machine without clock or broker.

A broker that answers nothing costs every callback the whole time allowed for the
confirm. After a few failures in a row nobody asks it any more but a probe, now and
then; the first success lets everybody through again.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

#: So many failures in a row open the circuit.
THRESHOLD: Final = 3
#: The wait for the first probe; each probe that fails doubles it.
FIRST_PAUSE_SECONDS: Final = 0.5
#: The longest wait between two probes.
LONGEST_PAUSE_SECONDS: Final = 5.0


class CircuitState(Enum):
    """Who may publish."""

    #: Everybody: all is well.
    CLOSED = "closed"
    #: Nobody: the last tries have failed.
    OPEN = "open"
    #: Nobody but the probe that is on its way.
    HALF_OPEN = "half-open"


class Circuit:
    """Counts failures in a row; times are seconds of one monotonic clock."""

    def __init__(
        self,
        *,
        threshold: int = THRESHOLD,
        first_pause_seconds: float = FIRST_PAUSE_SECONDS,
        longest_pause_seconds: float = LONGEST_PAUSE_SECONDS,
    ) -> None:
        self.state = CircuitState.CLOSED
        #: Failures since the last success.
        self.failures = 0
        #: When the next probe may go; means nothing while closed.
        self.probe_at = 0.0
        self._threshold = threshold
        self._first_pause_seconds = first_pause_seconds
        self._longest_pause_seconds = longest_pause_seconds
        self._pause_seconds = first_pause_seconds

    @property
    def is_closed(self) -> bool:
        """Whether everybody may publish."""
        return self.state is CircuitState.CLOSED

    def may_probe(self, now: float) -> bool:
        """Tell whether the caller may publish; while open, it is the probe then.

        A probe of which nothing is heard for as long as the pause is given up.
        """
        if self.is_closed:
            return True
        if now < self.probe_at:
            return False
        self.state = CircuitState.HALF_OPEN
        self.probe_at = now + self._longest_pause_seconds
        return True

    def succeeded(self) -> None:
        """Note that the broker has answered: the circuit is closed."""
        self.state = CircuitState.CLOSED
        self.failures = 0
        self._pause_seconds = self._first_pause_seconds

    def failed(self, now: float) -> None:
        """Note that the broker gave no answer.

        While the circuit is open this changes nothing: it is the echo of a publish
        that began before.
        """
        self.failures += 1
        if self.state is CircuitState.HALF_OPEN:
            self._pause_seconds = min(
                self._pause_seconds * 2, self._longest_pause_seconds
            )
        elif not self.is_closed or self.failures < self._threshold:
            return
        self.state = CircuitState.OPEN
        self.probe_at = now + self._pause_seconds
