"""Submit many tasks, each line of a file once, however often it is started.

First every line that is still to be done is checked. Then they are sent one after the
other, with a note on disk before and after each. Whoever is killed and started again
goes on behind the last one; of a line that was just being sent nobody knows whether
it was accepted, and it is not sent again unless that is asked for.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from pipeline.errors import (
    OutcomeUnknown,
    ProviderError,
    ProviderRefused,
    ProviderUnavailable,
)
from pipeline.failpoints import reach
from pipeline.submission.journal import NO_TASK, Entry, State
from pipeline.values import value

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeAlias

    from pipeline.submission.checker import Checked
    from pipeline.submission.journal import Journal
    from pipeline.submission.lines import Line
    from pipeline.submission.submitter import Submitter
    from pipeline.task import TaskId

    #: Told what is being done, how many are done, and of how many.
    OnProgress: TypeAlias = Callable[[str, int, int], None]

CHECKING: Final = "checking"
SUBMITTING: Final = "submitting"
#: Lines checked at the same time.
CHECKS: Final = 8
#: Reasons for which the next line would fare no better.
_STOPS: Final = (ProviderRefused, ProviderUnavailable)


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
        """Check and submit what is still to be done; give what became of every line."""
        known = self._journal.entries
        earlier = sum(
            line.key in known and known[line.key].state is State.SUBMITTED
            for line in lines
        )
        found = await self._check_all([one for one in lines if not self._is_done(one)])
        wrong = {line.key: _mistaken(line, c) for line, c in found if c.mistakes}
        good = [(line, checked) for line, checked in found if not checked.mistakes]
        if not wrong or self._keep_going:
            await self._submit_all(good)
        entries = [
            wrong.get(line.key) or known.get(line.key) or _not_tried(line)
            for line in lines
        ]
        return Report(entries=tuple(entries), earlier=earlier)

    def _is_done(self, line: Line) -> bool:
        entry = self._journal.entries.get(line.key)
        return entry is not None and entry.state in self._settled

    async def _check_all(self, lines: Sequence[Line]) -> list[tuple[Line, Checked]]:
        turns = asyncio.Semaphore(CHECKS)
        done = 0

        async def check(line: Line) -> Checked:
            nonlocal done
            async with turns:
                checked = await self._submitter.check(
                    line.operation, line.fields, line.source_file
                )
            done += 1
            self._on_progress(CHECKING, done, len(lines))
            return checked

        async with asyncio.TaskGroup() as group:
            checks = [group.create_task(check(line)) for line in lines]
        return [(line, task.result()) for line, task in zip(lines, checks, strict=True)]

    async def _submit_all(self, found: Sequence[tuple[Line, Checked]]) -> None:
        for done, (line, checked) in enumerate(found, start=1):
            if self._stopping.is_set():
                return
            error = await self._submit(line, checked)
            self._on_progress(SUBMITTING, done, len(found))
            if isinstance(error, _STOPS):
                return

    async def _submit(self, line: Line, checked: Checked) -> ProviderError | None:
        """Submit one line; give why it was not accepted."""
        cut_off = "it was cut off while it was sent"
        await self._note(_entry(line, State.UNKNOWN, reason=cut_off))
        await reach("submit.before_send")
        try:
            submitted = await self._submitter.submit(checked, job_id=line.key)
        except OutcomeUnknown as error:
            await self._note(_entry(line, State.UNKNOWN, reason=str(error)))
            return error
        except ProviderError as error:
            await self._note(_entry(line, State.REFUSED, reason=str(error)))
            return error
        await reach("submit.before_note")
        reason = "" if submitted.is_expected else "the ledger does not know of it"
        entry = _entry(line, State.SUBMITTED, task_id=submitted.task_id, reason=reason)
        await self._note(entry)
        return None

    async def _note(self, entry: Entry) -> None:
        # In a thread: it waits for the disk.
        await asyncio.to_thread(self._journal.note, entry)


def _entry(
    line: Line, state: State, *, task_id: TaskId = NO_TASK, reason: str = ""
) -> Entry:
    return Entry(
        key=line.key,
        state=state,
        number=line.number,
        task_id=task_id,
        reason=reason,
    )


def _mistaken(line: Line, checked: Checked) -> Entry:
    reason = "; ".join(str(mistake) for mistake in checked.mistakes)
    return _entry(line, State.MISTAKEN, reason=reason)


def _not_tried(line: Line) -> Entry:
    return _entry(line, State.NOT_TRIED)
