"""Who wants to hear of which events: the file that lists subscriptions.

Every subscription has a queue of its own, so that a slow or dead subscriber is
nobody else's trouble. ``configs/subscriptions.example.toml`` shows the file.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter

# pydantic reads these annotations when the classes are made
from pathlib import Path  # noqa: TC003
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
)
from pydantic_core import PydanticCustomError

from pipeline.errors import ConfigurationError
from pipeline.topology import matches

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from pydantic_core import ErrorDetails

_PATTERN: Final = re.compile(r"(?:[a-z0-9_-]+|\*|#)(?:\.(?:[a-z0-9_-]+|\*|#))*")
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
#: Headers that every notification has, or that the HTTP client writes.
_OWN_HEADERS: Final = frozenset(
    {"host", "connection", "content-length", "content-type", "transfer-encoding"}
)
_OWN_PREFIX: Final = "webhook-"
#: What may be wrong, in words that read well after "expected".
_EXPECTED: Final = {
    "missing": "a value",
    "extra_forbidden": "no such key",
    "string_pattern_mismatch": "text of the form {pattern}",
    "tuple_type": "a list",
    "string_type": "text",
    "model_type": "a table",
    "greater_than": "a number above {gt:g}",
    "less_than_equal": "a number of at most {le:g}",
}


def _expected(what: str) -> PydanticCustomError:
    return PydanticCustomError("expected", "{what}", {"what": what})


def _check_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        proper = bool(parts.hostname) and parts.port != 0
    except ValueError:
        proper = False
    else:
        proper = proper and parts.scheme in ("https", "http")
        proper = proper and parts.username is None and parts.password is None
    if not proper or not url.isprintable() or " " in url:
        raise _expected(
            "an address such as https://host/path, without user name and password"
        )
    return url


def _check_pattern(pattern: str) -> str:
    if _PATTERN.fullmatch(pattern) is None:
        raise _expected("a topic pattern such as task.*, task.complete or #")
    return pattern


def _check_any(events: tuple[str, ...]) -> tuple[str, ...]:
    if not events:
        raise _expected("at least one pattern, such as task.complete")
    return events


def _check_headers(headers: Mapping[str, SecretStr]) -> Mapping[str, SecretStr]:
    for name, value in headers.items():
        low = name.lower()
        if _HEADER_NAME.fullmatch(name) is None:
            raise _expected("names of headers without spaces and colons")
        if low in _OWN_HEADERS or low.startswith(_OWN_PREFIX):
            raise _expected(f"other headers than {low}, which is ours")
        text = value.get_secret_value()
        if not (text.isascii() and text.isprintable()):
            raise _expected(f"a value of {name} in one line of ASCII")
    return headers


class Subscription(BaseModel):
    """One subscriber: where it listens and what it wants to hear."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    #: Part of the name of its queue; a renamed subscription is a new one.
    name: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")]
    #: Gets a POST for each event.
    url: Annotated[str, AfterValidator(_check_url), Field(repr=False)]
    #: Topic patterns: ``*`` is one word, ``#`` is any number of words.
    events: Annotated[
        tuple[Annotated[str, AfterValidator(_check_pattern)], ...],
        AfterValidator(_check_any),
    ]
    #: The longest to wait for an answer; ``None``: as in the settings.
    timeout_seconds: Annotated[float, Field(gt=0, le=300)] | None = None
    #: Sent with every request, for example ``Authorization``.
    headers: Annotated[dict[str, SecretStr], AfterValidator(_check_headers)] = {}


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    subscriptions: tuple[Subscription, ...] = ()


def load_subscriptions(
    path: Path, *, event_types: Collection[str] = ()
) -> tuple[Subscription, ...]:
    """Read the list of subscriptions.

    Args:
        path: a TOML file with a table ``[[subscriptions]]`` for each.
        event_types: all types of events there are; if given, a pattern that fits
            none of them is a mistake.

    Raises:
        ConfigurationError: something is wrong; the message has a line for each
            mistake, and no values of headers.
    """
    subscriptions, mistakes = try_subscriptions(path, event_types=event_types)
    if mistakes:
        lines = "".join(f"\n  {mistake}" for mistake in mistakes)
        message = f"{path}: {len(mistakes)} wrong:{lines}"
        raise ConfigurationError(message)
    return subscriptions


def try_subscriptions(
    path: Path, *, event_types: Collection[str] = ()
) -> tuple[tuple[Subscription, ...], Sequence[str]]:
    """Do as ``load_subscriptions``, but return what is wrong in the list.

    Raises:
        ConfigurationError: there is no list that could be read.
    """
    raw = _read(path)
    mistakes = _duplicates(raw)
    subscriptions: tuple[Subscription, ...] = ()
    try:
        subscriptions = _File.model_validate(raw).subscriptions
    except ValidationError as error:
        mistakes += [_mistake(d, raw) for d in error.errors(include_url=False)]
    if event_types:
        mistakes += _deaf(subscriptions, event_types)
    return subscriptions, mistakes


def patterns(subscriptions: Sequence[Subscription]) -> dict[str, Sequence[str]]:
    """Give what ``build_topology`` wants to know: patterns by name."""
    return {one.name: one.events for one in subscriptions}


def _read(path: Path) -> dict[str, object]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        message = f"{path}: expected a TOML file that can be read: {error.strerror}"
        raise ConfigurationError(message) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        message = f"{path}: expected TOML: {error}"
        raise ConfigurationError(message) from error


def _tables(raw: Mapping[str, object]) -> list[Mapping[str, object]]:
    found = raw.get("subscriptions")
    tables = found if isinstance(found, list) else []
    return [table if isinstance(table, dict) else {} for table in tables]


def _duplicates(raw: Mapping[str, object]) -> list[str]:
    names = Counter(
        name for table in _tables(raw) if isinstance(name := table.get("name"), str)
    )
    return [
        f"subscriptions: expected one named {name!r}, got {count}"
        for name, count in names.items()
        if count > 1
    ]


def _mistake(details: ErrorDetails, raw: Mapping[str, object]) -> str:
    """Put what pydantic found into our words, without what may be secret."""
    words = _EXPECTED.get(details["type"], "{msg}")
    expected = words.format(msg=details["msg"], **details.get("ctx", {}))
    loc = details["loc"]
    where = ".".join(str(part) for part in loc).replace("subscriptions.", "#", 1)
    tables = _tables(raw)
    if len(loc) > 1 and isinstance(loc[1], int) and loc[1] < len(tables):
        name = tables[loc[1]].get("name")
        where += f" ({name})" if isinstance(name, str) else ""
    return f"{where}: expected {expected}"


def _deaf(
    subscriptions: Sequence[Subscription], event_types: Collection[str]
) -> list[str]:
    return [
        f"{one.name}: expected a pattern of events that there are, got {pattern!r}"
        for one in subscriptions
        for pattern in one.events
        if not any(matches(pattern, event_type) for event_type in event_types)
    ]
