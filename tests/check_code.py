"""Hold the code against the limits that linters do not know: ``tests.check_code``.

How long a module and a function may be. Tests are left out: one that lists what it
expects is long and simple. Prints a line for each that is too long; exit code 1 if
there is any.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).resolve().parents[1]
#: From ``def`` to the end, the docstring included.
FUNCTION_LINES: Final = 45
#: By folder; a benchmark stands beside all the peers it is compared with.
MODULE_LINES: Final = {"pipeline": 350, "examples": 350, "benchmarks": 450}


def main() -> int:
    """Check everything; return the exit code."""
    limits = {
        path: limit
        for folder, limit in MODULE_LINES.items()
        for path in sorted((ROOT / folder).rglob("*.py"))
    }
    mistakes = [
        f"{path.relative_to(ROOT)}:{mistake}"
        for path, limit in limits.items()
        for mistake in check(path.read_text(encoding="utf-8"), limit)
    ]
    for mistake in mistakes:
        sys.stdout.write(f"{mistake}\n")
    sys.stdout.write(f"{len(limits)} modules, {len(mistakes)} mistakes\n")
    return 1 if mistakes else 0


def check(code: str, module_lines: int) -> Iterator[str]:
    """Say which functions of a module are too long, and whether it is itself."""
    lines = len(code.splitlines())
    if lines > module_lines:
        yield f"1: expected at most {module_lines} lines in a module, got {lines}"
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES:
                yield (
                    f"{node.lineno}: expected at most {FUNCTION_LINES} lines in a"
                    f" function, got {lines} in {node.name}"
                )


if __name__ == "__main__":
    sys.exit(main())
