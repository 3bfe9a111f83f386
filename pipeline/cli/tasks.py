"""``pipeline tasks``: what the ledger knows of the provider's tasks."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli import render, task_list
from pipeline.cli.loop import run_once
from pipeline.cli.options import (
    AsJson,
    Assignments,
    BrokerUrl,
    ConfigFile,
    LedgerUrl,
    read_settings,
)
from pipeline.cli.task_body import print_body
from pipeline.cli.task_choice import TaskArgument, choose_task
from pipeline.cli.task_entries import print_entry
from pipeline.cli.task_timeline import (
    entry_documents,
    settled,
    task_document,
    timeline,
)
from pipeline.task import TaskId

if TYPE_CHECKING:
    from datetime import timedelta

    from pipeline.settings import Settings

_Follow = Annotated[
    bool,
    typer.Option(
        "--follow",
        help="Go on until it is over: its files are there, or will not come.",
    ),
]
_Timeout = Annotated[
    str | None,
    typer.Option(metavar="AGE", help="With --follow: the longest to wait, 30m."),
]
_Body = Annotated[
    bool,
    typer.Option(
        "--body",
        help="Print the raw body alone, as it came: the last one, unless --event names"
        " another.",
    ),
]
_Event = Annotated[
    str | None,
    typer.Option(metavar="EVENT-ID", help="With --body: of which event."),
]
_DeadLetters = Annotated[
    bool, typer.Option(help="Look for its dead letters on the broker, too.")
]

app = typer.Typer(
    name="tasks",
    no_args_is_help=True,
    help="Look at tasks: their state, their files, what happened when.",
    rich_markup_mode=None,
)
task_list.add_to(app)


@app.command(
    epilog="\b\nExamples\n"
    "  pipeline tasks show 5c79be8e\n"
    "  pipeline tasks show 5c79be8e --follow --timeout 30m\n"
    "  pipeline tasks show 5c79be8e --body | jq .data.instruments\n\n"
    "Exit codes: 0 shown (with --follow: and every file is there), 1 there is no such"
    " task (with --body: or no such body; with --follow: it has failed, was given up,"
    " or lacks files that will not come), 2 wrong usage, 3 not over within --timeout.",
)
def show(
    *,
    task_id: TaskArgument,
    follow: _Follow = False,
    timeout: _Timeout = None,
    body: _Body = False,
    event: _Event = None,
    dead_letters: _DeadLetters = True,
    as_json: AsJson = False,
    config: ConfigFile = None,
    assignments: Assignments = None,
    ledger_url: LedgerUrl = None,
    broker_url: BrokerUrl = None,
) -> None:
    """Show one task and everything that happened to it, in order of time."""
    if body and (follow or as_json):
        message = "expected neither --follow nor --json beside it"
        raise typer.BadParameter(message, param_hint="--body")
    _refuse_alone("--timeout", timeout, "--follow", is_there=follow)
    _refuse_alone("--event", event, "--body", is_there=body)
    within = render.parse_age(timeout, "--timeout")
    settings = read_settings(
        config, assignments, ledger_url=ledger_url, broker_url=broker_url
    ).settings
    task = TaskId(task_id)
    if body:
        raise typer.Exit(0 if run_once(print_body(settings, task, event)) else 1)
    if follow:
        raise typer.Exit(_follow(settings, task, within, as_json=as_json))
    document = run_once(_document(settings, task, dead_letters=dead_letters))
    if document is None:
        render.fail(f"the ledger has no task {task_id}")
        raise typer.Exit(1)
    if as_json:
        entries = entry_documents(timeline(document))
        render.print_json({**document, "timeline": entries})
    else:
        _print_task(document)


def _refuse_alone(name: str, given: object, other: str, *, is_there: bool) -> None:
    """Refuse an option that means nothing without another.

    Raises:
        typer.BadParameter: it was given, and the other was not.
    """
    if given is not None and not is_there:
        message = f"expected {other} beside it, got none"
        raise typer.BadParameter(message, param_hint=name)


def _follow(
    settings: Settings, task_id: TaskId, within: timedelta | None, *, as_json: bool
) -> int:
    """Follow a task, and give the exit code; Ctrl-C is no failure."""
    from pipeline.cli.task_follow import follow_task

    try:
        return run_once(follow_task(settings, task_id, within=within, as_json=as_json))
    except KeyboardInterrupt:
        return 0


async def _document(
    settings: Settings, task_id: TaskId, *, dead_letters: bool
) -> dict[str, Any] | None:
    from pipeline.bootstrap import ledger_of

    async with ledger_of(settings, must_exist=True) as ledger:
        task_id = await choose_task(ledger, task_id)
        document = await task_document(ledger, task_id)
    if document is not None and dead_letters:
        document["dead_letters"] = await _dead_letters(settings, task_id)
    return document


async def _dead_letters(settings: Settings, task_id: str) -> list[dict[str, Any]]:
    """Find the dead letters of a task; without a broker there are none to be seen."""
    from pipeline.bootstrap import open_parts
    from pipeline.cli import letters
    from pipeline.dead_letters import Selection, browse
    from pipeline.errors import PipelineError

    try:
        async with (
            open_parts(settings, must_exist=True) as parts,
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


def _print_task(document: dict[str, Any]) -> None:
    fields = ("task_id", "operation", "door", "job_id", "state", "code", "message")
    times = ("submitted_at", "first_seen_at", "last_seen_at", "due_at", "given_up_at")
    shown = {name: document[name] for name in (*fields, *times)}
    optional = ("door", "job_id", "submitted_at", "due_at", "given_up_at")
    render.print_fields(
        {name: what for name, what in shown.items() if what or name not in optional}
    )
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
        print_entry(entry, start=entries[0].at)
