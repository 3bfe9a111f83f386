"""Callers that are turned away: all are counted, few are logged.

A line for each would let anybody fill the log.
"""

from __future__ import annotations

import math
import time
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from pipeline.logs import get_logger
from pipeline.metrics import REFUSALS

if TYPE_CHECKING:
    from collections.abc import Callable

log = get_logger("ingress")

#: One line for each cause in this while.
LOG_SECONDS: Final = 10.0


class TurnedAway(StrEnum):
    """Why a caller was not let in; also the label of the metric."""

    #: It calls from a network that is not allowed.
    NETWORK = "network"
    #: It calls too often.
    RATE = "rate"
    #: Too many requests are in progress.
    BUSY = "busy"
    #: Too many bytes of bodies are waited for.
    BODIES = "bodies"
    #: Too many connections are open.
    CONNECTIONS = "connections"
    #: One address has too many of them.
    ADDRESS = "address"


class Tally:
    """Counts who is turned away, and logs it once in a while."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._logged_at: dict[TurnedAway, float] = {}
        self._since: dict[TurnedAway, int] = {}

    def add(self, cause: TurnedAway, remote: str | None) -> None:
        """Count one more; ``remote`` stands for all in the line that is logged."""
        REFUSALS.labels(cause.value).inc()
        self._since[cause] = count = self._since.get(cause, 0) + 1
        now = self._clock()
        if now - self._logged_at.get(cause, -math.inf) >= LOG_SECONDS:
            self._logged_at[cause], self._since[cause] = now, 0
            log.warning(
                "callers_turned_away", cause=cause.value, count=count, remote=remote
            )
