"""One submission on the command line: sent, followed, shown."""

from __future__ import annotations

import shlex
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import typer

from pipeline.cli import render
from pipeline.cli.progress import status_line
from pipeline.cli.task_end import TIME_IS_UP, dead_files_of, replay_of
from pipeline.cli.task_timeline import GIVEN_UP
from pipeline.errors import OutcomeUnknown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import timedelta
    from pathlib import Path

    from pipeline.ledger.jobs import JobId
    from pipeline.settings import Settings
    from pipeline.submission import Checked, Followed, Submitted, Submitter
    from pipeline.task import TaskId


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How something is submitted."""

    #: How long to wait until its files are there; ``None``: not at all.
    within: timedelta | None
    #: Check only.
    dry_run: bool
    #: Print JSON, and nothing beside it on standard output.
    as_json: bool
    #: What the caller calls the submission; ``None``: an id is made.
    job_id: JobId | None = None


async def submit_one(
    settings: Settings,
    operation: str,
    given: Mapping[str, Any],
    source_file: Path | None,
    how: Manner,
) -> bool:
    """Check and submit, and wait if that is wanted. Tell whether all is well.

    Raises:
        SubmissionInvalid: there are mistakes; nothing was sent.
        ProviderError: it was not accepted, or nobody knows.
        typer.Exit: it was not over in time; with a code of its own.
        LedgerError: the ledger was lost while it was waited for; what was known by
            then is printed.
    """
    from pipeline.bootstrap import open_checker, open_submitter

    if how.dry_run:
        async with open_checker(settings) as checker:
            checked = await checker.check(operation, given, source_file)
        checked.good()
        show_checked(checked, as_json=how.as_json)
        return True
    async with open_submitter(settings) as submitter:
        checked = submitter.check_fields(operation, given)
        submitted, is_stopped = None, False
        if how.job_id is not None:
            with _named(how.job_id):
                submitted = await submitter.find_earlier(checked, how.job_id)
        if submitted is None:
            checked = await submitter.check(operation, given, source_file)
            checked.good()
            submitted, is_stopped = await _send(submitter, checked, how.job_id)
    _tell(submitted, as_json=how.as_json)
    within = None if is_stopped else how.within
    followed = await _wait_and_show(
        settings, checked, submitted, replace(how, within=within)
    )
    if followed is not None and not followed.is_over:
        raise typer.Exit(TIME_IS_UP)
    return how.within is None or (followed is not None and followed.is_good)


def _tell(submitted: Submitted, *, as_json: bool) -> None:
    if submitted.was_there:
        render.warn("the provider has made this before: nothing new is made or paid")
    if submitted.is_repeat:
        render.warn(f"job {submitted.job_id} was submitted before; nothing was sent")
    if not as_json:
        render.print_fields(_fields(submitted))
    if not submitted.is_expected:
        render.warn("the ledger does not know of the task; keep its id")


async def _wait_and_show(
    settings: Settings, checked: Checked, submitted: Submitted, how: Manner
) -> Followed | None:
    """Wait if that is wanted, and print what came of it, whatever ends the waiting.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    followed: Followed | None = None

    def on_change(found: Followed) -> None:
        nonlocal followed
        followed = found

    # It is paid for: nobody may lose its id.
    try:
        if how.within is not None:
            typer.echo(f"task {render.plain(submitted.task_id)} is submitted", err=True)
            await wait_for(settings, submitted.task_id, how, on_change)
    finally:
        show_submitted(settings, checked, submitted, followed, as_json=how.as_json)
    return followed


async def _send(
    submitter: Submitter, checked: Checked, job_id: JobId | None
) -> tuple[Submitted, bool]:
    """Submit, and tell whether a signal came meanwhile.

    What is being sent is paid for: the first signal stops nothing in the middle.

    Raises:
        OutcomeUnknown: a second signal came.
    """
    from pipeline.service import StoppedAtOnce, stopping_on_signals
    from pipeline.submission import new_job_id

    job_id = job_id or new_job_id()
    with _named(job_id):
        try:
            async with stopping_on_signals(_say_finishing) as stopping:
                submitted = await submitter.submit(checked, job_id=job_id)
        except StoppedAtOnce as error:
            message = "expected an answer, got a second signal while it was submitted"
            raise OutcomeUnknown(message) from error
    return submitted, stopping.is_set()


@contextmanager
def _named(job_id: JobId) -> Iterator[None]:
    """Say how to find out about a job of which nothing is known."""
    try:
        yield
    except OutcomeUnknown:
        render.warn(
            f"its job is {job_id}: once a callback has told of it, the same command"
            f" with --job-id {shlex.quote(job_id)} names the task, and sends nothing"
        )
        raise


def _say_finishing() -> None:
    render.warn(
        "the submission in progress is being finished; after another signal nobody"
        " knows whether it was accepted"
    )


async def wait_for(
    settings: Settings,
    task_id: TaskId,
    how: Manner,
    on_change: Callable[[Followed], None],
) -> None:
    """Follow a task until it is over, or for as long as that may take.

    Args:
        settings: name the ledger.
        task_id: the task.
        how: how long, and whether it is shown.
        on_change: told how far it is, whenever that has changed.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    import asyncio

    from pipeline.bootstrap import ledger_of
    from pipeline.submission import follow, look

    assert how.within is not None  # noqa: S101  or there is nothing to wait for
    async with ledger_of(settings) as ledger:
        with status_line(shown=not how.as_json) as show:
            try:
                async with asyncio.timeout(how.within.total_seconds()):
                    dead_files = dead_files_of(settings)
                    following = follow(ledger, task_id, dead_files=dead_files)
                    async for followed in following:
                        on_change(followed)
                        show(describe(followed))
            except TimeoutError:
                render.warn(
                    f"task {task_id} is not over yet; look with"
                    f" `pipeline tasks show {task_id}`"
                )
                on_change(await look(ledger, task_id))


def describe(followed: Followed) -> str:
    """Say how far a task is, in one line."""
    from pipeline.task import AssetState, Stage

    is_heard = followed.stage not in (None, Stage.UNKNOWN)
    stage = str(followed.stage) if is_heard else "nothing heard yet"
    text = f"{followed.task_id}: {stage}"
    if followed.assets:
        stored = followed.count(AssetState.STORED)
        text += f", {stored} of {len(followed.assets)} files stored"
        if expired := followed.count(AssetState.EXPIRED):
            text += f", {expired} could not be had"
    if followed.is_given_up:
        text += f"; {GIVEN_UP}"
    if stuck := len(followed.stuck):
        text += f"; {stuck} will not come before {replay_of(followed.task_id)}"
    if followed.message and followed.is_over and not followed.is_good:
        text += f": {followed.message}"
    return render.plain(text)


def show_checked(checked: Checked, *, as_json: bool) -> None:
    """Print what would be sent; the token in the address is not shown."""
    document = {
        "operation": checked.operation,
        "dry_run": True,
        "callback_url": masked(checked),
        "source_seconds": dict(checked.lengths),
        "fields": checked.good().fields(),
    }
    if as_json:
        render.print_json(document)
        return
    fields = document.pop("fields")
    assert isinstance(fields, dict)  # noqa: S101 - made above
    del document["dry_run"], document["source_seconds"]
    for link, seconds in checked.lengths.items():
        document[f"source {link[:60]}"] = f"{seconds:.1f} s"
    render.print_fields(document | fields)
    typer.echo("nothing was sent: leave out --dry-run to submit it", err=True)


def masked(checked: Checked) -> str:
    """Give the callback address without its token."""
    address, operation = checked.callback_url, f"/callbacks/{checked.operation}"
    base, found, token = address.partition(operation)
    return f"{base}{found}/***" if token else address


def show_submitted(
    settings: Settings,
    checked: Checked,
    submitted: Submitted,
    followed: Followed | None,
    *,
    as_json: bool,
) -> None:
    """Print what came of it."""
    files = [] if followed is None else _files(settings, followed)
    if as_json:
        stage = None if followed is None or followed.stage is None else followed.stage
        document = {
            "task_id": submitted.task_id,
            "job_id": submitted.job_id,
            "operation": submitted.operation,
            "submitted_at": submitted.submitted_at,
            "is_expected": submitted.is_expected,
            "is_repeat": submitted.is_repeat,
            "was_there": submitted.was_there,
            "callback_url": masked(checked),
            "source_seconds": dict(submitted.source_seconds),
            "stage": stage,
            "message": "" if followed is None else followed.message,
            "is_good": None if followed is None else followed.is_good,
            "is_given_up": None if followed is None else followed.is_given_up,
            "files": files,
        }
        render.print_json(document)
        if followed is not None and (followed.is_given_up or followed.stuck):
            render.fail(describe(followed))
        return
    for file in files:
        what = file["location"] or file["reason"] or "not there yet"
        typer.echo(render.plain(f"{file['state']}  {file['kind']}  {what}"))
    if followed is None:
        typer.echo(
            f"see what comes of it: pipeline tasks show {submitted.task_id}", err=True
        )
    elif not followed.is_good:
        render.fail(describe(followed))


def _fields(submitted: Submitted) -> dict[str, object]:
    return {
        "task_id": submitted.task_id,
        "job_id": submitted.job_id,
        "operation": submitted.operation,
        "submitted_at": submitted.submitted_at,
    }


def _files(settings: Settings, followed: Followed) -> list[dict[str, Any]]:
    root = settings.assets_url.rstrip("/")
    return [
        {
            "track_id": asset.key.track_id,
            "kind": asset.key.kind,
            "state": asset.state.value,
            "location": None if asset.location is None else f"{root}/{asset.location}",
            "size_bytes": asset.size_bytes,
            "reason": asset.reason,
        }
        for asset in followed.assets
    ]
