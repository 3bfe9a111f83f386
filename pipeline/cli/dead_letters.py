"""``pipeline dead-letters``: list, show, replay, discard."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack, aclosing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path  # noqa: TC003  typer reads the annotations
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from pipeline.cli import letters, render
from pipeline.cli.letter_options import (
    DryRun,
    ErrorType,
    Limit,
    MessageId,
    NewerThan,
    OlderThan,
    Queues,
    Rate,
    Stage,
    Task,
    WithUnknownTasks,
    Yes,
    queues_of,
    selection_of,
)
from pipeline.cli.loop import run_once
from pipeline.cli.options import (
    AsJson,
    Assignments,
    BrokerUrl,
    ConfigFile,
    LedgerUrl,
    read_settings,
)
from pipeline.cli.progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence

    from pipeline.bootstrap import Parts
    from pipeline.dead_letters import DeadLetter, OnProgress, Progress, Selection
    from pipeline.message import Envelope, Publication
    from pipeline.settings import Settings

T = TypeVar("T")

app = typer.Typer(
    name="dead-letters",
    no_args_is_help=True,
    help="Look through what could not be processed, replay it or discard it.",
    rich_markup_mode=None,
)


@app.command(
    "list",
    epilog="\b\nExamples\n"
    "  pipeline dead-letters list --queue download --older-than 1h\n"
    "  pipeline dead-letters list --error-type LinkExpired --json",
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
    selection = selection_of(task, stage, error_type, ages=(older_than, newer_than))

    async def main(parts: Parts) -> tuple[int, int | None]:
        from pipeline.dead_letters import Progress, browse

        queues, looked = await queues_of(parts, queue), Progress()
        looking = browse(parts.broker, queues, selection, progress=looked)
        async with aclosing(looking) as found:
            first = _first(found, limit)
            if as_json:
                count = await render.print_json_list(
                    letters.as_document(x) async for x in first
                )
            else:
                count = await render.print_table(
                    letters.COLUMNS, (letters.as_row(x) async for x in first)
                )
        return count, looked.missed

    count, missed = _run(main, config, assignments, broker_url)
    if not as_json:
        typer.echo(render.count_of(count, "dead letter"), err=bool(count))
    if missed != 0 and count != limit:
        letters.print_missed(missed)
        raise typer.Exit(1)


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

    async def main(parts: Parts) -> tuple[DeadLetter | None, int | None]:
        from pipeline.dead_letters import Progress, find

        queues, looked = await queues_of(parts, queue), Progress()
        found = await find(parts.broker, queues, message_id, progress=looked)
        return found, looked.missed

    letter, missed = _run(main, config, assignments, broker_url)
    if letter is None:
        letters.print_nobody(message_id, missed)
        raise typer.Exit(1)
    if body:
        sys.stdout.buffer.write(letter.envelope.body)
    elif as_json:
        render.print_json(letters.as_document(letter, complete=True))
    else:
        letters.print_letter(letter)


@app.command(
    epilog="\b\nExamples\n"
    "  pipeline dead-letters replay 3f2a…\n"
    "  pipeline dead-letters replay --queue notify.studio --newer-than 1d --rate 50\n\n"
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
    rate: Rate = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    config: ConfigFile = None,
    assignments: Assignments = None,
    broker_url: BrokerUrl = None,
) -> None:
    """Send dead letters back to be processed again, from attempt 1."""
    ages = (older_than, newer_than)
    selection = selection_of(task, stage, error_type, ages=ages, message_id=message_id)

    async def main(parts: Parts) -> Progress:
        from pipeline.dead_letters import replay as replay_letters

        queues = await queues_of(parts, queue, replaying=True)
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
    _report("replayed", done, limit, message_id, dry_run=dry_run, as_json=as_json)


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
    yes: Yes = False,
    with_unknown_tasks: WithUnknownTasks = False,
    as_json: AsJson = False,
    config: ConfigFile = None,
    assignments: Assignments = None,
    broker_url: BrokerUrl = None,
    ledger_url: LedgerUrl = None,
) -> None:
    """Remove dead letters for ever. Without --yes they are only counted.

    The file of a discarded download is given up: asset.expired is published.
    """
    ages = (older_than, newer_than)
    selection = selection_of(task, stage, error_type, ages=ages, message_id=message_id)

    settings = read_settings(
        config, assignments, broker_url=broker_url, ledger_url=ledger_url
    ).settings

    async def main(parts: Parts) -> Progress:
        queues = await queues_of(parts, queue)
        with progress_bar("Discarding", limit, shown=not as_json) as report:
            job = partial(_discard, limit=limit, dry_run=not yes, on_progress=report)
            return await job(
                *(settings, parts, queues, selection), with_unknown=with_unknown_tasks
            )

    done = _run_with(settings, main)
    _report("discarded", done, limit, message_id, dry_run=not yes, as_json=as_json)
    if not yes and done.matched:
        render.fail("nothing was removed: add --yes to discard them for ever")
        raise typer.Exit(2)


def _report(
    verb: str,
    done: Progress,
    limit: int | None,
    message_id: str | None,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Say what was done; fail if that is not all that was asked for.

    Raises:
        typer.Exit: with code 1.
    """
    letters.print_result(verb, done, dry_run=dry_run, as_json=as_json)
    if message_id is not None:
        if not done.matched:
            letters.print_nobody(message_id, done.missed)
            raise typer.Exit(1)
    elif done.missed != 0 and (limit is None or done.matched < limit):
        letters.print_missed(done.missed)
        raise typer.Exit(1)


async def _discard(
    settings: Settings,
    parts: Parts,
    queues: Sequence[str],
    selection: Selection,
    *,
    limit: int | None,
    dry_run: bool,
    on_progress: OnProgress | None,
    with_unknown: bool,
) -> Progress:
    """Discard; the ledger is opened only if a file has to be given up in it."""
    from pipeline.bootstrap import ledger_of
    from pipeline.dead_letters import GivingUp, discard, requested_files

    async with AsyncExitStack() as stack:
        giving_up: GivingUp | None = None

        async def settle(
            queue: str, envelopes: Sequence[Envelope]
        ) -> Sequence[Publication]:
            nonlocal giving_up
            if not requested_files(queue, envelopes):
                return ()
            if giving_up is None:
                opening = ledger_of(settings, must_exist=True)
                ledger = await stack.enter_async_context(opening)
                giving_up = GivingUp(
                    ledger,
                    clock=lambda: datetime.now(UTC),
                    with_unknown=with_unknown,
                )
            return await giving_up(queue, envelopes)

        return await discard(
            parts.broker,
            queues,
            selection,
            limit=limit,
            dry_run=dry_run,
            settle=settle,
            on_progress=on_progress,
        )


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
    loaded = read_settings(config, assignments, broker_url=broker_url)
    return _run_with(loaded.settings, main)


def _run_with(
    settings: Settings, main: Callable[[Parts], Coroutine[object, object, T]]
) -> T:
    from pipeline.bootstrap import open_parts

    async def with_parts() -> T:
        async with open_parts(settings, must_exist=True) as parts:
            for difference in parts.tolerated[:1]:
                # Logs are off here, and looking is what may cost a dead letter.
                render.warn(difference.text)
            return await main(parts)

    return run_once(with_parts())
