"""The download worker on a real ledger, a real store and a real server."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import apsw
import pytest
from prometheus_client import REGISTRY

from pipeline.assets.fetch import Fetcher, FetchRules
from pipeline.assets.local import LocalAssetStore
from pipeline.errors import FetchFailed, LedgerUnavailable, Reject, Retry
from pipeline.events.catalogue import (
    AssetExpired,
    AssetsReady,
    AssetStored,
    parse_event,
)
from pipeline.events.publications import asset_requested
from pipeline.ledger import open_ledger
from pipeline.message import Envelope, MessageId
from pipeline.task import Asset, AssetKey, AssetState, Stage
from pipeline.topology import DOWNLOAD, EVENTS
from pipeline.workers.download import Download
from pipeline.workers.refresh import FreshLink
from tests.callbacks import TASK, after, make_claim, make_update
from tests.factories import make_envelope
from tests.file_server import PNG_HEAD, FileServer, answer, make_mp3
from tests.waiting import impatient_ledger

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence
    from pathlib import Path

    from pipeline.events.catalogue import Event
    from pipeline.ledger.port import Ledger
    from pipeline.message import Publication
    from pipeline.workers.refresh import FreshLinks

AUDIO: Final = AssetKey(task_id=TASK, track_id="8551-1", kind="audio")
IMAGE: Final = AssetKey(task_id=TASK, track_id="8551-1", kind="image")
BODY: Final = make_mp3(5000)


@pytest.fixture
async def server() -> AsyncIterator[FileServer]:
    """A server for files."""
    async with FileServer() as running:
        yield running


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    """An open ledger in a file of its own."""
    async with open_ledger(f"sqlite:///{tmp_path}/ledger.db") as opened:
        yield opened


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LocalAssetStore]:
    """An empty store."""
    async with LocalAssetStore(tmp_path / "assets") as opened:
        yield opened


@pytest.fixture
async def fetcher() -> AsyncIterator[Fetcher]:
    """A fetcher that may fetch from this machine."""
    rules = FetchRules(allow_private_addresses=True, read_timeout=timedelta(seconds=5))
    async with Fetcher(rules) as opened:
        yield opened


@pytest.fixture
def download(fetcher: Fetcher, store: LocalAssetStore, ledger: Ledger) -> Download:
    """The handler under test."""
    return Download(fetcher, store, ledger, clock=lambda: after(60))


async def request(ledger: Ledger, **links: str) -> list[Envelope]:
    """Record a complete task with one track and give what dedupe asks for."""
    update = make_update(Stage.COMPLETE, links=links)
    claim = make_claim(update)
    (recorded,) = await ledger.record([claim])
    return [
        asset_requested(
            asset,
            owner=claim.owner,
            stage=Stage.COMPLETE,
            source="/pipeline",
            at=after(1),
        ).envelope
        for asset in recorded.requested
    ]


async def renew(ledger: Ledger, **links: str) -> None:
    """Record the same news once more, with fresh links."""
    await ledger.record(
        [make_claim(make_update(Stage.COMPLETE, links=links), received_at=after(5))]
    )


def events(publications: Sequence[Publication]) -> list[Event]:
    assert {EVENTS} == {one.exchange for one in publications}
    found = [parse_event(one.envelope.body) for one in publications]
    assert [e.type for e in found] == [p.envelope.routing_key for p in publications]
    assert [e.id for e in found] == [p.envelope.message_id for p in publications]
    return found


async def found(ledger: Ledger, key: AssetKey = AUDIO) -> Asset:
    asset = await ledger.find_asset(key)
    assert asset is not None
    return asset


async def test_requested_file_is_stored_and_told(
    download: Download, ledger: Ledger, server: FileServer, store: LocalAssetStore
) -> None:
    """The file, the ledger and both events agree."""
    (envelope,) = await request(ledger, audio=server.add("/1.mp3", answer(BODY)))

    published = await download.handle(envelope)

    stored, ready = events(published)
    asset = await found(ledger)
    assert isinstance(stored, AssetStored)
    assert isinstance(ready, AssetsReady)
    assert asset.state is AssetState.STORED
    assert asset.location == stored.data.location == ready.data.assets[0].location
    assert len(BODY) == stored.data.size_bytes
    assert ready.data.stage is Stage.COMPLETE
    assert await store.exists(stored.data.location)


async def test_stage_is_ready_with_its_last_file(
    download: Download, ledger: Ledger, server: FileServer
) -> None:
    """Not before; then once."""
    first, second = await request(
        ledger,
        audio=server.add("/1.mp3", answer(BODY)),
        image=server.add("/1.png", answer(PNG_HEAD + b"\0" * 100)),
    )

    early = events(await download.handle(first))
    late = events(await download.handle(second))

    assert ["asset.stored"] == [e.type for e in early]
    assert ["asset.stored", "task.assets_ready"] == [e.type for e in late]


async def test_dead_link_does_not_fail_its_sibling(
    download: Download, ledger: Ledger, server: FileServer
) -> None:
    """One file expired, one stored: the stage is ready."""
    audio, image = await request(
        ledger,
        audio=server.add("/1.mp3", answer(status=410)),
        image=server.add("/1.png", answer(PNG_HEAD + b"\0" * 100)),
    )

    (expired,) = events(await download.handle(audio))
    _, ready = events(await download.handle(image))

    assert isinstance(expired, AssetExpired)
    assert "410" in expired.data.reason
    assert isinstance(ready, AssetsReady)
    assert ["expired", "stored"] == [a.state.value for a in ready.data.assets]


async def test_request_handled_again_publishes_the_same(
    download: Download, ledger: Ledger, server: FileServer
) -> None:
    """After a crash before the acknowledgement; nothing is fetched again."""
    (envelope,) = await request(ledger, audio=server.add("/1.mp3", answer(BODY)))
    first = await download.handle(envelope)

    again = await download.handle(envelope)

    assert [p.envelope.message_id for p in first] == [
        p.envelope.message_id for p in again
    ]
    assert [p.envelope.body for p in first] == [p.envelope.body for p in again]
    assert len(server.requests) == 1


async def test_expired_request_handled_again_publishes_the_same(
    download: Download, ledger: Ledger, server: FileServer
) -> None:
    """The link is not tried again."""
    (envelope,) = await request(ledger, audio=server.add("/1.mp3", answer(status=403)))
    first = await download.handle(envelope)

    again = await download.handle(envelope)

    assert [p.envelope.body for p in first] == [p.envelope.body for p in again]
    assert len(server.requests) == 1


async def test_same_request_at_once_has_one_effect(
    download: Download, ledger: Ledger, server: FileServer, tmp_path: Path
) -> None:
    """A redelivery may overtake the first delivery."""
    (envelope,) = await request(ledger, audio=server.add("/1.mp3", answer(BODY)))

    both = await asyncio.gather(*(download.handle(envelope) for _ in range(5)))

    ids = {tuple(p.envelope.message_id for p in one) for one in both}
    assert len(ids) == 1
    assert len(await asyncio.to_thread(lambda: list(tmp_path.rglob("*.mp3")))) == 1


async def test_newest_link_of_the_ledger_is_used(
    download: Download, ledger: Ledger, server: FileServer
) -> None:
    """A repeat of the callback brought a fresh signature."""
    url = server.add("/1.mp3", answer(BODY))
    (envelope,) = await request(ledger, audio=f"{url}?sig=1")
    await renew(ledger, audio=f"{url}?sig=2")

    await download.handle(envelope)

    assert ["/1.mp3?sig=2"] == [r.target for r in server.requests]


async def test_link_that_came_during_the_download_is_tried(
    download: Download, ledger: Ledger, server: FileServer
) -> None:
    """The old one is dead by then."""
    good = server.add("/new.mp3", answer(BODY))

    async def renew_and_refuse(writer: asyncio.StreamWriter) -> None:
        await renew(ledger, audio=good)
        await answer(status=403)(writer)

    (envelope,) = await request(ledger, audio=server.add("/1.mp3", renew_and_refuse))

    published = events(await download.handle(envelope))

    assert ["asset.stored", "task.assets_ready"] == [e.type for e in published]


async def test_provider_is_asked_once_for_a_fresh_link(
    fetcher: Fetcher, store: LocalAssetStore, ledger: Ledger, server: FileServer
) -> None:
    """Only when every known link is dead."""
    asked: list[AssetKey] = []
    fresh = server.add("/fresh.mp3", answer(BODY))

    async def refresh(
        asset: Asset, *, is_gone: bool
    ) -> AsyncGenerator[FreshLink, None]:
        assert is_gone
        asked.append(asset.key)
        yield FreshLink(url=fresh, source="details")

    (envelope,) = await request(ledger, audio=server.add("/1.mp3", answer(status=404)))
    download = make_download(fetcher, store, ledger, refresh)

    published = events(await download.handle(envelope))

    assert published[0].type == "asset.stored"
    assert [AUDIO] == asked
    (renewal,) = await ledger.list_renewals(TASK)
    assert (server.url("/1.mp3"), fresh) == (renewal.old_url, renewal.new_url)
    assert (AUDIO, "details", after(60)) == (
        renewal.key,
        renewal.source,
        renewal.renewed_at,
    )


async def test_each_fresh_link_is_tried_until_one_works(
    fetcher: Fetcher, store: LocalAssetStore, ledger: Ledger, server: FileServer
) -> None:
    """Those after it are not asked for."""
    dead = server.add("/dead.mp3", answer(status=410))
    good = server.add("/good.mp3", answer(BODY))

    async def refresh(_: Asset, *, is_gone: bool) -> AsyncGenerator[FreshLink, None]:
        assert is_gone
        yield FreshLink(url=dead, source="details")
        yield FreshLink(url=good, source="minted", until=after(1200))
        pytest.fail("asked for one more")

    (envelope,) = await request(ledger, audio=server.add("/1.mp3", answer(status=441)))
    download = make_download(fetcher, store, ledger, refresh)

    published = events(await download.handle(envelope))

    assert published[0].type == "asset.stored"
    renewals = await ledger.list_renewals(TASK)
    assert {dead: "details", good: "minted"} == {r.new_url: r.source for r in renewals}


async def test_an_empty_body_is_a_reason_to_ask_for_another_link(
    fetcher: Fetcher, store: LocalAssetStore, ledger: Ledger, server: FileServer
) -> None:
    """But not for a recovery: the server does not say that the file is gone."""
    fresh = server.add("/fresh.mp3", answer(BODY))

    async def refresh(_: Asset, *, is_gone: bool) -> AsyncGenerator[FreshLink, None]:
        assert not is_gone
        yield FreshLink(url=fresh, source="details")

    (envelope,) = await request(ledger, audio=server.add("/1.mp3", answer(b"")))
    download = make_download(fetcher, store, ledger, refresh)

    published = events(await download.handle(envelope))

    assert published[0].type == "asset.stored"


async def test_a_fresh_link_that_is_empty_yet_is_where_the_next_try_begins(
    fetcher: Fetcher, store: LocalAssetStore, ledger: Ledger, server: FileServer
) -> None:
    """New links serve nothing for a while."""
    fresh = server.add("/fresh.mp3", answer(b""))

    async def refresh(_: Asset, *, is_gone: bool) -> AsyncGenerator[FreshLink, None]:
        assert is_gone
        yield FreshLink(url=fresh, source="details")

    (envelope,) = await request(ledger, audio=server.add("/1.mp3", answer(status=403)))
    download = make_download(fetcher, store, ledger, refresh)
    with pytest.raises(Retry, match="EmptyFile"):
        await download.handle(envelope)
    server.add("/fresh.mp3", answer(BODY))

    published = events(await download.handle(replace(envelope, attempt=2)))

    assert published[0].type == "asset.stored"
    assert ["/1.mp3", "/fresh.mp3", "/fresh.mp3"] == [
        request.target for request in server.requests
    ]


async def test_a_file_does_not_expire_while_the_provider_cannot_be_asked(
    fetcher: Fetcher, store: LocalAssetStore, ledger: Ledger, server: FileServer
) -> None:
    """Perhaps there is a fresh link: somebody has to ask again."""

    async def refresh(_: Asset, *, is_gone: bool) -> AsyncGenerator[FreshLink, None]:
        assert is_gone
        yield FreshLink(url=server.url("/nothing"), source="details")
        message = "no answer"
        raise FetchFailed(message, after=timedelta(seconds=9))

    (envelope,) = await request(ledger, audio=server.add("/1.mp3", answer(status=403)))
    download = make_download(fetcher, store, ledger, refresh)

    with pytest.raises(Retry, match="no answer") as caught:
        await download.handle(envelope)

    assert timedelta(seconds=9) == caught.value.after
    assert (await found(ledger)).state is AssetState.PENDING


@pytest.mark.parametrize("fresh", [None, "same", "dead"])
async def test_file_expires_when_the_fresh_link_is_no_better(
    fetcher: Fetcher,
    store: LocalAssetStore,
    ledger: Ledger,
    server: FileServer,
    fresh: str | None,
) -> None:
    """There is none, it is the same, or it is dead too."""
    url = server.add("/1.mp3", answer(status=404))
    links = {None: None, "same": url, "dead": server.url("/nothing")}

    async def refresh(_: Asset, *, is_gone: bool) -> AsyncGenerator[FreshLink, None]:
        assert is_gone
        if link := links[fresh]:
            yield FreshLink(url=link, source="details")

    (envelope,) = await request(ledger, audio=url)
    download = make_download(fetcher, store, ledger, refresh)

    expired, _ = events(await download.handle(envelope))

    assert expired.type == "asset.expired"
    assert len(server.requests) == (2 if fresh == "dead" else 1)


def make_download(
    fetcher: Fetcher, store: LocalAssetStore, ledger: Ledger, refresh: FreshLinks
) -> Download:
    return Download(fetcher, store, ledger, clock=lambda: after(60), refresh=refresh)


async def test_failure_is_retried_and_remembered(
    download: Download, ledger: Ledger, server: FileServer
) -> None:
    """With the pause that the server asked for; the file stays pending."""
    how = answer(status=503, headers={"Retry-After": "90"})
    (envelope,) = await request(ledger, audio=server.add("/1.mp3", how))

    with pytest.raises(Retry, match=r"FetchFailed: .*503") as caught:
        await download.handle(replace(envelope, attempt=3, replays=1))

    (attempt,) = await ledger.list_attempts(TASK)
    assert timedelta(seconds=90) == caught.value.after
    assert isinstance(caught.value.__cause__, FetchFailed)
    assert (DOWNLOAD, "8551-1/audio", 3, 1, "FetchFailed") == (
        attempt.queue,
        attempt.subject,
        attempt.number,
        attempt.replays,
        attempt.outcome,
    )
    assert (await found(ledger)).state is AssetState.PENDING


async def test_file_that_breaks_a_rule_is_rejected(
    download: Download, ledger: Ledger, server: FileServer
) -> None:
    """A picture in the place of music goes to the dead letters at once."""
    how = answer(PNG_HEAD + b"\0" * 100)
    (envelope,) = await request(ledger, audio=server.add("/1.mp3", how))

    with pytest.raises(Reject, match=r"AssetRefused: .*image/png"):
        await download.handle(envelope)

    (attempt,) = await ledger.list_attempts(TASK)
    assert attempt.outcome == "AssetRefused"


async def test_music_in_the_place_of_a_picture_is_rejected(
    download: Download, ledger: Ledger, server: FileServer
) -> None:
    """The other way round."""
    (envelope,) = await request(ledger, image=server.add("/1.png", answer(BODY)))

    with pytest.raises(Reject, match="expected image, got audio/mpeg"):
        await download.handle(envelope)


async def test_success_is_remembered_as_an_attempt(
    download: Download, ledger: Ledger, server: FileServer
) -> None:
    """With the place of the file."""
    (envelope,) = await request(ledger, audio=server.add("/1.mp3", answer(BODY)))

    await download.handle(envelope)

    (attempt,) = await ledger.list_attempts(TASK)
    assert attempt.outcome == "ok"
    assert attempt.detail == (await found(ledger)).location
    assert envelope.message_id == attempt.message_id


async def test_file_that_nobody_knows_is_rejected(
    download: Download, ledger: Ledger, server: FileServer
) -> None:
    """The ledger was emptied, or the request is not ours."""
    asset = Asset(
        key=AUDIO, operation="generate", url="https://a/", state=AssetState.PENDING
    )
    envelope = asset_requested(
        asset, owner=MessageId("m"), stage=Stage.FIRST, source="/pipeline", at=after(1)
    ).envelope

    with pytest.raises(Reject, match="the ledger knows"):
        await download.handle(envelope)


@pytest.mark.parametrize("body", [b"", b"{}", b"not json", b'{"type": "task.text"}'])
async def test_what_is_no_event_is_rejected(download: Download, body: bytes) -> None:
    """Poison goes to the dead letters, not round and round."""
    with pytest.raises(Reject):
        await download.handle(make_envelope(body=body))


async def test_event_of_another_kind_is_rejected(
    download: Download, ledger: Ledger, server: FileServer
) -> None:
    """Only requests belong into this queue."""
    (envelope,) = await request(ledger, audio=server.add("/1.mp3", answer(BODY)))
    stored, _ = await download.handle(envelope)

    with pytest.raises(Reject, match=r"got asset\.stored"):
        await download.handle(stored.envelope)


async def test_ledger_that_is_away_is_not_the_fault_of_the_file(
    download: Download, ledger: Ledger, server: FileServer
) -> None:
    """The worker waits for it; no attempt is lost."""
    (envelope,) = await request(ledger, audio=server.add("/1.mp3", answer(BODY)))
    await ledger.__aexit__(None, None, None)

    with pytest.raises(LedgerUnavailable):
        await download.handle(envelope)


@pytest.mark.parametrize("status", [200, 404, 503])
async def test_ledger_that_cannot_be_written_is_no_reason_to_fetch_again(
    fetcher: Fetcher,
    store: LocalAssetStore,
    server: FileServer,
    tmp_path: Path,
    status: int,
) -> None:
    """Only the record waits, whatever came of the try."""
    path = tmp_path / "locked.db"

    async def lock_first(writer: asyncio.StreamWriter) -> None:
        if len(server.requests) == 1:
            other.execute("BEGIN IMMEDIATE")
        await answer(BODY, status=status)(writer)

    url = server.add("/1.mp3", lock_first)
    async with impatient_ledger(path) as ledger:
        (envelope,) = await request(ledger, audio=url)
        download = Download(fetcher, store, ledger, clock=lambda: after(60))
        other = apsw.Connection(str(path))
        other.set_busy_timeout(20_000)
        for _ in range(3):
            with pytest.raises(LedgerUnavailable):
                await download.handle(envelope)
        other.close()

        if status == 503:
            with pytest.raises(Retry):
                await download.handle(envelope)
            assert 1 == len(server.requests)
            with pytest.raises(Retry):
                await download.handle(replace(envelope, attempt=2))
            assert 2 == len(server.requests)
        else:
            first, _ = events(await download.handle(envelope))
            assert (AssetStored if status == 200 else AssetExpired) is type(first)
            assert 1 == len(server.requests)
            assert 1 == len(await ledger.list_attempts(TASK))


async def test_files_are_counted(
    download: Download, ledger: Ledger, server: FileServer
) -> None:
    """Once each, whatever is redelivered; kinds from outside share one label."""
    audio, drums = await request(
        ledger,
        audio=server.add("/1.mp3", answer(BODY)),
        drums=server.add("/2.mp3", answer(status=404)),
    )
    before = [counted("audio", "stored"), counted("other", "expired"), stored_bytes()]

    for envelope in (audio, drums, audio, drums):
        await download.handle(envelope)

    after_all = [
        counted("audio", "stored"),
        counted("other", "expired"),
        stored_bytes(),
    ]
    grown = [new - old for new, old in zip(after_all, before, strict=True)]
    assert [1, 1, len(BODY)] == grown


def counted(kind: str, outcome: str) -> float:
    labels = {"kind": kind, "outcome": outcome}
    return REGISTRY.get_sample_value("pipeline_assets_total", labels) or 0.0


def stored_bytes() -> float:
    return REGISTRY.get_sample_value("pipeline_asset_bytes_total") or 0.0
