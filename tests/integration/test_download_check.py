"""The download worker tells of no audio that cannot be heard."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from pipeline.assets.fetch import Fetcher, FetchRules
from pipeline.assets.local import LocalAssetStore
from pipeline.audio.check import AudioCheck
from pipeline.errors import AssetRefused, Reject
from pipeline.events.publications import asset_requested
from pipeline.ledger import open_ledger
from pipeline.simulator.audio import compose, encode
from pipeline.task import AssetState, Stage
from pipeline.workers.download import Download
from tests.callbacks import TASK, after, make_claim, make_update
from tests.file_server import PNG_HEAD, FileServer, answer, make_mp3

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pipeline.ledger.port import Ledger
    from pipeline.message import Envelope


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    """An open ledger in a file of its own."""
    async with open_ledger(f"sqlite:///{tmp_path}/ledger.db") as opened:
        yield opened


@pytest.fixture
async def download(ledger: Ledger, tmp_path: Path) -> AsyncIterator[Download]:
    """The handler under test; it may fetch from this machine and decodes."""
    rules = FetchRules(allow_private_addresses=True, read_timeout=timedelta(seconds=5))
    async with Fetcher(rules) as fetcher, LocalAssetStore(tmp_path / "a") as store:
        check = AudioCheck().check
        yield Download(fetcher, store, ledger, clock=lambda: after(60), check=check)


async def request(ledger: Ledger, **links: str) -> list[Envelope]:
    """Record a complete task with one track and give what dedupe asks for."""
    claim = make_claim(make_update(Stage.COMPLETE, links=links))
    (recorded,) = await ledger.record([claim])
    return [
        asset_requested(
            asset, owner=claim.owner, stage=Stage.COMPLETE, source="/p", at=after(1)
        ).envelope
        for asset in recorded.requested
    ]


async def test_audio_that_can_be_heard_is_stored_and_told(
    download: Download, ledger: Ledger
) -> None:
    async with FileServer() as server:
        link = server.add("/1.mp3", answer(encode(compose(3), "mp3")))
        picture = server.add("/1.png", answer(PNG_HEAD + b"\0" * 100))
        envelopes = await request(ledger, audio=link, image=picture)

        told = [await download.handle(envelope) for envelope in envelopes]

    assert ["asset.stored", "asset.stored"] == [
        one[0].envelope.routing_key for one in told
    ]


async def test_audio_that_cannot_be_decoded_is_refused_for_good_and_says_why(
    download: Download, ledger: Ledger
) -> None:
    """It starts like an MP3 file, so the first bytes have let it pass."""
    async with FileServer() as server:
        link = server.add("/1.mp3", answer(make_mp3(5000, fill=b"\x55")))
        (envelope,) = await request(ledger, audio=link)

        with pytest.raises(Reject) as caught:
            await download.handle(envelope)

    assert isinstance(caught.value.__cause__, AssetRefused)
    assert "cannot be decoded" in str(caught.value)
    (asset,) = await ledger.list_assets(TASK)
    assert AssetState.PENDING is asset.state
    (attempt,) = await ledger.list_attempts(TASK)
    assert "AssetRefused" == attempt.outcome
