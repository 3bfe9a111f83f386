"""The leases of one handler: whose they are, and how they are kept while it works.

Two of anything that shows outside at the same time are what has to be avoided:
copies of a message in this process take turns, those in others wait for the lease.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from pipeline.errors import LeaseLost, LedgerUnavailable
from pipeline.ledger.lease import LEASE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import timedelta

    from pipeline.ledger.lease import Lease
    from pipeline.ledger.port import Ledger
    from pipeline.message import Envelope

#: Renewed so often while it lasts: one that fails, or is late, does no harm.
RENEWALS: Final = 3


class Leases:
    """Says who we are to the ledger, and renews what we hold.

    Args:
        ledger: an open handle.
        lasts: how long a lease holds without being renewed.
    """

    def __init__(self, ledger: Ledger, *, lasts: timedelta = LEASE) -> None:
        self.lasts = lasts
        self._ledger = ledger
        self._name = secrets.token_hex(8)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def owner(self, envelope: Envelope) -> str:
        """Name this handler at work on a message; the same when it begins again."""
        return f"{self._name}/{envelope.message_id}"

    @asynccontextmanager
    async def turn(self, envelope: Envelope) -> AsyncIterator[None]:
        """Wait until no other copy of the message is being handled here."""
        lock = self._turns.setdefault(envelope.message_id, asyncio.Lock())
        async with lock:
            yield

    @asynccontextmanager
    async def kept(self, lease: Lease) -> AsyncIterator[None]:
        """Renew a lease for as long as the body runs.

        That it was lost all the same is told by the record that follows.
        """
        renewing = asyncio.create_task(self._renew(lease))
        try:
            yield
        finally:
            renewing.cancel()
            await asyncio.wait({renewing})

    async def _renew(self, lease: Lease) -> None:
        while True:
            await asyncio.sleep(self.lasts.total_seconds() / RENEWALS)
            try:
                await self._ledger.renew(lease, lasts=self.lasts)
            except LedgerUnavailable:
                continue  # nobody else can take it then either
            except LeaseLost:
                return
