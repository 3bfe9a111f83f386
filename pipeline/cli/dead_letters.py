"""``pipeline dead-letters``: list, show, replay, discard."""

from __future__ import annotations

import sys
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path  # noqa: TC003  typer reads the annotations
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from pipeline.cli import letters, render
from pipeline.cli.loop import run_once
from pipeline.cli.options import (
    AsJson,
    Assignments,
    BrokerUrl,
    ConfigFile,
    read_settings,
)
from pipeline.cli.progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence

    from pipeline.bootstrap import Parts
    from pipeline.dead_letters import DeadLetter, Progress, Selection

T = TypeVar("T")

app = typer.Typer(
    name="dead-letters",
    no_args_is_help=True,
    help="Look through what could not be processed, replay it or discard it.",
    rich_markup_mode="rich",
)

Queues = Annotated[
    list[str] | None,
    typer.Option(
        "--queue",
        "-q",
        metavar="QUEUE",
        help="Only of this work queue, such as notify.studio. Can be repeated.",
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
MessageId = Annotated[
    str | None, typer.Argument(metavar="[MESSAGE-ID]", help="Only this one.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Count, and change nothing.")]


@app.command(
    "list",
    epilog="[bold]Examples[/]\n\n"
    "pipeline dead-letters list --queue download --older-than 1h\n\n"
    "pipeline dead-letters list --error-type LinkExpired --json",
)
def list_letters(
    *,
    queue: Queues = None,
    task: Task = None,
    stage: Stage = None,
    error_type: ErrorType = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    limit: Limit = None,
    as_json: AsJson = False,
    config: ConfigFile = None,
    assignments: Assignments = None,
    broker_url: BrokerUrl = None,
) -> None:
    """List dead letters, the oldest of each queue first. Nothing is changed."""
    selection = _selection(
        message_id=None,
        task=task,
        stage=stage,
        error_type=error_type,
        older_than=older_than,
        newer_than=newer_than,
    )

    async def main(parts: Parts) -> int:
        from pipeline.dead_letters import browse

        queues = _queues(parts, queue)
        async with aclosing(browse(parts.broker, queues, selection)) as found:
            first = _first(found, limit)
            if as_json:
                return await render.print_json_list(
                    letters.as_document(x) async for x in first
                )
            return await render.print_table(
                letters.COLUMNS, (letters.as_row(x) async for x in first)
            )

    count = _run(main, config, assignments, broker_url)
    if not as_json:
        typer.echo(render.count_of(count, "dead letter"), err=bool(count))


@app.command(epilog="Example: pipeline dead-letters show 3f2a… --body | jq .")
def show(
    *,
    message_id: Annotated[str, typer.Argument(metavar="MESSAGE-ID")],
    queue: Queues = None,
    body: Annotated[
        bool, typer.Option("--body", help="Print the body alone, as it is.")
    ] = False,
    as_json: AsJson = False,
    config: ConfigFile = None,
    assignments: Assignments = None,
    broker_url: BrokerUrl = None,
) -> None:
    """Show one dead letter with its headers and its body."""

    async def main(parts: Parts) -> DeadLetter | None:
        from pipeline.dead_letters import find

        return await find(parts.broker, _queues(parts, queue), message_id)

    letter = _run(main, config, assignments, broker_url)
    if letter is None:
        render.fail(f"no dead letter has the message id {message_id}")
        raise typer.Exit(1)
    if body:
        sys.stdout.buffer.write(letter.envelope.body)
    elif as_json:
        render.print_json(letters.as_document(letter, complete=True))
    else:
        letters.print_letter(letter)


@app.command(
    epilog="[bold]Examples[/]\n\n"
    "pipeline dead-letters replay 3f2a…\n\n"
    "pipeline dead-letters replay --queue notify.studio --newer-than 1d --rate 50\n\n"
    "A replay returns each message to the queue it failed in, and to no other.",
)
def replay(
    *,
    message_id: MessageId = None,
    queue: Queues = None,
    task: Task = None,
    stage: Stage = None,
    error_type: ErrorType = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    limit: Limit = None,
    rate: Annotated[
        float | None,
        typer.Option(min=0.01, metavar="N", help="At most so many each second."),
    ] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    config: ConfigFile = None,
    assignments: Assignments = None,
    broker_url: BrokerUrl = None,
) -> None:
    """Send dead letters back to be processed again, from attempt 1."""
    selection = _selection(
        message_id=message_id,
        task=task,
        stage=stage,
        error_type=error_type,
        older_than=older_than,
        newer_than=newer_than,
    )

    async def main(parts: Parts) -> Progress:
        from pipeline.dead_letters import replay as replay_letters

        queues = _queues(parts, queue)
        with progress_bar("Replaying", limit, shown=not as_json) as report:
            return await replay_letters(
                parts.broker,
                queues,
                selection,
                limit=limit,
                rate=rate,
                dry_run=dry_run,
                on_progress=report,
            )

    done = _run(main, config, assignments, broker_url)
    letters.print_result("replayed", done, dry_run=dry_run, as_json=as_json)
    _require_seen(done, limit)
    _require_found(message_id, done)


@app.command(
    epilog="Example: pipeline dead-letters discard --error-type LinkExpired --yes"
)
def discard(
    *,
    message_id: MessageId = None,
    queue: Queues = None,
    task: Task = None,
    stage: Stage = None,
    error_type: ErrorType = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    limit: Limit = None,
    yes: Annotated[bool, typer.Option("--yes", help="Really remove them.")] = False,
    as_json: AsJson = False,
    config: ConfigFile = None,
    assignments: Assignments = None,
    broker_url: BrokerUrl = None,
) -> None:
    """Remove dead letters for ever. Without --yes they are only counted."""
    selection = _selection(
        message_id=message_id,
        task=task,
        stage=stage,
        error_type=error_type,
        older_than=older_than,
        newer_than=newer_than,
    )

    async def main(parts: Parts) -> Progress:
        from pipeline.dead_letters import discard as discard_letters

        queues = _queues(parts, queue)
        with progress_bar("Discarding", limit, shown=not as_json) as report:
            return await discard_letters(
                parts.broker,
                queues,
                selection,
                limit=limit,
                dry_run=not yes,
                on_progress=report,
            )

    done = _run(main, config, assignments, broker_url)
    letters.print_result("discarded", done, dry_run=not yes, as_json=as_json)
    _require_seen(done, limit)
    _require_found(message_id, done)
    if not yes and done.matched:
        render.fail("nothing was removed: add --yes to discard them for ever")
        raise typer.Exit(2)


def _require_seen(done: Progress, limit: int | None) -> None:
    """Say that not all dead letters could be looked at; fail if none could."""
    unseen = done.total - done.seen
    if unseen <= 0 or (limit is not None and done.matched >= limit):
        return
    render.fail(
        f"{render.count_of(unseen, 'dead letter')} could not be looked at: another"
        " command holds them, or the broker was too slow; try again"
    )
    if not done.seen:
        raise typer.Exit(1)


def _require_found(message_id: str | None, done: Progress) -> None:
    if message_id is not None and not done.matched:
        render.fail(f"no dead letter has the message id {message_id}")
        raise typer.Exit(1)


def _selection(
    *,
    message_id: str | None,
    task: str | None,
    stage: str | None,
    error_type: str | None,
    older_than: str | None,
    newer_than: str | None,
) -> Selection:
    from pipeline.dead_letters import Selection

    now = datetime.now(UTC)
    older, newer = render.parse_age(older_than), render.parse_age(newer_than)
    return Selection(
        message_id=message_id,
        task_id=task,
        stage=stage,
        error_type=error_type,
        before=None if older is None else now - older,
        since=None if newer is None else now - newer,
    )


def _queues(parts: Parts, wanted: list[str] | None) -> Sequence[str]:
    """Give the work queues to look at; both their own and their dead name will do."""
    known = parts.topology.work_queues
    names = [name.removeprefix("dead.") for name in wanted or ()]
    if unknown := [name for name in names if name not in known]:
        message = f"expected one of {', '.join(known)}; got {', '.join(unknown)}"
        raise typer.BadParameter(message, param_hint="--queue")
    return list(dict.fromkeys(names)) or known


async def _first(
    found: AsyncGenerator[DeadLetter, None], limit: int | None
) -> AsyncGenerator[DeadLetter, None]:
    count = 0
    async for letter in found:
        yield letter
        count += 1
        if count == limit:
            return


def _run(
    main: Callable[[Parts], Coroutine[object, object, T]],
    config: Path | None,
    assignments: list[str] | None,
    broker_url: str | None,
) -> T:
    """Read the settings, open the broker, call ``main``."""
    from pipeline.bootstrap import open_parts

    loaded = read_settings(config, assignments, broker_url=broker_url)

    async def with_parts() -> T:
        async with open_parts(loaded.settings) as parts:
            return await main(parts)

    return run_once(with_parts())
