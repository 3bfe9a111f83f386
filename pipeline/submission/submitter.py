"""Submit tasks: checked, sent once, and expected from then on."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipeline.errors import (
    LedgerError,
    OutcomeUnknown,
    ProviderError,
    ProviderUnavailable,
)
from pipeline.ledger.expectations import Expectation
from pipeline.logs import get_logger
from pipeline.metrics import SUBMISSIONS
from pipeline.values import value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime, timedelta
    from pathlib import Path
    from typing import Any

    from pipeline.ledger.port import Ledger
    from pipeline.provider.client import ProviderClient
    from pipeline.submission.checker import Checked, Checker
    from pipeline.task import TaskId

log = get_logger("submission")


@value
class Submitted:
    """A task that the provider has accepted."""

    task_id: TaskId
    operation: str
    submitted_at: datetime
    #: Whether the ledger knows of it. If not, its callbacks are taken all the same,
    #: but nobody asks for it before the first of them.
    is_expected: bool


class Submitter:
    """Submits what has been checked; for many tasks at once.

    Args:
        checker: says what is wrong.
        client: an open one.
        ledger: an open one.
        clock: gives the present time.
        quiet: how long after a submission of an operation it is asked for.
        door: the name of the provider's door; empty: not known.
    """

    def __init__(
        self,
        checker: Checker,
        client: ProviderClient,
        ledger: Ledger,
        *,
        clock: Callable[[], datetime],
        quiet: Callable[[str], timedelta],
        door: str = "",
    ) -> None:
        self._checker = checker
        self._client = client
        self._ledger = ledger
        self._clock = clock
        self._quiet = quiet
        self._door = door

    async def check(
        self, operation: str, given: Mapping[str, Any], source_file: Path | None = None
    ) -> Checked:
        """Find all that is wrong; as ``Checker.check``."""
        return await self._checker.check(operation, given, source_file)

    async def submit(self, checked: Checked, *, job_id: str | None = None) -> Submitted:
        """Submit a task, and note that it is expected.

        Being cancelled between the two leaves the outcome unknown: do not do that.

        Args:
            checked: what is submitted.
            job_id: what its caller calls it.

        Raises:
            SubmissionInvalid: it has mistakes.
            ProviderError: as ``ProviderClient.submit``.
        """
        request = checked.good()
        operation = request.operation
        with _counted(operation):
            task_id = await self._client.submit(
                operation, request.fields(), callback_url=checked.callback_url
            )
        at = self._clock()
        log.info("task_submitted", task_id=task_id, operation=operation, job_id=job_id)
        expectation = Expectation(
            task_id=task_id,
            operation=operation,
            submitted_at=at,
            due_at=at + self._quiet(operation),
            job_id=job_id,
            door=self._door,
        )
        is_expected = True
        try:
            await self._ledger.expect([expectation])
        except LedgerError as error:
            # It is paid for: nobody may think that it has failed.
            is_expected = False
            log.warning("task_not_expected", task_id=task_id, error=str(error))
        return Submitted(
            task_id=task_id,
            operation=operation,
            submitted_at=at,
            is_expected=is_expected,
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
