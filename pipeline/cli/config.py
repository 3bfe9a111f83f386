"""``pipeline config``: show and check the settings."""

from __future__ import annotations

from itertools import groupby

import orjson
import typer

from pipeline.cli import render
from pipeline.cli.options import (
    AsJson,
    Assignments,
    ConfigFile,
    as_flags,
    read_settings,
)

app = typer.Typer(
    name="config",
    no_args_is_help=True,
    help="Show the effective settings, or check them.",
    rich_markup_mode="rich",
)


@app.command()
def show(
    *,
    as_json: AsJson = False,
    config: ConfigFile = None,
    assignments: Assignments = None,
) -> None:
    """Print every setting with its value and where it comes from.

    Secrets are shown as set or unset, passwords in addresses as ***.
    """
    from pipeline.settings import show_settings

    shown = show_settings(read_settings(config, assignments))
    if as_json:
        document = {s.key: {"value": s.value, "origin": s.origin} for s in shown}
        render.print_json(document)
        return
    lines = {s.key: f"{s.key.rpartition('.')[2]} = {_toml(s.value)}" for s in shown}
    width = max(map(len, lines.values()))
    for table, settings in groupby(shown, key=lambda s: s.key.rpartition(".")[0]):
        if table:
            typer.secho(f"\n[{table}]", bold=True)
        for setting in settings:
            origin = typer.style(f"# {setting.origin}", dim=True)
            typer.echo(f"{lines[setting.key]:<{width}}  {origin}")


@app.command()
def check(
    *,
    as_json: AsJson = False,
    config: ConfigFile = None,
    assignments: Assignments = None,
) -> None:
    """Say what is wrong with the settings, all at once; exit 1 if anything is."""
    from pipeline.settings import try_settings

    _, mistakes = try_settings(file=config, flags=as_flags(assignments, {}))
    if as_json:
        found = [{"key": m.key, "origin": m.origin, "text": m.text} for m in mistakes]
        render.print_json({"ok": not mistakes, "mistakes": found})
    elif mistakes:
        for mistake in mistakes:
            render.fail(str(mistake))
    else:
        typer.echo("the settings are right")
    if mistakes:
        raise typer.Exit(1)


def _toml(value: object) -> str:
    """Write a value as TOML does, which for these kinds is nearly JSON."""
    return "unset" if value is None else orjson.dumps(value).decode()
