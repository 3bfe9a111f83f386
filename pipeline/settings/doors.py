"""The doors that we know, and how one door is told by what it is like.

Doors are joined as plain values, before they are judged: a table says what differs,
``like`` names the door that says the rest.
"""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources
from typing import Any, Final, TypeAlias

from pipeline.settings.door import DoorSettings

Tree: TypeAlias = dict[str, Any]

#: The door of which only what all have in common is known.
GENERIC: Final = "generic"


def built_in_doors() -> dict[str, DoorSettings]:
    """Give the doors that come with us, by name."""
    return dict(_judged())


@cache
def built_in_tables() -> Tree:
    """Give the same as plain values, as they stand in ``doors.toml``."""
    file = resources.files("pipeline.settings") / "doors.toml"
    return tomllib.loads(file.read_text(encoding="utf-8"))


def join_door(name: str, tables: Tree, below: tuple[str, ...] = ()) -> Tree:
    """Join a door with the one that it is like, and so on.

    Raises:
        LookupError: there is no such door, or they are like each other.
    """
    table = tables[name] if isinstance(tables[name], dict) else {}
    like = table.get("like", "" if name == GENERIC else GENERIC)
    if like == "" or not isinstance(like, str):
        return table  # what is no text is refused when the door is judged
    if like not in tables or like in (*below, name):
        message = f"expected another door that there is, got {like!r}"
        raise LookupError(message)
    above = dict(join_door(like, tables, (*below, name)))
    above.pop("like", None)
    return merge_trees(above, table)


def merge_trees(one: Tree, other: Tree) -> Tree:
    """Lay one tree over another, table by table."""
    merged = dict(one)
    for name, value in other.items():
        old = merged.get(name)
        if isinstance(old, dict) and isinstance(value, dict):
            merged[name] = merge_trees(old, value)
        else:
            merged[name] = value
    return merged


@cache
def _judged() -> dict[str, DoorSettings]:
    tables = built_in_tables()
    return {
        name: DoorSettings.model_validate(join_door(name, tables)) for name in tables
    }
