"""The dotted keys of the settings, such as ``ingress.port``, and their variables."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Annotated, Final, get_args, get_origin

from pydantic import BaseModel

from pipeline.settings.model import Settings

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from pydantic.fields import FieldInfo

PREFIX: Final = "PIPELINE_"
LEVEL: Final = "__"


def leaf_keys(model: type[BaseModel] = Settings, above: str = "") -> Iterator[str]:
    """Give the key of every setting that is no table, in the order of the model."""
    for name, info in model.model_fields.items():
        if (table := _table(info)) is None:
            yield f"{above}{name}"
        else:
            yield from leaf_keys(table, f"{above}{name}.")


def find_table(names: Sequence[str]) -> type[BaseModel] | None:
    """Find the class of a table; ``None``: there is no such table."""
    model: type[BaseModel] | None = Settings
    entry: type[BaseModel] | None = None
    for name in names:
        if entry is not None:  # the name is one of its own choosing
            model, entry = entry, None
            continue
        info = None if model is None else model.model_fields.get(name)
        model, entry = _table(info), _entry(info)
    return model


def find_field(key: str) -> FieldInfo | None:
    """Find what the model says of a setting; ``None``: there is no such setting."""
    *above, name = key.split(".")
    table = find_table(above)
    return None if table is None else table.model_fields.get(name)


def is_marked(info: FieldInfo | None, marker: type) -> bool:
    """Tell whether a field carries a marker of ``values.py``."""
    return info is not None and any(isinstance(m, marker) for m in info.metadata)


def variable(key: str) -> str:
    """Name the environment variable of a setting."""
    return PREFIX + key.upper().replace(".", LEVEL)


def did_you_mean(name: str, known: Collection[str]) -> str:
    """Suggest the nearest known name, as the end of a sentence."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def _entry(info: FieldInfo | None) -> type[BaseModel] | None:
    """Find the class of the tables in a table of them."""
    kinds = () if info is None else get_args(info.annotation)
    kind = kinds[-1] if kinds else None
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind
    return None


def _table(info: FieldInfo | None) -> type[BaseModel] | None:
    kind: object = None if info is None else info.annotation
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind
    return None
