"""Watch the links of files that are still to be fetched, and warn while there is time.

Downloads go by the time that is left, but only within the window of a worker. Where
the queue before it is so long that links may die in it, somebody has to know: at half
of a link's lifetime, and when little is left.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from pipeline.assets.lifetime import expires_at, share_spent
from pipeline.errors import LedgerError
from pipeline.ledger.links import unfetched_pages
from pipeline.logs import get_logger
from pipeline.metrics import UNFETCHED_LINKS

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime, timedelta

    from pipeline.assets.lifetime import Lifetimes
    from pipeline.ledger.links import UnfetchedLink
    from pipeline.ledger.port import Ledger

log = get_logger("link_watch")

#: Shares of a lifetime at which a link is warned of, in per cent.
WARNINGS: Final = (50, 80)
#: Shares at which links are counted.
COUNTED: Final = (*WARNINGS, 100)


class LinkWatch:
    """Looks at links from time to time; a part of a process that downloads.

    Each link is warned of once at each share, whichever process sees it first; counted
    it is by every process.

    Args:
        ledger: an open handle.
        lifetimes: how long links can be fetched from.
        clock: gives the present time, aware.
        every: from one look to the next.
    """

    name = "link watch"
    problem = None

    def __init__(
        self,
        ledger: Ledger,
        lifetimes: Lifetimes,
        *,
        clock: Callable[[], datetime],
        every: timedelta,
    ) -> None:
        self._ledger = ledger
        self._lifetimes = lifetimes
        self._clock = clock
        self._every_seconds = every.total_seconds()

    async def run(self, stopping: asyncio.Event) -> None:
        """Look until ``stopping`` is set; a ledger that is away is waited for."""
        while not stopping.is_set():
            try:
                await self.look()
            except LedgerError as error:
                log.warning("links_not_watched", error=str(error))
            await _wait(stopping, self._every_seconds)

    async def look(self) -> None:
        """Count the links, and warn of those that have got older than a share.

        Raises:
            LedgerUnavailable: as the ledger.
        """
        now = self._clock()
        first = min(WARNINGS) / 100
        received_before = now - first * self._lifetimes.shortest
        counts = dict.fromkeys(COUNTED, 0)
        pages = unfetched_pages(self._ledger, received_before=received_before)
        async with aclosing(pages):
            async for links in pages:
                shares = [100 * share_spent(one, self._lifetimes, now) for one in links]
                for least in COUNTED:
                    counts[least] += sum(share >= least for share in shares)
                due = [
                    (link, least)
                    for link, share in zip(links, shares, strict=True)
                    for least in WARNINGS
                    if share >= least
                ]
                for link, least in await self._ledger.note_warnings(due):
                    self._warn(link, least, now)
        for least, count in counts.items():
            UNFETCHED_LINKS.labels(str(least)).set(count)

    def _warn(self, link: UnfetchedLink, share: int, now: datetime) -> None:
        left = expires_at(link, self._lifetimes) - now
        key = link.key
        log.warning(
            "link_expires",
            asset=f"{key.task_id}/{key.track_id}/{key.kind}",
            spent_percent=share,
            left_seconds=max(0, round(left.total_seconds())),
        )


async def _wait(stopping: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stopping.wait()
    except TimeoutError:
        return
