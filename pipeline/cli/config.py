"""``pipeline config``: show and check the settings."""

from __future__ import annotations

from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline.settings import Loaded, Mistake

app = typer.Typer(
    name="config",
    no_args_is_help=True,
    help="Show the effective settings, or check them.",
    rich_markup_mode=None,
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
    """Say all that is wrong with the settings; exit 1 if anything is.

    The list of subscriptions and the certificate that they name are looked at too.
    """
    from pipeline.settings import find_value, try_settings

    flags = as_flags(assignments, {})
    loaded, wrong = try_settings(file=config, flags=flags)
    listed = find_value("subscriptions_file", file=config, flags=flags)
    mistakes = [*wrong, *_wrong_subscriptions(listed), *_wrong_ingress(loaded)]
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


def _wrong_subscriptions(listed: object) -> Sequence[Mistake]:
    """Say what is wrong with the list of subscriptions."""
    from pipeline.errors import ConfigurationError
    from pipeline.events.catalogue import PUBLIC_TYPES
    from pipeline.settings import Mistake
    from pipeline.subscriptions import try_subscriptions

    if not isinstance(listed, str):
        return ()  # there is none, or the setting itself is wrong
    path = Path(listed)
    try:
        _, found = try_subscriptions(path, event_types=PUBLIC_TYPES)
    except ConfigurationError as error:
        found = [str(error).removeprefix(f"{path}: ")]
    return [
        Mistake(key="subscriptions_file", origin=str(path), text=text) for text in found
    ]


def _wrong_ingress(loaded: Loaded | None) -> Iterator[Mistake]:
    """Say what is wrong with the ingress that its settings do not show."""
    from pipeline.errors import ConfigurationError
    from pipeline.ingress.app import refuse_unknown_operations
    from pipeline.ingress.bodies import refuse_small_total
    from pipeline.ingress.tls import certificate_of
    from pipeline.poller import rhythm
    from pipeline.settings import Mistake

    if loaded is None:
        return
    ingress = loaded.settings.ingress
    looks = (
        partial(refuse_unknown_operations, ingress),
        partial(refuse_small_total, ingress),
        partial(certificate_of, ingress.tls),
        partial(rhythm.refuse_unknown_operations, loaded.settings.poller),
    )
    for look in looks:
        try:
            look()
        except ConfigurationError as error:
            key, _, text = str(error).partition(": ")
            yield Mistake(key=key, origin=loaded.origin(key), text=text)


def _toml(value: object) -> str:
    """Write a value as TOML does, which for these kinds is nearly JSON."""
    return "unset" if value is None else orjson.dumps(value).decode()
