"""The doctor names submissions of which nobody knows what became of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from pipeline.doctor.submissions import look_at_jobs
from pipeline.ledger import open_ledger
from pipeline.ledger.jobs import Intent, JobId, JobState
from pipeline.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.doctor import Finding

LONG = timedelta(minutes=5)
NOW = datetime.now(UTC)


def intent(number: int) -> Intent:
    return Intent(
        job_id=JobId(f"order-{number}"),
        mark=f"{number:032x}",
        operation="generate",
        door="kie-ai",
        digest="0" * 64,
        begun_at=datetime.now(UTC) - timedelta(hours=9) + timedelta(minutes=number),
        source_seconds={},
    )


async def jobs(folder: Path, states: Sequence[JobState]) -> Finding:
    """Look at a ledger that has a job in each of ``states``, the oldest first."""
    url = f"sqlite:///{folder}/ledger.db"
    async with open_ledger(url) as ledger:
        for number, state in enumerate(states):
            await ledger.begin_job(intent(number), lasts=LONG)
            if state is not JobState.SENDING:
                await ledger.end_job(intent(number), state, reason="why", at=NOW)
    settings = load_settings(environ={}, flags={"ledger_url": url}).settings
    (finding,) = await look_at_jobs(settings)
    return finding


async def test_without_open_submissions_all_is_well(tmp_path: Path) -> None:
    finding = await jobs(tmp_path, [JobState.SENDING, JobState.REFUSED])

    assert "ok" == finding.level


async def test_submissions_without_an_answer_are_named(tmp_path: Path) -> None:
    unknown = JobState.UNKNOWN
    finding = await jobs(
        tmp_path, [JobState.REFUSED, unknown, JobState.SENDING, unknown]
    )

    assert "warning" == finding.level
    assert "of 2 submissions nobody knows" in finding.what
    assert "the oldest 9.0 h old: order-1, order-3" in finding.what
    assert "others" not in finding.what
    assert "--job-id" in finding.todo


async def test_of_many_submissions_the_oldest_are_named(tmp_path: Path) -> None:
    finding = await jobs(tmp_path, [JobState.UNKNOWN] * 101)

    assert "of 100 or more submissions" in finding.what
    assert finding.what.endswith("order-0, order-1, order-2 and others")
