"""A progress bar on a terminal, nothing elsewhere."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pipeline.dead_letters import OnProgress, Progress


@contextmanager
def progress_bar(
    title: str, limit: int | None, *, shown: bool
) -> Iterator[OnProgress | None]:
    """Show how many dead letters have been looked at, on standard error."""
    if not shown or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar

    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        line = bar.add_task(title, total=None)

        def report(progress: Progress) -> None:
            if limit is not None and limit < progress.total:
                bar.update(line, total=limit, completed=progress.matched)
            else:
                bar.update(line, total=progress.total, completed=progress.seen)

        yield report


@contextmanager
def counting_bar(*, shown: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Give a function that is told what is done, how many and of how many."""
    if not shown or not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar

    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        line = bar.add_task("", total=None)

        def report(title: str, done: int, total: int) -> None:
            bar.update(line, description=title, completed=done, total=total)

        yield report


@contextmanager
def status_line(*, shown: bool) -> Iterator[Callable[[str], None]]:
    """Give a function that is told how things stand.

    On a terminal it is one line that changes, elsewhere a line for each.
    """
    if not shown:
        yield lambda _: None
        return
    if not sys.stderr.isatty():
        yield lambda text: typer.echo(text, err=True)
        return
    from rich.console import Console

    with Console(stderr=True).status("") as status:
        yield lambda text: status.update(text.replace("[", "\\["))
