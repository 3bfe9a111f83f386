"""Submissions of which nobody knows whether the provider has taken them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from pipeline.bootstrap import ledger_of
from pipeline.doctor.finding import Finding, ok, warning
from pipeline.ledger.jobs import JobState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.ledger.jobs import Job
    from pipeline.settings import Settings

JOBS: Final = "jobs"
#: As many are asked for; with more, the number is "or more".
_MOST: Final = 100
_NAMED: Final = 3


async def look_at_jobs(settings: Settings) -> Sequence[Finding]:
    """Name the jobs that are open, the oldest first; those being sent are not.

    Raises:
        LedgerUnavailable, LedgerMismatch: it cannot be asked.
        ConfigurationError: there is no ledger.
    """
    async with ledger_of(settings, must_exist=True) as ledger:
        found = await ledger.list_open_jobs(limit=_MOST)
    unknown = [job for job in found if job.state is JobState.UNKNOWN]
    if not unknown:
        return [ok(JOBS, "every submission was taken or refused")]
    return [_judge(unknown, more=len(found) == _MOST, now=datetime.now(UTC))]


def _judge(unknown: Sequence[Job], *, more: bool, now: datetime) -> Finding:
    hours = (now - unknown[0].begun_at).total_seconds() / 3600
    names = ", ".join(job.job_id for job in unknown[:_NAMED])
    others = " and others" if more or len(unknown) > _NAMED else ""
    count = f"{len(unknown)}{' or more' if more else ''}"
    return warning(
        JOBS,
        f"of {count} submissions nobody knows whether the provider has taken them, the"
        f" oldest {hours:.1f} h old: {names}{others}",
        why="what it has taken costs money; a callback tells which task it was, the"
        " poller cannot ask for it",
        todo="wait for its callback, or look for it in the provider's log; if it is not"
        " there, submit it again with another --job-id",
    )
