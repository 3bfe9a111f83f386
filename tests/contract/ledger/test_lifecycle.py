"""Opening, closing and opening again."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from pipeline.errors import ConfigurationError, LedgerUnavailable
from pipeline.ledger import open_ledger
from pipeline.ledger.migrations import migrations
from pipeline.task import EventId, Stage
from tests.callbacks import TASK, make_claim

if TYPE_CHECKING:
    from pipeline.ledger.port import Ledger
    from tests.contract.ledger.conftest import OpenAgain


async def test_what_was_recorded_is_there_after_closing(ledger_url: str) -> None:
    async with open_ledger(ledger_url) as ledger:
        await ledger.record([make_claim()])

    async with open_ledger(ledger_url) as ledger:
        assert await ledger.find_task(TASK) is not None


async def test_migrations_applied_twice_change_nothing(
    ledger: Ledger, open_again: OpenAgain
) -> None:
    await ledger.record([make_claim()])

    handles = await asyncio.gather(*(open_again() for _ in range(4)))

    for handle in handles:
        assert (await handle.totals()).tasks == 1


#: What a ledger of the first version may hold.
IN_THE_FIRST_VERSION = f"""
INSERT INTO tasks VALUES ('{TASK}', 'upload-extend', 'first', 200, '', 1000, 2000);
INSERT INTO assets (task_id, track_id, kind, operation, url, url_received_at, state,
    stages, requested_by) VALUES ('{TASK}', '8551-1', 'audio', 'upload-extend',
    'https://a.example/1.mp3', 2000, 'pending', 4, 'm1');
INSERT INTO updates (event_id, owner, task_id, stage, verdict, origin, received_at,
    tracks, body)
VALUES ('e1', 'm1', '{TASK}', 'first', 'new', 'callback', 2000, '[]', BODY);
INSERT INTO duplicates VALUES ('e1', 'm2', 2500);
"""


async def test_a_ledger_of_the_first_version_is_brought_up_to_date(
    ledger_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what is in it; so far nobody has had a lease, or asked for a task."""
    event = EventId("e1")
    empty = r"'\x7b7d'" if ledger_url.startswith("postgres") else "X'7b7d'"
    first = [migrations()[0] + IN_THE_FIRST_VERSION.replace("BODY", empty)]
    with monkeypatch.context() as earlier:
        for adapter in ("sqlite", "postgres_schema"):
            earlier.setattr(f"pipeline.ledger.{adapter}.migrations", lambda: first)
        async with open_ledger(ledger_url):
            pass

    async with open_ledger(ledger_url) as ledger:
        (asset,) = await ledger.list_assets(TASK)
        begun = await ledger.begin_asset(
            asset.key, owner="a", lasts=timedelta(seconds=60)
        )
        expected = await ledger.find_expected(TASK)
        (update,) = await ledger.list_updates(TASK)
        body = await ledger.find_body(TASK, event)
        await ledger.record([make_claim()])
        task = await ledger.find_task(TASK)

    assert begun is not None
    assert begun.asset == asset
    assert begun.lease is not None
    assert begun.lease.token == 1
    assert expected is not None
    assert (None, 0) == (expected.due_at, expected.questions)
    assert (event, 1) == (update.event_id, update.duplicates)
    assert body == b"{}"
    assert task is not None
    assert Stage.COMPLETE is task.stage


async def test_an_empty_ledger_can_be_opened_by_many_at_once(
    open_again: OpenAgain,
) -> None:
    handles = await asyncio.gather(*(open_again() for _ in range(6)))

    for number, handle in enumerate(handles):
        assert (await handle.totals()).tasks == min(number, 1)
        await handle.record([make_claim()])


async def test_closing_twice_is_harmless(ledger: Ledger) -> None:
    await ledger.__aexit__(None, None, None)
    await ledger.__aexit__(None, None, None)


async def test_a_closed_ledger_is_unavailable(ledger: Ledger) -> None:
    await ledger.__aexit__(None, None, None)

    with pytest.raises(LedgerUnavailable):
        await ledger.record([make_claim()])
    with pytest.raises(LedgerUnavailable):
        await ledger.totals()


async def test_a_cancelled_call_leaves_the_handle_usable(ledger: Ledger) -> None:
    call = asyncio.create_task(_record(ledger))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call

    await ledger.record([make_claim()])

    assert (await ledger.totals()).tasks == 1


async def _record(ledger: Ledger) -> None:
    await ledger.record([make_claim()])


@pytest.mark.parametrize(
    "url",
    [
        "mysql://localhost/x",
        "ledger.db",
        "sqlite://ledger.db",
        "sqlite:///",
        "sqlite:///a.db?mode=ro",
        "postgresql://host",
        "postgresql:///name",
        "postgresql://host:0/name",
        "postgresql://[::1/name",
        "postgresql://u:pass/word@host/name",
        "postgresql://u:1/word@host/name",
        "postgresql://u:p@ss@host/name",
        "postgresql://u:p#ss@host/name",
        "postgresql://host/name?password=x",
        "",
    ],
)
def test_an_address_that_cannot_be_understood_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="expected"):
        open_ledger(url)


async def test_a_ledger_tells_what_it_is_and_what_time_it_has(
    ledger: Ledger, ledger_url: str
) -> None:
    before = datetime.now(UTC)
    found = await ledger.describe()

    name = "PostgreSQL" if ledger_url.startswith("postgres") else "SQLite"
    assert re.fullmatch(rf"{name} \d+\.\d+(\.\d+)?", found.software)
    assert len(migrations()) == found.schema
    # Another machine's clock may be as much beside ours.
    beside = timedelta(seconds=5)
    assert before - beside < found.now < datetime.now(UTC) + beside
