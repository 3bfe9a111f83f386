"""The file under ``Database``: opened with care, one transaction for many calls.

Everything here runs in the thread of one ``Database`` and knows no event loop.
"""

from __future__ import annotations

import os
import random
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import apsw

from pipeline.errors import ConfigurationError, PipelineError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence
    from datetime import timedelta
    from pathlib import Path

#: Three usual callbacks fit on such a page; only one would on SQLite's 4 KiB.
PAGE_BYTES: Final = 8192

#: The log goes into the file when it is so long: 32 MiB. A page that several commits
#: change, as those of indexes are, gets there once; beside SQLite's 1,000 pages that
#: spares the ledger a seventh of its time.
CHECKPOINT_PAGES: Final = 4000

#: What the write-ahead log keeps on the disk for the next burst.
LOG_BYTES: Final = 64 * 1024 * 1024

#: What tells of the file, the disk or other users of it, not of the statement.
_UNAVAILABLE: Final = (
    apsw.BusyError,
    apsw.CantOpenError,
    apsw.CorruptError,
    apsw.FullError,
    apsw.IOError,
    apsw.LockedError,
    apsw.NoMemError,
    apsw.NotADBError,
    apsw.PermissionsError,
    apsw.ProtocolError,
    apsw.ReadOnlyError,
)


class DatabaseUnavailable(PipelineError):
    """The file cannot be opened, is locked for too long, or the disk is full."""


class SchemaMismatch(PipelineError):
    """The file was written by a newer version, or by another kind of program."""


def migrate(
    connection: apsw.Connection, scripts: Sequence[str], *, application_id: int
) -> None:
    """Bring the schema up to ``len(scripts)``; script number 1 comes first.

    To be called inside a write, so that one of several processes does the work.
    ``application_id`` says whose file it is: two kinds of schema in one file would
    take each other's version for their own.

    Raises:
        SchemaMismatch: the file is of another kind, or its schema is newer.
    """
    found = connection.pragma("application_id")
    version = connection.pragma("user_version")
    if found != application_id and (found or version):
        message = (
            f"expected a database of kind {application_id:#x}, found {found:#x} in"
            f" {connection.filename}: give the broker and the ledger a file each"
        )
        raise SchemaMismatch(message)
    if version > len(scripts):
        message = (
            f"expected schema version {len(scripts)} or older, found {version} in"
            f" {connection.filename}: use the newer version of this program"
        )
        raise SchemaMismatch(message)
    for number in range(version, len(scripts)):
        connection.execute(scripts[number])
        connection.pragma("user_version", number + 1)
    if not found:
        connection.pragma("application_id", application_id)


def check_library(version: str) -> None:
    """Refuse SQLite libraries that can corrupt a file in WAL mode.

    With several connections, a WAL that is reset at the wrong moment loses
    committed pages (https://sqlite.org/wal.html#walresetbug).

    Raises:
        ConfigurationError: ``version`` is one of these.
    """
    numbers = tuple(int(number) for number in version.split(".")[:3])
    mended = (
        numbers >= (3, 51, 3)
        or (3, 44, 6) <= numbers < (3, 45, 0)
        or (3, 50, 7) <= numbers < (3, 51, 0)
    )
    if not mended:
        message = (
            "expected SQLite 3.51.3 or newer (or 3.44.6, 3.50.7 of their series),"
            f" found {version}, which can lose committed data: install a newer apsw"
        )
        raise ConfigurationError(message)


@dataclass(slots=True)
class Call:
    """What somebody has asked for."""

    run: Callable[[apsw.Connection], Any]
    future: asyncio.Future[Any]
    writes: bool
    asked_at: float
    #: When it raises, it leaves nothing behind that has to be undone.
    is_atomic: bool = False


#: The result of a call, or the error that it ended with.
Answer: TypeAlias = tuple[Any, BaseException | None]


class File:
    """The connection, opened when it is needed; for the thread alone."""

    def __init__(
        self,
        path: Path,
        busy_timeout: timedelta,
        prepare: Callable[[apsw.Connection], None] | None,
        cache_kib: int,
    ) -> None:
        self.problem: str | None = None
        #: Set when closing: no lock is waited for after this monotonic time.
        self.give_up_at = float("inf")
        self._path = path
        self._busy_seconds = busy_timeout.total_seconds()
        self._prepare = prepare
        self._cache_kib = cache_kib
        self._connection: apsw.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._waiting_since = 0.0
        self._cannot_write = False

    def perform(self, calls: Sequence[Call]) -> list[Answer]:
        """Carry out ``calls`` in one transaction, in their order. Never raises."""
        writes = any(call.writes for call in calls)
        try:
            connection = self._opened()
            connection.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
            is_alone = len(calls) == 1
            answers = [
                self._perform_one(connection, call, is_alone=is_alone) for call in calls
            ]
            connection.execute("COMMIT")
        except BaseException as error:  # noqa: BLE001 - all of it goes to the callers
            self._undo(error)
            reads = [call for call in calls if not call.writes]
            if isinstance(error, apsw.BusyError) and writes and reads:
                read = iter(self.perform(reads))
                answers = [
                    (None, self._told(error)) if call.writes else next(read)
                    for call in calls
                ]
            else:
                answers = [(None, self._told(error)) for _ in calls]
            self.problem = str(self._told(error))
            self._cannot_write = self._cannot_write or writes
        else:
            # That reading works proves nothing: a lock or a full disk lets it pass.
            if writes or not self._cannot_write:
                self.problem = None
            self._cannot_write = self._cannot_write and not writes
        return answers

    def close(self) -> None:
        """Close the connection, if there is one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(apsw.Error):
                connection.close()

    def _perform_one(
        self, connection: apsw.Connection, call: Call, *, is_alone: bool
    ) -> Answer:
        if call.future.cancelled():
            return None, None
        # A savepoint copies every page that is changed in it: a call that has the
        # transaction for itself does without, as does one that needs no undoing.
        has_savepoint = call.writes and not (is_alone or call.is_atomic)
        if has_savepoint:
            connection.execute("SAVEPOINT one")
        try:
            value = call.run(connection)
        except BaseException as error:
            if not connection.in_transaction:
                raise  # SQLite has undone everything: disk full or an I/O error
            if has_savepoint:
                connection.execute("ROLLBACK TO one")
                connection.execute("RELEASE one")
            elif call.writes and not call.is_atomic:
                connection.execute("ROLLBACK")
                connection.execute("BEGIN")
            return None, self._told(error)
        if has_savepoint:
            connection.execute("RELEASE one")
        return value, None

    def _told(self, error: BaseException) -> BaseException:
        """Put what went wrong with the file into our own words."""
        if not isinstance(error, (*_UNAVAILABLE, OSError)):
            return error
        told = DatabaseUnavailable(f"{self._path}: {type(error).__name__}: {error}")
        told.__cause__ = error
        return told

    def _undo(self, error: BaseException) -> None:
        connection = self._connection
        if connection is None:
            return
        if connection.in_transaction:
            with suppress(apsw.Error):
                connection.execute("ROLLBACK")
        if not isinstance(error, (apsw.BusyError, apsw.FullError)):
            self.close()

    def _opened(self) -> apsw.Connection:
        """Give the connection; a file that was moved away is left for the new one."""
        if self._connection is not None:
            with suppress(FileNotFoundError):
                if self._identity == _identity(self._path):
                    return self._connection
            self.close()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        connection = apsw.Connection(
            str(self._path), flags=apsw.SQLITE_OPEN_READWRITE, statementcachesize=200
        )
        try:
            connection.set_busy_handler(self._wait_for_lock)
            connection.pragma("page_size", PAGE_BYTES)
            self._switch_log_on(connection)
            connection.pragma("wal_autocheckpoint", CHECKPOINT_PAGES)
            # After a burst the log gives its room on the disk back.
            connection.pragma("journal_size_limit", LOG_BYTES)
            connection.pragma("synchronous", "FULL")
            connection.pragma("foreign_keys", 1)
            connection.pragma("cache_size", -self._cache_kib)
            if self._prepare is not None:
                connection.execute("BEGIN IMMEDIATE")
                self._prepare(connection)
                connection.execute("COMMIT")
            self._identity = _identity(self._path)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    def _switch_log_on(self, connection: apsw.Connection) -> None:
        """Have a write-ahead log; who begins with the same new file is waited for.

        SQLite asks no busy handler then: it has read already, and who waits for a
        lock while holding one might wait for somebody who does the same.
        """
        ends_at = time.monotonic() + self._busy_seconds
        while True:
            try:
                connection.pragma("journal_mode", "WAL")
            except apsw.BusyError:
                if time.monotonic() >= min(ends_at, self.give_up_at):
                    raise
                _pause()
            else:
                return

    def _wait_for_lock(self, tries: int) -> bool:
        # SQLite's own handler waits up to 100 ms at a time, so that a busy process
        # starves the others.
        now = time.monotonic()
        if tries == 0:
            self._waiting_since = now
        if now >= min(self._waiting_since + self._busy_seconds, self.give_up_at):
            return False
        _pause()
        return True


def _pause() -> None:
    time.sleep(random.uniform(0.0005, 0.003))  # noqa: S311 - no secret


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino
