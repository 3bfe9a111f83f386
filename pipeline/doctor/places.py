"""Where things are kept, on this machine and elsewhere, and how much room there is."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from pipeline.assets.store import OBJECT_SCHEMES, open_store
from pipeline.bootstrap import ledger_of
from pipeline.doctor.clocks import judge_clock
from pipeline.doctor.finding import Finding, ok, problem, warning
from pipeline.poller.rhythm import follows
from pipeline.provider.door import polls_per_second
from pipeline.settings.polling import is_polling
from pipeline.settings.spooling import is_spooling
from pipeline.spool.spool import Spool, has_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline.ledger.expectations import Open
    from pipeline.settings import Settings

LEDGER: Final = "ledger"
ASSETS: Final = "assets"
SPOOL: Final = "spool"
DISK: Final = "disk"

#: A file that no store has: to ask for it is to try whether the store answers.
_NO_FILE: Final = f"sha256/00/{'0' * 64}.none"


async def look_at_ledger(settings: Settings) -> Sequence[Finding]:
    """Open the ledger, sum it up, and see whether tasks are asked for in time.

    Raises:
        LedgerUnavailable, LedgerMismatch: it cannot be used.
        ConfigurationError: there is none.
    """
    async with ledger_of(settings, must_exist=True) as ledger:
        sent_at = datetime.now(UTC)
        described = await ledger.describe()
        here = sent_at + (datetime.now(UTC) - sent_at) / 2
        totals = await ledger.totals()
        expected = await ledger.count_open(overdue=settings.poller.overdue_after)
    return [
        ok(
            LEDGER,
            f"{described.software}, schema {described.schema}: {totals.tasks:,} tasks,"
            f" {totals.assets_stored:,} files stored,"
            f" {totals.assets_pending:,} still to come, {totals.assets_expired:,} gone",
        ),
        judge_clock("the ledger", described.now, here, settings),
        *_judge_expected(expected, settings),
    ]


async def look_at_assets(settings: Settings) -> Sequence[Finding]:
    """Ask the store for a file, or look whether its folder can be written.

    Raises:
        FetchFailed: it does not answer.
        ConfigurationError: it cannot be used.
    """
    folder = assets_folder(settings)
    if folder is None:
        async with open_store(
            settings.assets_url, deadline=settings.assets_deadline
        ) as store:
            await store.exists(_NO_FILE)
        return [ok(ASSETS, "the object store answers")]
    there = await asyncio.to_thread(_nearest, folder)
    if not os.access(there, os.W_OK | os.X_OK):
        return [
            problem(
                ASSETS,
                f"expected a folder that can be written, got {there}",
                why="no file can be stored; downloads are retried, then given up",
                todo="give it to the user of the download worker",
            )
        ]
    state = "can be written" if there == folder else "is made by the first download"
    return [ok(ASSETS, f"{folder} {state}")]


async def look_at_spool(settings: Settings) -> Sequence[Finding]:
    """Look into the outage spool of this machine, also where it is switched off.

    Raises:
        BrokerError: its file cannot be used.
    """
    takes = is_spooling(settings)
    path = settings.spool.path.absolute()
    # To open one would make it.
    if not await asyncio.to_thread(has_file, settings.spool):
        what = "no callback waits here" if takes else "none, as the settings have it"
        return [ok(SPOOL, f"{what}: there is no file {path}")]
    async with Spool(settings.spool) as spool:
        await spool.measure()
        return [*_judge_spool(spool, takes=takes)]


async def look_at_disks(settings: Settings) -> Sequence[Finding]:
    """Compare the free room under every local path with the floor."""
    return await asyncio.to_thread(lambda: [*_judge_disks(settings)])


def assets_folder(settings: Settings) -> Path | None:
    """Give the folder of the asset store; ``None``: it is none on this machine."""
    parts = urlsplit(settings.assets_url)
    if parts.scheme in OBJECT_SCHEMES:
        return None
    path = unquote(parts.path) if parts.scheme else settings.assets_url
    return Path(path).absolute()


def _judge_expected(expected: Open, settings: Settings) -> Iterator[Finding]:
    if not expected.overdue:
        return
    rate = polls_per_second(settings)
    most = follows(rate, settings.poller.interval)
    todo = "see that a poller runs and what its log says; if more is due than it may"
    todo += f" ask ({rate:g} questions in a second, enough for {most:,} tasks of which"
    todo += " no callback comes), raise provider.rate_per_second as far as the provider"
    todo += " allows"
    if not is_polling(settings):
        todo = "set provider.base_url and provider.api_key, for `pipeline run` or for"
        todo += " `pipeline poller`"
    yield warning(
        LEDGER,
        f"{expected.overdue:,} of {expected.tasks:,} tasks that have not ended should"
        " have been asked for by now",
        why="if their callbacks were lost, their results are, too",
        todo=todo,
    )


def _judge_spool(spool: Spool, *, takes: bool) -> Iterator[Finding]:
    if (text := spool.problem if takes else spool.failure) is not None:
        yield problem(
            SPOOL,
            text,
            why="while the broker is away, callbacks are answered 503 and lost after"
            " the provider's last try",
            todo="make room, or bring the broker back so that the spool drains",
        )
    if spool.messages:
        off = "" if takes else "; the spool takes no others, as the settings have it"
        todo = "bring the broker back and keep an ingress running on this machine;"
        if not takes:
            todo += " one with the spool switched off forwards what the file held when"
            todo += " it was started;"
        yield problem(
            SPOOL,
            f"{spool.messages:,} callbacks wait, the oldest for"
            f" {spool.oldest_seconds:.0f} s, in {spool.used_bytes:,} bytes{off}",
            why="they are on this disk alone, and nobody has been told of them",
            todo=f"{todo} if both are there, look for forwarding_failed in its log",
        )
    elif text is None:
        state = "takes callbacks" if takes else "takes none, as the settings have it"
        yield ok(SPOOL, f"empty, and {state}")


def _judge_disks(settings: Settings) -> Iterator[Finding]:
    floor = int(settings.spool.min_free_bytes)
    seen: set[int] = set()
    for folder in _local_folders(settings):
        device = folder.stat().st_dev
        if device in seen:
            continue
        seen.add(device)
        found = os.statvfs(folder)
        free = found.f_bavail * found.f_frsize
        shown = f"{free // 2**20:,} MiB free on the disk of {folder}"
        if free >= 2 * floor:
            yield ok(DISK, shown)
            continue
        judge = warning if free >= floor else problem
        yield judge(
            DISK,
            f"{shown}; the floor is {floor // 2**20:,} MiB (spool.min_free_bytes)",
            why="below it the spool takes nothing; a full disk stops broker and ledger",
            todo="make room, or forget old tasks with `pipeline ledger prune`",
        )


def _local_folders(settings: Settings) -> Iterator[Path]:
    """Give what exists of each path that the settings name on this machine."""
    for url in (settings.broker_url, settings.ledger_url):
        parts = urlsplit(url)
        if parts.scheme == "sqlite":
            yield _nearest(Path(unquote(parts.path.removeprefix("/"))).absolute())
    if is_spooling(settings):
        yield _nearest(settings.spool.path.absolute())
    if (folder := assets_folder(settings)) is not None:
        yield _nearest(folder)


def _nearest(path: Path) -> Path:
    """Give the path, or the first folder above it that is there."""
    return next(one for one in (path, *path.parents) if one.exists())
