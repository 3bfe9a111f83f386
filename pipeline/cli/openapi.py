"""``pipeline openapi``: describe the ingress."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.cli import render
from pipeline.cli.options import Assignments, ConfigFile, read_settings

if TYPE_CHECKING:
    import typer


def add_to(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(epilog="Example: pipeline openapi > openapi.json")(openapi)


def openapi(*, config: ConfigFile = None, assignments: Assignments = None) -> None:
    """Print the OpenAPI 3.1 description of the ingress, as /openapi.json serves it.

    It fits the settings: which secrets and signatures a callback needs.
    """
    from pipeline.ingress.openapi import describe

    render.print_json(describe(read_settings(config, assignments).settings.ingress))
