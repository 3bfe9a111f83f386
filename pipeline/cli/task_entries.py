"""How the entries of a task's timeline look, for people and for programs."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Final

import typer

from pipeline.cli import render
from pipeline.cli.task_timeline import entry_documents

if TYPE_CHECKING:
    from datetime import datetime

    from pipeline.cli.task_timeline import Entry

#: A longer line goes on in the next one, behind so many spaces: a hash fits there.
WIDTH: Final = 100
_INDENT: Final = 20


def print_entry(
    entry: Entry, *, as_json: bool = False, start: datetime | None = None
) -> None:
    """Print an entry; ``start``: also the time since then."""
    if as_json:
        (document,) = entry_documents([entry])
        del document["after_seconds"]  # nobody has said since when
        render.print_json_line(document)
        return
    time = render.format_time(entry.at)
    after = ""
    if start is not None:
        after = f"  +{(entry.at - start).total_seconds():<8.1f}"
    lines = textwrap.wrap(
        f"{time}{after}  {render.plain(entry.what)}",
        WIDTH,
        subsequent_indent=" " * _INDENT,
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
        replace_whitespace=False,
    )
    lines[0] = typer.style(time, dim=True) + lines[0].removeprefix(time)
    typer.echo("\n".join(lines))
