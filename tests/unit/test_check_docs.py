"""The checker of the documents finds what is wrong, and only that."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import check_docs, docs_commands, docs_tests, markdown


def read(tmp_path: Path, text: str) -> markdown.Document:
    """Take a text apart as a document."""
    path = tmp_path / "document.md"
    path.write_text(text, encoding="utf-8")
    return markdown.read(path)


@pytest.mark.parametrize(
    "rest",
    [
        "run --simulate",
        "worker NAME",
        "worker notify --subscription shop",
        "dead-letters list --queue download --json | jq .",
        "dead-letters show MESSAGE-ID --body",
        "ingress --set ingress.port=9000 -c file.toml",
        "--help",
    ],
)
def test_command_that_the_command_line_takes_is_right(rest: str) -> None:
    assert [] == list(docs_commands.wrong_command(rest))


@pytest.mark.parametrize(
    ("rest", "mistake"),
    [
        ("runn", "there is no command runn"),
        ("run --simulated", "there is no option --simulated"),
        ("worker sweep", "expected one of dedupe, download, notify, got sweep"),
        ("dead-letters", "it needs one of discard, list, replay, show"),
        ("config show all", "it takes no all"),
    ],
)
def test_command_that_the_command_line_refuses_is_found(
    rest: str, mistake: str
) -> None:
    assert [mistake] == list(docs_commands.wrong_command(rest))


def test_links_to_what_is_not_there_are_found(tmp_path: Path) -> None:
    document = read(
        tmp_path,
        "# One `code` heading\n"
        "[good](#one-code-heading) [bad](#two) [gone](gone.md) [web](https://x.test)\n"
        "`[no link](in-code.md)`\n\n```text\n[none](either.md)\n```\n",
    )

    found = check_docs.check_links(document, {Path("document.md"): document}, tmp_path)

    assert [
        (2, "link to #two: there is no such heading"),
        (2, "link to gone.md: there is no such file"),
    ] == list(found)


def test_tables_are_read_by_their_heading_without_their_head(tmp_path: Path) -> None:
    document = read(
        tmp_path, "## Settings\n\n| key | is |\n|---|---|\n| `a` | `x \\| y` |\n"
    )

    (row,) = document.table("Settings")

    assert ("a", "x | y") == (row.code(), row.code(1))


def test_configuration_with_an_unknown_key_is_found() -> None:
    assert "drian (TOML): unknown key" in check_docs.wrong_configuration("drian = '5s'")
    assert "" == check_docs.wrong_configuration("drain = '5s'")


def test_paths_of_one_machine_are_found_and_others_are_not(tmp_path: Path) -> None:
    lines = ["/" + "tmp/x", "sqlite:////data/x.db", "files/home/x", "a /" + "home/me/x"]

    found = [line for line in lines if check_docs.names_machine(line)]

    assert [lines[0], lines[3]] == found


def test_test_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    """Whether it is linked or named by its place."""
    (tmp_path / "test_a.py").write_text("async def test_one() -> None: ...\n")
    document = read(
        tmp_path,
        "[test_one](test_a.py) [test_two](test_a.py)\n`tests/unit/test_b.py::test_c`",
    )

    found = list(docs_tests.check_named(document, tmp_path))

    assert [
        (1, "test_two: there is no such test in test_a.py"),
        (2, "test_c: there is no such test in test_b.py"),
    ] == found


def test_row_without_a_test_is_a_mistake(tmp_path: Path) -> None:
    """Unless it says that nothing is there yet."""
    document = read(
        tmp_path,
        "## The matrix\n\n| what | tests |\n|---|---|\n| a | [test_x](test_x.py) |\n"
        "| b | - |\n| c | not there yet |\n",
    )

    found = list(docs_tests.check_matrix(document, "The matrix"))

    assert [(6, "b: no test holds this")] == found
    assert [(1, "expected a table under 'Other', found none")] == list(
        docs_tests.check_matrix(document, "Other")
    )
