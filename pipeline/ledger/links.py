"""What the ledger knows of links that expire.

A part of the ledger's port: which link took the place of which, which files are
still to be fetched and since when their links are known, and which tasks the provider
was asked to recover.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

from pipeline.values import value

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from datetime import datetime, timedelta

    from pipeline.ledger.lease import Lease
    from pipeline.task import AssetKey, TaskId


@value
class Renewal:
    """A link that took the place of another one."""

    key: AssetKey
    old_url: str
    new_url: str
    #: Where it came from: ``details``, ``minted`` or ``recovery``.
    source: str
    renewed_at: datetime
    #: Until when it works; ``None``: as long as any link to its host.
    until: datetime | None = None


@value
class UnfetchedLink:
    """The link of a file that is still to be fetched."""

    key: AssetKey
    url: str
    received_at: datetime
    #: As of ``Renewal``.
    until: datetime | None


#: Links are looked at so many at a time.
PAGE: Final = 1000


async def unfetched_pages(
    links: Links, *, received_before: datetime
) -> AsyncGenerator[Sequence[UnfetchedLink], None]:
    """Give all that ``list_unfetched`` would, a page at a time.

    Raises:
        LedgerUnavailable: as the ledger.
    """
    last: UnfetchedLink | None = None
    while True:
        page = await links.list_unfetched(received_before=received_before, after=last)
        if page:
            yield page
        if len(page) < PAGE:
            return
        last = page[-1]


@value
class Recovery:
    """A task that the provider was asked to bring back the lost files of."""

    #: What the provider calls it; ``None``: its answer is not known.
    recovery_id: TaskId | None
    asked_at: datetime


class Links(ABC):
    """The methods of a ledger for links that expire."""

    @abstractmethod
    async def renew_link(self, renewal: Renewal, *, lease: Lease) -> None:
        """Put a fresh link in the place of a dead one, and remember both.

        Only the holder of the file's lease may. The next try begins with the fresh
        link. The same renewal again changes nothing but its times.

        Raises:
            LeaseLost: another has taken the lease; nothing has changed.
        """

    @abstractmethod
    async def list_renewals(self, task_id: TaskId) -> Sequence[Renewal]:
        """List the links of a task that were renewed, the oldest renewal first."""

    @abstractmethod
    async def list_unfetched(
        self,
        *,
        received_before: datetime,
        after: UnfetchedLink | None = None,
        limit: int = PAGE,
    ) -> Sequence[UnfetchedLink]:
        """List links of files that are still to be fetched, the oldest first.

        Those that were received before a time, and all that have a time of their own
        until which they work; with ``after`` those that come behind it.
        """

    @abstractmethod
    async def note_warnings(
        self, warnings: Sequence[tuple[UnfetchedLink, int]]
    ) -> Sequence[tuple[UnfetchedLink, int]]:
        """Remember that links were warned of, in one transaction.

        The number is a share of the link's lifetime in per cent. Gives those that are
        warned of for the first time, whichever process asks.
        """

    @abstractmethod
    async def claim_recovery(self, task_id: TaskId, *, again_after: timedelta) -> bool:
        """Take the right to have a task recovered; gives whether it was free.

        It is taken once, and again when ``again_after`` has passed since.
        """

    @abstractmethod
    async def note_recovery(self, task_id: TaskId, recovery_id: TaskId) -> None:
        """Remember what the provider calls the recovery of a task."""

    @abstractmethod
    async def drop_recovery(self, task_id: TaskId) -> None:
        """Forget a recovery that the provider has not taken."""

    @abstractmethod
    async def find_recovery(self, task_id: TaskId) -> Recovery | None:
        """Give what is known of the recovery of a task; ``None``: there was none."""
