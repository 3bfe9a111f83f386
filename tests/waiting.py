"""Waits for conditions with a deadline, so that no test has to sleep and hope."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from pipeline.ledger.sqlite import SqliteLedger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from pipeline.broker.port import Consumer, Delivery

#: Far more than anything should take on a machine and a disk that others keep busy:
#: reaching it means that a promise is broken.
WITHIN_SECONDS: Final = 30.0
#: How long those wait for a lock that are to give up.
_LOCK: Final = timedelta(milliseconds=300)

_POLL_SECONDS: Final = 0.02


async def eventually(
    condition: Callable[[], Awaitable[bool]], *, within: float = WITHIN_SECONDS
) -> None:
    """Return as soon as ``condition`` is true.

    Raises:
        TimeoutError: it was not within ``within`` seconds.
    """
    async with asyncio.timeout(within):
        # Another process may change it, so there is no event to wait for.
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(_POLL_SECONDS)


async def receive(
    consumer: Consumer, count: int = 1, *, within: float = WITHIN_SECONDS
) -> list[Delivery]:
    """Receive exactly ``count`` deliveries, however many come at a time.

    Raises:
        TimeoutError: fewer came within ``within`` seconds.
    """
    found: list[Delivery] = []
    async with asyncio.timeout(within):
        while len(found) < count:
            found += await consumer.receive(count - len(found))
    return found


async def receive_one(
    consumer: Consumer, *, within: float = WITHIN_SECONDS
) -> Delivery:
    """Receive one delivery.

    Raises:
        TimeoutError: none came within ``within`` seconds.
    """
    (delivery,) = await receive(consumer, within=within)
    return delivery


async def receive_nothing(consumer: Consumer, *, seconds: float) -> bool:
    """Tell whether nothing comes for ``seconds``; what comes is released."""
    try:
        async with asyncio.timeout(seconds):
            deliveries = await consumer.receive()
    except TimeoutError:
        return True
    for delivery in deliveries:
        await delivery.release()
    return not deliveries


def impatient_ledger(path: Path) -> SqliteLedger:
    """Make a ledger that soon gives up waiting for a lock, but not for a slow disk."""
    ledger = SqliteLedger(path, busy_timeout=_LOCK)
    ledger._database._deadline_seconds = WITHIN_SECONDS
    return ledger
