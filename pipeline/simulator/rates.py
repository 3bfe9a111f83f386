"""How often clients may call, and who called more often."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from datetime import datetime

    from pipeline.simulator.clock import SimulatedClock

Call: TypeAlias = Literal["submit", "details"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimits:
    """The provider's limits, as documented."""

    #: New tasks of one account within ``submission_window``.
    submissions: int = 20
    submission_window: timedelta = timedelta(seconds=10)
    #: Questions about one task within a second.
    questions: int = 3
    #: Whether the spans are real ones. On a simulated clock that is fast nobody calls
    #: too often: to see whether a client keeps to the limits, count in real time.
    in_real_time: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A call that came too often and was refused."""

    call: Call
    #: Empty for a submission.
    task_id: str
    #: On the simulated clock.
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedDetails:
    """A question to a details endpoint, refused or not."""

    task_id: str
    #: On the simulated clock.
    at: datetime


class RateKeeper:
    """Counts calls; what is refused does not count against what comes later."""

    def __init__(self, limits: RateLimits, clock: SimulatedClock) -> None:
        self._limits = limits
        self._clock = clock
        self._submissions: deque[float] = deque(maxlen=limits.submissions)
        self._questions: dict[str, deque[float]] = {}
        #: How often each task was asked for, refused or not.
        self.asked: Counter[str] = Counter()
        #: Every question, in order.
        self.questions: list[AskedDetails] = []
        #: Every call that was refused, in order.
        self.violations: list[Violation] = []

    def allows_submission(self) -> bool:
        """Tell whether one more task may be submitted now, and count it."""
        span = self._limits.submission_window.total_seconds()
        return self._allows(self._submissions, span) or self._refuse("submit")

    def allows_question(self, task_id: str) -> bool:
        """Tell whether one more question about a task may come now, and count it."""
        self.asked[task_id] += 1
        self.questions.append(AskedDetails(task_id=task_id, at=self._clock.now()))
        recent = self._questions.get(task_id)
        if recent is None:
            recent = self._questions[task_id] = deque(maxlen=self._limits.questions)
        return self._allows(recent, 1.0) or self._refuse("details", task_id)

    def _allows(self, recent: deque[float], span_seconds: float) -> bool:
        now = self._now()
        if len(recent) == recent.maxlen and now - recent[0] < span_seconds:
            return False
        recent.append(now)
        return True

    def _refuse(self, call: Call, task_id: str = "") -> bool:
        at = self._clock.now()
        self.violations.append(Violation(call=call, task_id=task_id, at=at))
        return False

    def _now(self) -> float:
        if self._limits.in_real_time:
            return time.monotonic()
        return self._clock.now().timestamp()
