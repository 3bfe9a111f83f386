"""What bodies are made of."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

Body: TypeAlias = dict[str, Any]


class Link(Protocol):
    """Turns a path under the provider's base address into a link."""

    def __call__(self, path: str, /) -> str:
        """Give the address of ``path``."""
