"""Read links that come from outside, and show them without their secrets."""

from __future__ import annotations

from typing import Final

from yarl import URL

from pipeline.errors import AssetRefused

_SHOWN_CHARACTERS: Final = 200


def read_link(text: str, *, base: URL | None = None) -> URL:
    """Read a link; one that is properly encoded is kept as it is, for signatures.

    Args:
        text: the link; it may be relative where there is a base.
        base: the link that redirects to this one.

    Raises:
        AssetRefused: it is no link, has no host, or has a password.
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


def show(link: URL) -> str:
    """Write a link without what may be a secret: host and path only."""
    return f"{link.raw_host or 'no host'}{link.raw_path}"[:_SHOWN_CHARACTERS]


def _checked(link: URL) -> URL:
    if link.raw_user is not None or link.raw_password is not None:
        message = "expected a link without a user name and password, got one with"
        raise AssetRefused(message)
    if not link.raw_host:
        message = f"expected a link with a host, got {show(link)}"
        raise AssetRefused(message)
    return link
