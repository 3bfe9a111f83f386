"""Give up files whose requests are discarded, so that nobody waits for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pipeline.errors import LedgerUnavailable, Reject
from pipeline.events.catalogue import DEFAULT_SOURCE, AssetRequested, parse_event
from pipeline.events.publications import asset_settled, assets_ready
from pipeline.task import AssetState
from pipeline.topology import DOWNLOAD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
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
        with_unknown: also let go what is about tasks that the ledger does not know.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        clock: Callable[[], datetime],
        source: str = DEFAULT_SOURCE,
        with_unknown: bool = False,
    ) -> None:
        #: Files given up so far.
        self.files = 0
        self._ledger = ledger
        self._clock = clock
        self._source = source
        self._with_unknown = with_unknown

    async def __call__(
        self, queue: str, envelopes: Sequence[Envelope]
    ) -> Sequence[Publication]:
        """Settle what ``envelopes`` of a work queue asked for; give what to publish.

        All of it is one transaction. Called again, it gives the same event ids.

        Raises:
            LedgerUnavailable: it does not answer, or it does not know their tasks.
        """
        now = self._clock()
        keys = requested_files(queue, envelopes)
        settled = await self._ledger.settle_assets(keys, REASON, at=now)
        if not self._with_unknown:
            await self._require_tasks(
                key for key, one in zip(keys, settled, strict=True) if one.asset is None
            )
        found: list[Publication] = []
        for one in settled:
            if one.asset is None or one.asset.state is not AssetState.EXPIRED:
                continue  # nobody waits for it, or it was stored meanwhile
            self.files += 1
            found.append(asset_settled(one.asset, source=self._source, at=now))
            found += (assets_ready(r, source=self._source, at=now) for r in one.ready)
        return found

    async def _require_tasks(self, unknown: Iterable[AssetKey]) -> None:
        """Tell a file that nobody knows from a ledger that is not the right one."""
        for task_id in dict.fromkeys(key.task_id for key in unknown):
            if await self._ledger.find_task(task_id) is None:
                raise LedgerUnavailable(
                    f"expected the ledger that knows task {task_id}, got one that does"
                    " not: run this where the workers' ledger is, or name it with"
                    " --ledger-url; if that has forgotten the task, add"
                    " --with-unknown-tasks"
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
