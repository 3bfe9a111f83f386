"""One job for each submission: noted before it is sent, ended when it is answered.

The id is its caller's or made; the mark, which goes into the callback address, is
always made. A job that holds, because it is being sent, was accepted, or nobody knows,
is not sent again under its id; one that was refused is free.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import orjson

from pipeline.errors import (
    JobInProgress,
    JobTaken,
    LedgerError,
    LedgerUnavailable,
    OutcomeUnknown,
    PipelineError,
)
from pipeline.ledger.jobs import JobId, JobState
from pipeline.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from datetime import datetime

    from pipeline.ledger.expectations import Expectation
    from pipeline.ledger.jobs import Intent, Job
    from pipeline.ledger.port import Ledger
    from pipeline.provider.requests import Request

log = get_logger("submission")

#: How long a job counts as being sent without being renewed: long enough for a ledger
#: that is slow, and how long others wait for a process that has died.
HOLD: Final = timedelta(seconds=30)
#: Renewed so often while it lasts.
_RENEWALS: Final = 3
#: When to ask again for a job that is being sent.
ASK_AGAIN: Final = timedelta(seconds=2)
#: Characters that can be seen, and no more of them than anybody reads.
_ID: Final = re.compile(r"[!-~]{1,200}")
#: Why a job has ended, at most.
_REASON_LIMIT: Final = 1000


def new_job_id() -> JobId:
    """Make an id that nobody can guess."""
    return JobId(secrets.token_hex(16))


def new_mark() -> str:
    """Make a mark for a callback address."""
    return secrets.token_hex(16)


def read_job_id(text: str) -> JobId:
    """Take an id that somebody has chosen.

    Raises:
        ValueError: it is empty, too long, or has characters that cannot be seen.
    """
    if not _ID.fullmatch(text):
        message = "expected 1 to 200 printable ASCII characters without spaces"
        raise ValueError(f"{message}, got {text[:60]!r}")
    return JobId(text)


def digest_of(request: Request) -> str:
    """Hash a request: the same for the same one, however it was spelled."""
    said = orjson.dumps(
        [request.operation, request.fields()], option=orjson.OPT_SORT_KEYS
    )
    return hashlib.sha256(said).hexdigest()


def marked(callback_url: str, mark: str) -> str:
    """Write the mark into a callback address, which has no query before."""
    return f"{callback_url}?job={mark}"


class Jobs:
    """Keeps the jobs of one process in the ledger.

    Args:
        ledger: an open one.
        clock: gives the present time.
        hold: how long a job counts as being sent without being renewed.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        clock: Callable[[], datetime],
        hold: timedelta = HOLD,
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._hold = hold

    async def find(self, job_id: JobId, digest: str) -> Job | None:
        """Give the job if it was accepted; ``None``: its id is free.

        Raises:
            JobTaken, JobInProgress, OutcomeUnknown: as ``begin``.
            LedgerError: the ledger cannot be read.
        """
        job = await self._ledger.find_job(job_id)
        if job is None or job.state is JobState.REFUSED:
            return None
        return require_accepted(job, digest)

    async def begin(self, intent: Intent) -> Job | None:
        """Note that a job is about to be sent; give it if it was accepted before.

        ``None``: it is ours to send.

        Raises:
            JobTaken: its id belongs to another request.
            JobInProgress: somebody is sending it at this moment.
            OutcomeUnknown: it was sent, and nobody knows what became of it.
            LedgerUnavailable: it could not be noted; nothing may be sent.
        """
        try:
            job = await self._ledger.begin_job(intent, lasts=self._hold)
        except LedgerError as error:
            message = f"nothing was sent, for it has to be noted before: {error}"
            raise LedgerUnavailable(message) from error
        if job.mark == intent.mark:
            return None
        return require_accepted(job, intent.digest)

    @asynccontextmanager
    async def sending(self, intent: Intent) -> AsyncIterator[None]:
        """Say that a job is being sent for as long as the body runs."""
        keeping = asyncio.create_task(self._keep(intent))
        try:
            yield
        finally:
            keeping.cancel()
            await asyncio.wait({keeping})

    async def accept(self, intent: Intent, expectation: Expectation) -> bool:
        """Note the task of a job and expect it; tell whether that could be noted."""
        try:
            await self._ledger.accept_job(intent, expectation)
        except LedgerError as error:
            # It is paid for: nobody may think that it has failed.
            log.warning(
                "task_not_expected", task_id=expectation.task_id, error=str(error)
            )
            return False
        return True

    async def end(
        self, intent: Intent, state: JobState, error: PipelineError
    ) -> Job | None:
        """Note what became of a job; give it if a callback has told its task by now."""
        told = error.reason if isinstance(error, OutcomeUnknown) else str(error)
        reason = told[:_REASON_LIMIT]
        try:
            job = await self._ledger.end_job(
                intent, state, reason=reason, at=self._clock()
            )
        except LedgerError as lost:
            # It counts as unknown when its time is over.
            log.warning("job_not_ended", job_id=intent.job_id, error=str(lost))
            return None
        return None if job is None or job.task_id is None else job

    async def _keep(self, intent: Intent) -> None:
        while True:
            await asyncio.sleep(self._hold.total_seconds() / _RENEWALS)
            try:
                await self._ledger.keep_job(intent, lasts=self._hold)
            except LedgerError:
                continue  # it is about to be told so in any case


def require_accepted(job: Job, digest: str) -> Job:
    """Give a job that was accepted, and was this request.

    Raises:
        JobTaken, JobInProgress, OutcomeUnknown: as ``Jobs.begin``.
    """
    if job.digest != digest:
        message = (
            f"job {job.job_id}: expected the request that it was begun with"
            f" ({job.operation}, {job.begun_at:%Y-%m-%d %H:%M:%S} UTC), got another;"
            " nothing was sent: give another id, or that request"
        )
        raise JobTaken(message)
    if job.state is JobState.SENDING:
        message = (
            f"job {job.job_id}: expected one that nobody is sending, got one that is"
            " being sent at this moment, or whose sender has just died; nothing was"
            " sent: ask again in a while"
        )
        raise JobInProgress(message, after=ASK_AGAIN)
    if job.task_id is None:
        message = (
            f"job {job.job_id}: expected to know what became of it, and nobody does"
            f" since {job.begun_at:%Y-%m-%d %H:%M:%S} UTC ({job.reason}); nothing was"
            " sent. A callback will tell, or ask the provider; another id sends it"
        )
        raise OutcomeUnknown(message)
    return job
