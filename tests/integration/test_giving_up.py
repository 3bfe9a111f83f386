"""Discarding the dead letter of a download gives its file up."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from pipeline.broker import open_broker
from pipeline.dead_letters import GivingUp, Selection, discard
from pipeline.errors import FetchFailed, LedgerUnavailable
from pipeline.events.catalogue import AssetExpired, AssetsReady, parse_event
from pipeline.events.publications import asset_requested
from pipeline.ledger import open_ledger
from pipeline.message import failed
from pipeline.task import AssetKey, AssetState, Stage, StoredAsset
from pipeline.topology import DOWNLOAD, dead_letter, dead_letter_queue, notify_queue
from tests.callbacks import TASK, after, make_claim, make_update
from tests.factories import SUBSCRIPTION, make_envelope, make_topology
from tests.waiting import receive, receive_nothing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pipeline.broker.port import Broker
    from pipeline.events.catalogue import Event
    from pipeline.ledger.port import Ledger
    from pipeline.message import Envelope

AUDIO = AssetKey(task_id=TASK, track_id="8551-1", kind="audio")
IMAGE = AssetKey(task_id=TASK, track_id="8551-1", kind="image")
TOLD = notify_queue(SUBSCRIPTION)


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    """An open ledger in a file of its own."""
    async with open_ledger(f"sqlite:///{tmp_path}/ledger.db") as opened:
        yield opened


@pytest.fixture
async def broker(sqlite_url: str) -> AsyncIterator[Broker]:
    """A broker with a subscriber to everything about files."""
    topology = make_topology(patterns=("asset.#", "task.assets_ready"))
    async with open_broker(sqlite_url, deadline=timedelta(seconds=10)) as opened:
        await opened.declare(topology)
        yield opened


async def _request(ledger: Ledger) -> dict[AssetKey, Envelope]:
    """Record a complete task with one track and two files; give the requests."""
    links = {"audio": "https://a.example/1.mp3", "image": "https://a.example/1.png"}
    claim = make_claim(make_update(Stage.COMPLETE, links=links))
    (recorded,) = await ledger.record([claim])
    return {
        asset.key: asset_requested(
            asset,
            owner=claim.owner,
            stage=Stage.COMPLETE,
            source="/pipeline",
            at=after(1),
        ).envelope
        for asset in recorded.requested
    }


async def _bury(broker: Broker, *envelopes: Envelope) -> None:
    error = FetchFailed("answered 500")
    await broker.publish(
        *(
            dead_letter(DOWNLOAD, failed(e, queue=DOWNLOAD, error=error, at=after(2)))
            for e in envelopes
        )
    )


async def _discard(broker: Broker, ledger: Ledger) -> GivingUp:
    giving_up = GivingUp(ledger, clock=lambda: after(60))
    await discard(broker, [DOWNLOAD], Selection(), settle=giving_up)
    return giving_up


async def _told(broker: Broker, count: int) -> list[Event]:
    async with broker.consume(TOLD, prefetch=10) as consumer:
        deliveries = await receive(consumer, count)
        await consumer.ack(deliveries)
        assert await receive_nothing(consumer, seconds=0.2)
    return [parse_event(delivery.envelope.body) for delivery in deliveries]


async def test_discarded_file_counts_as_expired_and_the_task_gets_ready(
    broker: Broker, ledger: Ledger
) -> None:
    """One file is stored, the other one is given up: nobody waits any more."""
    requests = await _request(ledger)
    stored = StoredAsset(
        sha256="ab" * 32, size_bytes=5, content_type="image/png", location="x.png"
    )
    await ledger.settle_asset(IMAGE, stored, at=after(5))
    await _bury(broker, requests[AUDIO])

    giving_up = await _discard(broker, ledger)

    expired, ready = await _told(broker, 2)
    assert isinstance(expired, AssetExpired)
    assert AUDIO == expired.data.key
    assert "given up" in expired.data.reason
    assert isinstance(ready, AssetsReady)
    asset = await ledger.find_asset(AUDIO)
    assert asset is not None
    assert AssetState.EXPIRED is asset.state
    assert 1 == giving_up.files
    assert 0 == (await broker.depth(dead_letter_queue(DOWNLOAD))).ready


async def test_file_that_was_stored_meanwhile_stays_stored(
    broker: Broker, ledger: Ledger
) -> None:
    """The letter was replayed by somebody else, say: there is nothing to give up."""
    requests = await _request(ledger)
    stored = StoredAsset(
        sha256="ab" * 32, size_bytes=5, content_type="audio/mpeg", location="x.mp3"
    )
    await ledger.settle_asset(AUDIO, stored, at=after(5))
    await _bury(broker, requests[AUDIO], make_envelope())

    giving_up = await _discard(broker, ledger)

    asset = await ledger.find_asset(AUDIO)
    assert asset is not None
    assert AssetState.STORED is asset.state
    assert 0 == giving_up.files
    assert [] == await _told(broker, 0)
    assert 0 == (await broker.depth(dead_letter_queue(DOWNLOAD))).ready


async def test_nothing_is_removed_where_the_ledger_is_another_one(
    broker: Broker, ledger: Ledger, tmp_path: Path
) -> None:
    """On a machine without the workers' ledger the files would wait for ever."""
    requests = await _request(ledger)
    await _bury(broker, requests[AUDIO])

    async with open_ledger(f"sqlite:///{tmp_path}/empty.db") as empty:
        with pytest.raises(LedgerUnavailable, match="--ledger-url"):
            await _discard(broker, empty)

    assert 1 == (await broker.depth(dead_letter_queue(DOWNLOAD))).ready
