"""Addresses that name several hosts, of which any will do.

Here and not in the adapter, because the settings check them too.
"""

from __future__ import annotations

import re
from typing import Final

#: Scheme, user and password, hosts, and all that follows them.
_PARTS: Final = re.compile(
    r"(?P<scheme>\w+://)(?P<user>[^/?#]*@)?(?P<hosts>[^/?#@]*)(?P<rest>.*)", re.DOTALL
)


def split_hosts(url: str) -> list[str]:
    """Give one address for each host, as in ``amqp://user:password@a:5672,b/vhost``.

    They differ in host and port alone and keep their order; a host that is left
    empty gives an address without one.

    Raises:
        ValueError: it has no scheme, or each host has a user of its own.
    """
    parts = _PARTS.fullmatch(url)
    if parts is None:
        message = "expected an address with a scheme, as in amqp://host/"
        raise ValueError(message)
    scheme, user, hosts, rest = parts.group("scheme", "user", "hosts", "rest")
    user = user or ""
    if re.search("@.*,", user):
        message = "expected one user and password, in front of the first host"
        raise ValueError(message)
    return [f"{scheme}{user}{host.strip()}{rest}" for host in hosts.split(",")]
