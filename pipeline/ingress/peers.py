"""Who may connect, and how often at the same time, before anything is said.

A connection costs a place whatever comes over it. Networks and rates are looked at
with each request (``gate.py``), which is too late for a caller that sends none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pipeline.ingress.limits import key_of
from pipeline.ingress.networks import Networks, read_address
from pipeline.ingress.turned_away import Tally, TurnedAway

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pipeline.settings import IngressSettings

#: Connections taken where nothing else is said.
MAX_CONNECTIONS: Final = 1000
#: One address may have so much of them, where nothing else is said: not all, but more
#: than there may be requests at a time. The provider may call from one address, or a
#: proxy that nobody has named; while the broker hangs, callbacks wait for seconds.
SHARE_OF_ONE: Final = 3 / 4
#: And so much all that are outside of the networks callbacks are taken from.
SHARE_OF_OUTSIDE: Final = 1 / 4

#: Stand for addresses that are counted together; no address has such a key.
_PROXIES: Final = -2
_OUTSIDE: Final = -3


class Peers:
    """Counts connections, and says which are too many.

    Who could get nothing but refusals is not let in. Who could only look at health,
    because that is shown to all, shares a quarter with all others of that kind: however
    many they are, they leave room for callbacks.

    Args:
        most: connections at the same time.
        most_of_one: those of one address; ``None``: three quarters of ``most``.
        networks: those that callbacks are taken from; empty: all.
        health_networks: those that may see health; empty: all.
        proxies: those that everybody's connections come from; they have no limit of
            their own.
    """

    def __init__(
        self,
        most: int = MAX_CONNECTIONS,
        *,
        most_of_one: int | None = None,
        networks: Iterable[str] = (),
        health_networks: Iterable[str] = (),
        proxies: Iterable[str] = (),
    ) -> None:
        self._most = most
        self._most_of_one = most_of_one or max(1, int(most * SHARE_OF_ONE))
        self._most_outside = max(1, int(most * SHARE_OF_OUTSIDE))
        self._networks = Networks(networks)
        self._health_networks = Networks(health_networks)
        self._proxies = Networks(proxies)
        self._count = 0
        self._count_of: dict[int, int] = {}
        self._tally = Tally()

    def enter(self, peer: str | None) -> int | None:
        """Count one more; give what ``leave`` wants, ``None``: it is to be closed.

        Args:
            peer: the address at the other end.
        """
        key = self._key_of(peer)
        count = 0 if key is None else self._count_of.get(key, 0)
        if key is None:
            cause = TurnedAway.NETWORK
        elif self._count >= self._most:
            cause = TurnedAway.CONNECTIONS
        elif count >= self._most_of(key):
            cause = TurnedAway.ADDRESS
        else:
            self._count += 1
            self._count_of[key] = count + 1
            return key
        self._tally.add(cause, peer)
        return None

    def leave(self, key: int) -> None:
        """Count one less of those that entered."""
        self._count -= 1
        self._count_of[key] -= 1
        if not self._count_of[key]:
            del self._count_of[key]

    def _most_of(self, key: int) -> int:
        """Give how many connections those may have that are counted as ``key``."""
        if key == _PROXIES:
            return self._most
        if key == _OUTSIDE:
            return min(self._most_of_one, self._most_outside)
        return self._most_of_one

    def _key_of(self, peer: str | None) -> int | None:
        """Give what an address is counted as; ``None``: it has no business here."""
        address = read_address(peer or "")
        if address in self._proxies:
            return _PROXIES
        if not self._networks or address in self._networks:
            return key_of(address)
        if not self._health_networks:
            return _OUTSIDE
        return key_of(address) if address in self._health_networks else None


def peers_of(settings: IngressSettings) -> Peers:
    """Make what the settings say."""
    return Peers(
        settings.max_connections,
        most_of_one=settings.max_connections_per_address,
        networks=settings.networks,
        health_networks=settings.health_networks,
        proxies=settings.trusted_proxies,
    )
