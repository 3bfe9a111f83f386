"""What the ledger knows of submissions: each is noted before it is sent.

A part of the ledger's port. Between sending and knowing the task's id a process may
die, or get no answer. The job is there by then, so nobody sends it twice by mistake,
and the mark in its callback address tells which task it was.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import StrEnum
from typing import TYPE_CHECKING, NewType

from pipeline.values import value

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime, timedelta

    from pipeline.ledger.expectations import Expectation
    from pipeline.task import TaskId

#: What the caller of a submission calls it, or 32 hexadecimal digits that were made.
JobId = NewType("JobId", str)


class JobState(StrEnum):
    """What became of a job."""

    #: It is being sent at this moment.
    SENDING = "sending"
    #: The provider has taken it, by its own answer or by a callback.
    ACCEPTED = "accepted"
    #: The provider has not taken it: the job may be sent again.
    REFUSED = "refused"
    #: It was sent, or was about to be, and nobody knows more.
    UNKNOWN = "unknown"


@value
class Intent:
    """A submission that is about to be sent."""

    job_id: JobId
    #: 32 hexadecimal digits that nobody can guess, other ones for each intent.
    mark: str
    operation: str
    #: Name of the door that it is sent to.
    door: str
    #: A hash of the request: the same for the same request.
    digest: str
    begun_at: datetime
    #: Seconds that each source plays, by its link.
    source_seconds: Mapping[str, float]


@value
class Job:
    """A submission as it stands."""

    job_id: JobId
    mark: str
    operation: str
    door: str
    digest: str
    begun_at: datetime
    source_seconds: Mapping[str, float]
    state: JobState
    #: Set as soon as it is accepted.
    task_id: TaskId | None
    #: When it was accepted or refused; ``None``: it was not, as far as we know.
    settled_at: datetime | None
    #: Why it was refused, or nothing is known.
    reason: str


@value
class NamedJob:
    """What the address of a callback says of its job; anybody may have written it."""

    mark: str
    #: Of the address.
    operation: str


class Jobs(ABC):
    """The part of the ledger that knows what was, or may have been, submitted."""

    @abstractmethod
    async def begin_job(self, intent: Intent, *, lasts: timedelta) -> Job:
        """Note that a job is about to be sent; give it as it stands.

        It is the caller's to send if it has the intent's mark: there was none of this
        id, or it was refused. Of several who begin it at the same time one gets it.
        It counts as being sent for ``lasts``, by the database's clock, and as unknown
        after that.
        """

    @abstractmethod
    async def keep_job(self, intent: Intent, *, lasts: timedelta) -> None:
        """Let a job count as being sent for ``lasts`` from now, if it still is."""

    @abstractmethod
    async def accept_job(self, intent: Intent, expectation: Expectation) -> None:
        """Note the task of a job, and expect it, in one transaction.

        What the provider has answered counts more than what a callback has said of
        the job: if that was another task, it is no longer this job's.
        """

    @abstractmethod
    async def end_job(
        self, intent: Intent, state: JobState, *, reason: str, at: datetime
    ) -> Job | None:
        """Note that a job was refused, or is unknown; give it as it stands then.

        A job of which a callback has told meanwhile stays accepted. ``None``: it is
        not known.
        """

    @abstractmethod
    async def find_job(self, job_id: JobId) -> Job | None:
        """Give a job as it stands; ``None``: it is not known."""

    @abstractmethod
    async def list_open_jobs(self, *, limit: int = 100) -> Sequence[Job]:
        """List jobs that are being sent or unknown, the oldest first."""

    @abstractmethod
    async def count_old_jobs(self, before: datetime) -> int:
        """Count the jobs that ``prune_jobs`` would forget."""

    @abstractmethod
    async def prune_jobs(self, before: datetime, *, limit: int = 200) -> int:
        """Forget jobs without a task that were begun before a time; count them.

        As ``prune``, which forgets those that have a task, with it.
        """
