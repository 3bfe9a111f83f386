"""How values are made that come by the thousand.

A dataclass that is frozen at run time sets each field through
``object.__setattr__``, which makes it three times as slow to create: 3.2 us against
1.0 us for an envelope, and every callback needs several values. These are frozen for
the type checker instead, which sees every line of this package.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(
    frozen_default=True, kw_only_default=True, field_specifiers=(field,)
)
def value(cls: type[T]) -> type[T]:
    """Make a slotted dataclass with keywords only, compared by its fields.

    Nobody may change one: mypy refuses it, and whoever holds one relies on that.
    """
    return dataclass(slots=True, kw_only=True)(cls)


@dataclass_transform(
    frozen_default=True, kw_only_default=True, field_specifiers=(field,)
)
def key(cls: type[T]) -> type[T]:
    """Make a value that others are found by: all its fields must have a hash."""
    return dataclass(slots=True, kw_only=True, unsafe_hash=True)(cls)
