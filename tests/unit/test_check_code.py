"""The check of the code finds what it is there to find."""

from __future__ import annotations

import pytest

from tests.check_code import FUNCTION_LINES, check


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_function_that_is_too_long_is_found(kind: str) -> None:
    """Methods too; the line is that of the function."""
    body = "        pass\n" * FUNCTION_LINES

    mistakes = list(check(f"class One:\n    {kind} two():\n{body}", 350))

    expected = (
        f"2: expected at most {FUNCTION_LINES} lines in a function,"
        f" got {FUNCTION_LINES + 1} in two"
    )
    assert [expected] == mistakes


def test_function_as_long_as_it_may_be_is_none() -> None:
    body = "    pass\n" * (FUNCTION_LINES - 1)

    assert [] == list(check(f"def one():\n{body}", 350))


def test_module_that_is_too_long_is_found() -> None:
    code = "one = 1\n" * 20

    assert [] == list(check(code, 20))
    assert ["1: expected at most 19 lines in a module, got 20"] == list(check(code, 19))
