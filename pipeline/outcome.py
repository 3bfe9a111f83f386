"""How a delivery is settled, decided from what its handler said. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from pipeline.errors import PipelineError, Reject, Retry, Settlement
from pipeline.message import Publication

if TYPE_CHECKING:
    from datetime import timedelta

    from pipeline.retry import RetryPolicy

#: What a handler says about one envelope: what to publish, or what went wrong.
Result: TypeAlias = Sequence[Publication] | Exception


@dataclass(frozen=True, slots=True)
class Done:
    """Handled: publish and acknowledge."""

    publications: Sequence[Publication]


@dataclass(frozen=True, slots=True)
class RetryLater:
    """Failed, attempts left: back to the queue after a wait."""

    error: Exception
    wait: timedelta


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Failed for good: to the dead-letter queue."""

    error: Exception


Failed: TypeAlias = RetryLater | DeadLetter
Outcome: TypeAlias = Done | Failed

#: Outcomes in logs and metrics.
OUTCOME_NAMES: Final[dict[type[Outcome], str]] = {
    Done: "done",
    RetryLater: "retry",
    DeadLetter: "dead_letter",
}


def decide(result: Result, *, attempt: int, policy: RetryPolicy) -> Outcome:
    """Turn what a handler said into how its delivery is settled."""
    if isinstance(result, Exception):
        return decide_failed(result, attempt=attempt, policy=policy)
    return Done(result)


def decide_failed(error: Exception, *, attempt: int, policy: RetryPolicy) -> Failed:
    """Choose between another attempt and the dead-letter queue."""
    if isinstance(error, Reject):
        return DeadLetter(_cause(error))
    after = error.after if isinstance(error, Retry) else None
    wait = policy.wait_after(attempt, at_least=after)
    if wait is None:
        return DeadLetter(_cause(error))
    return RetryLater(_cause(error), wait)


def _cause(error: Exception) -> Exception:
    """Give what a handler has put into ``Retry`` or ``Reject``, if that says more.

    A dead letter is looked for by ``LinkExpired``, not by ``Reject``.
    """
    cause = error.__cause__
    if isinstance(error, Settlement) and isinstance(cause, PipelineError):
        return cause
    return error
