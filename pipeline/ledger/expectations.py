"""What the ledger knows of tasks that are still to end, and when to ask for them.

A part of the ledger's port. Every task that was submitted or seen is expected until
it has a final stage: recording that ends it, in the same write. A question is taken
by putting off the time of the next one, which is the lease on it: whoever dies after
that has asked in vain, and the task is due again a little later. All times are those
of the database's clock, which every process shares.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from pipeline.values import value

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime, timedelta

    from pipeline.ledger.turns import Window
    from pipeline.task import EventId, Stage, TaskId


@value
class Expectation:
    """A task that was submitted, whatever has been heard of it."""

    task_id: TaskId
    operation: str
    #: When the provider took it.
    submitted_at: datetime
    #: When to ask for it, if it has not ended by then.
    due_at: datetime
    #: What its caller calls it.
    job_id: str | None = None
    #: The door it was submitted at; empty: that is not known.
    door: str = ""


@value
class Question:
    """A task that is due to be asked for, by whoever took it."""

    task_id: TaskId
    operation: str
    #: What has been heard so far; ``unknown``: nothing.
    stage: Stage
    #: Since it was submitted, or seen for the first time.
    age: timedelta
    #: How long it had been due.
    late: timedelta
    #: From now until its turn to be asked.
    wait: timedelta
    #: Which question for this task it is, counted from 1.
    number: int
    #: The event id of the answer that was handed on last.
    answered: EventId | None


@value
class Expected:
    """How far the asking for one task is, for people."""

    task_id: TaskId
    submitted_at: datetime | None
    job_id: str | None
    #: When it is asked for next; ``None``: never.
    due_at: datetime | None
    #: How often it was asked for.
    questions: int
    given_up_at: datetime | None


@value
class Open:
    """How many expectations there are."""

    #: Tasks that are still to end.
    tasks: int
    #: Those among them that should have been asked for some time ago.
    overdue: int


class Expectations(ABC):
    """The part of the ledger that knows what is still to come."""

    @abstractmethod
    async def expect(self, expectations: Sequence[Expectation]) -> None:
        """Remember that tasks were submitted, in one transaction.

        Of a task that has been heard of already nothing is lost, and one that has
        ended is not asked for. The same call again changes nothing.
        """

    @abstractmethod
    async def find_expected(self, task_id: TaskId) -> Expected | None:
        """Tell how far the asking for a task is; ``None``: it is not known."""

    @abstractmethod
    async def until_due(self) -> timedelta | None:
        """Tell how long it is until a task is due; negative: one has been for so long.

        ``None``: nothing is expected.
        """

    @abstractmethod
    async def take_due(
        self,
        *,
        most: int,
        lasts: timedelta,
        pause: timedelta,
        window: Window | None = None,
    ) -> Sequence[Question]:
        """Take the questions whose turn comes next, those that were due first.

        Turns are ``pause`` apart, over all who take any: nobody gets one that comes
        later than ``most`` pauses from now. A task that was taken is not given to
        anybody else until ``lasts`` after the last of these turns. One whose
        ``window`` is full, with questions from here or ``take_question``, is left.
        """

    @abstractmethod
    async def note_answer(
        self, question: Question, *, next_in: timedelta, answered: EventId | None = None
    ) -> bool:
        """Put off the next question; ``answered``: what was handed on, if anything.

        Tells whether it will be asked: ``False`` if the task has ended meanwhile, or
        somebody else has taken it since.
        """

    @abstractmethod
    async def give_up(self, question: Question) -> bool:
        """Ask for the task no more, unless there is news of it.

        Tells whether that changed anything, as ``note_answer`` does.
        """

    @abstractmethod
    async def count_open(self, *, overdue: timedelta) -> Open:
        """Count the tasks that are still to end, and those overdue for longer."""
