"""``pipeline doctor``: what is wrong, why it matters, what to do."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Final

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

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.doctor import Finding

_COLOURS: Final = {"ok": "green", "warning": "yellow", "problem": "red"}
_LABEL_WIDTH: Final = max(map(len, _COLOURS))
_PART_WIDTH: Final = 8

Only = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PART",
        help="Look at this part only: versions, settings, callback, broker, ledger,"
        " assets, spool, disk, provider, clock, losses, jobs. Can be repeated.",
        show_default=False,
    ),
]
Seconds = Annotated[
    float,
    typer.Option(min=0, max=600, help="Between two looks at the queues."),
]


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog="\b\nExamples\n"
        "  pipeline doctor\n"
        "  pipeline doctor --only callback --set"
        " provider.callback_url=https://hooks.example.com\n"
        "  pipeline doctor --only broker --only spool --json"
    )(doctor)


def doctor(
    *,
    only: Only = None,
    seconds: Seconds = 2.0,
    as_json: AsJson = False,
    config: ConfigFile = None,
    assignments: Assignments = None,
    broker_url: BrokerUrl = None,
    ledger_url: LedgerUrl = None,
) -> None:
    """Look at everything and say what is wrong; exit 1 if anything is.

    The callback address as the provider meets it, the broker and what is on it, the
    ledger, the asset store, the outage spool of this machine, its disks, the provider,
    clocks, and what is lost first if things stop now. Nothing is changed and no dead
    letter is touched. A warning is something that works all the same.
    """
    from pipeline.doctor import PARTS, Level, diagnose

    if unknown := sorted({*(only or ())} - {*PARTS}):
        message = f"expected some of {', '.join(PARTS)}, got {', '.join(unknown)}"
        raise typer.BadParameter(message, param_hint="--only")
    settings = read_settings(
        config, assignments, broker_url=broker_url, ledger_url=ledger_url
    ).settings
    span = timedelta(seconds=seconds)
    findings = run_once(diagnose(settings, span=span, only=only or ()))
    is_well = all(one.level is not Level.PROBLEM for one in findings)
    if as_json:
        document = [
            {
                "part": one.part,
                "level": one.level.value,
                "what": one.what,
                "why": one.why,
                "todo": one.todo,
            }
            for one in findings
        ]
        render.print_json({"ok": is_well, "findings": document})
    else:
        _print(findings)
    if not is_well:
        raise typer.Exit(1)


def _print(findings: Sequence[Finding]) -> None:
    indent = " " * (_LABEL_WIDTH + 2 + _PART_WIDTH + 2)
    for one in findings:
        level = f"{one.level.value:<{_LABEL_WIDTH}}"
        label = typer.style(level, fg=_COLOURS[one.level.value], bold=True)
        text = render.plain(one.what)
        typer.echo(f"{label}  {one.part:<{_PART_WIDTH}}  {text}")
        for name, line in (("why", one.why), ("do", one.todo)):
            if line:
                typer.echo(f"{indent}{name}: {render.plain(line)}")
