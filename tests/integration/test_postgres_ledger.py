"""What only a ledger in PostgreSQL can run into."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

import asyncpg
import pytest
from yarl import URL

from pipeline.errors import (
    ConfigurationError,
    LedgerError,
    LedgerMismatch,
    LedgerUnavailable,
)
from pipeline.ledger import open_ledger
from pipeline.ledger import postgres_statements as sql
from pipeline.ledger.migrations import migrations
from pipeline.ledger.port import Verdict
from pipeline.ledger.postgres import PostgresLedger
from pipeline.task import EventId, Stage, TaskId
from tests.callbacks import make_claim, make_update
from tests.tcp_proxy import TcpProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from pipeline.ledger.port import Ledger
    from tests.postgres_node import PostgresNode

pytestmark = pytest.mark.postgres

#: Little enough to wait for, and enough to connect on a busy machine.
SHORT = timedelta(seconds=2)
T = TypeVar("T")

#: Two tasks as they are written after a batch, column by column.
TASKS = (
    ["a", "b"],
    ["generate"] * 2,
    ["first"] * 2,
    [200] * 2,
    [""] * 2,
    [1] * 2,
    [1] * 2,
    [""] * 2,
    [2] * 2,
)

#: Until a ledger that came back must have answered.
RECOVERY_SECONDS = 20.0


@pytest.fixture
async def migrated_url(postgres_ledger_url: str) -> str:
    """A ledger that was opened before: a short deadline need not do for its tables."""
    async with open_ledger(postgres_ledger_url):
        return postgres_ledger_url


@pytest.fixture
async def connection(postgres_ledger_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection beside the ledger's."""
    opened = await asyncpg.connect(postgres_ledger_url)
    try:
        yield opened
    finally:
        await opened.close()


async def test_a_newer_schema_is_refused_and_left_alone(
    postgres_ledger_url: str, connection: asyncpg.Connection
) -> None:
    async with open_ledger(postgres_ledger_url):
        pass
    await connection.execute("UPDATE ledger_schema SET version = 99")

    with pytest.raises(LedgerMismatch, match="found 99"):
        async with open_ledger(postgres_ledger_url):
            pass

    assert await connection.fetchval("SELECT version FROM ledger_schema") == 99


async def test_the_tables_of_another_program_are_refused_and_left_alone(
    postgres_ledger_url: str, connection: asyncpg.Connection
) -> None:
    await connection.execute("CREATE TABLE updates (version TEXT)")

    with pytest.raises(LedgerMismatch, match="another program's table"):
        async with open_ledger(postgres_ledger_url):
            pass

    assert await connection.fetchval("SELECT to_regclass('tasks')") is None


async def test_the_database_says_which_schema_it_has(
    postgres_ledger_url: str, connection: asyncpg.Connection
) -> None:
    async with open_ledger(postgres_ledger_url):
        pass

    found = await connection.fetch("SELECT version FROM ledger_schema")

    assert [(len(migrations()),)] == [tuple(row) for row in found]


async def test_who_only_looks_makes_no_ledger(
    postgres_ledger_url: str, connection: asyncpg.Connection
) -> None:
    with pytest.raises(ConfigurationError, match="expected a ledger that exists"):
        async with open_ledger(postgres_ledger_url, must_exist=True):
            pass

    assert await connection.fetchval("SELECT to_regclass('ledger_schema')") is None


async def test_many_batches_at_once_record_each_event_once(
    postgres_ledger_url: str,
) -> None:
    """Dedupe runs in several processes; each has a handle of its own."""
    tasks = [TaskId(f"task-{number}") for number in range(30)]
    stages = (Stage.TEXT, Stage.FIRST, Stage.COMPLETE)

    async with AsyncExitStack() as stack:
        handles = [
            await stack.enter_async_context(open_ledger(postgres_ledger_url))
            for _ in range(4)
        ]

        async def record_all(ledger: Ledger, number: int) -> Counter[EventId]:
            claims = [
                make_claim(make_update(stage, task_id=task))
                for stage in stages
                for task in tasks
            ]
            # Each goes through the tasks in an order of its own.
            turned = claims[number * 7 :] + claims[: number * 7]
            new: Counter[EventId] = Counter()
            for start in range(0, len(turned), 18):
                batch = turned[start : start + 18]
                answers = await ledger.record(batch)
                new.update(
                    claim.event_id
                    for claim, answer in zip(batch, answers, strict=True)
                    if answer.verdict is not Verdict.DUPLICATE
                )
            return new

        counted = await asyncio.gather(
            *(record_all(handles[number % 4], number) for number in range(12))
        )
        totals = await handles[0].totals()

    events = sum(counted, Counter())
    assert {1} == set(events.values())
    assert len(tasks) * len(stages) == len(events) == totals.updates
    assert len(events) * 11 == totals.duplicates
    assert len(tasks) == totals.tasks


async def test_one_event_at_once_is_recorded_once(postgres_ledger_url: str) -> None:
    async with open_ledger(postgres_ledger_url) as ledger:
        claims = [make_claim() for _ in range(8)]

        answers = await asyncio.gather(*(ledger.record([claim]) for claim in claims))

    verdicts = Counter(answer[0].verdict for answer in answers)
    assert {Verdict.NEW: 1, Verdict.DUPLICATE: 7} == verdicts


async def test_the_ledger_comes_back_after_the_server_was_restarted(
    postgres_node: PostgresNode,
) -> None:
    async with open_ledger(postgres_node.url) as ledger:
        before = make_claim()
        await ledger.record([before])

        postgres_node.stop()
        with pytest.raises(LedgerUnavailable):
            await ledger.record([make_claim()])
        with pytest.raises(LedgerUnavailable):
            await ledger.totals()
        postgres_node.start()

        again = await _answered(ledger.record, [before])
        assert [Verdict.NEW] == [answer.verdict for answer in again]


async def test_a_crash_of_the_server_costs_a_try_and_no_record(
    postgres_node: PostgresNode,
) -> None:
    task = TaskId("before-the-crash")
    async with open_ledger(postgres_node.url) as ledger:
        await ledger.record([make_claim(make_update(task_id=task))])

        postgres_node.kill()
        postgres_node.start()

        assert await _answered(ledger.find_task, task) is not None


async def test_a_server_that_is_not_there_is_unavailable(
    unused_tcp_port: int,
) -> None:
    address = f"postgresql://postgres@127.0.0.1:{unused_tcp_port}/postgres"

    with pytest.raises(LedgerUnavailable):
        async with open_ledger(address):
            pass


async def test_a_server_that_is_silent_is_unavailable_in_time(
    migrated_url: str,
) -> None:
    """A link that forwards nothing and stays open."""
    async with (
        TcpProxy.to(migrated_url) as proxy,
        PostgresLedger(proxy.url_for(migrated_url), deadline=SHORT) as ledger,
    ):
        proxy.hold()
        started = time.monotonic()
        with pytest.raises(LedgerUnavailable, match="in time"):
            await ledger.record([make_claim()])
        # Sooner than any ledger whose deadline is the default one.
        assert time.monotonic() - started < 8
        proxy.resume()

        assert (await _answered(ledger.totals)).tasks == 0


async def test_a_link_that_is_cut_is_made_anew(postgres_ledger_url: str) -> None:
    async with (
        TcpProxy.to(postgres_ledger_url) as proxy,
        PostgresLedger(proxy.url_for(postgres_ledger_url)) as ledger,
    ):
        await ledger.record([make_claim()])

        proxy.cut()

        assert (await _answered(ledger.totals)).tasks == 1


async def test_a_lock_of_others_is_waited_for_until_the_deadline(
    migrated_url: str, connection: asyncpg.Connection
) -> None:
    ledger = PostgresLedger(migrated_url, deadline=SHORT)
    async with ledger, connection.transaction():
        await connection.execute("LOCK TABLE tasks")

        with pytest.raises(LedgerUnavailable):
            await ledger.record([make_claim()])


async def test_a_worker_that_was_frozen_in_a_transaction_cannot_go_on(
    migrated_url: str, connection: asyncpg.Connection
) -> None:
    """The server has let its locks go, and nothing of what it wrote stays."""
    ledger = PostgresLedger(migrated_url, deadline=SHORT)
    async with ledger, open_ledger(migrated_url) as other:
        claim = make_claim()

        async def frozen(asleep: asyncpg.Connection) -> None:
            await asleep.execute("DELETE FROM updates")
            # Nothing of the process goes on.
            time.sleep(1.5 * SHORT.total_seconds())  # noqa: ASYNC251
            await asleep.execute("SELECT 1")

        await other.record([claim])
        with pytest.raises(LedgerUnavailable):
            await ledger._connections.transact(frozen)

        assert await other.find_body(claim.update.task_id, claim.event_id) is not None


async def test_a_wrong_database_is_a_mistake_in_the_settings(
    postgres_ledger_url: str,
) -> None:
    wrong = str(URL(postgres_ledger_url).with_path("/no-such-database"))

    with pytest.raises(ConfigurationError, match="no-such-database"):
        async with open_ledger(wrong):
            pass


@pytest.mark.parametrize("text", ["\0", "\ud800"])
async def test_a_value_that_the_database_cannot_hold_is_refused_alone(
    postgres_ledger_url: str, text: str
) -> None:
    async with open_ledger(postgres_ledger_url) as ledger:
        with pytest.raises(LedgerError) as caught:
            await ledger.record([make_claim(make_update(message=text))])
        assert not isinstance(caught.value, LedgerUnavailable)

        assert (await ledger.totals()).tasks == 0


async def test_everything_known_is_read_by_its_key(
    postgres_ledger_url: str, connection: asyncpg.Connection
) -> None:
    """Also in a ledger so small, or so new, that the server would rather scan it."""
    keys = ["a", "b"]
    asked: tuple[tuple[str, tuple[object, ...]], ...] = (
        (sql.KNOWN, (keys, keys, keys, keys)),
        (sql.KNOWN_ASSETS, (keys,)),
        (sql.BEGIN_ASSET, ("owner", 5000, "a", "b", "audio", "owner")),
        (sql.RENEW_ASSET, (5000, "a", "b", "audio", 1)),
        (sql.NOTE_NOTIFICATION, (1, None, 200, "shop", "e1", 1, None)),
        (sql.write("tasks"), TASKS),
        (sql.SELECT_TASK_IDS, ("a", 6)),
        (sql.SELECT_NEXT_DUE, ()),
        (sql.SELECT_DUE, (1250, 3, 10)),
        (sql.PUT_OFF, (5000, keys)),
        (sql.NOTE_ANSWER, (5000, None, "a", 1)),
        (sql.COUNT_OPEN, (60_000,)),
        (sql.SELECT_TURN, ()),
        (sql.SELECT_TASK_TURN, ("a", 2)),
        (sql.FORGET_TASK_TURNS, (1250,)),
        (sql.SELECT_SUBMISSION_TURN, (19,)),
        (sql.FORGET_SUBMISSION_TURNS, (10_250,)),
    )
    async with PostgresLedger(postgres_ledger_url) as ledger:
        for statement, bindings in asked:
            plan = await ledger._select(f"EXPLAIN {statement}", *bindings)

            assert any("Index" in row[0] for row in plan)
            assert not any("Seq Scan" in row[0] for row in plan)


async def test_a_batch_is_four_questions_to_the_server(
    postgres_ledger_url: str,
) -> None:
    """Begin and lock, read, write, commit: each one more slows every batch."""
    async with PostgresLedger(postgres_ledger_url, connections=1) as ledger:
        asked: list[str] = []

        async def listen(opened: asyncpg.Connection) -> None:
            opened.add_query_logger(lambda record: asked.append(record.query))

        due_at = datetime.now(UTC)
        await ledger.record([make_claim(due_at=due_at)])  # prepares the statements
        await ledger._connections.call(listen)
        await ledger.record(
            [
                make_claim(make_update(task_id="other"), due_at=due_at),
                make_claim(due_at=due_at),
                make_claim(),
            ]
        )

    assert 4 == len(asked)


async def test_texts_are_ordered_by_their_bytes(
    postgres_ledger_url: str, connection: asyncpg.Connection
) -> None:
    """Whatever language the database was made for: as SQLite does."""
    async with open_ledger(postgres_ledger_url):
        pass

    collations = await connection.fetch(
        "SELECT DISTINCT collation_name FROM information_schema.columns"
        " WHERE table_schema = current_schema() AND data_type = 'text'"
    )

    assert [("C",)] == [tuple(row) for row in collations]


async def _answered(call: Callable[..., Awaitable[T]], *arguments: object) -> T:
    """Call, as workers do, until the ledger is there again."""
    async with asyncio.timeout(RECOVERY_SECONDS):
        while True:
            try:
                return await call(*arguments)
            except LedgerUnavailable:
                await asyncio.sleep(0.1)
