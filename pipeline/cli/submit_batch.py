"""Many submissions on the command line: with a bar, a journal, and one report."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli import render
from pipeline.cli.loop import run_once
from pipeline.cli.options import (
    AsJson,
    Assignments,
    ConfigFile,
    LedgerUrl,
    read_settings,
)
from pipeline.cli.progress import counting_bar
from pipeline.cli.submit_one import Manner
from pipeline.cli.submit_options import (  # noqa: TC001 - typer reads them
    DryRun,
    Operation,
    Timeout,
    Wait,
)
from pipeline.cli.task_end import TIME_IS_UP
from pipeline.cli.task_timeline import GIVEN_UP
from pipeline.errors import OutcomeUnknown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from datetime import timedelta

    from pipeline.settings import Settings
    from pipeline.submission import Followed
    from pipeline.submission.batch import Report
    from pipeline.submission.checker import Checked
    from pipeline.submission.journal import Entry
    from pipeline.submission.lines import Line

_EPILOG = (
    "\b\nExamples\n"
    "  pipeline submit-batch songs.csv --dry-run\n"
    "  pipeline submit-batch songs.csv --wait\n\n"
    "The file is CSV with a head, or JSON lines (.jsonl): the fields of a request as"
    " the provider calls them, and if you like operation, and source_file, a copy of"
    " the source on this machine.\n\n"
    "First all lines are checked, each link once; with a mistake in any nothing is"
    " sent. With --keep-going each good line is sent as soon as it is checked."
    " What becomes of each is noted in FILE.submitted.jsonl beside it:"
    " start the same again to go on where it was stopped or killed. A line that was"
    " just being sent then is looked up in the ledger, where its callback may have told"
    " of it; what nobody knows is reported as unknown, and only sent again with"
    " --resubmit-unknown. Ctrl-C while it waits ends with the report.\n\n"
    "Exit codes: 0 every line is submitted (with --wait: and all files are there),"
    " 1 not, or not known, 2 wrong usage, 3 not all are over within --timeout."
)
_Path = Annotated[Path, typer.Argument(metavar="FILE", help="A .csv or .jsonl file.")]
_KeepGoing = Annotated[
    bool,
    typer.Option(
        "--keep-going", help="Submit the good lines though others have mistakes."
    ),
]
_Again = Annotated[
    bool,
    typer.Option(
        "--resubmit-unknown",
        help="Send lines again of which nobody knows whether they were accepted."
        " They may be paid for twice.",
    ),
]
COLUMNS = (
    render.Column("LINE", 5),
    render.Column("STATE", 10),
    render.Column("TASK", 36),
    render.Column("REASON"),
)


def add_to(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("submit-batch", epilog=_EPILOG)(submit_batch)


def submit_batch(
    *,
    path: _Path,
    operation: Operation = "upload-extend",
    keep_going: _KeepGoing = False,
    again: _Again = False,
    wait: Wait = False,
    timeout: Timeout = "30m",
    dry_run: DryRun = False,
    as_json: AsJson = False,
    config: ConfigFile = None,
    assignments: Assignments = None,
    ledger_url: LedgerUrl = None,
) -> None:
    """Submit every line of a file, each of them once, and report what came of it."""
    from pipeline.service import StoppedAtOnce

    within = render.parse_age(timeout, "--timeout")
    settings = read_settings(config, assignments, ledger_url=ledger_url).settings
    how = Manner(within=within if wait else None, dry_run=dry_run, as_json=as_json)
    run = _run(settings, operation, path, how, keep_going=keep_going, again=again)
    try:
        is_good = run_once(run)
    except StoppedAtOnce as error:
        message = (
            "expected the line in progress to end, got a second signal; start the"
            " same again for the report, in which a line that was being sent is unknown"
        )
        raise OutcomeUnknown(message) from error
    if not is_good:
        raise typer.Exit(1)


def _say_finishing() -> None:
    render.warn(
        "it ends after the line in progress; after another signal nobody knows"
        " whether that line was accepted"
    )


async def _run(
    settings: Settings,
    operation: str,
    path: Path,
    how: Manner,
    *,
    keep_going: bool,
    again: bool,
) -> bool:
    """Submit the lines of a file; tell whether all of them are, and all is well."""
    from pipeline.bootstrap import open_submitter
    from pipeline.service import stopping_on_signals
    from pipeline.submission.batch import Batch
    from pipeline.submission.journal import Journal
    from pipeline.submission.lines import read_lines

    lines = read_lines(path, operation=operation)
    if how.dry_run:
        return await _check(settings, lines, as_json=how.as_json)
    async with (
        open_submitter(settings, once=True) as submitter,
        stopping_on_signals(_say_finishing) as stopping,
    ):
        with (
            Journal.opened(path) as journal,
            counting_bar(shown=not how.as_json) as on_progress,
        ):
            batch = Batch(
                submitter,
                journal,
                on_progress=on_progress,
                stopping=stopping,
                keep_going=keep_going,
                again=again,
            )
            report = await batch.run(lines)
    return await _finish(settings, report, how, stopped=stopping.is_set())


async def _finish(
    settings: Settings, report: Report, how: Manner, *, stopped: bool
) -> bool:
    """Wait if that is wanted, print the report, and tell whether all is well.

    Raises:
        typer.Exit: all is well so far, and the time is up.
    """
    followed: dict[str, Followed] = {}
    is_late = False
    try:
        if how.within is not None and not stopped:
            shown = not how.as_json
            is_late = await _wait(settings, report, how.within, followed, shown=shown)
    finally:
        # Whatever ends the waiting: what is listed here is paid for.
        await _show(report, followed, how)
    over = [one for one in followed.values() if one.is_over]
    is_good = report.is_good and all(one.is_good for one in over)
    if is_good and is_late:
        raise typer.Exit(TIME_IS_UP)
    return is_good and (how.within is None or len(over) == len(report.task_ids))


async def _check(settings: Settings, lines: Sequence[Line], *, as_json: bool) -> bool:
    """Check every line, a few at a time, and print what is wrong with any."""
    import asyncio

    from pipeline.bootstrap import open_checker
    from pipeline.submission.batch import CHECKING, CHECKS

    turns = asyncio.Semaphore(CHECKS)

    async def check(line: Line) -> Checked:
        async with turns:
            return await checker.check(line.operation, line.fields, line.source_file)

    found: list[dict[str, Any]] = []
    async with (
        open_checker(settings, once=True) as checker,
        asyncio.TaskGroup() as group,
    ):
        checks = [group.create_task(check(line)) for line in lines]
        with counting_bar(shown=not as_json) as on_progress:
            for done, line in enumerate(lines, start=1):
                checked = await checks[done - 1]
                mistakes = [str(mistake) for mistake in checked.mistakes]
                found.append({"line": line.number, "mistakes": mistakes})
                on_progress(CHECKING, done, len(lines))
    wrong = [one for one in found if one["mistakes"]]
    if as_json:
        render.print_json({"dry_run": True, "lines": len(lines), "wrong": wrong})
    else:
        for one in wrong:
            for mistake in one["mistakes"]:
                typer.echo(render.plain(f"line {one['line']}: {mistake}"))
        good = len(lines) - len(wrong)
        typer.echo(f"{good} of {render.count_of(len(lines), 'line')} can be submitted")
    return not wrong


async def _wait(
    settings: Settings,
    report: Report,
    within: timedelta,
    found: dict[str, Followed],
    *,
    shown: bool,
) -> bool:
    """Follow every task that was submitted; tell whether time was up before its end.

    A signal ends only the waiting: what is known by then is in ``found``.
    """
    import asyncio

    from pipeline.bootstrap import ledger_of
    from pipeline.service import StoppedAtOnce, stopping_on_signals
    from pipeline.submission import look
    from pipeline.submission.follow import EVERY_SECONDS

    ids = report.task_ids
    end = asyncio.get_running_loop().time() + within.total_seconds()
    with suppress(StoppedAtOnce), counting_bar(shown=shown) as on_progress:
        async with stopping_on_signals() as stopping, ledger_of(settings) as ledger:
            while not stopping.is_set():
                for task_id in ids:
                    if task_id not in found or not found[task_id].is_over:
                        found[task_id] = await look(ledger, task_id)
                    if stopping.is_set():
                        break
                over = sum(one.is_over for one in found.values())
                on_progress("waiting", over, len(ids))
                left = end - asyncio.get_running_loop().time()
                if over == len(ids) or left <= 0:
                    return over < len(ids)
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(EVERY_SECONDS, left)):
                        await stopping.wait()
    return False


async def _show(report: Report, followed: dict[str, Followed], how: Manner) -> None:
    """Print the one report, and how to go on."""
    from pipeline.submission.journal import State

    counts = {state.value: report.count(state) for state in State}
    if how.as_json:
        entries = [
            {**asdict(entry), "stage": _stage(entry, followed)}
            for entry in report.entries
        ]
        render.print_json({"earlier": report.earlier, **counts, "lines": entries})
    else:
        await render.print_table(COLUMNS, _rows(report, followed))
        told = [f"{count} {state}" for state, count in counts.items() if count]
        if report.earlier:
            told.append(f"{report.earlier} of them by an earlier start")
        typer.echo(f"{render.count_of(len(report.entries), 'line')}: {', '.join(told)}")
    if report.count(State.UNKNOWN):
        render.warn(
            "lines in the state unknown may have been accepted: start the same again"
            " once a callback may have told of them; if it stays so, look at the"
            " provider's log before you send them again with --resubmit-unknown"
        )
    if report.count(State.NOT_TRIED):
        render.warn(
            "lines that are not tried: start the same again; mistakes in others stop"
            " them, unless with --keep-going"
        )
    submitted = len(report.task_ids)
    over = sum(one.is_over for one in followed.values())
    if how.within is not None and over < submitted:
        render.warn(
            f"{over} of {render.count_of(submitted, 'task')} over: start the same"
            " again to wait for the rest; what is submitted is not sent again"
        )


async def _rows(
    report: Report, followed: dict[str, Followed]
) -> AsyncIterator[tuple[object, ...]]:
    for entry in report.entries:
        state = _stage(entry, followed) or entry.state.value
        one = followed.get(entry.task_id)
        reason = GIVEN_UP if one is not None and one.is_given_up else entry.reason
        yield entry.number, state, entry.task_id or None, reason


def _stage(entry: Entry, followed: dict[str, Followed]) -> str | None:
    one = followed.get(entry.task_id)
    if one is None:
        return None
    return "submitted" if one.stage is None else one.stage.value
