"""Hold the tests that documents name against those that there are."""

from __future__ import annotations

import ast
import re
from functools import cache
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.markdown import Document

#: What a row says where the pipeline does not do it yet, and no test can.
NOT_YET: Final = "not there yet"

_LINK: Final = re.compile(r"\[`?(test_\w+)`?\]\(([^)#\s]+\.py)\)")
_NAMED: Final = re.compile(r"(tests/[\w/]+\.py)::(test_\w+)")


def check_named(document: Document, root: Path) -> Iterator[tuple[int, str]]:
    """Check that a test that is linked or named by its place is in that file."""
    for number, line in enumerate(document.text.splitlines(), start=1):
        linked = [
            (document.path.parent / unquote(target), name)
            for name, target in _LINK.findall(line)
        ]
        named = [(root / target, name) for target, name in _NAMED.findall(line)]
        for path, name in linked + named:
            if name not in _tests_of(path.resolve()):
                yield number, f"{name}: there is no such test in {path.name}"


def check_matrix(document: Document, heading: str) -> Iterator[tuple[int, str]]:
    """Check that every row of a table has a test, or says that it is still to come."""
    rows = document.table(heading)
    if not rows:
        yield 1, f"expected a table under {heading!r}, found none"
    for row in rows:
        text = " ".join(row.cells)
        if not _LINK.search(text) and NOT_YET not in text:
            yield row.line, f"{row.cells[0]}: no test holds this"


@cache
def _tests_of(path: Path) -> frozenset[str]:
    """Give the names of the tests of a file, none where there is no such file."""
    if not path.is_file():
        return frozenset()
    return frozenset(
        node.name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
