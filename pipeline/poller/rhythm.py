"""What follows from an answer of the provider: pure."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from pipeline.errors import (
    ConfigurationError,
    ProviderError,
    ProviderRefused,
    TaskNotFound,
)
from pipeline.provider.callback import OPERATIONS
from pipeline.task import event_id
from pipeline.values import value

if TYPE_CHECKING:
    from pipeline.ledger.expectations import Question
    from pipeline.settings import PollerSettings
    from pipeline.task import EventId, TaskUpdate

#: The end of a task was handed on: until then the dedupe worker has seen it, or what
#: was handed on is lost, and is handed on again.
SETTLING: Final = timedelta(hours=1)
#: As long as the provider keeps files: later there is nothing left to ask for.
LIFETIME: Final = timedelta(days=14)
#: The longest for which nobody is asked after questions without an answer.
LONGEST_PAUSE: Final = timedelta(minutes=1)
#: How far a wait may be off its middle.
_JITTER: Final = 0.1
_DOUBLINGS: Final = 6


class Outcome(StrEnum):
    """What a question has brought."""

    #: The task has ended.
    FINAL = "final"
    #: It has moved on.
    NEWS = "news"
    #: It is where it was, as far as can be told.
    NOTHING_NEW = "nothing_new"
    #: The provider knows no such task, or does not say so yet.
    NOT_FOUND = "not_found"
    #: There is no answer, which says nothing of the task.
    NO_ANSWER = "no_answer"
    #: The provider does not take our key, or the account is at its end.
    REFUSED = "refused"


@value
class Rhythm:
    """How often is asked, and for how long."""

    interval: timedelta
    give_up_after: timedelta

    def next_in(self, chance: float) -> timedelta:
        """Give the wait to the next question; ``chance`` is between 0 and 1."""
        return self.interval * (1 + _JITTER * (2 * chance - 1))


@value
class Step:
    """What is to be done after a question."""

    outcome: Outcome
    next_in: timedelta
    #: The event id of what is to be handed on; ``None``: nothing is.
    event: EventId | None = None
    #: The task is not asked for any more.
    gives_up: bool = False


def step(
    question: Question,
    answer: TaskUpdate | ProviderError,
    rhythm: Rhythm,
    *,
    chance: float,
) -> Step:
    """Say what follows from an answer.

    Handed on is what brings the task on: an answer that was handed on before, or says
    no more than is known, would be noise. A task is given up once it is old and an
    answer has brought nothing new, never because there was no answer, unless that
    has gone on until there can be nothing left.
    """
    next_in = rhythm.next_in(chance)
    is_old = question.age > rhythm.give_up_after
    if isinstance(answer, TaskNotFound):
        return Step(outcome=Outcome.NOT_FOUND, next_in=next_in, gives_up=is_old)
    if isinstance(answer, ProviderError):
        is_refused = isinstance(answer, ProviderRefused)
        return Step(
            outcome=Outcome.REFUSED if is_refused else Outcome.NO_ANSWER,
            next_in=max(next_in, answer.after or next_in),
            gives_up=question.age > LIFETIME,
        )
    event = event_id(answer)
    if answer.stage.is_final:
        return Step(outcome=Outcome.FINAL, next_in=SETTLING, event=event)
    if answer.stage.rank > question.stage.rank and event != question.answered:
        return Step(outcome=Outcome.NEWS, next_in=next_in, event=event)
    return Step(outcome=Outcome.NOTHING_NEW, next_in=next_in, gives_up=is_old)


def follows(rate_per_second: float, interval: timedelta) -> int:
    """Say how many tasks can be asked for at every interval."""
    return int(rate_per_second * interval.total_seconds())


def pause_after(failures: int, error: ProviderError, *, chance: float) -> timedelta:
    """Say for how long nobody is asked after questions without an answer in a row.

    Twice as long each time; a key that is not taken will hardly be taken soon.
    """
    if isinstance(error, ProviderRefused):
        return LONGEST_PAUSE
    pause = timedelta(seconds=2 ** min(failures, _DOUBLINGS)) * (0.5 + chance / 2)
    return max(min(pause, LONGEST_PAUSE), error.after or timedelta(0))


def refuse_unknown_operations(settings: PollerSettings) -> None:
    """Make sure that every operation with a quiet time of its own is one.

    Raises:
        ConfigurationError: one is not; it would wait like all others.
    """
    if unknown := sorted(settings.operation_quiet.keys() - OPERATIONS.keys()):
        message = (
            "poller.operation_quiet: expected operations that there are"
            f" ({', '.join(sorted(OPERATIONS))}), got {', '.join(unknown)}"
        )
        raise ConfigurationError(message)
