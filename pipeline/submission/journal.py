"""What became of the lines of a batch, kept beside its file while it is submitted.

One JSON object for each thing that happens, appended and on disk before the next
thing happens. That a line is about to be sent is noted first: a line of which nothing
else is noted was cut off there, and it is not known whether it was accepted.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Self

import orjson

from pipeline.errors import SubmissionInvalid
from pipeline.ledger.jobs import JobId
from pipeline.task import TaskId
from pipeline.values import value

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedRandom
    from pathlib import Path

SUFFIX: Final = ".submitted.jsonl"
#: Stands where there is no task.
NO_TASK: Final = TaskId("")
NO_JOB: Final = JobId("")


class State(StrEnum):
    """What became of a line."""

    #: Accepted by the provider.
    SUBMITTED = "submitted"
    #: We have found mistakes in it; it was not sent.
    MISTAKEN = "mistaken"
    #: The provider has said no.
    REFUSED = "refused"
    #: It was sent, or was about to be, and nobody knows more.
    UNKNOWN = "unknown"
    #: It was not its turn.
    NOT_TRIED = "not tried"


@value
class Entry:
    """The last that is known of a line."""

    key: str
    state: State
    #: Where it stood in the file.
    number: int
    task_id: TaskId = NO_TASK
    #: Why, where it was not accepted.
    reason: str = ""
    #: What the ledger calls it; empty: it was never sent.
    job_id: JobId = NO_JOB


class Journal:
    """The file beside a batch, held by one process at a time.

    Args:
        file: open for reading and appending, and locked.
    """

    def __init__(self, file: BufferedRandom) -> None:
        self._file = file
        self.entries: dict[str, Entry] = {}
        self._is_torn = False

    @classmethod
    @contextmanager
    def opened(cls, batch: Path) -> Iterator[Self]:
        """Open the file beside ``batch``, and read what it has.

        Raises:
            SubmissionInvalid: another process holds it, or it cannot be written.
        """
        path = batch.with_name(batch.name + SUFFIX)
        try:
            file = path.open("a+b")
        except OSError as error:
            message = f"{path}: expected a file that can be written: {error.strerror}"
            raise SubmissionInvalid([message]) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                message = f"{path}: another process submits this batch now"
                raise SubmissionInvalid([message]) from error
            journal = cls(file)
            journal.read()
            yield journal

    def read(self) -> None:
        """Read all that was noted; what was cut off in the middle is left out."""
        self._file.seek(0)
        content = self._file.read()
        self._is_torn = bool(content) and not content.endswith(b"\n")
        for line in content.split(b"\n"):
            if (entry := _entry(line)) is not None:
                self.entries[entry.key] = entry

    def note(self, entry: Entry) -> None:
        """Note what became of a line; returns once it is on disk."""
        self.entries[entry.key] = entry
        content = {
            "key": entry.key,
            "state": entry.state.value,
            "line": entry.number,
            "task_id": entry.task_id,
            "reason": entry.reason,
            "job_id": entry.job_id,
        }
        start = b"\n" if self._is_torn else b""
        self._is_torn = False
        self._file.write(start + orjson.dumps(content) + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def _entry(line: bytes) -> Entry | None:
    try:
        content = orjson.loads(line)
        return Entry(
            key=str(content["key"]),
            state=State(content["state"]),
            number=int(content["line"]),
            task_id=TaskId(str(content["task_id"])),
            reason=str(content["reason"]),
            # Notes of older versions have none.
            job_id=JobId(str(content.get("job_id", ""))),
        )
    except (ValueError, TypeError, KeyError):
        return None
