"""The ledger port and its adapters; ``open_ledger`` chooses by URL scheme."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    from pipeline.ledger.port import Ledger

__all__ = ["open_ledger"]


def open_ledger(url: str, *, must_exist: bool = False) -> Ledger:
    """Make the handle that ``url`` asks for; entering its context opens it.

    ``sqlite:///relative/path`` or ``sqlite:////absolute/path``.

    Args:
        url: address of the ledger; it is never put into an error, as it can hold a
            password.
        must_exist: to open one that does not exist is a ``ConfigurationError``;
            else it is made.

    Raises:
        ConfigurationError: the address cannot be understood.
    """
    parts = urlsplit(url)
    if parts.scheme != "sqlite":
        message = (
            "expected a ledger address that begins with sqlite:///,"
            f" got one that begins with {parts.scheme!r}"
        )
        raise ConfigurationError(message)
    path = unquote(parts.path.removeprefix("/"))
    if parts.netloc or not path or parts.query:
        message = (
            "expected sqlite:///relative/path or sqlite:////absolute/path,"
            " with three or four slashes and nothing after the path"
        )
        raise ConfigurationError(message)
    # Imported here: who has one ledger need not have the other's library.
    from pipeline.ledger.sqlite import SqliteLedger  # noqa: PLC0415

    return SqliteLedger(path, must_exist=must_exist)
