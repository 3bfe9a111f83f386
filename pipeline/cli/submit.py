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
from pipeline.cli.submit_batch import submit_batch
from pipeline.cli.submit_one import submit_one

if TYPE_CHECKING:
    from collections.abc import Sequence

_EPILOG = (
    "\b\nExamples\n"
    "  pipeline submit https://files.example.com/song.mp3 --model V5"
    " --continue-at 60 \\\n"
    '    --style "slow waltz" --title "Copper Lanterns" --prompt "$(cat lyrics.txt)"'
    " --wait\n"
    "  pipeline submit --operation wav --field taskId=5c79 --field audioId=8551\n"
    "  pipeline submit --batch songs.csv --dry-run\n"
    "  pipeline submit --batch songs.csv --wait\n\n"
    "It needs provider.api_key, provider.door (or provider.base_url), and"
    " provider.callback_url: the public address of the ingress, to which the"
    " operation and the first of ingress.tokens are added.\n\n"
    "Before anything is sent, everything is checked that can be: the source audio is"
    " fetched and decoded, its length, the place to go on at, the length of texts."
    " All mistakes are named at once.\n\n"
    "A submission without an answer may have been accepted, and is never sent again"
    " by itself: it would be paid for twice.\n\n"
    "Exit codes: 0 submitted (with --wait: and all files are there), 1 not, or not"
    " known, 2 wrong usage."
)
_Link = Annotated[
    str | None,
    typer.Argument(
        metavar="[LINK]",
        help="Link to the source audio (uploadUrl), public and https.",
        show_default=False,
    ),
]
_Operation = Annotated[
    str,
    typer.Option(
        "--operation", "-o", help="What to do: upload-extend, generate, extend, wav, …"
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
_SourceFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Decode this copy of the source instead of fetching the link.",
    ),
]
_Batch = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Submit every line of a .csv or .jsonl file. Start it again to go on"
        " where it was stopped: no line is sent twice.",
    ),
]
_KeepGoing = Annotated[
    bool,
    typer.Option(
        "--keep-going", help="Batch: submit the good lines though others have mistakes."
    ),
]
_Again = Annotated[
    bool,
    typer.Option(
        "--resubmit-unknown",
        help="Batch: send lines again of which nobody knows whether they were"
        " accepted. They may be paid for twice.",
    ),
]
_Wait = Annotated[
    bool,
    typer.Option(
        "--wait", help="Wait until all files are on disk; needs a running pipeline."
    ),
]
_Timeout = Annotated[
    str, typer.Option(metavar="AGE", help="The longest to wait: 90s, 30m.")
]
_DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check everything, send nothing.")
]


def add_to(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(epilog=_EPILOG)(submit)


def submit(
    *,
    link: _Link = None,
    operation: _Operation = "upload-extend",
    model: _Model = None,
    prompt: _Prompt = None,
    style: _Style = None,
    title: _Title = None,
    continue_at: _ContinueAt = None,
    instrumental: _Instrumental = False,
    fields: _Fields = None,
    source_file: _SourceFile = None,
    batch: _Batch = None,
    keep_going: _KeepGoing = False,
    again: _Again = False,
    wait: _Wait = False,
    timeout: _Timeout = "30m",
    dry_run: _DryRun = False,
    as_json: AsJson = False,
    config: ConfigFile = None,
    assignments: Assignments = None,
    ledger_url: LedgerUrl = None,
) -> None:
    """Submit a task to the provider, or many, and wait for the files if you like."""
    named = {
        "model": model,
        "prompt": prompt,
        "style": style,
        "title": title,
        "continueAt": continue_at,
        "instrumental": "true" if instrumental else None,
    }
    given = {name: what for name, what in named.items() if what is not None}
    given |= _assigned(fields)
    if link is not None:
        given[_link_field(operation)] = link
    within = render.parse_age(timeout)
    assert within is not None  # noqa: S101 - the option has a default
    settings = read_settings(config, assignments, ledger_url=ledger_url).settings
    if batch is None:
        _refuse_with({"--keep-going": keep_going, "--resubmit-unknown": again})
        run = submit_one(
            settings,
            operation,
            given,
            source_file,
            within=within if wait else None,
            dry_run=dry_run,
            as_json=as_json,
        )
    else:
        _refuse_without({"LINK": link, "--source-file": source_file, **named})
        if fields:
            _refuse_without({"--field": fields})
        run = submit_batch(
            settings,
            operation,
            batch,
            keep_going=keep_going,
            again=again,
            within=within if wait else None,
            dry_run=dry_run,
            as_json=as_json,
        )
    if not run_once(run):
        raise typer.Exit(1)


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


def _refuse_with(given: dict[str, bool]) -> None:
    for name, is_given in given.items():
        if is_given:
            message = "expected it with --batch only"
            raise typer.BadParameter(message, param_hint=name)


def _refuse_without(given: dict[str, object]) -> None:
    found = [name for name, what in given.items() if what is not None]
    if found:
        message = f"expected fields in the file only, got {', '.join(found)} beside it"
        raise typer.BadParameter(message, param_hint="--batch")
