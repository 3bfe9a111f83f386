"""What only a ledger in a SQLite file can run into."""

from __future__ import annotations

from typing import TYPE_CHECKING

import apsw
import pytest

from pipeline.errors import LedgerMismatch, LedgerUnavailable
from pipeline.ledger.migrations import migrations
from pipeline.ledger.sqlite import APPLICATION_ID, SqliteLedger
from pipeline.ledger.task_statements import SELECT_TASK_IDS
from tests.callbacks import make_claim
from tests.waiting import impatient_ledger

if TYPE_CHECKING:
    from pathlib import Path


def opened(path: Path) -> apsw.Connection:
    return apsw.Connection(str(path))


async def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    async with SqliteLedger(path):
        pass
    with opened(path) as connection:
        connection.pragma("user_version", 99)

    with pytest.raises(LedgerMismatch, match="found 99"):
        async with SqliteLedger(path):
            pass

    assert opened(path).pragma("user_version") == 99


async def test_the_file_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with opened(path) as connection:
        connection.pragma("application_id", 7)

    with pytest.raises(LedgerMismatch, match="expected a database of kind"):
        async with SqliteLedger(path):
            pass


async def test_the_file_says_what_it_is_and_which_schema_it_has(
    tmp_path: Path,
) -> None:
    async with SqliteLedger(tmp_path / "ledger.db"):
        pass

    connection = opened(tmp_path / "ledger.db")
    assert connection.pragma("application_id") == APPLICATION_ID
    assert connection.pragma("user_version") == len(migrations())


async def test_the_start_of_an_id_is_looked_up_in_the_index(tmp_path: Path) -> None:
    async with SqliteLedger(tmp_path / "ledger.db"):
        pass

    plan = opened(tmp_path / "ledger.db").execute(
        f"EXPLAIN QUERY PLAN {SELECT_TASK_IDS}", ("5c79be", 6)
    )

    (step,) = [row[3] for row in plan]
    assert step.startswith("SEARCH tasks USING COVERING INDEX")
    assert "(task_id>?)" in step


async def test_what_is_no_database_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(b"not a database, but long enough to be taken for one" * 100)

    with pytest.raises(LedgerUnavailable, match=r"ledger\.db"):
        async with SqliteLedger(path):
            pass


async def test_a_folder_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(LedgerUnavailable):
        async with SqliteLedger(tmp_path / "file" / "ledger.db"):
            pass


async def test_a_lock_that_is_held_too_long_makes_it_unavailable(
    tmp_path: Path,
) -> None:
    """Reading goes on, and writing works again as soon as the lock is gone."""
    path = tmp_path / "ledger.db"
    async with impatient_ledger(path) as ledger:
        other = opened(path)
        other.set_busy_timeout(20_000)
        other.execute("BEGIN IMMEDIATE")

        with pytest.raises(LedgerUnavailable, match="Busy"):
            await ledger.record([make_claim()])
        assert (await ledger.totals()).tasks == 0

        other.execute("ROLLBACK")
        await ledger.record([make_claim()])
        assert (await ledger.totals()).tasks == 1


async def test_a_batch_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    async with SqliteLedger(tmp_path / "ledger.db") as ledger:
        good, bad = make_claim(), make_claim()
        # A body that is no bytes cannot be bound: an error of the program.
        object.__setattr__(bad, "body", object())
        object.__setattr__(bad, "event_id", "other")

        with pytest.raises(TypeError):
            await ledger.record([good, bad])

        assert (await ledger.totals()).updates == 0
        assert (await ledger.record([good]))[0].verdict == "new"
