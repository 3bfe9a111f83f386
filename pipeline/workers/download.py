"""Fetch one requested file, and say what became of it.

One message is one file, so a dead link cannot fail the files beside it, and every
file has its own attempts and its own dead letter.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Final, TypeAlias

from pipeline.errors import (
    AssetRefused,
    EmptyFile,
    FetchFailed,
    LeaseLost,
    LinkExpired,
    PipelineError,
    Reject,
    Retry,
)
from pipeline.events.catalogue import DEFAULT_SOURCE, AssetRequested, parse_event
from pipeline.events.publications import asset_settled, assets_ready
from pipeline.failpoints import reach
from pipeline.ledger.lease import LEASE
from pipeline.ledger.links import Renewal
from pipeline.ledger.port import Attempt
from pipeline.logs import get_logger
from pipeline.metrics import ASSET_BYTES, ASSETS, LINKS_RENEWED
from pipeline.task import Asset, AssetState, StoredAsset
from pipeline.topology import DOWNLOAD
from pipeline.workers.leases import Leases
from pipeline.workers.refresh import FreshLink
from pipeline.workers.unrecorded import Unrecorded

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from pipeline.assets.fetch import Fetcher
    from pipeline.assets.store import AssetStore
    from pipeline.ledger.lease import Lease
    from pipeline.ledger.port import Ledger
    from pipeline.message import Envelope, Publication
    from pipeline.task import AssetKey
    from pipeline.workers.refresh import FreshLinks

log = get_logger("download")

#: Gives the present time, aware.
Clock: TypeAlias = Callable[[], datetime]
#: Looks closer at a file that was stored, by its kind; raises ``AssetRefused`` or
#: ``FetchFailed`` where it is not what it should be.
Check: TypeAlias = Callable[["AssetStore", StoredAsset, str], Awaitable[None]]

#: The source of a link that came with a callback while the file was fetched.
_LEDGER: Final = "ledger"
#: What a file may be, by its kind; every other kind is a stem, so it is audio.
#: Audio in MP4 cannot be told from video without decoding it.
_FAMILIES: Final = {"image": ("image",), "video": ("video",)}
_AUDIO_FAMILIES: Final = ("audio", "video")
#: Kinds in metrics; others come from outside and have no bound.
_COUNTED_KINDS: Final = frozenset({"audio", "image", "video"})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tried:
    """A try to fetch a file, and what came of it."""

    #: The right under which it was fetched.
    lease: Lease
    result: StoredAsset | AssetRefused | FetchFailed | LinkExpired
    started_at: datetime
    ended_at: datetime
    #: Whether the ledger has this try; what follows from it may be missing still.
    is_noted: bool = False


class Download:
    """The handler of the queue ``download``, for envelopes of ``asset.requested``.

    Idempotent: a file that is settled already is not fetched again; what follows
    from it is published again, with the same ids. A file that another worker holds
    the lease on is not fetched at the same time.

    Args:
        fetcher: an open fetcher.
        store: an open store.
        ledger: an open handle.
        clock: gives the present time, aware.
        check: looks closer at each file that was stored, before that is told.
        refresh: asked when every link that is known is dead.
        source: the CloudEvents source of what is published.
        lease: how long others wait for this process if it dies.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        store: AssetStore,
        ledger: Ledger,
        *,
        clock: Clock,
        check: Check | None = None,
        refresh: FreshLinks | None = None,
        source: str = DEFAULT_SOURCE,
        lease: timedelta = LEASE,
    ) -> None:
        self._fetcher = fetcher
        self._store = store
        self._ledger = ledger
        self._clock = clock
        self._check = check
        self._refresh = refresh
        self._source = source
        self._leases = Leases(ledger, lasts=lease)
        self._unrecorded: Unrecorded[_Tried] = Unrecorded()

    async def handle(self, envelope: Envelope) -> Sequence[Publication]:
        """Fetch the file unless that is done; publish that it is stored or gone.

        Raises:
            Reject: this is no request, nobody knows the file, or the link or the
                file breaks a rule.
            Retry: it did not work this time.
            LedgerUnavailable: as the ledger; a file that was fetched is not fetched
                again by this handler when it is handled again.
            LeaseHeld: another worker is fetching it.
        """
        event = parse_event(envelope.body)
        if not isinstance(event, AssetRequested):
            message = f"expected asset.requested, got {event.type}"
            raise Reject(message)
        key = event.data.key
        async with self._leases.turn(envelope):
            try:
                return await self._handle(envelope, key)
            except LeaseLost as error:
                # Whoever took over has a delivery of its own, and tells everything.
                log.warning("lease_lost", asset=_name(key), error=str(error))
                self._unrecorded.drop(envelope)
                return ()

    async def _handle(self, envelope: Envelope, key: AssetKey) -> Sequence[Publication]:
        tried = self._unrecorded.find(envelope)
        if tried is None:
            begun = await self._ledger.begin_asset(
                key, owner=self._leases.owner(envelope), lasts=self._leases.lasts
            )
            if begun is None:
                message = f"expected a file that the ledger knows, got {_name(key)}"
                raise Reject(message)
            if begun.lease is None:
                return await self._publish(key, _settled(begun.asset), None)
            async with self._leases.kept(begun.lease):
                tried = await self._fetch_once(begun.asset, begun.lease)
            self._keep(envelope, tried)
            await reach("download.after_store")
        result = await self._judge(envelope, key, tried)
        publications = await self._publish(key, result, tried.lease)
        self._unrecorded.drop(envelope)
        return publications

    async def _judge(
        self, envelope: Envelope, key: AssetKey, tried: _Tried
    ) -> StoredAsset | str:
        """Remember the try whatever came of it; give what the file is settled as."""
        if not tried.is_noted:
            await self._note(envelope, key, tried)
            self._keep(envelope, replace(tried, is_noted=True))
            _count(key, tried.result)
        match tried.result:
            case AssetRefused() as error:
                await self._ledger.release(tried.lease)
                self._unrecorded.drop(envelope)
                raise Reject(_text(error)) from error
            case FetchFailed() as error:
                await self._ledger.release(tried.lease)
                self._unrecorded.drop(envelope)
                raise Retry(_text(error), after=error.after) from error
            case LinkExpired() as error:
                return str(error)
            case stored:
                return stored

    def _keep(self, envelope: Envelope, tried: _Tried) -> None:
        is_final = isinstance(tried.result, StoredAsset)
        self._unrecorded.keep(envelope, tried, is_final=is_final)

    async def _fetch_once(self, asset: Asset, lease: Lease) -> _Tried:
        started_at = self._clock()
        result: StoredAsset | AssetRefused | FetchFailed | LinkExpired
        try:
            result = await self._fetch(asset, lease)
        except (AssetRefused, FetchFailed, LinkExpired) as error:
            result = error
        return _Tried(
            lease=lease, result=result, started_at=started_at, ended_at=self._clock()
        )

    async def _fetch(self, asset: Asset, lease: Lease) -> StoredAsset:
        """Try the link, then others until one works.

        Raises:
            LinkExpired: all of them are dead.
            FetchFailed: one of them may work another time, or there may be one that
                does.
        """
        first = await self._try(asset, asset.url)
        if isinstance(first, StoredAsset):
            return first
        tried = {asset.url}
        is_gone = isinstance(first, LinkExpired)
        async with aclosing(self._others(asset, is_gone=is_gone)) as others:
            async for link in others:
                if link.url in tried:
                    continue
                tried.add(link.url)
                await self._renew(asset, link, lease)
                result = await self._try(asset, link.url)
                if isinstance(result, StoredAsset):
                    return result
                if isinstance(result, EmptyFile):
                    # New links are like that for a while; the next try begins here.
                    raise result
        raise first

    async def _try(
        self, asset: Asset, url: str
    ) -> StoredAsset | LinkExpired | EmptyFile:
        """Fetch a link; give what speaks for trying another one."""
        try:
            return await self._fetch_link(asset, url)
        except (LinkExpired, EmptyFile) as error:
            return error

    async def _fetch_link(self, asset: Asset, url: str) -> StoredAsset:
        families = _FAMILIES.get(asset.key.kind, _AUDIO_FAMILIES)
        stored = await self._fetcher.fetch(url, self._store, families=families)
        if self._check is not None:
            await self._check(self._store, stored, asset.key.kind)
        return stored

    async def _others(
        self, asset: Asset, *, is_gone: bool
    ) -> AsyncGenerator[FreshLink, None]:
        """Give what the ledger has heard of since, then what the provider has."""
        newest = await self._ledger.find_asset(asset.key)
        if newest is not None:
            yield FreshLink(url=newest.url, source=_LEDGER)
        if self._refresh is None:
            return
        async with aclosing(self._refresh(asset, is_gone=is_gone)) as links:
            async for link in links:
                yield link

    async def _renew(self, asset: Asset, link: FreshLink, lease: Lease) -> None:
        """Put a link in the place of the one that is dead, before it is tried."""
        log.info("link_renewed", asset=_name(asset.key), source=link.source)
        LINKS_RENEWED.labels(link.source).inc()
        if link.source == _LEDGER:
            return  # that is where it is already
        renewal = Renewal(
            key=asset.key,
            old_url=asset.url,
            new_url=link.url,
            source=link.source,
            until=link.until,
            renewed_at=self._clock(),
        )
        await self._ledger.renew_link(renewal, lease=lease)

    async def _publish(
        self, key: AssetKey, result: StoredAsset | str, lease: Lease | None
    ) -> Sequence[Publication]:
        now = self._clock()
        (settled,) = await self._ledger.settle_assets(
            [key], result, at=now, lease=lease
        )
        await reach("download.after_record")
        if settled.asset is None:
            return ()  # forgotten meanwhile
        return [
            asset_settled(settled.asset, source=self._source, at=now),
            *(assets_ready(r, source=self._source, at=now) for r in settled.ready),
        ]

    async def _note(self, envelope: Envelope, key: AssetKey, tried: _Tried) -> None:
        result = tried.result
        if isinstance(result, PipelineError):
            outcome, detail = type(result).__name__, str(result)
        else:
            outcome, detail = "ok", result.location
        attempt = Attempt(
            queue=DOWNLOAD,
            message_id=envelope.message_id,
            task_id=key.task_id,
            subject=f"{key.track_id}/{key.kind}",
            number=envelope.attempt,
            outcome=outcome,
            detail=detail,
            duration_seconds=(tried.ended_at - tried.started_at).total_seconds(),
            finished_at=tried.ended_at,
            replays=envelope.replays,
        )
        await self._ledger.add_attempts([attempt])


def _settled(asset: Asset) -> StoredAsset | str:
    """Give what became of a file that is settled."""
    if (
        asset.sha256 is None
        or asset.size_bytes is None
        or asset.content_type is None
        or asset.location is None
    ):
        return asset.reason or ""
    return StoredAsset(
        sha256=asset.sha256,
        size_bytes=asset.size_bytes,
        content_type=asset.content_type,
        location=asset.location,
    )


def _count(key: AssetKey, result: StoredAsset | PipelineError) -> None:
    """Count a file that is settled now."""
    kind = key.kind if key.kind in _COUNTED_KINDS else "other"
    if isinstance(result, StoredAsset):
        ASSETS.labels(kind, AssetState.STORED.value).inc()
        ASSET_BYTES.inc(result.size_bytes)
    elif isinstance(result, LinkExpired):
        ASSETS.labels(kind, AssetState.EXPIRED.value).inc()


def _name(key: AssetKey) -> str:
    return f"{key.task_id}/{key.track_id}/{key.kind}"


def _text(error: PipelineError) -> str:
    """Keep the kind of error, which the dead letter would lose."""
    return f"{type(error).__name__}: {error}"
