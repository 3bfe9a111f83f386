"""``pipeline tasks``: what the ledger knows of the provider's tasks."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import asdict
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
from pipeline.cli.task_timeline import (
    GIVEN_UP,
    Entry,
    is_given_up,
    is_over,
    settled,
    task_document,
    timeline,
)
from pipeline.task import Stage, TaskId

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from pipeline.ledger.port import TaskRecord
    from pipeline.settings import Settings

app = typer.Typer(
    name="tasks",
    no_args_is_help=True,
    help="Look at tasks: their stage, their files, what happened when.",
    rich_markup_mode=None,
)

COLUMNS = (
    render.Column("TASK", 36),
    render.Column("OPERATION", 14),
    render.Column("STAGE", 9),
    render.Column("TRACKS", 6),
    render.Column("LAST SEEN", 20),
    render.Column("MESSAGE"),
)


_FOLLOW_SECONDS: Final = 1.0

Age = Annotated[str | None, typer.Option(metavar="AGE", help="Seen in the last: 2d")]


@app.command(
    "list", epilog="Example: pipeline tasks list --stage failed --newer-than 1d --json"
)
def list_tasks(
    *,
    stage: Annotated[Stage | None, typer.Option(help="Only in this stage.")] = None,
    operation: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only of this operation.")
    ] = None,
    newer_than: Age = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
    as_json: AsJson = False,
    config: ConfigFile = None,
    assignments: Assignments = None,
    ledger_url: LedgerUrl = None,
) -> None:
    """List tasks, the last seen first."""
    from pipeline.bootstrap import ledger_of

    age = render.parse_age(newer_than)
    since = None if age is None else datetime.now(UTC) - age
    loaded = read_settings(config, assignments, ledger_url=ledger_url)

    async def main() -> None:
        async with ledger_of(loaded.settings, must_exist=True) as ledger:
            found = await ledger.list_tasks(
                stage=stage, operation=operation, since=since, limit=limit
            )
        if as_json:
            await render.print_json_list(_each([asdict(task) for task in found]))
            return
        await render.print_table(COLUMNS, _each([_row(task) for task in found]))
        typer.echo(render.count_of(len(found), "task"), err=True)

    run_once(main())


@app.command(
    epilog="\b\nExamples\n"
    "  pipeline tasks show 5c79be8e\n"
    "  pipeline tasks show 5c79be8e --follow",
)
def show(
    *,
    task_id: Annotated[str, typer.Argument(metavar="TASK-ID")],
    follow: Annotated[
        bool,
        typer.Option(
            "--follow", help="Go on until it has ended and its files are settled."
        ),
    ] = False,
    dead_letters: Annotated[
        bool, typer.Option(help="Look for its dead letters on the broker, too.")
    ] = True,
    as_json: AsJson = False,
    config: ConfigFile = None,
    assignments: Assignments = None,
    ledger_url: LedgerUrl = None,
    broker_url: BrokerUrl = None,
) -> None:
    """Show one task and everything that happened to it, in order of time."""
    loaded = read_settings(
        config, assignments, ledger_url=ledger_url, broker_url=broker_url
    )
    task, settings = TaskId(task_id), loaded.settings
    if follow:
        try:
            has_ended = run_once(_follow(settings, task, as_json=as_json))
        except KeyboardInterrupt:
            raise typer.Exit from None
        if not has_ended:
            render.fail(f"task {render.plain(task)} is {GIVEN_UP}")
            raise typer.Exit(1)
        return
    document = run_once(_document(settings, task, dead_letters=dead_letters))
    if document is None:
        render.fail(f"the ledger has no task {task_id}")
        raise typer.Exit(1)
    if as_json:
        render.print_json({**document, "timeline": _as_json(timeline(document))})
    else:
        _print_task(document)


async def _document(
    settings: Settings, task_id: TaskId, *, dead_letters: bool
) -> dict[str, Any] | None:
    from pipeline.bootstrap import ledger_of

    async with ledger_of(settings, must_exist=True) as ledger:
        document = await task_document(ledger, task_id)
    if document is not None and dead_letters:
        document["dead_letters"] = await _dead_letters(settings, task_id)
    return document


async def _follow(settings: Settings, task_id: TaskId, *, as_json: bool) -> bool:
    """Print what happens to a task as it happens; one that is not known may come.

    Tells whether it has ended; if not, it was given up.
    """
    import asyncio

    from pipeline.bootstrap import ledger_of

    printed: set[Entry] = set()
    is_told = False
    async with ledger_of(settings, must_exist=True) as ledger:
        while True:
            document = await task_document(ledger, task_id)
            if document is None and not is_told:
                is_told = True
                shown = render.plain(task_id)
                typer.echo(f"task {shown} is not known yet; Ctrl-C ends it", err=True)
            for entry in timeline(document) if document else ():
                # What is still to come changes with each question.
                if entry not in printed and entry.at <= datetime.now(UTC):
                    printed.add(entry)
                    _print_entry(entry, as_json=as_json)
            if document and is_over(document):
                return True
            if document and is_given_up(document):
                return False
            await asyncio.sleep(_FOLLOW_SECONDS)


async def _dead_letters(settings: Settings, task_id: str) -> list[dict[str, Any]]:
    """Find the dead letters of a task; without a broker there are none to be seen."""
    from pipeline.bootstrap import open_parts
    from pipeline.cli import letters
    from pipeline.dead_letters import Selection, browse
    from pipeline.errors import PipelineError

    try:
        async with (
            open_parts(settings, declaring=False, must_exist=True) as parts,
            aclosing(
                browse(
                    parts.broker,
                    parts.topology.work_queues,
                    Selection(task_id=task_id),
                )
            ) as found,
        ):
            return [letters.as_document(letter) async for letter in found]
    except PipelineError as error:
        render.warn(f"dead letters are not shown: {error}")
        return []


def _as_json(entries: Sequence[Entry]) -> list[dict[str, object]]:
    start = entries[0].at if entries else None
    return [
        {
            "at": entry.at,
            "after_seconds": start and (entry.at - start).total_seconds(),
            "what": entry.what,
        }
        for entry in entries
    ]


def _print_entry(
    entry: Entry, *, as_json: bool = False, start: datetime | None = None
) -> None:
    if as_json:
        render.print_json_line({"at": entry.at, "what": entry.what})
        return
    time = typer.style(render.format_time(entry.at), dim=True)
    after = ""
    if start is not None:
        after = f"  +{(entry.at - start).total_seconds():<8.1f}"
    typer.echo(f"{time}{after}  {render.plain(entry.what)}")


def _print_task(document: dict[str, Any]) -> None:
    fields = ("task_id", "operation", "stage", "code", "message")
    times = ("first_seen_at", "last_seen_at")
    render.print_fields({name: document[name] for name in (*fields, *times)})
    for track in document["tracks"]:
        typer.echo(
            f"  track {render.plain(track['track_id'])}"
            f"  {render.plain(track['title'] or '(no title)')}"
            f"  {track['duration_seconds']:g} s"
            f"{'  failed: ' + render.plain(track['error']) if track['error'] else ''}"
        )
    for asset in document["assets"]:
        typer.echo(f"  file  {render.plain(settled(asset))}")
    typer.echo()
    entries = timeline(document)
    for entry in entries:
        _print_entry(entry, start=entries[0].at)


def _row(task: TaskRecord) -> Sequence[object]:
    return (
        task.task_id,
        task.operation,
        task.stage.value,
        len(task.tracks),
        task.last_seen_at,
        task.message,
    )


async def _each(items: Sequence[Any]) -> AsyncIterator[Any]:
    for item in items:
        yield item
