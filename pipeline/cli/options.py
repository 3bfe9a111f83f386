"""Options that many commands share, and how settings are read from them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipeline.settings import Loaded

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="TOML file with settings  [default: $PIPELINE_CONFIG or pipeline.toml]",
        show_default=False,
    ),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        metavar="KEY=VALUE",
        help="Set one setting, such as ingress.port=9000. Can be repeated.",
        show_default=False,
    ),
]
BrokerUrl = Annotated[
    str | None,
    typer.Option(
        "--broker-url",
        metavar="URL",
        help="sqlite:///FILE or amqp://USER:PASSWORD@HOST/",
        show_default=False,
    ),
]
LedgerUrl = Annotated[
    str | None,
    typer.Option(
        "--ledger-url",
        metavar="URL",
        help="sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE",
        show_default=False,
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print JSON for programs instead of a table.")
]


def read_settings(
    config: Path | None,
    assignments: list[str] | None,
    **flags: object,
) -> Loaded:
    """Load the settings; ``flags`` are named by their key, ``__`` for a dot.

    Raises:
        ConfigurationError: something is wrong with them.
        typer.BadParameter: an assignment is no ``KEY=VALUE``.
    """
    from pipeline.settings import load_settings

    return load_settings(file=config, flags=as_flags(assignments, flags))


def as_flags(
    assignments: list[str] | None, flags: dict[str, object]
) -> dict[str, object]:
    """Join ``--set`` and the named options by dotted key; the latter win.

    Raises:
        typer.BadParameter: an assignment is no ``KEY=VALUE``.
    """
    joined: dict[str, object] = {}
    for assignment in assignments or ():
        key, equals, value = assignment.partition("=")
        if not equals:
            message = f"expected KEY=VALUE, got {assignment!r}"
            raise typer.BadParameter(message, param_hint="--set")
        joined[key.strip()] = value
    named = {k.replace("__", "."): v for k, v in flags.items() if v is not None}
    return joined | named
