"""What came of a task, as it came: for ``pipeline tasks show --body``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from pipeline.cli import render
from pipeline.cli.task_choice import choose_task
from pipeline.task import EventId

if TYPE_CHECKING:
    from pipeline.settings import Settings
    from pipeline.task import TaskId


async def print_body(settings: Settings, task_id: TaskId, event: str | None) -> bool:
    """Print a body alone, byte for byte; tell whether there is one.

    Args:
        settings: name the ledger.
        task_id: the task, or how its id starts.
        event: which one; ``None``: the last that came and was no repeat.

    Raises:
        typer.BadParameter: the ids of several tasks start so.
        LedgerError: the ledger cannot be read.
    """
    from pipeline.bootstrap import ledger_of

    async with ledger_of(settings, must_exist=True) as ledger:
        task_id = await choose_task(ledger, task_id)
        if event is None:
            if await ledger.find_task(task_id) is None:
                render.fail(f"the ledger has no task {task_id}")
                return False
            updates = await ledger.list_updates(task_id)
            if not updates:
                render.fail(f"nothing has been heard of task {task_id} yet")
                return False
            event = updates[-1].event_id
        body = await ledger.find_body(task_id, EventId(event))
    if body is None:
        render.fail(
            f"the ledger has no body of event {event} of task {task_id}; those that it"
            f" has: pipeline tasks show {task_id} --json | jq '.updates[].event_id'"
        )
        return False
    sys.stdout.buffer.write(body)
    sys.stdout.buffer.flush()
    return True
