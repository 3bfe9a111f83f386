"""Which task is meant by how its id starts, as the demo shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from pipeline.cli import render

if TYPE_CHECKING:
    from pipeline.ledger.port import Ledger
    from pipeline.task import TaskId

#: Fewer characters would mean another task tomorrow.
START_LENGTH: Final = 6
#: So many are named where several tasks could be meant.
NAMED: Final = 5

TaskArgument = Annotated[
    str,
    typer.Argument(
        metavar="TASK-ID",
        help=f"Its id, or how that starts: {START_LENGTH} characters or more.",
        show_default=False,
    ),
]


async def choose_task(ledger: Ledger, given: TaskId) -> TaskId:
    """Give the id that is meant: ``given`` itself, or the only one that starts so.

    One that nobody knows is given back: its task may still come.

    Raises:
        typer.BadParameter: several start so; it names them.
        LedgerError: the ledger cannot be read.
    """
    if len(given) < START_LENGTH:
        return given
    found = await ledger.list_task_ids(given, limit=NAMED + 1)
    # One that is just that would come first.
    if not found or found[0] == given:
        return given
    if len(found) > 1:
        number = f"more than {NAMED}" if len(found) > NAMED else str(len(found))
        names = ", ".join(render.plain(one) for one in found[:NAMED])
        message = (
            f"expected how the id of one task starts, got {given!r}, as {number} do:"
            f" {names}"
        )
        raise typer.BadParameter(message, param_hint="TASK-ID")
    return found[0]
