"""Submit tasks: checked, noted, sent once, and expected from then on."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipeline.errors import (
    AlreadyThere,
    OutcomeUnknown,
    ProviderError,
    ProviderUnavailable,
)
from pipeline.failpoints import reach
from pipeline.ledger.expectations import Expectation
from pipeline.ledger.jobs import Intent, JobState
from pipeline.logs import get_logger
from pipeline.message import from_milliseconds, to_milliseconds
from pipeline.metrics import SUBMISSIONS
from pipeline.submission.jobs import Jobs, digest_of, marked, new_job_id, new_mark
from pipeline.task import TaskId
from pipeline.values import value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime, timedelta
    from pathlib import Path
    from typing import Any

    from pipeline.ledger.jobs import Job, JobId
    from pipeline.ledger.port import Ledger
    from pipeline.provider.client import ProviderClient
    from pipeline.submission.checker import Checked, Checker

log = get_logger("submission")


@value
class Submitted:
    """A task that the provider has accepted."""

    task_id: TaskId
    operation: str
    job_id: JobId
    submitted_at: datetime
    #: Whether the ledger knows of it. If not, its callbacks are taken all the same,
    #: but nobody asks for it before the first of them.
    is_expected: bool
    #: Seconds that each source plays, by its link.
    source_seconds: Mapping[str, float]
    #: Whether it was submitted before: nothing was sent this time.
    is_repeat: bool = False
    #: Whether the provider had made it for an earlier request: no callback will tell
    #: of it, so it is asked for at once.
    was_there: bool = False


class Submitter:
    """Submits what has been checked; for many tasks at once.

    Args:
        checker: says what is wrong.
        client: an open one.
        ledger: an open one.
        clock: gives the present time.
        quiet: how long after a submission of an operation it is asked for.
        door: the name of the client's door.
    """

    def __init__(
        self,
        checker: Checker,
        client: ProviderClient,
        ledger: Ledger,
        *,
        clock: Callable[[], datetime],
        quiet: Callable[[str], timedelta],
        door: str,
    ) -> None:
        self._checker = checker
        self._client = client
        self._ledger = ledger
        self._clock = clock
        self._quiet = quiet
        self._door = door
        self._jobs = Jobs(ledger, clock=clock)

    def check_fields(self, operation: str, given: Mapping[str, Any]) -> Checked:
        """Find what can be found at once; as ``Checker.check_fields``."""
        return self._checker.check_fields(operation, given)

    async def check(
        self, operation: str, given: Mapping[str, Any], source_file: Path | None = None
    ) -> Checked:
        """Find all that is wrong; as ``Checker.check``."""
        return await self._checker.check(operation, given, source_file)

    async def find_earlier(self, checked: Checked, job_id: JobId) -> Submitted | None:
        """Give the task of a job that was submitted before; ``None``: it was not.

        Its sources need not be checked for that. A request with mistakes was not.

        Raises:
            JobTaken, JobInProgress, OutcomeUnknown: as ``submit``.
            LedgerError: the ledger cannot be read.
        """
        if checked.request is None:
            return None
        job = await self._jobs.find(job_id, digest_of(checked.request))
        return None if job is None else _told(job)

    async def find_job(self, job_id: JobId) -> Job | None:
        """Give a job as it stands, whatever its request; ``None``: it is not known.

        Raises:
            LedgerError: the ledger cannot be read.
        """
        return await self._ledger.find_job(job_id)

    async def submit(
        self, checked: Checked, *, job_id: JobId | None = None
    ) -> Submitted:
        """Submit a task, note before that it is about to be, and expect it.

        A job that was accepted before gives its task, and nothing is sent; so does
        one of whose task a callback has told, when there was no other answer. What
        the provider has made before gives that task, if it names it. Being cancelled
        leaves the outcome unknown: do not do that.

        Args:
            checked: what is submitted.
            job_id: what its caller calls it, once for each task; ``None``: one is made.

        Raises:
            SubmissionInvalid: it has mistakes.
            JobTaken: the id belongs to another request.
            JobInProgress: the same job is being sent by somebody else.
            LedgerUnavailable: it could not be noted, so nothing was sent.
            ProviderError: as ``ProviderClient.submit``; a job that was refused may be
                submitted again, one whose outcome is unknown is not sent again.
        """
        intent = self._intend(checked, job_id or new_job_id())
        if (job := await self._jobs.begin(intent)) is not None:
            return _told(job)
        async with self._jobs.sending(intent):
            await reach("submit.before_send")
            try:
                task_id = await self._send(checked, intent)
            except OutcomeUnknown as error:
                job = await self._jobs.end(intent, JobState.UNKNOWN, error)
                if job is None:
                    raise
                return _told(job, is_repeat=False)
            except ProviderError as error:
                if isinstance(error, AlreadyThere) and error.task_id is not None:
                    earlier = TaskId(error.task_id)
                    return await self._note(intent, earlier, was_there=True)
                await self._jobs.end(intent, JobState.REFUSED, error)
                raise
            await reach("submit.before_note")
            return await self._note(intent, task_id)

    def _intend(self, checked: Checked, job_id: JobId) -> Intent:
        """Say what is about to be sent.

        Raises:
            SubmissionInvalid: it has mistakes.
        """
        request = checked.good()
        return Intent(
            job_id=job_id,
            mark=new_mark(),
            operation=request.operation,
            door=self._door,
            digest=digest_of(request),
            begun_at=self._clock(),
            source_seconds=checked.lengths,
        )

    async def _send(self, checked: Checked, intent: Intent) -> TaskId:
        with _counted(intent.operation):
            return await self._client.submit(
                intent.operation,
                checked.good().fields(),
                callback_url=marked(checked.callback_url, intent.mark),
            )

    async def _note(
        self, intent: Intent, task_id: TaskId, *, was_there: bool = False
    ) -> Submitted:
        """Note a task that was accepted, or was there before, and expect it."""
        # As the ledger keeps it, so that it is told the same later.
        at = from_milliseconds(to_milliseconds(self._clock()))
        operation, job_id = intent.operation, intent.job_id
        log.info("task_submitted", task_id=task_id, operation=operation, job_id=job_id)
        expectation = Expectation(
            task_id=task_id,
            operation=operation,
            submitted_at=at,
            due_at=at if was_there else at + self._quiet(operation),
            job_id=job_id,
            door=self._door,
        )
        return Submitted(
            task_id=task_id,
            operation=operation,
            job_id=job_id,
            submitted_at=at,
            is_expected=await self._jobs.accept(intent, expectation),
            source_seconds=intent.source_seconds,
            was_there=was_there,
        )


def _told(job: Job, *, is_repeat: bool = True) -> Submitted:
    """Give the task of a job that was accepted."""
    assert job.task_id is not None  # noqa: S101  it was accepted
    return Submitted(
        task_id=job.task_id,
        operation=job.operation,
        job_id=job.job_id,
        submitted_at=job.settled_at or job.begun_at,
        is_expected=True,
        source_seconds=job.source_seconds,
        is_repeat=is_repeat,
    )


@contextmanager
def _counted(operation: str) -> Iterator[None]:
    """Count what came of it, and say what was cut off."""
    outcome = "accepted"
    try:
        yield
    except OutcomeUnknown:
        outcome = "unknown"
        raise
    except ProviderUnavailable:
        outcome = "unavailable"
        raise
    except ProviderError:
        outcome = "refused"
        raise
    except asyncio.CancelledError:
        outcome = "unknown"
        log.warning("submission_cut_off", operation=operation)
        raise
    finally:
        SUBMISSIONS.labels(operation, outcome).inc()
