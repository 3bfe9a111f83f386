"""Find commands in documents, and see whether the command line would take them."""

from __future__ import annotations

import re
import shlex
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from typer.main import get_command

from pipeline.cli.main import app

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.markdown import Document

_SHELLS: Final = frozenset({"console", "sh", "bash", "shell"})
_COMMAND: Final = re.compile(
    r"(?:\$ )?(?:[A-Z_]+=\S+ )*(?:docker (?:compose )?(?:run|exec) .*?)?"
    r"(?:\.venv/bin/)?pipeline(?= |$)(?P<rest>.*)"
)
_MAKE: Final = re.compile(r"(?:\$ )?make ([a-z-]+)")
#: After these a shell goes on with something else.
_ENDS: Final = frozenset({"|", ">", "&", "&&", ";", "#", "2>&1"})


def check(document: Document, makefile: Path) -> Iterator[tuple[int, str]]:
    """Check every command of ours and every target of ``make``."""
    for number, line in _lines(document):
        if found := _COMMAND.fullmatch(line):
            for mistake in wrong_command(found["rest"]):
                yield number, f"`{line}`: {mistake}"
        if (target := _MAKE.match(line)) and target[1] not in targets(makefile):
            yield number, f"`{line}`: there is no such target"


def wrong_command(rest: str) -> Iterator[str]:
    """Say what the command line would not take of the words after ``pipeline``."""
    command: Any = get_command(app)
    is_help = False
    words = iter(shlex.split(rest, comments=True))
    for word in words:
        if word in _ENDS:
            return
        if word.startswith("-"):
            is_help = is_help or word in ("-h", "--help")
            option = _find_option(command, word.partition("=")[0])
            if option is None:
                yield f"there is no option {word}"
                return
            if not option.is_flag and "=" not in word:
                next(words, None)
        elif hasattr(command, "commands"):
            if word not in command.commands:
                yield f"there is no command {word}"
                return
            command = command.commands[word]
        elif mistake := _wrong_argument(command, word):
            yield mistake
            return
    if hasattr(command, "commands") and command.name != "pipeline" and not is_help:
        yield f"it needs one of {', '.join(sorted(command.commands))}"


def leaves() -> list[str]:
    """Give every command with those above it, such as ``dead-letters list``."""
    return sorted(_leaves(get_command(app), ""))


@cache
def targets(makefile: Path) -> frozenset[str]:
    """Give the targets of the Makefile."""
    text = makefile.read_text(encoding="utf-8")
    return frozenset(re.findall(r"^([a-z-]+):", text, re.MULTILINE))


def _lines(document: Document) -> Iterator[tuple[int, str]]:
    for span in document.spans:
        yield span.line, span.text
    for block in document.fences:
        if block.language in _SHELLS:
            text = block.text.replace("\\\n", " ")
            for line in text.splitlines():
                yield block.line, re.sub(r"\s+", " ", line.strip())


def _find_option(command: Any, name: str) -> Any:
    if name in ("-h", "--help"):
        return _Flag
    for parameter in command.params:
        if name in (*parameter.opts, *parameter.secondary_opts):
            return parameter
    return None


class _Flag:
    is_flag = True


def _wrong_argument(command: Any, word: str) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    if not arguments:
        return f"it takes no {word}"
    kind = arguments[0].type_descriptor.annotation
    is_choice = isinstance(kind, type) and issubclass(kind, StrEnum)
    known = [str(choice) for choice in kind] if is_choice else []
    # Capitals stand for something that the reader has to put there.
    if known and word not in known and not word.isupper():
        return f"expected one of {', '.join(known)}, got {word}"
    return ""


def _leaves(command: Any, above: str) -> Iterator[str]:
    if not hasattr(command, "commands"):
        yield above.strip()
        return
    for name, below in command.commands.items():
        yield from _leaves(below, f"{above} {name}")
