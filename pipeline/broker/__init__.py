"""The broker port and its two adapters; ``open_broker`` chooses by URL scheme."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

from pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    from pipeline.broker.port import Broker

__all__ = ["open_broker"]


def open_broker(url: str, *, deadline: timedelta, must_exist: bool = False) -> Broker:
    """Make the handle that ``url`` asks for; entering its context opens it.

    ``sqlite:///relative/path``, ``sqlite:////absolute/path``, ``amqp://…``,
    ``amqps://…``. After a path, ``?lease_seconds=60`` sets how long the messages of
    a process that died stay with it.

    Args:
        url: address of the broker; it is never put into an error, as it can hold a
            password.
        deadline: the longest that any call waits for the broker.
        must_exist: an embedded broker whose file does not exist is an error; else
            the file is made.

    Raises:
        ConfigurationError: the address cannot be understood, or there is no file.
    """
    # Imported here: who has one broker need not have the other's library.
    match urlsplit(url).scheme:
        case "sqlite":
            return _open_sqlite(url, deadline, must_exist=must_exist)
        case "amqp" | "amqps":
            from pipeline.broker.rabbitmq import RabbitBroker  # noqa: PLC0415

            return RabbitBroker(url, deadline=deadline)
        case scheme:
            message = (
                "expected a broker address that begins with sqlite:///, amqp:// or"
                f" amqps://, got one that begins with {scheme!r}"
            )
            raise ConfigurationError(message)


def _open_sqlite(url: str, deadline: timedelta, *, must_exist: bool) -> Broker:
    from pipeline.broker.sqlite import DEFAULT_LEASE, SqliteBroker  # noqa: PLC0415

    parts = urlsplit(url)
    path = unquote(parts.path.removeprefix("/"))
    if parts.netloc or not path:
        message = (
            "expected sqlite:///relative/path or sqlite:////absolute/path, with"
            f" three or four slashes, got host {parts.hostname!r} and path {path!r}"
        )
        raise ConfigurationError(message)
    lease = DEFAULT_LEASE
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name != "lease_seconds" or not _is_positive(value):
            message = f"expected ?lease_seconds=NUMBER after {path}, got {name}={value}"
            raise ConfigurationError(message)
        lease = timedelta(seconds=float(value))
    if must_exist and not Path(path).is_file():
        message = (
            "broker_url: expected a broker that exists, found no file"
            f" {Path(path).absolute()};"
            " nothing has run there yet, or it is another place"
        )
        raise ConfigurationError(message)
    return SqliteBroker(path, deadline=deadline, lease=lease)


def _is_positive(value: str) -> bool:
    try:
        return 0 < float(value) < float("inf")
    except ValueError:
        return False
