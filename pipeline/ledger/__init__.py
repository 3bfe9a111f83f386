"""The ledger port and its adapters; ``open_ledger`` chooses by URL scheme."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    from urllib.parse import SplitResult

    from pipeline.ledger.port import Ledger

__all__ = ["open_ledger"]


def open_ledger(url: str, *, must_exist: bool = False) -> Ledger:
    """Make the handle that ``url`` asks for; entering its context opens it.

    ``sqlite:///relative/path``, ``sqlite:////absolute/path`` or
    ``postgresql://user:password@host:port/database``.

    Args:
        url: address of the ledger; it is never put into an error, as it can hold a
            password.
        must_exist: to open one that does not exist is a ``ConfigurationError``;
            else it is made.

    Raises:
        ConfigurationError: the address cannot be understood, or the library for it
            is not installed.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        message = "expected a ledger address, got one with a bracket out of place"
        raise ConfigurationError(message) from None
    if parts.scheme == "sqlite":
        return _sqlite(parts, must_exist=must_exist)
    if parts.scheme == "postgresql":
        return _postgres(url, parts, must_exist=must_exist)
    message = (
        "expected a ledger address that begins with sqlite:/// or postgresql://,"
        f" got one that begins with {parts.scheme!r}"
    )
    raise ConfigurationError(message)


# The adapters are imported here: who has one ledger need not have the other's library.


def _sqlite(parts: SplitResult, *, must_exist: bool) -> Ledger:
    path = unquote(parts.path.removeprefix("/"))
    if parts.netloc or not path or parts.query:
        message = (
            "expected sqlite:///relative/path or sqlite:////absolute/path,"
            " with three or four slashes and nothing after the path"
        )
        raise ConfigurationError(message)
    from pipeline.ledger.sqlite import SqliteLedger  # noqa: PLC0415

    return SqliteLedger(path, must_exist=must_exist)


def _postgres(url: str, parts: SplitResult, *, must_exist: bool) -> Ledger:
    if not _names_database(parts):
        message = (
            "expected postgresql://user:password@host:port/database, with %XX for"
            " every / ? # @ : and % in the name and the password"
        )
        raise ConfigurationError(message)
    try:
        from pipeline.ledger.postgres import PostgresLedger  # noqa: PLC0415
    except ImportError as error:
        message = (
            "ledger_url: expected the library asyncpg for postgresql://, found none:"
            " install callback-pipeline[postgres]"
        )
        raise ConfigurationError(message) from error
    return PostgresLedger(url, must_exist=must_exist)


def _names_database(parts: SplitResult) -> bool:
    """Tell whether host and database can be told from what may be a password."""
    try:
        has_host = bool(parts.hostname) and parts.port != 0
    except ValueError:
        has_host = False
    return (
        has_host
        and parts.netloc.count("@") <= 1
        and bool(parts.path.strip("/"))
        and "/" not in parts.path[1:]
        and not parts.fragment
        # A password stands where it is masked when settings are shown.
        and "pass" not in parts.query
    )
