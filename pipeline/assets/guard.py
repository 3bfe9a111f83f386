"""Which addresses files are fetched from: public ones, and no others.

A link is input from outside; it must not make us speak to our own network. The
check sits where a socket is made, so it sees every final address: names that
resolve to internal addresses, names that change their answer, addresses written as
numbers, and redirects.
"""

from __future__ import annotations

import socket
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
)
from typing import TYPE_CHECKING, Final

from pipeline.logs import get_logger

if TYPE_CHECKING:
    from aiohttp.connector import AddrInfoType

log = get_logger("guard")

# ``is_global`` is not enough: up to Python 3.11 it lets pass multicast, the relays
# of 6to4, and several IPv6 blocks that carry IPv4 addresses inside.
# https://www.iana.org/assignments/iana-ipv4-special-registry/
_REFUSED_V4: Final = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",
    )
)
#: The only block from which global IPv6 addresses are given out.
_GLOBAL_V6: Final = IPv6Network("2000::/3")
# https://www.iana.org/assignments/iana-ipv6-special-registry/
_REFUSED_V6: Final = tuple(
    IPv6Network(text)
    for text in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
)
#: Networks without IPv4 reach it through these (RFC 6052).
_NAT64: Final = IPv6Network("64:ff9b::/96")


class ForbiddenAddress(OSError):
    """The address is not public. An ``OSError``: the connector expects those."""


def is_public(address: str) -> bool:
    """Tell whether ``address`` is a public unicast address, and written as one."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(parsed, IPv6Address):
        embedded = _embedded(parsed)
        if embedded is None:
            return parsed in _GLOBAL_V6 and not any(parsed in n for n in _REFUSED_V6)
        parsed = embedded
    return not any(parsed in network for network in _REFUSED_V4)


def public_socket(address: AddrInfoType) -> socket.socket:
    """Make a socket for an address, if it is public.

    Raises:
        ForbiddenAddress: it is not.
    """
    family, kind, protocol, _, where = address
    if family not in (socket.AF_INET, socket.AF_INET6) or not is_public(str(where[0])):
        log.warning("address_refused", address=str(where[0]))
        # Always the same text: the connector passes on the error of several
        # addresses as it is only if all of them read the same.
        message = "the address is not public"
        raise ForbiddenAddress(message)
    return socket.socket(family, kind, protocol)


def _embedded(address: IPv6Address) -> IPv4Address | None:
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return None
