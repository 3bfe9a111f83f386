"""Values: as small and as quick as they are meant to be, and not more than that."""

from __future__ import annotations

from dataclasses import field, replace
from typing import TYPE_CHECKING

import pytest

from pipeline.values import key, value
from tests.factories import make_envelope

if TYPE_CHECKING:
    from pipeline.message import Envelope


@value
class Colour:
    """A value with a default and a field that has no hash."""

    name: str
    shades: list[str] = field(default_factory=list)


@key
class Place:
    """A value that others are found by."""

    row: int
    column: int


def test_a_value_is_made_with_keywords_only() -> None:
    with pytest.raises(TypeError, match="positional argument"):
        Colour("red")  # type: ignore[call-arg]


def test_a_value_has_no_room_for_anything_else() -> None:
    red = Colour(name="red")

    assert not hasattr(red, "__dict__")
    with pytest.raises(AttributeError):
        red.hue = 7  # type: ignore[attr-defined]


def test_values_are_equal_if_their_fields_are() -> None:
    assert Colour(name="red") == Colour(name="red", shades=[])
    assert Colour(name="red") != Colour(name="red", shades=["dark"])


def test_a_copy_differs_in_what_was_replaced_alone() -> None:
    red = Colour(name="red", shades=["dark"])

    changed = replace(red, name="blue")

    assert changed == Colour(name="blue", shades=["dark"])
    assert red == Colour(name="red", shades=["dark"])


@pytest.mark.parametrize("made", [Colour(name="red"), make_envelope()])
def test_a_value_says_itself_that_it_has_no_hash(made: Colour | Envelope) -> None:
    """And does not blame one of its fields for it."""
    with pytest.raises(TypeError, match=f"unhashable type: '{type(made).__name__}'"):
        hash(made)


def test_what_belongs_to_a_key_is_found_by_an_equal_one() -> None:
    found = {Place(row=1, column=2): "here"}

    assert found[Place(row=1, column=2)] == "here"
    assert Place(row=2, column=1) not in found
