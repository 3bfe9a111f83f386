"""The embedded database engine: shared commits, failures that stay with their call."""

from __future__ import annotations

import asyncio
import contextlib
import stat
import threading
import time
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import apsw
import pytest

from pipeline.errors import ConfigurationError
from pipeline.sqlite import Database, DatabaseUnavailable, SchemaMismatch, migrate
from pipeline.sqlite_file import check_library

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

APPLICATION_ID = 0x74657374
#: For all that a disk which others keep busy may take; only locks are given up soon.
PATIENT = timedelta(seconds=30)
SCRIPTS = ("CREATE TABLE numbers (number INTEGER UNIQUE) STRICT",)


def prepare(connection: apsw.Connection) -> None:
    migrate(connection, SCRIPTS, application_id=APPLICATION_ID)


def insert(number: int) -> Callable[[apsw.Connection], int]:
    def run(connection: apsw.Connection) -> int:
        connection.execute("INSERT INTO numbers VALUES (?)", (number,))
        return number

    return run


def numbers(connection: apsw.Connection) -> list[int]:
    rows = connection.execute("SELECT number FROM numbers ORDER BY number")
    return [number for (number,) in rows]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "test.db"


@pytest.fixture
def new_file(path: Path) -> Path:
    """A file that another process has made and not begun with."""
    path.parent.mkdir()
    path.touch()
    return path


@pytest.fixture
async def database(path: Path) -> AsyncIterator[Database]:
    timeout = timedelta(seconds=0.3)
    async with Database(
        path, busy_timeout=timeout, deadline=PATIENT, prepare=prepare
    ) as opened:
        yield opened


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the write lock, as another process would."""
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.close()


async def test_what_was_written_is_read_after_reopening(
    database: Database, path: Path
) -> None:
    assert await database.write(insert(1)) == 1
    await database.__aexit__(None, None, None)

    async with Database(path, prepare=prepare) as again:
        assert [1] == await again.read(numbers)


async def test_concurrent_writes_share_commits(database: Database) -> None:
    commits = 0

    def count() -> bool:
        nonlocal commits
        commits += 1
        return False

    await database.write(lambda connection: connection.set_commit_hook(count))
    commits = 0
    await asyncio.gather(*(database.write(insert(n)) for n in range(100)))

    assert list(range(100)) == await database.read(numbers)
    assert 1 <= commits < 50


async def test_failing_call_does_not_undo_its_neighbours(database: Database) -> None:
    await database.write(insert(5))

    def fail(connection: apsw.Connection) -> None:
        insert(6)(connection)
        raise KeyError("mine")

    results = await asyncio.gather(
        database.write(insert(1)),
        database.write(insert(5)),
        database.write(fail),
        database.write(insert(2)),
        return_exceptions=True,
    )

    assert [int, apsw.ConstraintError, KeyError, int] == [type(r) for r in results]
    assert [1, 2, 5] == await database.read(numbers)


async def test_call_that_undoes_itself_has_no_savepoint(database: Database) -> None:
    """What it left behind, against its word, is there; it fails alone all the same."""

    def fail(connection: apsw.Connection) -> None:
        insert(6)(connection)
        raise KeyError("mine")

    results = await asyncio.gather(
        database.write(insert(1)),
        database.write(fail, is_atomic=True),
        database.write(insert(2)),
        return_exceptions=True,
    )

    assert [int, KeyError, int] == [type(result) for result in results]
    assert [1, 2, 6] == await database.read(numbers)


async def test_lone_failing_call_is_undone(database: Database) -> None:
    def fail(connection: apsw.Connection) -> None:
        insert(6)(connection)
        raise KeyError("mine")

    with pytest.raises(KeyError):
        await database.write(fail)

    assert [] == await database.read(numbers)


async def test_calls_are_carried_out_in_their_order(database: Database) -> None:
    seen: list[int] = []

    def note(_: apsw.Connection, number: int) -> None:
        seen.append(number)

    await asyncio.gather(
        *(database.write(partial(note, number=number)) for number in range(700))
    )

    assert list(range(700)) == seen


async def test_reads_need_no_write_lock(database: Database, path: Path) -> None:
    await database.write(insert(1))

    with locked(path):
        assert [1] == await database.read(numbers)


async def test_reads_go_on_beside_writes_that_wait_in_vain(
    database: Database, path: Path
) -> None:
    await database.write(insert(1))

    with locked(path):
        written, read = await asyncio.gather(
            database.write(insert(2)), database.read(numbers), return_exceptions=True
        )

    assert isinstance(written, DatabaseUnavailable)
    assert [1] == read


async def test_lock_that_is_held_too_long_is_unavailable_in_time(
    database: Database, path: Path
) -> None:
    await database.write(insert(1))
    began = time.monotonic()

    with locked(path):
        with pytest.raises(DatabaseUnavailable, match="locked"):
            await database.write(insert(2))
        took = time.monotonic() - began
        assert database.problem is not None

    # Less than the timeout that there is if none is given.
    assert 0.25 < took < 4.5
    await database.write(insert(3))
    assert database.problem is None
    assert [1, 3] == await database.read(numbers)


async def test_short_lock_is_waited_for(path: Path) -> None:
    async with Database(path, busy_timeout=PATIENT, prepare=prepare) as database:
        await database.write(insert(1))
        with locked(path):
            waiting = asyncio.create_task(database.write(insert(2)))
            assert not (await asyncio.wait((waiting,), timeout=0.05))[0]

        await waiting

        assert [1, 2] == await database.read(numbers)


async def test_new_file_that_another_process_begins_with_is_waited_for(
    new_file: Path,
) -> None:
    """Both switch its log on; SQLite itself would not wait for that."""
    async with Database(new_file, prepare=prepare) as database:
        with locked(new_file):
            writing = asyncio.create_task(database.write(insert(1)))
            # It must not have failed before the lock is gone.
            done, _ = await asyncio.wait([writing], timeout=0.2)
            assert not done

        assert 1 == await writing


async def test_new_file_that_stays_locked_is_unavailable_in_time(
    new_file: Path,
) -> None:
    timeout = timedelta(seconds=0.2)
    async with Database(
        new_file, busy_timeout=timeout, deadline=PATIENT, prepare=prepare
    ) as database:
        with locked(new_file):
            began = time.monotonic()
            with pytest.raises(DatabaseUnavailable, match="locked"):
                await database.write(insert(1))
            assert 0.2 <= time.monotonic() - began < 5


async def test_full_disk_is_unavailable_and_ends_with_more_room(
    database: Database,
) -> None:
    await database.write(insert(1))
    pages = await database.write(lambda c: c.pragma("page_count"))
    await database.write(lambda c: c.pragma("max_page_count", pages))

    def fill(connection: apsw.Connection) -> None:
        for number in range(10, 20_000):
            insert(number)(connection)

    results = await asyncio.gather(
        database.write(fill), database.write(insert(2)), return_exceptions=True
    )
    assert isinstance(results[0], DatabaseUnavailable)
    assert "full" in str(results[0])

    await database.write(lambda c: c.pragma("max_page_count", 100_000))
    await database.write(insert(3))
    found = await database.read(numbers)
    assert {1, 3} <= set(found) <= {1, 2, 3}


async def test_cancelled_call_leaves_the_thread_alone(database: Database) -> None:
    gate = threading.Event()
    blocking = asyncio.create_task(database.write(lambda _: gate.wait(5)))
    await asyncio.sleep(0)
    cancelled = [asyncio.create_task(database.write(insert(n))) for n in range(10)]
    await asyncio.sleep(0)
    for task in cancelled:
        task.cancel()
    gate.set()

    await blocking
    await database.write(insert(100))

    assert 100 in await database.read(numbers)


async def test_call_without_an_answer_ends_at_the_deadline(path: Path) -> None:
    gate = threading.Event()
    deadline = timedelta(seconds=0.3)
    async with Database(path, prepare=prepare, deadline=deadline) as database:
        # Opening the file may take longer.
        await database.submit(numbers, writes=False, patient=True)
        began = time.monotonic()

        with pytest.raises(DatabaseUnavailable, match="unknown"):
            await database.write(lambda _: gate.wait(60))

        took = time.monotonic() - began
        gate.set()
        assert [] == await database.submit(numbers, writes=False, patient=True)
    # Less than the deadline that there is if none is given.
    assert 0.25 < took < 9


async def test_patient_call_gets_its_answer_after_the_deadline(path: Path) -> None:
    gate = threading.Event()
    deadline = timedelta(seconds=0.1)
    async with Database(path, prepare=prepare, deadline=deadline) as database:
        patient = database.submit(lambda _: gate.wait(5), writes=True, patient=True)
        with pytest.raises(DatabaseUnavailable):
            await database.write(insert(1))
        gate.set()

        assert await patient


async def test_closing_carries_out_what_was_asked_for(
    database: Database, path: Path
) -> None:
    asked = [database.submit(insert(n), writes=True) for n in range(1000)]

    await database.__aexit__(None, None, None)
    await database.__aexit__(None, None, None)

    assert list(range(1000)) == [future.result() for future in asked]
    with pytest.raises(DatabaseUnavailable, match="after close"):
        await database.read(numbers)
    async with Database(path, prepare=prepare) as again:
        assert list(range(1000)) == await again.read(numbers)


async def test_closing_is_not_held_up_by_a_lock(database: Database, path: Path) -> None:
    await database.write(insert(1))
    with locked(path):
        # A score of transactions, each of which could wait for the lock.
        asked = [database.submit(insert(n), writes=True) for n in range(2, 10_000)]
        began = time.monotonic()

        await database.__aexit__(None, None, None)

        assert time.monotonic() - began < 5
        assert all(isinstance(f.exception(), DatabaseUnavailable) for f in asked)


async def test_new_file_is_for_its_owner_only(database: Database, path: Path) -> None:
    await database.write(insert(1))

    for name in (path, path.with_name("test.db-wal")):
        assert stat.S_IRUSR | stat.S_IWUSR == stat.S_IMODE(name.stat().st_mode)


async def test_file_that_was_replaced_is_opened_anew(
    database: Database, path: Path
) -> None:
    await database.write(insert(1))
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink()

    await database.write(insert(2))

    async with Database(path, prepare=prepare) as other:
        assert [2] == await other.read(numbers)


async def test_file_that_appears_later_is_opened_then(tmp_path: Path) -> None:
    blocked = tmp_path / "folder"
    blocked.write_text("no folder")
    async with Database(blocked / "test.db", prepare=prepare) as database:
        with pytest.raises(DatabaseUnavailable):
            await database.read(numbers)
        assert database.problem is not None

        blocked.unlink()

        assert [] == await database.read(numbers)
        assert database.problem is None


async def test_no_database_at_all_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "text.db"
    path.write_text("this is no database, and long enough to be seen as none" * 50)

    async with Database(path, prepare=prepare) as database:
        with pytest.raises(DatabaseUnavailable):
            await database.write(insert(1))

    assert "this is no database" in path.read_text()


async def test_foreign_keys_and_full_synchronisation_are_on(
    database: Database,
) -> None:
    found = await database.read(
        lambda c: [c.pragma(p) for p in ("journal_mode", "synchronous", "foreign_keys")]
    )

    assert ["wal", 2, 1] == found


async def test_migrations_are_applied_once_and_in_order(path: Path) -> None:
    first = ["CREATE TABLE a (x)"]
    second = [*first, "CREATE TABLE b (x); INSERT INTO b VALUES (1)"]

    for scripts in (first, second, second):
        async with Database(path) as database:
            await database.write(
                partial(migrate, scripts=scripts, application_id=APPLICATION_ID)
            )

    async with Database(path) as database:
        assert 1 == await database.read(lambda c: c.execute("SELECT x FROM b").get)
        assert 2 == await database.read(lambda c: c.pragma("user_version"))


async def test_migration_that_fails_changes_nothing(path: Path) -> None:
    scripts = ["CREATE TABLE a (x); CREATE TABLE a (x)"]
    async with Database(path) as database:
        with pytest.raises(apsw.SQLError):
            await database.write(
                lambda c: migrate(c, scripts, application_id=APPLICATION_ID)
            )

        assert 0 == await database.read(lambda c: c.pragma("user_version"))
        assert not await database.read(lambda c: c.table_exists(None, "a"))


async def test_newer_schema_is_refused(database: Database) -> None:
    await database.write(lambda c: c.pragma("user_version", 9))

    with pytest.raises(SchemaMismatch, match="version 1 or older, found 9"):
        await database.write(prepare)


async def test_file_of_another_kind_is_refused(database: Database) -> None:
    await database.write(insert(1))

    with pytest.raises(SchemaMismatch, match="a file each"):
        await database.write(lambda c: migrate(c, SCRIPTS, application_id=1))


@pytest.mark.parametrize("version", ["3.40.1", "3.51.2", "3.44.5", "3.45.0", "3.50.6"])
def test_library_that_loses_data_is_refused(version: str) -> None:
    with pytest.raises(ConfigurationError, match=version):
        check_library(version)


@pytest.mark.parametrize("version", ["3.44.6", "3.50.7", "3.51.3", "3.54.1", "4.0.0"])
def test_mended_library_is_taken(version: str) -> None:
    check_library(version)


def test_it_runs_on_uvloop(path: Path) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def write_many() -> int:
        async with Database(path, prepare=prepare) as database:
            await asyncio.gather(*(database.write(insert(n)) for n in range(200)))
            return len(await database.read(numbers))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert 200 == runner.run(write_many())
