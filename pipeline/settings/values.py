"""Kinds of values in the settings, each readable from TOML and from text alike.

An environment variable is always text, so every kind here takes text as well as
what TOML has. Messages are complete after the word "expected" and never repeat
the input: it may be a secret.
"""

from __future__ import annotations

import re
from datetime import timedelta
from ipaddress import ip_network
from typing import TYPE_CHECKING, Annotated, Final, NoReturn, TypeAlias
from urllib.parse import urlsplit

import orjson
from pydantic import AfterValidator, BeforeValidator, ByteSize, Field, SecretStr
from pydantic_core import PydanticCustomError

from pipeline.addresses import split_hosts

if TYPE_CHECKING:
    from collections.abc import Iterable

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|)", re.ASCII)
_UNIT_SECONDS: Final = {"ms": 0.001, "": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST_SECONDS: Final = 365 * 86400
_HOST: Final = re.compile(r"(\*\.)?[a-z0-9-]+(\.[a-z0-9-]+)*", re.ASCII)
_PASSWORD: Final = re.compile(r"(?<=://)([^:/?#@]*):.*@", re.DOTALL)

BROKER_SCHEMES: Final = ("sqlite", "amqp", "amqps")
LEDGER_SCHEMES: Final = ("sqlite", "postgresql")
#: Hosts that are this machine, whatever a name service says.
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
ASSETS_SCHEMES: Final = ("file", "s3", "gs", "az")


Count = Annotated[int, Field(ge=1, le=10_000)]
Key = Annotated[SecretStr, Field(min_length=1)]
Token = Annotated[SecretStr, Field(min_length=16)]
Size = Annotated[ByteSize, Field(ge=1)]


class Masked:
    """Marks a field whose text may hold a password: it is shown with ``***``."""


class Hidden:
    """Marks a field that is secret as a whole: it is never shown."""


def parse_duration(value: object) -> timedelta:
    """Read a number of seconds, or text such as ``500ms``, ``8s``, ``2m``, ``6h``.

    Raises:
        PydanticCustomError: it is neither.
    """
    if isinstance(value, timedelta):
        return value
    if isinstance(value, str) and (found := _DURATION.fullmatch(value.strip())):
        seconds = float(found[1]) * _UNIT_SECONDS[found[2]]
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    else:
        _refuse("a duration such as 500ms, 8s, 2m or 6h")
    if not 0 <= seconds <= _LONGEST_SECONDS:
        _refuse("a duration between 0s and 365d")
    return timedelta(seconds=seconds)


def between(shortest: timedelta, longest: timedelta = timedelta.max) -> AfterValidator:
    """Make a validator that refuses durations outside the two, which are allowed."""

    def check(value: timedelta) -> timedelta:
        if value < shortest:
            _refuse(f"{format_duration(shortest)} or more")
        if value > longest:
            _refuse(f"{format_duration(longest)} or less")
        return value

    return AfterValidator(check)


def format_duration(value: timedelta) -> str:
    """Write a duration as ``parse_duration`` reads it, in the largest whole unit."""
    seconds = value.total_seconds()
    for unit in ("h", "m", "s"):
        if seconds and seconds % _UNIT_SECONDS[unit] == 0:
            return f"{seconds / _UNIT_SECONDS[unit]:.0f}{unit}"
    if not seconds:
        return "0s"
    return f"{value / timedelta(milliseconds=1):.3f}".rstrip("0").rstrip(".") + "ms"


def refuse_unless_below(timeout: timedelta, deadline: timedelta) -> None:
    """Check that one wait inside a call ends before the call's own deadline.

    Raises:
        PydanticCustomError: it does not.
    """
    if timeout >= deadline:
        shown = f"{format_duration(timeout)} and {format_duration(deadline)}"
        _refuse(f"timeout below deadline (they are {shown})")


def parse_list(value: object) -> object:
    """Read a list from text: JSON if it starts with ``[``, else one value a line.

    Commas separate values as well.

    Raises:
        PydanticCustomError: it starts like JSON and is none.
    """
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError as error:
            _refuse("a JSON list, or values separated by commas", error)
    return [item.strip() for item in re.split("[,\n]", value) if item.strip()]


def parse_table(value: object) -> object:
    """Read a table from text: JSON, as there is no other way in a variable.

    Raises:
        PydanticCustomError: it is none.
    """
    if not isinstance(value, str):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as error:
        _refuse("a JSON object", error)


def refuse_alone(other: str) -> NoReturn:
    """Refuse a value that means nothing without another setting.

    Raises:
        PydanticCustomError: always.
    """
    _refuse(f"{other} beside it")


def mask_password(url: str) -> str:
    """Replace the password in a URL by ``***``."""
    return _PASSWORD.sub(r"\1:***@", url)


def _check_broker_url(url: str) -> str:
    scheme = _scheme(url, BROKER_SCHEMES)
    if scheme == "sqlite":
        return _check_file_url(url)
    try:
        nodes = [urlsplit(node) for node in split_hosts(url)]
        reachable = all(node.hostname and node.port != 0 for node in nodes)
    except ValueError:
        reachable = False
    if not reachable:
        _refuse(
            "a host, or several with commas between them, as in"
            " amqp://user:password@host:5672,other:5672/"
        )
    return url


def _check_ledger_url(url: str) -> str:
    if _scheme(url, LEDGER_SCHEMES) == "sqlite":
        return _check_file_url(url)
    try:
        parts = urlsplit(url)
        names_database = bool(parts.hostname) and parts.port != 0
        # A second slash is one of a password that is not written as %2F.
        names_database = names_database and parts.path.count("/") == 1 < len(parts.path)
    except ValueError:
        names_database = False
    if not names_database:
        _refuse(
            "a host and a database, as in postgresql://user:password@host:5432/name"
        )
    # Only the password in front of the host is masked when settings are shown.
    if "pass" in parts.query:
        _refuse("a password in front of the host, none among the options")
    return url


def _check_assets_url(url: str) -> str:
    if "://" in url:
        scheme = _scheme(url, ASSETS_SCHEMES)
        # Credentials are in the environment: an address is logged.
        if scheme != "file" and not re.fullmatch(r"\w+://[\w.-]+(/[^?#@\s]*)?", url):
            _refuse("a bucket, a prefix and nothing else, as in s3://bucket/prefix")
    elif not url.strip():
        _refuse("a folder, as in data/assets")
    return url


def _check_provider_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, 0
    is_bare = bool(host) and port != 0 and not (parts.query or parts.fragment)
    if not is_bare or "@" in parts.netloc or parts.scheme not in ("https", "http"):
        _refuse("an address without user and query, as in https://api.example.com")
    if parts.scheme == "http" and host not in _LOOPBACK:
        _refuse("https, or http to this machine, because the key goes with it")
    return url.rstrip("/")


def _scheme(url: str, known: tuple[str, ...]) -> str:
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in known:
        _refuse(f"a URL that starts with {_or(f'{s}://' for s in known)}")
    return scheme


def _check_file_url(url: str) -> str:
    if not re.match(r"sqlite:///.*[^/]$", url, re.DOTALL):
        _refuse(
            "three slashes and a file, as in sqlite:///data/file.db "
            "(four for an absolute path)"
        )
    return url


def _check_ascending(waits: tuple[timedelta, ...]) -> tuple[timedelta, ...]:
    if list(waits) != sorted(waits):
        _refuse("durations that never grow shorter")
    return waits


def _check_distinct(delays: tuple[timedelta, ...]) -> tuple[timedelta, ...]:
    if len(set(delays)) != len(delays):
        _refuse("durations that differ")
    return delays


def _check_network(text: str) -> str:
    try:
        return str(ip_network(text))
    except ValueError as error:
        _refuse("a network such as 203.0.113.0/24, or an address", error)


def _check_host(text: str) -> str:
    pattern = text.lower()
    if not _HOST.fullmatch(pattern):
        _refuse("a host such as files.example.com or *.example.com")
    return pattern


def _or(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last


def _refuse(what: str, error: Exception | None = None) -> NoReturn:
    """Refuse a value; ``what`` was expected instead."""
    raise PydanticCustomError("expected", "{what}", {"what": what}) from error


#: A duration: seconds as a number, or text with a unit (ms, s, m, h, d).
Duration: TypeAlias = Annotated[timedelta, BeforeValidator(parse_duration)]
#: A duration of a millisecond or more.
Timeout: TypeAlias = Annotated[Duration, between(timedelta(milliseconds=1))]
#: The waits between attempts of one delivery; empty: no retry.
Waits: TypeAlias = Annotated[
    tuple[Duration, ...],
    Field(max_length=50),
    AfterValidator(_check_ascending),
    BeforeValidator(parse_list),
]
#: The delay queues on the broker.
Delays: TypeAlias = Annotated[
    tuple[Timeout, ...],
    Field(min_length=1, max_length=20),
    AfterValidator(_check_distinct),
    BeforeValidator(parse_list),
]
#: A network, written as its first address and the length of its prefix.
Network: TypeAlias = Annotated[str, AfterValidator(_check_network)]
#: The name of a host, or ``*.`` and the end of names.
HostPattern: TypeAlias = Annotated[str, AfterValidator(_check_host)]
#: A TCP port; 0 lets the system choose a free one.
Port: TypeAlias = Annotated[int, Field(ge=0, le=65535)]
BrokerUrl: TypeAlias = Annotated[
    str, AfterValidator(_check_broker_url), Masked(), Field(repr=False)
]
LedgerUrl: TypeAlias = Annotated[
    str, AfterValidator(_check_ledger_url), Masked(), Field(repr=False)
]
#: The base of the provider's API.
ProviderUrl: TypeAlias = Annotated[str, AfterValidator(_check_provider_url)]
AssetsUrl: TypeAlias = Annotated[
    str, AfterValidator(_check_assets_url), Masked(), Field(repr=False)
]
