"""One embedded database file: a single thread of its own, commits shared by callers.

An fsync costs far more than an insert. Whatever is asked for while one commit runs
goes together into the next one, so that concurrent callers share its fsync. Other
processes may use the same file at the same time.

This module knows SQLite and nothing of brokers or ledgers: its two errors are
translated by the adapters that use it.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import deque
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self, TypeVar

import apsw

from pipeline.sqlite_file import (
    Call,
    DatabaseUnavailable,
    File,
    SchemaMismatch,
    check_library,
    migrate,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from pipeline.sqlite_file import Answer

__all__ = ["Database", "DatabaseUnavailable", "SchemaMismatch", "migrate"]

T = TypeVar("T")

#: At most so many calls share one commit: bounds what one failure takes along.
BATCH_LIMIT: Final = 512

#: Pages kept in memory; as SQLite has it. Enough for what goes in at one end and out at
#: the other.
CACHE_KIB: Final = 2000

#: A call that gets no answer is found out at most this part of the deadline late.
_LATE: Final = 0.1


class Database:
    """A handle on one file, to be used as an async context manager.

    Entering returns at once. The file is opened by the first call, and made with
    mode 0600 if need be; it is opened again after an error, and when somebody has
    replaced it. ``prepare`` runs in a write transaction whenever it is opened.

    All methods may be called concurrently by tasks of one event loop. Calls are
    carried out in the order in which they were made.

    Args:
        path: the file; missing folders are made.
        busy_timeout: how long to wait for other processes' locks.
        deadline: how long a call may take in all; twice ``busy_timeout`` if left out.
        prepare: brings the schema up to date, such as by ``migrate``.
        cache_kib: the most that pages kept in memory take.

    Raises:
        ConfigurationError: the SQLite library corrupts files (see ``check_library``).
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        busy_timeout: timedelta = timedelta(seconds=5),
        deadline: timedelta | None = None,
        prepare: Callable[[apsw.Connection], None] | None = None,
        cache_kib: int = CACHE_KIB,
    ) -> None:
        check_library(apsw.sqlite_lib_version())
        self.path = Path(path).absolute()
        self._busy_timeout = busy_timeout
        self._deadline_seconds = (deadline or 2 * busy_timeout).total_seconds()
        self._file = File(self.path, busy_timeout, prepare, cache_kib)
        self._calls: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        #: Calls without an answer, in the order in which the thread gets them.
        self._pending: deque[Call] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Future[None] | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._is_open = False
        self._overdue: str | None = None

    async def __aenter__(self) -> Self:
        """Start the thread."""
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        self._is_open = True
        # A daemon, so that a disk that never answers cannot hold up the exit.
        threading.Thread(
            target=self._serve, args=(self._loop, self._ended), daemon=True
        ).start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Carry out what was asked for, then close the file. Idempotent.

        Waits for locks at most ``busy_timeout`` in all, and for a disk that gives
        no answer at most the deadline: its thread is left behind then.
        """
        if self._ended is None:
            return
        if self._is_open:
            self._is_open = False
            self._file.give_up_at = time.monotonic() + (
                self._busy_timeout.total_seconds()
            )
            self._calls.put(None)
        try:
            await asyncio.wait((self._ended,), timeout=self._deadline_seconds)
        finally:
            if self._sweeper is not None:
                self._sweeper.cancel()
            self._fail_pending(asked_before=float("inf"))

    @property
    def problem(self) -> str | None:
        """Say why the last transaction failed; ``None``: it did not.

        A failed write is mended by a write that succeeds, not by a read.
        """
        return self._overdue or self._file.problem

    async def write(
        self, run: Callable[[apsw.Connection], T], *, is_atomic: bool = False
    ) -> T:
        """Run ``run`` in a transaction, return its result once that is on disk.

        ``run`` has a savepoint of its own in a transaction that others may share:
        if it raises, what it wrote is undone and the error comes out here. It runs
        in the thread of the database, so it must be quick. If this call is
        cancelled or overdue, it is unknown whether ``run`` took effect.

        ``is_atomic`` says that ``run`` leaves nothing behind when it raises: it gets
        no savepoint, which costs as much as a small insert.

        Raises:
            DatabaseUnavailable: locked for too long, disk full, I/O error.
        """
        return await self.submit(run, writes=True, is_atomic=is_atomic)

    async def read(self, run: Callable[[apsw.Connection], T]) -> T:
        """Run ``run``, which must not write, on one consistent state.

        Raises:
            DatabaseUnavailable: as for ``write``.
        """
        return await self.submit(run, writes=False)

    def submit(
        self,
        run: Callable[[apsw.Connection], T],
        *,
        writes: bool,
        patient: bool = False,
        is_atomic: bool = False,
    ) -> asyncio.Future[T]:
        """Ask for ``run`` now and give the future of its result.

        With ``patient`` there is no deadline: the future tells what happened,
        however long that takes. Futures are resolved in the order of the calls.
        ``is_atomic`` as in ``write``.

        Raises:
            DatabaseUnavailable: the handle is not open.
        """
        if not self._is_open or self._loop is None:
            message = f"the database {self.path} is used before open or after close"
            raise DatabaseUnavailable(message)
        future: asyncio.Future[T] = self._loop.create_future()
        asked_at = float("inf") if patient else self._loop.time()
        call = Call(run, future, writes, asked_at, is_atomic)
        self._pending.append(call)
        self._calls.put(call)
        if self._sweeper is None:
            self._schedule_sweep(self._loop)
        return future

    # One timer watches over all calls: one for each would cost as much as an insert.

    def _schedule_sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._sweeper = loop.call_later(
            self._deadline_seconds * _LATE, self._sweep, loop
        )

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._sweeper = None
        if self._pending:
            self._fail_pending(asked_before=loop.time() - self._deadline_seconds)
            self._schedule_sweep(loop)

    def _fail_pending(self, *, asked_before: float) -> None:
        for call in self._pending:
            if call.asked_at < asked_before and not call.future.done():
                message = (
                    f"{self.path} did not answer within {self._deadline_seconds:g} s:"
                    " the outcome is unknown"
                )
                self._overdue = message
                call.future.set_exception(DatabaseUnavailable(message))

    def _answer(self, answers: Sequence[Answer]) -> None:
        self._overdue = None
        for value, error in answers:
            future = self._pending.popleft().future
            if future.done():
                continue
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)

    def _serve(
        self, loop: asyncio.AbstractEventLoop, ended: asyncio.Future[None]
    ) -> None:
        """Be the thread: take what has come up, commit it, answer all at once."""
        going_on = True
        with suppress(RuntimeError):  # the loop was closed before this handle
            while going_on:
                calls: list[Call] = []
                call = self._calls.get()
                with suppress(queue.Empty):
                    while call is not None and len(calls) < BATCH_LIMIT:
                        calls.append(call)
                        if len(calls) < BATCH_LIMIT:
                            call = self._calls.get_nowait()
                going_on = call is not None
                if calls:
                    loop.call_soon_threadsafe(self._answer, self._file.perform(calls))
        self._file.close()
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(ended.set_result, None)
