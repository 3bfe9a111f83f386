"""``pipeline ledger``: looks after what is remembered of tasks."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

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

if TYPE_CHECKING:
    from pipeline.settings import Settings

app = typer.Typer(
    name="ledger",
    no_args_is_help=True,
    help="Look after the ledger: forget what is old.",
    rich_markup_mode=None,
)


@app.callback()
def ledger() -> None:
    """Look after the ledger: forget what is old."""


@app.command(epilog="Example: pipeline ledger prune --older-than 90d --yes")
def prune(
    *,
    older_than: Annotated[
        str, typer.Option(metavar="AGE", help="Last seen longer ago than: 90d, 12h")
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Really forget them.")] = False,
    as_json: AsJson = False,
    config: ConfigFile = None,
    assignments: Assignments = None,
    ledger_url: LedgerUrl = None,
) -> None:
    """Forget old tasks with all there is about them. Without --yes only count them.

    Tasks with a file that is still to come stay. Files in the asset store stay, too.
    Jobs go with their tasks, and those without a task by when they were begun; the id
    of one that is forgotten may be given again.
    """
    settings = read_settings(config, assignments, ledger_url=ledger_url).settings
    age = render.parse_age(older_than, "--older-than")
    assert age is not None  # noqa: S101 - the option is required
    before = datetime.now(UTC) - age
    tasks, jobs = run_once(_prune(settings, before, dry_run=not yes))
    if as_json:
        document = {"tasks": tasks, "jobs_without_task": jobs, "dry_run": not yes}
        render.print_json(document)
    else:
        told = render.count_of(tasks, "task")
        if jobs:
            told += f" and {render.count_of(jobs, 'job')} without a task"
        typer.echo(f"{told} {'forgotten' if yes else 'to be forgotten'}")
    if (tasks or jobs) and not yes:
        render.fail("nothing was forgotten: add --yes to forget them for ever")
        raise typer.Exit(2)


async def _prune(
    settings: Settings, before: datetime, *, dry_run: bool
) -> tuple[int, int]:
    """Forget or count; each batch is a transaction, so that workers go on."""
    from pipeline.bootstrap import ledger_of

    async with ledger_of(settings, must_exist=True) as opened:
        if dry_run:
            return await opened.count_old(before), await opened.count_old_jobs(before)
        tasks = jobs = 0
        while forgotten := await opened.prune(before):
            tasks += forgotten
        while forgotten := await opened.prune_jobs(before):
            jobs += forgotten
        return tasks, jobs
