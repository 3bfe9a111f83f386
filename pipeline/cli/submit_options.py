"""Options of both commands that submit."""

from __future__ import annotations

from typing import Annotated

import typer

Operation = Annotated[
    str,
    typer.Option(
        "--operation", "-o", help="What to do: upload-extend, generate, extend, wav, …"
    ),
]
Wait = Annotated[
    bool,
    typer.Option(
        "--wait", help="Wait until all files are on disk; needs a running pipeline."
    ),
]
Timeout = Annotated[
    str, typer.Option(metavar="AGE", help="The longest to wait: 90s, 30m.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check everything, send nothing.")
]
