"""``pipeline submit``: have the provider make something, and see what comes of it."""

from __future__ import annotations

from pathlib import Path
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
from pipeline.cli.submit_one import Manner, submit_one
from pipeline.cli.submit_options import (  # noqa: TC001 - typer reads them
    DryRun,
    Operation,
    Timeout,
    Wait,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.ledger.jobs import JobId

_EPILOG = (
    "\b\nExamples\n"
    "  pipeline submit https://files.example.com/song.mp3 --model V5"
    " --continue-at 60 \\\n"
    '    --style "slow waltz" --title "Copper Lanterns" --prompt "$(cat lyrics.txt)"'
    " --wait\n"
    "  pipeline submit --operation wav --field taskId=5c79 --field audioId=8551"
    " --job-id order-17\n"
    "  pipeline submit https://files.example.com/song.mp3 --model V5"
    " --continue-at 60 --dry-run\n\n"
    "It needs provider.api_key, provider.door (or provider.base_url), and"
    " provider.callback_url: the public address of the ingress, to which the"
    " operation and the first of ingress.tokens are added.\n\n"
    "Before anything is sent, everything is checked that can be: the source audio is"
    " fetched and decoded, its length, the place to go on at, the length of texts."
    " All mistakes are named at once.\n\n"
    "Each submission is a job, noted in the ledger before it is sent. With --job-id you"
    " say what it is called, once for each task: the same command again sends nothing,"
    " names the task, and follows it with --wait. A job that was refused is sent again."
    "\n\n"
    "A submission without an answer may have been accepted, and is never sent again"
    " by itself: it would be paid for twice.\n\n"
    "Many at once: pipeline submit-batch.\n\n"
    "Exit codes: 0 submitted (with --wait: and all files are there), 1 not, or not"
    " known, 2 wrong usage, 3 not over within --timeout."
)
_Link = Annotated[
    str | None,
    typer.Argument(
        metavar="[LINK]",
        help="Link to the source audio (uploadUrl), public and https.",
        show_default=False,
    ),
]
_Model = Annotated[str | None, typer.Option(help="Such as V5; it must fit the source.")]
_Prompt = Annotated[
    str | None, typer.Option(help="Lyrics in custom mode, else what to make them of.")
]
_Style = Annotated[str | None, typer.Option(help="With a title: custom mode.")]
_Title = Annotated[str | None, typer.Option(help="With a style: custom mode.")]
_ContinueAt = Annotated[
    str | None,
    typer.Option(metavar="SECONDS", help="Where in the source to go on."),
]
_Instrumental = Annotated[bool, typer.Option("--instrumental", help="Without lyrics.")]
_Fields = Annotated[
    list[str] | None,
    typer.Option(
        "--field",
        "-f",
        metavar="NAME=VALUE",
        help="Any other field, as the provider calls it. Can be repeated.",
    ),
]
_JobId = Annotated[
    str | None,
    typer.Option(
        metavar="ID",
        help="What you call this submission: the same ID is sent once.",
        show_default=False,
    ),
]
_SourceFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Decode this copy of the source instead of fetching the link.",
    ),
]


def add_to(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(epilog=_EPILOG)(submit)


def submit(
    *,
    link: _Link = None,
    operation: Operation = "upload-extend",
    model: _Model = None,
    prompt: _Prompt = None,
    style: _Style = None,
    title: _Title = None,
    continue_at: _ContinueAt = None,
    instrumental: _Instrumental = False,
    fields: _Fields = None,
    source_file: _SourceFile = None,
    job_id: _JobId = None,
    wait: Wait = False,
    timeout: Timeout = "30m",
    dry_run: DryRun = False,
    as_json: AsJson = False,
    config: ConfigFile = None,
    assignments: Assignments = None,
    ledger_url: LedgerUrl = None,
) -> None:
    """Submit a task to the provider, and wait for its files if you like."""
    given = _assigned(fields) | _named(
        model=model,
        prompt=prompt,
        style=style,
        title=title,
        continueAt=continue_at,
        instrumental="true" if instrumental else None,
    )
    if link is not None:
        given[_link_field(operation)] = link
    within = render.parse_age(timeout, "--timeout")
    settings = read_settings(config, assignments, ledger_url=ledger_url).settings
    how = Manner(
        within=within if wait else None,
        dry_run=dry_run,
        as_json=as_json,
        job_id=None if job_id is None else _read_job_id(job_id),
    )
    if not run_once(submit_one(settings, operation, given, source_file, how)):
        raise typer.Exit(1)


def _named(**given: str | None) -> dict[str, Any]:
    """Give what was given."""
    return {name: what for name, what in given.items() if what is not None}


def _assigned(fields: Sequence[str] | None) -> dict[str, Any]:
    """Read ``NAME=VALUE``.

    Raises:
        typer.BadParameter: one is none.
    """
    found = {}
    for field in fields or ():
        name, equals, what = field.partition("=")
        if not equals or not name.strip():
            message = f"expected NAME=VALUE, got {field!r}"
            raise typer.BadParameter(message, param_hint="--field")
        found[name.strip()] = _json(what) if what[:1] in ("[", "{") else what
    return found


def _json(text: str) -> Any:
    import orjson

    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def _read_job_id(text: str) -> JobId:
    """Take an id.

    Raises:
        typer.BadParameter: it is none.
    """
    from pipeline.submission import read_job_id

    try:
        return read_job_id(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--job-id") from error


def _link_field(operation: str) -> str:
    """Say which field the link goes into.

    Raises:
        typer.BadParameter: the operation has no source audio, or several.
    """
    from pipeline.provider.rules import link_fields

    names = link_fields(operation)
    if not names or names[0].endswith("List"):
        message = f"expected none with {operation}: it takes no single source"
        raise typer.BadParameter(message, param_hint="LINK")
    return names[0]
