"""Where the simulator's chance comes from: always a seed, never the machine."""

from __future__ import annotations

from random import Random


def seeded(*parts: object) -> Random:
    """Give a generator that depends on ``parts`` alone.

    The same parts give the same numbers in every process and on every machine:
    text seeds do not go through ``hash()``. Not for secrets.
    """
    return Random("/".join(str(part) for part in parts))  # noqa: S311 - repeatable
