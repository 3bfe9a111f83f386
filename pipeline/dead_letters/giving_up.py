"""Give up files whose requests are discarded, so that nobody waits for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pipeline.errors import LedgerUnavailable, Reject
from pipeline.events.catalogue import DEFAULT_SOURCE, AssetRequested, parse_event
from pipeline.events.publications import asset_settled, assets_ready
from pipeline.task import AssetState
from pipeline.topology import DOWNLOAD

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from pipeline.ledger.port import Ledger
    from pipeline.message import Envelope, Publication
    from pipeline.task import AssetKey

REASON: Final = "given up: its dead letter was discarded"


class GivingUp:
    """Settles the files of discarded requests as expired, as the worker would.

    Args:
        ledger: an open handle on the ledger of the workers.
        clock: gives the present time, aware.
        source: the CloudEvents source of what is published.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        clock: Callable[[], datetime],
        source: str = DEFAULT_SOURCE,
    ) -> None:
        #: Files given up so far.
        self.files = 0
        self._ledger = ledger
        self._clock = clock
        self._source = source

    async def __call__(
        self, queue: str, envelopes: Sequence[Envelope]
    ) -> Sequence[Publication]:
        """Settle what ``envelopes`` of a work queue asked for; give what to publish.

        Raises:
            LedgerUnavailable: it does not answer, or it is not that of the workers.
        """
        found: list[Publication] = []
        for key in requested_files(queue, envelopes):
            found += await self._settle(key)
        return found

    async def _settle(self, key: AssetKey) -> Sequence[Publication]:
        asset = await self._ledger.find_asset(key)
        if asset is None:
            await self._require_tasks(key)
            return ()
        if asset.state is AssetState.STORED:
            return ()
        now = self._clock()
        ready = await self._ledger.settle_asset(key, REASON, at=now)
        asset = await self._ledger.find_asset(key)
        if asset is None or asset.state is not AssetState.EXPIRED:
            # A new link came between the two, and with it a new request.
            return ()
        self.files += 1
        return [
            asset_settled(asset, source=self._source, at=now),
            *(assets_ready(one, source=self._source, at=now) for one in ready),
        ]

    async def _require_tasks(self, key: AssetKey) -> None:
        """Tell a file that nobody knows from a ledger that is not the right one."""
        if not await self._ledger.list_tasks(limit=1):
            raise LedgerUnavailable(
                f"expected the ledger that knows task {key.task_id}, got an empty one:"
                " run this where the workers' ledger is, or name it with --ledger-url"
            )


def requested_files(queue: str, envelopes: Sequence[Envelope]) -> Sequence[AssetKey]:
    """Give the files, each once, that ``envelopes`` of a work queue ask for."""
    if queue != DOWNLOAD:
        return ()
    keys = (_requested(envelope) for envelope in envelopes)
    return [*dict.fromkeys(key for key in keys if key is not None)]


def _requested(envelope: Envelope) -> AssetKey | None:
    try:
        event = parse_event(envelope.body)
    except Reject:
        return None
    return event.data.key if isinstance(event, AssetRequested) else None
