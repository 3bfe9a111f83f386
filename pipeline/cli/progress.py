"""A progress bar on a terminal, nothing elsewhere."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

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
