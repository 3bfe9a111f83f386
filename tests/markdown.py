"""Read Markdown as far as ``check_docs`` needs it: links, code, tables, headings."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

_FENCE: Final = re.compile(r"\s*(```+|~~~+)\s*([\w+-]*)")
_HEADING: Final = re.compile(r"#{1,6}\s+(.*?)\s*#*$")
_LINK: Final = re.compile(r"\]\(\s*<?([^)>\s]+)>?(?:\s+\"[^\"]*\")?\s*\)")
_SPAN: Final = re.compile(r"(`+)(.+?)\1")
_CELL: Final = re.compile(r"(?<!\\)\|")
_RULE: Final = re.compile(r":?-+:?")
_ANCHOR: Final = re.compile(r"<a\s+(?:id|name)=\"([^\"]+)\"")


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A piece of text and the line it starts on."""

    line: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """A block of code."""

    line: int
    #: What stands behind the opening marks: ``toml``, ``json``, ``console``, ...
    language: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of a table, without the head."""

    line: int
    #: The heading that the table stands under.
    heading: str
    cells: tuple[str, ...]

    def code(self, column: int = 0) -> str:
        """Give a cell without the marks of code around it."""
        return self.cells[column].strip("`") if column < len(self.cells) else ""


@dataclass(slots=True, kw_only=True)
class Document:
    """One Markdown file, taken apart."""

    path: Path
    text: str
    anchors: set[str] = field(default_factory=set)
    links: list[Piece] = field(default_factory=list)
    spans: list[Piece] = field(default_factory=list)
    fences: list[Fence] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    def table(self, heading: str) -> list[Row]:
        """Give the rows of the tables under a heading."""
        return [row for row in self.rows if row.heading == heading]


def read(path: Path) -> Document:
    """Take a file apart."""
    document = Document(path=path, text=path.read_text(encoding="utf-8"))
    _Reader(document).read()
    return document


class _Reader:
    def __init__(self, document: Document) -> None:
        self._document = document
        self._heading = ""
        self._slugs: dict[str, int] = {}
        #: Rows of the table that is being read; the first two are its head.
        self._in_table = 0

    def read(self) -> None:
        lines = enumerate(self._document.text.splitlines(), start=1)
        for number, line in lines:
            if opening := _FENCE.match(line):
                block = []
                for _, inner in lines:
                    if inner.strip().startswith(opening[1]):
                        break
                    block.append(inner)
                self._document.fences.append(
                    Fence(line=number, language=opening[2], text="\n".join(block))
                )
                continue
            self._read_line(number, line)

    def _read_line(self, number: int, line: str) -> None:
        document = self._document
        if heading := _HEADING.fullmatch(line):
            self._heading = heading[1].replace("`", "")
            document.anchors.add(self._slug(heading[1]))
        document.anchors.update(_ANCHOR.findall(line))
        spans = [found[2].strip() for found in _SPAN.finditer(line)]
        document.spans += [Piece(line=number, text=text) for text in spans]
        bare = _SPAN.sub("", line)
        targets = _LINK.findall(bare)
        document.links += [Piece(line=number, text=target) for target in targets]
        self._read_row(number, line)

    def _read_row(self, number: int, line: str) -> None:
        if not line.lstrip().startswith("|"):
            self._in_table = 0
            return
        cells = [cell.strip() for cell in _CELL.split(line.strip())[1:-1]]
        self._in_table += 1
        if self._in_table == 1 or all(_RULE.fullmatch(cell) for cell in cells):
            return
        clean = tuple(cell.replace("\\|", "|") for cell in cells)
        self._document.rows.append(Row(line=number, heading=self._heading, cells=clean))

    def _slug(self, heading: str) -> str:
        """Make the anchor of a heading as the usual web interfaces do."""
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        count = self._slugs.get(slug, 0)
        self._slugs[slug] = count + 1
        return f"{slug}-{count}" if count else slug
