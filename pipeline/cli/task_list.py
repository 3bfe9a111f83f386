"""``pipeline tasks list``: which tasks there are, and how each stands."""

from __future__ import annotations

from collections import Counter
from contextlib import aclosing
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from pipeline.cli import render
from pipeline.cli.loop import run_once
from pipeline.cli.options import (
    AsJson,
    Assignments,
    BrokerUrl,
    ConfigFile,
    LedgerUrl,
    read_settings,
)
from pipeline.ledger.records import TaskSelection, TaskState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping, Sequence

    from pipeline.ledger.records import Place, TaskRecord
    from pipeline.settings import Settings

COLUMNS: Final = (
    render.Column("TASK", 36),
    render.Column("OPERATION", 14),
    render.Column("STATE", 9),
    render.Column("FILES", 5),
    render.Column("LAST SEEN", 20),
    render.Column("MESSAGE"),
)
_EPILOG: Final = (
    "\b\nExamples\n"
    "  pipeline tasks list --state submitted --state given_up\n"
    "  pipeline tasks list --state complete --missing-files --since 1d --json\n"
    "  pipeline tasks list --since 2026-11-20T08:00Z --until 2h --limit 1000\n\n"
    "The last seen come first. FILES are those that are stored, of those that we were"
    " told of. A page ends with what goes on behind it (--after); set --until as well"
    " to keep out what is new."
)

_States = Annotated[
    list[TaskState] | None,
    typer.Option(
        "--state",
        "--stage",
        metavar="STATE",
        help="Only in this state: submitted (nothing was heard of it), unknown, text,"
        " first, complete, failed or given_up. Can be repeated.",
        show_default=False,
    ),
]
_Operation = Annotated[
    str | None, typer.Option(metavar="NAME", help="Only of this operation.")
]
_Door = Annotated[
    str | None, typer.Option(metavar="NAME", help="Only of this door of the provider.")
]
_Since = Annotated[
    str | None,
    typer.Option(
        "--since",
        "--newer-than",
        metavar="TIME",
        help="Seen since then: 2h ago, or 2026-11-20T08:00Z.",
    ),
]
_Until = Annotated[
    str | None, typer.Option(metavar="TIME", help="Not seen since then: 2h, …")
]
_DeadLetters = Annotated[
    bool, typer.Option("--dead-letters", help="Only with dead letters on the broker.")
]
_MissingFiles = Annotated[
    bool, typer.Option("--missing-files", help="Only with a file that is not stored.")
]
_After = Annotated[
    str | None,
    typer.Option(metavar="PLACE", help="Go on behind it; a page ends with its own."),
]


def add_to(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("list", epilog=_EPILOG)(list_tasks)


def list_tasks(
    *,
    states: _States = None,
    operation: _Operation = None,
    door: _Door = None,
    since: _Since = None,
    until: _Until = None,
    with_dead_letters: _DeadLetters = False,
    with_missing_files: _MissingFiles = False,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
    after: _After = None,
    as_json: AsJson = False,
    config: ConfigFile = None,
    assignments: Assignments = None,
    ledger_url: LedgerUrl = None,
    broker_url: BrokerUrl = None,
) -> None:
    """List tasks, the last seen first."""
    seen_since, seen_until = _read_range(since, until)
    chosen = TaskSelection(
        states=states or None,
        operation=operation,
        door=door,
        since=seen_since,
        until=seen_until,
        with_missing_files=with_missing_files,
    )
    place = None if after is None else _read_place(after)
    settings = read_settings(
        config, assignments, ledger_url=ledger_url, broker_url=broker_url
    ).settings

    async def main() -> None:
        dead = await _dead_letters(settings) if with_dead_letters else None
        found, has_more = await _find(settings, chosen, dead, place, limit)
        if not found and place is None:
            _refuse_unknown(settings, chosen)
        await _show(found, dead, has_more=has_more, as_json=as_json)

    run_once(main())


def _read_range(
    since: str | None, until: str | None
) -> tuple[datetime | None, datetime | None]:
    """Read from when on, and until when.

    Raises:
        typer.BadParameter: one is no time, or there is none between them.
    """
    now = datetime.now(UTC)
    first = render.parse_moment(since, "--since", now)
    end = render.parse_moment(until, "--until", now)
    if first is not None and end is not None and first >= end:
        message = (
            f"expected a time before that of --until, {until}, got {since}:"
            " --since is where the range begins, --until where it ends"
        )
        raise typer.BadParameter(message, param_hint="--since")
    return first, end


async def _find(
    settings: Settings,
    chosen: TaskSelection,
    dead: Mapping[str, int] | None,
    place: Place | None,
    limit: int,
) -> tuple[Sequence[TaskRecord], bool]:
    """Give a page of tasks, and whether there are more behind it."""
    from pipeline.bootstrap import ledger_of

    if dead is not None:
        chosen = replace(chosen, task_ids=dead.keys())
    async with ledger_of(settings, must_exist=True) as ledger:
        found = await ledger.list_tasks(chosen, after=place, limit=limit + 1)
    return found[:limit], len(found) > limit


async def _dead_letters(settings: Settings) -> Mapping[str, int]:
    """Count the dead letters of every task that has any.

    Raises:
        BrokerUnavailable: the broker does not answer.
    """
    from pipeline.bootstrap import open_parts
    from pipeline.dead_letters import Selection, browse

    counts: Counter[str] = Counter()
    async with (
        open_parts(settings, must_exist=True) as parts,
        aclosing(
            browse(parts.broker, parts.topology.work_queues, Selection())
        ) as letters,
    ):
        async for letter in letters:
            if letter.task_id is not None:
                counts[letter.task_id] += 1
    return counts


async def _show(
    found: Sequence[TaskRecord],
    dead: Mapping[str, int] | None,
    *,
    has_more: bool,
    as_json: bool,
) -> None:
    """Print a page of tasks, and where it goes on."""
    if as_json:
        await render.print_json_list(_each([_document(t, dead) for t in found]))
        return
    await render.print_table(COLUMNS, _each([_row(task) for task in found]))
    typer.echo(render.count_of(len(found), "task"), err=True)
    if has_more:
        typer.echo(f"there are more: --after {_place(found[-1])}", err=True)


def _refuse_unknown(settings: Settings, chosen: TaskSelection) -> None:
    """Refuse a name that nobody knows, now that the ledger does not know it either.

    Raises:
        typer.BadParameter: it may be misspelt.
    """
    from pipeline.provider.callback import OPERATIONS

    _require(chosen.operation, OPERATIONS, "--operation")
    _require(chosen.door, settings.doors, "--door")


def _require(name: str | None, known: Collection[str], option: str) -> None:
    if name is not None and name not in known:
        message = f"expected one of {', '.join(sorted(known))}; got {name!r}"
        raise typer.BadParameter(message, param_hint=option)


def _place(task: TaskRecord) -> str:
    """Write the place of a task in the listing."""
    from pipeline.message import to_milliseconds

    return f"{to_milliseconds(task.last_seen_at)}/{task.task_id}"


def _read_place(text: str) -> Place:
    """Read what ``_place`` has written.

    Raises:
        typer.BadParameter: it is none.
    """
    from pipeline.ledger.records import Place
    from pipeline.message import from_milliseconds
    from pipeline.task import TaskId

    at, _, task_id = text.partition("/")
    try:
        return Place(last_seen_at=from_milliseconds(int(at)), task_id=TaskId(task_id))
    except ValueError:
        message = f"expected the place that a page ended with, got {text!r}"
        raise typer.BadParameter(message, param_hint="--after") from None


def _document(task: TaskRecord, dead: Mapping[str, int] | None) -> dict[str, Any]:
    letters = {} if dead is None else {"dead_letters": dead[task.task_id]}
    return {**asdict(task), **letters, "place": _place(task)}


def _row(task: TaskRecord) -> Sequence[object]:
    return (
        task.task_id,
        task.operation,
        task.state.value,
        f"{task.files_stored}/{task.files_expected}",
        task.last_seen_at,
        task.message,
    )


async def _each(items: Sequence[Any]) -> AsyncIterator[Any]:
    for item in items:
        yield item
