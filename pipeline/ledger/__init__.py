"""The ledger port and its adapters; ``open_ledger`` chooses by URL scheme."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    from pipeline.ledger.port import Ledger

_SQLITE = "sqlite:///"


def open_ledger(url: str) -> Ledger:
    """Make a handle on the ledger at ``url``; it opens when its context is entered.

    ``sqlite:///ledger.db`` is relative to the working directory,
    ``sqlite:////var/lib/ledger.db`` is absolute.

    Raises:
        ConfigurationError: there is no adapter for the scheme, or no path.
    """
    path = url.removeprefix(_SQLITE)
    if path == url or not path:
        scheme = url.partition(":")[0]
        message = (
            "expected the ledger's address as sqlite:///<path>, got one that starts"
            f" with {scheme!r}: give it a path to a file"
        )
        raise ConfigurationError(message)
    from pipeline.ledger.sqlite import SqliteLedger  # noqa: PLC0415 - only if chosen

    return SqliteLedger(path)
