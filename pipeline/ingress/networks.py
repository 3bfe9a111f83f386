"""From which network a request comes, also through proxies that are trusted.

``X-Forwarded-For`` can be written by anybody, so it is believed only as far as it was
written by proxies that are known: read from the right, up to the first address that
is none of theirs.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Address: TypeAlias = IPv4Address | IPv6Address

FORWARDED_HEADER: Final = "X-Forwarded-For"
#: Addresses of a header that are looked at; a chain of proxies is never as long.
MOST_HOPS: Final = 32
#: Longer texts are no address with a port, whatever stands in them.
MOST_CHARACTERS: Final = 100


class Networks:
    """A set of networks."""

    def __init__(self, networks: Iterable[str]) -> None:
        found = [ip_network(text) for text in networks]
        self._v4 = [n for n in found if isinstance(n, IPv4Network)]
        self._v6 = [n for n in found if isinstance(n, IPv6Network)]

    def __bool__(self) -> bool:
        """Tell whether there is any."""
        return bool(self._v4 or self._v6)

    def __contains__(self, address: Address | None) -> bool:
        if isinstance(address, IPv4Address):
            return any(address in network for network in self._v4)
        return address is not None and any(address in n for n in self._v6)


def read_address(text: str) -> Address | None:
    """Read an address, with or without a port; an IPv4 one inside IPv6 is taken out."""
    return _read(text) if len(text) <= MOST_CHARACTERS else None


def find_client(
    peer: str | None, forwarded: Sequence[str], trusted: Networks
) -> Address | None:
    """Find out who sent a request; ``None``: a trusted proxy does not say it clearly.

    Args:
        peer: the address at the other end of the connection.
        forwarded: every ``X-Forwarded-For`` header, in order.
        trusted: the proxies whose words in it are believed.
    """
    client = read_address(peer or "")
    if client not in trusted or not forwarded:
        return client
    hops = ",".join(forwarded).rsplit(",", MOST_HOPS)[-MOST_HOPS:]
    for hop in reversed(hops):
        client = read_address(hop)
        if client not in trusted:
            return client
    return client


@lru_cache(maxsize=1024)
def _read(text: str) -> Address | None:
    # The same few callers come again and again, and reading takes longer than all
    # the rest that is done here.
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
