"""The spool itself: what it keeps, in which order, and when it says no."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.broker.sqlite import SqliteBroker
from pipeline.errors import (
    BrokerUnavailable,
    PublishRefused,
    SpoolRefused,
    TopologyMismatch,
)
from pipeline.ledger import open_ledger
from pipeline.settings import SpoolSettings
from pipeline.spool.circuit import THRESHOLD
from pipeline.spool.forwarder import Forwarder
from pipeline.spool.outlet import Outlet
from pipeline.spool.spool import Spool
from tests.factories import make_envelope, make_publication, make_topology
from tests.waiting import eventually, receive

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


def _spool(path: Path, **settings: Any) -> Spool:
    """Make a spool that waits for a disk that others keep busy."""
    chosen = SpoolSettings.model_validate({"path": path, "timeout": "20s", **settings})
    return Spool(chosen)


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[SqliteBroker]:
    """A broker to forward to."""
    path = tmp_path / "broker.db"
    # To make the file takes a dozen syncs, on a disk that others may keep busy.
    async with SqliteBroker(path, deadline=timedelta(seconds=25)) as made:
        yield made


async def test_callback_keeps_its_id_its_time_and_its_headers(
    tmp_path: Path, broker: SqliteBroker
) -> None:
    at = datetime(2026, 11, 22, 12, tzinfo=UTC)
    envelope = replace(
        make_envelope(body=b"{}", headers={"task-id": "t"}), published_at=at
    )
    async with _spool(tmp_path / "spool.db") as spool:
        await spool.store(make_publication(envelope))
        stopping = asyncio.Event()
        await broker.declare(make_topology())
        async with (
            asyncio.TaskGroup() as group,
            broker.consume("dedupe", prefetch=1) as consumer,
        ):
            group.create_task(Forwarder(Outlet(broker, spool)).run(stopping))
            (delivery,) = await receive(consumer)
            stopping.set()

    assert envelope == delivery.envelope


async def test_two_forwarders_share_a_file_and_lose_nothing(
    tmp_path: Path, broker: SqliteBroker
) -> None:
    """Two ingresses on one machine may have the same path."""
    path = tmp_path / "spool.db"
    await broker.declare(make_topology())
    stopping = asyncio.Event()
    async with _spool(path) as first, _spool(path) as second:
        for number in range(50):
            spool = second if number % 2 else first
            await spool.store(make_publication(make_envelope(body=b"%d" % number)))
        async with (
            asyncio.TaskGroup() as group,
            broker.consume("dedupe", prefetch=100) as consumer,
        ):
            for spool in (first, second):
                group.create_task(Forwarder(Outlet(broker, spool)).run(stopping))
            found = await receive(consumer, 50, within=60)

            async def is_empty() -> bool:
                return not first.filled.is_set() and not second.filled.is_set()

            await eventually(is_empty)
            stopping.set()

    assert {b"%d" % n for n in range(50)} == {d.envelope.body for d in found}


async def test_spool_whose_oldest_is_too_old_takes_nothing(tmp_path: Path) -> None:
    """What it has is kept; somebody has to look at why it is not drained."""
    old = replace(make_envelope(), published_at=datetime.now(UTC) - timedelta(hours=2))
    async with _spool(tmp_path / "spool.db", max_age="1h") as spool:
        assert spool.problem is None
        await spool.store(make_publication(old))

        with pytest.raises(SpoolRefused, match="max_age"):
            await spool.store(make_publication())

        assert 1 == spool.messages
        assert 7200 == pytest.approx(spool.oldest_seconds, abs=60)


async def test_file_of_another_kind_is_refused_at_the_start(tmp_path: Path) -> None:
    """A ledger is not written to by mistake."""
    path = tmp_path / "ledger.db"
    async with open_ledger(f"sqlite:///{path}") as ledger:
        await ledger.totals()

    with pytest.raises(TopologyMismatch):
        async with _spool(path):
            pass


async def test_without_a_broker_and_with_a_full_spool_the_error_says_both(
    tmp_path: Path,
) -> None:
    path = tmp_path / "missing"
    path.write_text("no folder", encoding="utf-8")
    async with (
        SqliteBroker(path / "broker.db", deadline=timedelta(seconds=1)) as broker,
        _spool(tmp_path / "spool.db", min_free_bytes=2**60) as spool,
    ):
        outlet = Outlet(broker, spool)

        async def is_known() -> bool:
            return "broker.db" in str(broker.problem)

        await eventually(is_known)
        with pytest.raises(SpoolRefused, match=r"broker.db.*; spool.min_free_bytes"):
            await outlet.publish(make_publication())
        assert outlet.broker_problem is not None
        assert "min_free_bytes" in str(outlet.problem)


async def test_what_was_begun_and_failed_is_spooled_and_counts_as_a_failure(
    tmp_path: Path, broker: SqliteBroker
) -> None:
    """Until something begun is confirmed: then it was no failure in a row."""
    async with _spool(tmp_path / "spool.db") as spool:
        outlet = Outlet(broker, spool)
        outlet.succeeded()

        for number in range(1, 2 * THRESHOLD):
            await outlet.publish_failed(make_publication(), BrokerUnavailable("slow"))
            assert number == spool.messages
            outlet.publish_succeeded()
        assert outlet.circuit.is_closed

        for _ in range(THRESHOLD):
            await outlet.publish_failed(make_publication(), BrokerUnavailable("slow"))
        assert not outlet.circuit.is_closed

        outlet.publish_succeeded()
        assert outlet.circuit.is_closed


async def test_what_was_begun_and_refused_is_spooled_and_is_an_answer(
    tmp_path: Path, broker: SqliteBroker
) -> None:
    """A full queue is no broker that is away."""
    async with _spool(tmp_path / "spool.db") as spool:
        outlet = Outlet(broker, spool)
        for _ in range(2 * THRESHOLD):
            await outlet.publish_failed(make_publication(), PublishRefused("full"))

        assert 2 * THRESHOLD == spool.messages
        assert outlet.circuit.is_closed


async def test_what_was_begun_and_nobody_takes_says_both_reasons(
    tmp_path: Path, broker: SqliteBroker
) -> None:
    async with _spool(tmp_path / "spool.db", min_free_bytes=2**60) as spool:
        outlet = Outlet(broker, spool)

        with pytest.raises(SpoolRefused, match=r"slow; spool.min_free_bytes"):
            await outlet.publish_failed(make_publication(), BrokerUnavailable("slow"))
