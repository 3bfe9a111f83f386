"""How often one address may call: a bucket of tokens each, in bounded memory."""

from __future__ import annotations

import time
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.ingress.networks import Address

#: Addresses remembered; the one that has called least recently is forgotten first.
MOST_ADDRESSES: Final = 10_000
#: Whoever has one IPv6 address has the 2**64 of its network.
_V6_SHIFT: Final = 64


class RateLimit:
    """Lets each address call so many times a second, and some more at once.

    Kept of an address is one number: the time at which its bucket is full again
    (the "generic cell rate algorithm"). An address that was forgotten starts with a
    full bucket, so a caller with more addresses than are remembered is not held up.

    Args:
        per_second: tokens that come in each second.
        burst: tokens that a bucket holds.
        most: addresses remembered.
        clock: seconds, never going back.
    """

    def __init__(
        self,
        per_second: float,
        burst: int,
        *,
        most: int = MOST_ADDRESSES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._interval = 1 / per_second
        self._depth = self._interval * (burst - 1)
        self._most = most
        self._clock = clock
        self._full_at: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self._full_at)

    def wait_of(self, address: Address | None) -> float:
        """Take a token for one call; give the seconds to wait if there is none."""
        key = key_of(address)
        now = self._clock()
        # Taken out and put in again: the oldest stays first.
        full_at = max(self._full_at.pop(key, now), now)
        wait = full_at - now - self._depth
        if wait <= 0:
            full_at += self._interval
        self._full_at[key] = full_at
        if len(self._full_at) > self._most:
            self._forget()
        return max(wait, 0.0)

    def _forget(self) -> None:
        del self._full_at[next(iter(self._full_at))]


def key_of(address: Address | None) -> int:
    """Give what an address is counted as; those of both kinds never meet."""
    if address is None:
        return -1
    if isinstance(address, IPv4Address):
        return int(address)
    return (int(address) >> _V6_SHIFT) | (1 << 64)
