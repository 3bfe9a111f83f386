"""What the door in use says of settings that were not given: the lowest layer.

With it ``provider.door`` alone is enough, and every setting that is given still wins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import orjson
from pydantic import ValidationError

from pipeline.settings.door import DoorSettings
from pipeline.settings.doors import GENERIC, built_in_tables, join_door, merge_trees
from pipeline.settings.ingress import SignatureSettings
from pipeline.settings.layers import Layer, Mistake, Tree

if TYPE_CHECKING:
    from collections.abc import Sequence

_DOORS: Final = "doors"
_CHOSEN: Final = "provider.door"
_BASE_URL: Final = "provider.base_url"
_SCHEME: Final = "ingress.signature.scheme"
_KEYS: Final = "ingress.signature.keys"
_DEFAULT_SCHEME: Final = SignatureSettings.model_fields["scheme"].default


def door_layer(layers: Sequence[Layer]) -> Layer:
    """Make the layer below those given, of which the first is first in rank.

    It has every door in full. A door that is not there, one that is like no other, and
    keys for a door that signs nothing are mistakes.
    """
    layer, tables = Layer(), built_in_tables()
    for given in reversed(layers):
        tables = merge_trees(tables, _tables(given))
    doors: Tree = {}
    layer.values[_DOORS] = doors
    for name in tables:
        try:
            doors[name] = join_door(name, tables)
        except LookupError as error:
            _note(layer, layers, f"{_DOORS}.{name}.like", str(error))
    chosen = _given(layers, _CHOSEN)
    if not isinstance(chosen, str):
        chosen = GENERIC  # what is no text is refused when the settings are judged
    if chosen in doors:
        _choose(layer, chosen, layers)
    elif chosen not in tables:
        known = ", ".join(sorted(tables))
        _note(layer, layers, _CHOSEN, f"expected one of {known}, got {chosen!r}")
    return layer


def _choose(layer: Layer, name: str, layers: Sequence[Layer]) -> None:
    """Put what the door in use says where settings are taken from."""
    try:
        door = DoorSettings.model_validate(layer.values[_DOORS][name])
    except ValidationError:
        return  # reported where the door stands
    if door.base_url is not None:
        layer.put(_BASE_URL, door.base_url, f"door {name}")
    if door.signature != "none":
        if name != GENERIC or door.signature != _DEFAULT_SCHEME:
            layer.put(_SCHEME, door.signature, f"door {name}")
    elif _given(layers, _KEYS) and _given(layers, _SCHEME) is None:
        text = f"expected {_SCHEME} beside it, because the door {name} signs nothing"
        _note(layer, layers, _KEYS, text)


def _tables(layer: Layer) -> Tree:
    """Give the doors of a layer; a variable has them as JSON, which is parsed here."""
    tables = layer.values.get(_DOORS)
    if isinstance(tables, str):
        try:
            tables = orjson.loads(tables)
        except orjson.JSONDecodeError:
            return {}  # reported when the settings are judged
        layer.values[_DOORS] = tables
    return tables if isinstance(tables, dict) else {}


def _given(layers: Sequence[Layer], key: str) -> object:
    """Give the value of a setting before it is judged; ``None``: it was not given."""
    for layer in layers:
        value: object = layer.values
        for name in key.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None:
            return value
    return None


def _note(layer: Layer, layers: Sequence[Layer], key: str, text: str) -> None:
    origin = next((one.origins[key] for one in layers if key in one.origins), key)
    layer.mistakes.append(Mistake(key=key, origin=origin, text=text))
