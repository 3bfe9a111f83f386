"""Submit many tasks, each line of a file once, however often it is started.

First every line that is still to be done is checked: with a mistake in any, nothing
is sent and nothing paid. Who says that the good ones are to go in any case has each
sent as soon as it is checked and its turn has come. They are sent one after the
other, with a note on disk before and after each. Whoever is killed and started again
goes on behind the last one. What became of a line that was just being sent is asked
of the ledger, where a callback may have told; if it does not know, nobody does, and
the line is not sent again unless that is asked for.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from pipeline.errors import (
    LedgerError,
    OutcomeUnknown,
    PipelineError,
    ProviderError,
    ProviderRefused,
    ProviderUnavailable,
)
from pipeline.ledger.jobs import JobState
from pipeline.submission.jobs import new_job_id
from pipeline.submission.journal import NO_JOB, NO_TASK, Entry, State
from pipeline.values import value

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeAlias

    from pipeline.ledger.jobs import JobId
    from pipeline.submission.checker import Checked
    from pipeline.submission.journal import Journal
    from pipeline.submission.lines import Line
    from pipeline.submission.submitter import Submitter
    from pipeline.task import TaskId

    #: Told what is being done, how many are done, and of how many.
    OnProgress: TypeAlias = Callable[[str, int, int], None]
    #: A line, and the check of it that is under way.
    Check: TypeAlias = tuple[Line, asyncio.Task[Checked]]

CHECKING: Final = "checking"
SUBMITTING: Final = "submitting"
#: Lines checked at the same time.
CHECKS: Final = 8
#: Reasons for which the next line would fare no better.
_STOPS: Final = (ProviderRefused, ProviderUnavailable, LedgerError)
#: After so many lines in a row without an answer the next one gets none either, and
#: each may have to be paid for.
UNANSWERED: Final = 3


@value
class Report:
    """What became of a batch."""

    #: One for each line, in their order.
    entries: tuple[Entry, ...]
    #: Of those, submitted by an earlier start.
    earlier: int

    def count(self, state: State) -> int:
        """Count the lines that have come to an end of one kind."""
        return sum(entry.state is state for entry in self.entries)

    @property
    def task_ids(self) -> Sequence[TaskId]:
        """The tasks, each once."""
        found = (entry.task_id for entry in self.entries)
        return [*dict.fromkeys(task_id for task_id in found if task_id)]

    @property
    def is_good(self) -> bool:
        """Whether every line is submitted."""
        return self.count(State.SUBMITTED) == len(self.entries)


class Batch:
    """Submits the lines of a file.

    Args:
        submitter: an open one.
        journal: an open one, beside the file.
        on_progress: told how far it is; it must be quick.
        stopping: set by whoever wants it to end after the line that is being sent.
        keep_going: submit the good lines though others have mistakes.
        again: submit lines, too, of which it is not known whether they were accepted.
    """

    def __init__(
        self,
        submitter: Submitter,
        journal: Journal,
        *,
        on_progress: OnProgress,
        stopping: asyncio.Event,
        keep_going: bool = False,
        again: bool = False,
    ) -> None:
        self._submitter = submitter
        self._journal = journal
        self._on_progress = on_progress
        self._stopping = stopping
        self._keep_going = keep_going
        self._settled = {State.SUBMITTED} if again else {State.SUBMITTED, State.UNKNOWN}

    async def run(self, lines: Sequence[Line]) -> Report:
        """Check and submit what is still to be done; give what became of every line.

        Raises:
            LedgerError: what it knows of lines that were cut off cannot be read.
        """
        known = self._journal.entries
        for line in lines:
            await self._learn(line)
        earlier = sum(
            line.key in known and known[line.key].state is State.SUBMITTED
            for line in lines
        )
        wrong = await self._work([one for one in lines if not self._is_done(one)])
        entries = [
            wrong.get(line.key) or known.get(line.key) or _entry(line, State.NOT_TRIED)
            for line in lines
        ]
        return Report(entries=tuple(entries), earlier=earlier)

    async def _learn(self, line: Line) -> None:
        """Note what the ledger knows by now of a line that was cut off."""
        entry = self._journal.entries.get(line.key)
        if entry is None or entry.state is not State.UNKNOWN or not entry.job_id:
            return
        job = await self._submitter.find_job(entry.job_id)
        if job is not None and job.task_id is not None:
            told = _entry(line, State.SUBMITTED, job_id=job.job_id, task_id=job.task_id)
            await self._note(told)
        elif job is not None and job.state is JobState.REFUSED:
            refused = _entry(line, State.REFUSED, job_id=job.job_id, reason=job.reason)
            await self._note(refused)

    def _is_done(self, line: Line) -> bool:
        entry = self._journal.entries.get(line.key)
        return entry is not None and entry.state in self._settled

    async def _work(self, lines: Sequence[Line]) -> dict[str, Entry]:
        """Check and submit lines; give those with mistakes."""
        wrong: dict[str, Entry] = {}
        checks = self._start_checks(lines)
        try:
            if not self._keep_going:
                for line, checking in checks:
                    _find_wrong(line, await checking, wrong)
                    if self._stopping.is_set():
                        return wrong
            if not wrong:
                await self._submit_all(checks, wrong)
        finally:
            # After a stop nobody wants to know the rest.
            for _, checking in checks:
                checking.cancel()
            if checks:
                await asyncio.wait([checking for _, checking in checks])
        return wrong

    def _start_checks(self, lines: Sequence[Line]) -> Sequence[Check]:
        """Have all lines checked, a few at a time."""
        turns, done = asyncio.Semaphore(CHECKS), 0

        async def check(line: Line) -> Checked:
            nonlocal done
            async with turns:
                checked = await self._submitter.check(
                    line.operation, line.fields, line.source_file
                )
            done += 1
            if not self._keep_going:
                self._on_progress(CHECKING, done, len(lines))
            return checked

        return [(line, asyncio.create_task(check(line))) for line in lines]

    async def _submit_all(
        self, checks: Sequence[Check], wrong: dict[str, Entry]
    ) -> None:
        """Submit what is good, in order, each as soon as it is checked."""
        unanswered = 0
        for done, (line, checking) in enumerate(checks, start=1):
            checked = await checking
            _find_wrong(line, checked, wrong)
            if self._stopping.is_set():
                return
            error = None
            if line.key not in wrong:
                error = await self._submit(line, checked)
            self._on_progress(SUBMITTING, done, len(checks))
            unanswered = unanswered + 1 if isinstance(error, OutcomeUnknown) else 0
            if isinstance(error, _STOPS) or unanswered == UNANSWERED:
                return

    async def _submit(self, line: Line, checked: Checked) -> PipelineError | None:
        """Submit one line; give why it was not accepted."""
        job_id = new_job_id()
        cut_off = "it was cut off while it was sent"
        await self._note(_entry(line, State.UNKNOWN, job_id=job_id, reason=cut_off))
        try:
            submitted = await self._submitter.submit(checked, job_id=job_id)
        except OutcomeUnknown as error:
            await self._end(line, State.UNKNOWN, job_id, error)
            return error
        except ProviderError as error:
            await self._end(line, State.REFUSED, job_id, error)
            return error
        except LedgerError as error:
            await self._end(line, State.NOT_TRIED, job_id, error)
            return error
        reason = "" if submitted.is_expected else "the ledger does not know of it"
        entry = _entry(
            line,
            State.SUBMITTED,
            job_id=job_id,
            task_id=submitted.task_id,
            reason=reason,
        )
        await self._note(entry)
        return None

    async def _end(
        self, line: Line, state: State, job_id: JobId, error: PipelineError
    ) -> None:
        await self._note(_entry(line, state, job_id=job_id, reason=str(error)))

    async def _note(self, entry: Entry) -> None:
        # In a thread: it waits for the disk.
        await asyncio.to_thread(self._journal.note, entry)


def _entry(
    line: Line,
    state: State,
    *,
    job_id: JobId = NO_JOB,
    task_id: TaskId = NO_TASK,
    reason: str = "",
) -> Entry:
    return Entry(
        key=line.key,
        state=state,
        number=line.number,
        task_id=task_id,
        reason=reason,
        job_id=job_id,
    )


def _find_wrong(line: Line, checked: Checked, wrong: dict[str, Entry]) -> None:
    """Keep what is wrong with a line, if anything is."""
    if checked.mistakes:
        reason = "; ".join(str(mistake) for mistake in checked.mistakes)
        wrong[line.key] = _entry(line, State.MISTAKEN, reason=reason)
