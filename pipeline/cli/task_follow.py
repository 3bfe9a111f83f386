"""``pipeline tasks show --follow``: what happens to a task, as it happens."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import typer

from pipeline.cli import render
from pipeline.cli.task_choice import choose_task
from pipeline.cli.task_end import (
    TIME_IS_UP,
    dead_files_of,
    time_is_up,
    what_is_wrong,
)
from pipeline.cli.task_entries import print_entry
from pipeline.cli.task_timeline import Entry, task_document, timeline

if TYPE_CHECKING:
    from datetime import timedelta

    from pipeline.ledger.port import Ledger
    from pipeline.settings import Settings
    from pipeline.submission import Followed
    from pipeline.task import TaskId

_EVERY_SECONDS: Final = 1.0


async def follow_task(
    settings: Settings, task_id: TaskId, *, within: timedelta | None, as_json: bool
) -> int:
    """Print what happens to a task until it is over; one not known yet may come.

    Gives the exit code: 0 if every file is there, 1 if it is over without that, 3 if
    it is not over in time. What is wrong, and what to do, is on standard error.
    """
    import asyncio

    from pipeline.bootstrap import ledger_of
    from pipeline.submission import Watch

    seconds = None if within is None else within.total_seconds()
    try:
        async with (
            asyncio.timeout(seconds),
            ledger_of(settings, must_exist=True) as ledger,
        ):
            task_id = await choose_task(ledger, task_id)
            watch = Watch(ledger, task_id, dead_files_of(settings))
            printer = _Printer(ledger, task_id, as_json=as_json)
            while True:
                # In this order: then all that has led to its end is printed.
                followed = await watch.look()
                await printer.print_new()
                if followed.is_over:
                    return _end(followed)
                await asyncio.sleep(_EVERY_SECONDS)
    except TimeoutError:
        if within is None:
            raise
        render.fail(time_is_up(task_id, within))
        return TIME_IS_UP


def _end(followed: Followed) -> int:
    if followed.is_good:
        return 0
    for text in what_is_wrong(followed):
        render.fail(text)
    return 1


class _Printer:
    """Prints each entry of a task's timeline once."""

    def __init__(self, ledger: Ledger, task_id: TaskId, *, as_json: bool) -> None:
        self._ledger = ledger
        self._task_id = task_id
        self._as_json = as_json
        self._printed: set[Entry] = set()
        self._is_told = False

    async def print_new(self) -> None:
        """Print what has happened since the last time."""
        document = await task_document(self._ledger, self._task_id)
        if document is None:
            self._say_unknown()
            return
        for entry in _past(document):
            if entry not in self._printed:
                self._printed.add(entry)
                print_entry(entry, as_json=self._as_json)

    def _say_unknown(self) -> None:
        if not self._is_told:
            self._is_told = True
            shown = render.plain(self._task_id)
            typer.echo(f"task {shown} is not known yet; Ctrl-C ends it", err=True)


def _past(document: dict[str, Any]) -> list[Entry]:
    """Leave out what is still to come: it changes with each question."""
    now = datetime.now(UTC)
    return [entry for entry in timeline(document) if entry.at <= now]
