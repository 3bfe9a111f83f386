"""Tolerant readers of single JSON values: whatever comes in, none of them raises.

Values are what ``orjson.loads`` returns, so numbers are finite and text is free of
lone surrogates. A value of the wrong type counts as missing.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from pipeline.task import ID_LIMIT, derived_id

if TYPE_CHECKING:
    from pipeline.message import JSONValue

#: Longer links are dropped.
LINK_LIMIT: Final = 4096
#: Codes beyond this are cut, so that they fit into any database's integer.
CODE_LIMIT: Final = 999_999
_FAILED: Final = frozenset({"failed", "fail", "error"})
#: Longer numbers in text are no numbers.
_DIGITS_LIMIT: Final = 32
#: Epoch times above this are milliseconds: in seconds it is the year 5138.
_MILLISECONDS_FROM: Final = 1e11


def read_mapping(value: JSONValue) -> dict[str, JSONValue]:
    """Give a JSON object, or an empty one."""
    return value if type(value) is dict else {}


def read_text(value: JSONValue) -> str:
    """Give text, without NUL, which PostgreSQL cannot store."""
    if type(value) is not str:
        return ""
    return value.replace("\0", "") if "\0" in value else value


def fold(value: JSONValue) -> str:
    """Give a word without the spaces around it, in lower case; else nothing."""
    return value.strip().lower() if type(value) is str else ""


def is_failed(folded: str) -> bool:
    """Tell whether a word, as ``fold`` gives it, says that something has failed."""
    return folded in _FAILED or folded.endswith("_failed")


def read_code(value: JSONValue) -> int | None:
    """Give a code as an integer, whether it came as one or as text."""
    if type(value) is int:
        return max(-CODE_LIMIT, min(value, CODE_LIMIT))
    number = read_number(value)
    return None if number is None else read_code(int(number))


def read_number(value: JSONValue) -> float | None:
    """Give a finite number, also from text such as ``"104.88"``."""
    if type(value) is str and 0 < len(value) <= _DIGITS_LIMIT:
        try:
            number = float(value)
        except ValueError:
            return None
        return number if math.isfinite(number) else None
    if type(value) is int or type(value) is float:
        return float(value)
    return None


def read_link(value: JSONValue) -> str:
    """Give a link that starts with ``http://`` or ``https://``, or nothing.

    A space may stay in it: the provider does that, and whoever fetches it quotes
    it. Every other character that cannot be printed makes it worthless.
    """
    if type(value) is not str or not value:
        return ""
    link = value.strip()
    if not link[:8].lower().startswith(("http://", "https://")):
        return ""
    return link if len(link) <= LINK_LIMIT and link.isprintable() else ""


def read_time(value: JSONValue) -> datetime | None:
    """Read epoch seconds, epoch milliseconds or text; text without zone is UTC."""
    number = read_number(value)
    try:
        if number is not None:
            scale = 1000 if abs(number) >= _MILLISECONDS_FROM else 1
            return datetime.fromtimestamp(number / scale, UTC)
        if type(value) is not str or len(value) > _DIGITS_LIMIT:
            return None
        at = datetime.fromisoformat(value)
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        return None


def read_track_id(value: JSONValue, position: int) -> str:
    """Give a track's id; one is made of its position (from 0) where it has none.

    An id that would not fit into a key is replaced by its hash.
    """
    if type(value) is int:
        return str(value)
    if type(value) is not str or not value.strip():
        return f"track-{position + 1}"
    if len(value) > ID_LIMIT or not value.isprintable():
        return derived_id(value)
    return value
