"""Text of strangers, on its way into a database. Pure."""

from __future__ import annotations


def storable(text: str) -> str:
    """Leave out what no database takes: NUL; lone surrogates become ``?``.

    An error may quote a server that sent either.
    """
    return text.replace("\0", "").encode(errors="replace").decode()
