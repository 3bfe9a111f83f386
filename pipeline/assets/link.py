"""Read links that come from outside, and show them without their secrets."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from yarl import URL

from pipeline.errors import AssetRefused
from pipeline.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Collection

log = get_logger("guard")

_SHOWN_CHARACTERS: Final = 200
# Anything else would be for the name service to make sense of.
_NAME: Final = re.compile(r"[A-Za-z0-9._-]+")
_IPV6: Final = re.compile(r"[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*")


def read_link(text: str, *, base: URL | None = None) -> URL:
    """Read a link; one that is properly encoded is kept as it is, for signatures.

    Args:
        text: the link; it may be relative where there is a base.
        base: the link that redirects to this one.

    Raises:
        AssetRefused: it is no link, has no proper host, or has a password.
    """
    proper = text.isascii() and text.isprintable() and " " not in text
    try:
        # yarl would leave out lone surrogates without a word.
        text.encode()
        link = URL(text, encoded=proper)
        return _checked(link if base is None else base.join(link))
    except ValueError as error:
        # Some parts are read only when they are asked for, such as the port.
        message = "expected a link, got something that cannot be read as one"
        raise AssetRefused(message) from error


def check_host(link: URL, *, hosts: Collection[str], ports: Collection[int]) -> None:
    """Check where a link leads, by its name; its address is checked later.

    Args:
        link: the link, or what it redirects to.
        hosts: names in lower case, or ``*.`` and the end of names; empty: all.
        ports: empty: all.

    Raises:
        AssetRefused: it leads elsewhere.
    """
    # The dot at the end says only that the name is complete.
    host = (link.raw_host or "").lower().removesuffix(".")
    if hosts and not any(fits(host, pattern) for pattern in hosts):
        log.warning("link_refused", reason="host", host=host[:_SHOWN_CHARACTERS])
        message = f"expected a host that is allowed, got {show(link)}"
        raise AssetRefused(message)
    if ports and link.port not in ports:
        log.warning("link_refused", reason="port", host=host[:_SHOWN_CHARACTERS])
        message = f"expected a port that is allowed, got {link.port}"
        raise AssetRefused(message)


def show(link: URL) -> str:
    """Write a link without what may be a secret: host and path only."""
    return f"{link.raw_host or 'no host'}{link.raw_path}"[:_SHOWN_CHARACTERS]


def fits(host: str, pattern: str) -> bool:
    """Tell whether a host is the one named, or one of those named."""
    if pattern.startswith("*."):
        return host.endswith(pattern[1:])
    return host == pattern


def _checked(link: URL) -> URL:
    if link.raw_user is not None or link.raw_password is not None:
        message = "expected a link without a user name and password, got one with"
        raise AssetRefused(message)
    if not link.raw_host:
        message = f"expected a link with a host, got {show(link)}"
        raise AssetRefused(message)
    is_address = "[" in link.raw_authority
    if not (_IPV6 if is_address else _NAME).fullmatch(link.raw_host):
        message = f"expected a host in letters, digits, dots and hyphens: {show(link)}"
        raise AssetRefused(message)
    return link
