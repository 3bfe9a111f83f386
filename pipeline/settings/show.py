"""Show the effective settings: no secret leaves this module."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeAlias

from pydantic import BaseModel

from pipeline.settings.keys import find_field, is_marked, leaf_keys
from pipeline.settings.values import Hidden, Masked, format_duration, mask_password

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.settings.load import Loaded

#: What JSON can say; ``None`` is a setting that has no value.
ShownValue: TypeAlias = (
    "str | int | float | bool | list[ShownValue] | dict[str, ShownValue] | None"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One setting as it may be seen by anybody."""

    #: The dotted key.
    key: str
    #: Secrets are ``set`` or ``unset``, passwords in URLs ``***``.
    value: ShownValue
    #: A file, a variable, a flag or ``default``.
    origin: str


def show_settings(loaded: Loaded) -> Sequence[Shown]:
    """List every setting in the order of the model."""
    return [
        Shown(key=key, value=_show(loaded, key), origin=loaded.origin(key))
        for key in leaf_keys()
    ]


def _show(loaded: Loaded, key: str) -> ShownValue:
    value: object = loaded.settings
    for name in key.split("."):
        value = getattr(value, name)
    info = find_field(key)
    if is_marked(info, Hidden):
        return "set" if value else "unset"
    if is_marked(info, Masked):
        return mask_password(str(value))
    return _plain(value)


def _plain(value: object) -> ShownValue:
    match value:
        case None | bool() | str() | float():
            return value
        case int():
            return int(value)
        case timedelta():
            return format_duration(value)
        case tuple():
            return [_plain(item) for item in value]
        case dict():
            return _table(value)
        case _:
            return str(value)


def _table(value: dict[str, object]) -> ShownValue:
    """Show a table; of one with tables in it, which may be long, the names."""
    if any(isinstance(item, BaseModel) for item in value.values()):
        return [*sorted(value)]
    return {name: _plain(item) for name, item in value.items()}
