"""How the command line prints: streaming tables and JSON, durations, colours.

Nothing is collected before it is printed, so a listing of any length takes the
same memory. Colours are for terminals only; ``click`` leaves them out elsewhere.
"""

from __future__ import annotations

import re
import shutil
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import orjson
import typer

from pipeline.cli import output

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Mapping, Sequence

_INDENTED: Final = orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z
_COMPACT: Final = orjson.OPT_UTC_Z
#: What would move the cursor or change colours, out of texts from outside.
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table."""

    title: str
    #: In characters; 0: the rest of the line, for the last column.
    width: int = 0


def print_json(document: object) -> None:
    """Print one JSON document."""
    typer.echo(orjson.dumps(document, option=_INDENTED, default=str))


def print_json_line(document: object) -> None:
    """Print one JSON document on a line of its own, of several that follow."""
    typer.echo(orjson.dumps(document, option=_COMPACT, default=str))


async def print_json_list(items: AsyncIterable[object]) -> int:
    """Print a JSON list, one item a line, as the items come; return their number."""
    count = 0
    await output.write("[")
    async for item in items:
        start = b",\n" if count else b"\n"
        line = orjson.dumps(item, option=_COMPACT, default=str)
        await output.write(start + line)
        count += 1
    await output.write("\n]\n" if count else "]\n")
    return count


async def print_table(
    columns: Sequence[Column], rows: AsyncIterable[Sequence[object]]
) -> int:
    """Print a table as the rows come; return their number.

    On a terminal each row is cut to one line; elsewhere nothing is cut.
    """
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    count = 0
    async for row in rows:
        if count == 0:
            titles = _line(columns, [column.title for column in columns], room)
            await output.write(typer.style(titles, bold=True) + "\n")
        line = _line(columns, [plain(cell) for cell in row], room)
        await output.write(f"{line}\n")
        count += 1
    return count


def print_fields(fields: Mapping[str, object]) -> None:
    """Print names and values, one pair a line."""
    width = max(map(len, fields))
    for name, value in fields.items():
        label = typer.style(f"{name:<{width}}", bold=True)
        typer.echo(f"{label}  {plain(value)}")


def plain(value: object) -> str:
    """Write a value for people, without control characters."""
    match value:
        case None:
            return "-"
        case datetime():
            return format_time(value)
        case _:
            return _CONTROL.sub(" ", str(value))


def format_time(at: datetime) -> str:
    """Write a time in UTC, to the second."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def count_of(count: int, noun: str) -> str:
    """Write ``1 dead letter`` or ``2 dead letters``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def fail(message: str) -> None:
    """Print an error as one message on standard error."""
    label = typer.style("error:", fg="red", bold=True)
    typer.echo(f"{label} {message}", err=True)


def warn(message: str) -> None:
    """Print a warning as one message on standard error."""
    label = typer.style("warning:", fg="yellow", bold=True)
    typer.echo(f"{label} {message}", err=True)


def parse_age(text: str | None, option: str) -> timedelta | None:
    """Read an age such as ``30m``, which was given with ``option``.

    Raises:
        typer.BadParameter: it is none; it names the option.
    """
    if text is None:
        return None
    from pipeline.settings import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        message = f"expected {error}, got {text!r}"
        raise typer.BadParameter(message, param_hint=option) from error


def parse_moment(text: str | None, option: str, now: datetime) -> datetime | None:
    """Read a time: so long ago, such as ``2h``, or one such as ``2026-11-20T08:00Z``.

    It was given with ``option``. One without a zone is in UTC.

    Raises:
        typer.BadParameter: it is neither; it names the option.
    """
    if text is None:
        return None
    from pipeline.settings import parse_duration

    try:
        return now - parse_duration(text)
    except ValueError:
        pass
    try:
        at = datetime.fromisoformat(text)
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        message = f"expected an age such as 2h, or 2026-11-20T08:00Z, got {text!r}"
        raise typer.BadParameter(message, param_hint=option) from None


def _line(columns: Sequence[Column], cells: Sequence[str], room: int | None) -> str:
    padded = []
    for column, cell in zip(columns, cells, strict=True):
        is_cut = room is not None and 0 < column.width < len(cell)
        short = f"{cell[: column.width - 1]}…" if is_cut else cell
        padded.append(f"{short:<{column.width}}")
    line = "  ".join(padded).rstrip()
    return line if room is None else line[:room]
