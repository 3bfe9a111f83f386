"""``pipeline tasks``: what the ledger knows of the provider's tasks."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli import render
from pipeline.cli.loop import run_once
from pipeline.cli.options import (
    AsJson,
    Assignments,
    ConfigFile,
    LedgerUrl,
    read_settings,
)
from pipeline.task import Stage, TaskId

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from datetime import datetime

    from pipeline.ledger.port import Ledger, TaskRecord

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


@app.command(
    "list", epilog="Example: pipeline tasks list --stage failed --limit 20 --json"
)
def list_tasks(
    *,
    stage: Annotated[Stage | None, typer.Option(help="Only in this stage.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
    as_json: AsJson = False,
    config: ConfigFile = None,
    assignments: Assignments = None,
    ledger_url: LedgerUrl = None,
) -> None:
    """List tasks, the last seen first."""
    from pipeline.bootstrap import ledger_of

    loaded = read_settings(config, assignments, ledger_url=ledger_url)

    async def main() -> None:
        async with ledger_of(loaded.settings, must_exist=True) as ledger:
            found = await ledger.list_tasks(stage=stage, limit=limit)
        if as_json:
            await render.print_json_list(_each([asdict(task) for task in found]))
            return
        await render.print_table(COLUMNS, _each([_row(task) for task in found]))
        typer.echo(render.count_of(len(found), "task"), err=True)

    run_once(main())


@app.command(epilog="Example: pipeline tasks show 5c79be8e")
def show(
    *,
    task_id: Annotated[str, typer.Argument(metavar="TASK-ID")],
    as_json: AsJson = False,
    config: ConfigFile = None,
    assignments: Assignments = None,
    ledger_url: LedgerUrl = None,
) -> None:
    """Show one task and everything that happened to it, in order of time."""
    from pipeline.bootstrap import ledger_of

    loaded = read_settings(config, assignments, ledger_url=ledger_url)

    async def main() -> dict[str, Any] | None:
        async with ledger_of(loaded.settings, must_exist=True) as ledger:
            return await task_document(ledger, TaskId(task_id))

    document = run_once(main())
    if document is None:
        render.fail(f"the ledger has no task {task_id}")
        raise typer.Exit(1)
    if as_json:
        render.print_json(document)
    else:
        _print_task(document)


async def task_document(ledger: Ledger, task_id: TaskId) -> dict[str, Any] | None:
    """Give all that is known of a task as a JSON object; ``None``: not known."""
    task = await ledger.find_task(task_id)
    if task is None:
        return None
    expected = await ledger.find_expected(task_id)
    return {
        **asdict(task),
        "expected": None if expected is None else asdict(expected),
        "updates": [asdict(u) for u in await ledger.list_updates(task_id)],
        "assets": [asdict(a) for a in await ledger.list_assets(task_id)],
        "attempts": [asdict(a) for a in await ledger.list_attempts(task_id)],
        "notifications": [asdict(n) for n in await ledger.list_notifications(task_id)],
    }


def timeline(document: dict[str, Any]) -> list[tuple[datetime, str]]:
    """Put what happened to a task into order of time."""
    happened = [
        (
            update["received_at"],
            f"{update['origin']}: {update['stage']} ({update['verdict']}"
            + (f", {n} more said the same)" if (n := update["duplicates"]) else ")"),
        )
        for update in document["updates"]
    ]
    happened += _expected(document["expected"] or {})
    happened += [
        (
            attempt["finished_at"],
            f"{attempt['queue']}: {attempt['subject']}, attempt {attempt['number']}:"
            f" {attempt['outcome']} {attempt['detail']}".rstrip(),
        )
        for attempt in document["attempts"]
    ]
    happened += [
        (asset["settled_at"], _settled(asset))
        for asset in document["assets"]
        if asset["settled_at"] is not None
    ]
    happened += [
        (
            note["delivered_at"],
            f"{note['subscription']} has been told {note['event_type']}",
        )
        for note in document["notifications"]
        if note["delivered_at"] is not None
    ]
    return sorted(happened, key=lambda item: item[0])


def _expected(expected: dict[str, Any]) -> Iterator[tuple[datetime, str]]:
    """Say when a task was submitted, is asked for next, and was given up."""
    if at := expected.get("submitted_at"):
        job = f" as {expected['job_id']}" if expected["job_id"] else ""
        yield at, f"submitted{job}"
    questions = expected.get("questions", 0)
    if at := expected.get("given_up_at"):
        yield at, f"given up at question {questions}"
    if at := expected.get("due_at"):
        yield at, f"question {questions + 1}, unless news comes before"


def _settled(asset: dict[str, Any]) -> str:
    what = f"{asset['key']['track_id']}/{asset['key']['kind']}"
    if asset["location"] is None:
        reason = f": {asset['reason']}" if asset["reason"] else ""
        return f"{what} {asset['state']}{reason}"
    return (
        f"{what} {asset['state']}: {asset['location']}, {asset['size_bytes']:,} bytes"
    )


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
        typer.echo(f"  file  {render.plain(_settled(asset))}")
    typer.echo()
    for at, text in timeline(document):
        time = typer.style(render.format_time(at), dim=True)
        typer.echo(f"{time}  {render.plain(text)}")


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
