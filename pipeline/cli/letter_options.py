"""Options of ``pipeline dead-letters``: which dead letters, of which queues."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli import render
from pipeline.errors import BrokerError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.bootstrap import Parts
    from pipeline.dead_letters import Selection

Queues = Annotated[
    list[str] | None,
    typer.Option(
        "--queue",
        "-q",
        metavar="QUEUE",
        help="Only of this work queue, such as notify.studio, also of a subscription"
        " that was removed; or unrouted. Can be repeated.",
        show_default=False,
    ),
]
Task = Annotated[
    str | None, typer.Option(metavar="ID", help="Only of this task of the provider.")
]
Stage = Annotated[
    str | None, typer.Option(metavar="STAGE", help="Only of this stage: complete, ...")
]
ErrorType = Annotated[
    str | None, typer.Option(metavar="TYPE", help="Only with this error: Reject, ...")
]
OlderThan = Annotated[
    str | None, typer.Option(metavar="AGE", help="Failed longer ago than: 30m, 2d")
]
NewerThan = Annotated[
    str | None, typer.Option(metavar="AGE", help="Failed within the last: 30m, 2d")
]
Limit = Annotated[int | None, typer.Option(min=1, metavar="N", help="At most so many.")]
Rate = Annotated[
    float | None,
    typer.Option(min=0.01, metavar="N", help="At most so many each second."),
]
MessageId = Annotated[
    str | None, typer.Argument(metavar="[MESSAGE-ID]", help="Only this one.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Count, and change nothing.")]
Yes = Annotated[bool, typer.Option("--yes", help="Really remove them.")]
WithUnknownTasks = Annotated[
    bool,
    typer.Option(
        "--with-unknown-tasks",
        help="Also downloads of tasks that the ledger does not know.",
    ),
]


def selection_of(
    task: str | None,
    stage: str | None,
    error_type: str | None,
    *,
    ages: tuple[str | None, str | None],
    message_id: str | None = None,
) -> Selection:
    """Make of the options which dead letters are meant.

    Args:
        task: of this task.
        stage: of this stage.
        error_type: with this error.
        ages: failed longer ago than the first, and within the second.
        message_id: only this one.

    Raises:
        typer.BadParameter: an age is none, or nothing can be of both.
    """
    from pipeline.dead_letters import Selection

    now = datetime.now(UTC)
    older = render.parse_age(ages[0], "--older-than")
    newer = render.parse_age(ages[1], "--newer-than")
    if older is not None and newer is not None and older >= newer:
        message = (
            f"expected an age below that of --newer-than, {ages[1]}, got {ages[0]}:"
            f" nothing has failed longer ago than {ages[0]}, and yet within the last"
            f" {ages[1]}"
        )
        raise typer.BadParameter(message, param_hint="--older-than")
    return Selection(
        message_id=message_id,
        task_id=task,
        stage=stage,
        error_type=error_type,
        before=None if older is None else now - older,
        since=None if newer is None else now - newer,
    )


async def queues_of(
    parts: Parts, wanted: list[str] | None, *, replaying: bool = False
) -> Sequence[str]:
    """Give the work queues to look at; both their own and their dead name will do.

    Without ``wanted`` those that the settings name. A queue that they do not name
    may be left over from a subscription that was removed.

    Raises:
        typer.BadParameter: there is no such queue.
        BrokerError: it is there, but nobody would take what is replayed.
    """
    from pipeline.topology import UNROUTED, dead_letter_queue

    known = parts.topology.work_queues
    names = list(dict.fromkeys(name.removeprefix("dead.") for name in wanted or ()))
    others = {
        dead_letter_queue(name): name
        for name in names
        if name not in (*known, UNROUTED)
    }
    if others:
        there = await parts.broker.find_queues(parts.topology, others)
        missing = others.keys() - {queue.name for queue in there}
        if missing:
            wrong = ", ".join(others[name] for name in sorted(missing))
            message = f"expected one of {', '.join((*known, UNROUTED))}; got {wrong}"
            raise typer.BadParameter(message, param_hint="--queue")
        if replaying:
            raise BrokerError(
                f"expected queues that somebody takes from, got"
                f" {', '.join(others.values())}, which no setting names: put the"
                " subscription back into its list to replay, or discard them"
            )
    return names or known
