"""Read a file of submissions: CSV with a head, or a JSON object on each line. Pure.

Each line has the fields of one request, in the provider's spelling or ours, and may
have two more: ``operation``, and ``source_file``, which names a file of this machine
that is decoded instead of fetching the link.
"""

from __future__ import annotations

import csv
import hashlib
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

from pipeline.errors import SubmissionInvalid
from pipeline.values import value

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

OPERATION: Final = "operation"
SOURCE_FILE: Final = "source_file"
#: Fields of CSV that hold JSON, because a cell has no other way to say it.
_JSON_FIELDS: Final = frozenset({"extra", "uploadUrlList", "upload_url_list"})
#: More in one file is more than anybody looks through.
MOST_LINES: Final = 100_000


@value
class Line:
    """One line of a file of submissions."""

    #: In the file, counted from 1.
    number: int
    operation: str
    fields: dict[str, Any]
    source_file: Path | None
    #: What it says, hashed: the same wherever it stands. A second line that says the
    #: same has another.
    key: str


def read_lines(path: Path, *, operation: str) -> Sequence[Line]:
    """Read a file whose name ends in ``.csv``, ``.jsonl`` or ``.ndjson``.

    Args:
        path: the file.
        operation: of lines that name none.

    Raises:
        SubmissionInvalid: it cannot be read; every line that cannot is named.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        message = f"{path}: expected a file of UTF-8 text, got {type(error).__name__}"
        raise SubmissionInvalid([message]) from error
    kind = path.suffix.lower()
    if kind == ".csv":
        found = [*_read_csv(text)]
    elif kind in (".jsonl", ".ndjson"):
        found = [*_read_json(text)]
    else:
        message = f"{path}: expected a name that ends in .csv, .jsonl or .ndjson"
        raise SubmissionInvalid([message])
    mistakes = [f"line {n}: {what}" for n, what in found if isinstance(what, str)]
    if not found:
        mistakes.append(f"{path}: expected at least one line, got none")
    if len(found) > MOST_LINES:
        mistakes = [f"{path}: expected at most {MOST_LINES} lines, got {len(found)}"]
    if mistakes:
        raise SubmissionInvalid(mistakes)
    times: dict[bytes, int] = {}
    lines = []
    for number, fields in found:
        assert isinstance(fields, dict)  # noqa: S101  texts are mistakes
        lines.append(_line(number, fields, operation, times))
    return lines


def _line(
    number: int, fields: dict[str, Any], operation: str, times: dict[bytes, int]
) -> Line:
    own = {name: what for name, what in fields.items() if what not in ("", None)}
    named = str(own.pop(OPERATION, operation))
    source_file = own.pop(SOURCE_FILE, None)
    said = orjson.dumps([named, own], option=orjson.OPT_SORT_KEYS)
    times[said] = times.get(said, 0) + 1
    key = hashlib.sha256(said + str(times[said]).encode()).hexdigest()[:32]
    return Line(
        number=number,
        operation=named,
        fields=own,
        source_file=None if source_file is None else Path(str(source_file)),
        key=key,
    )


def _read_csv(text: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Give each line with its fields, or with what is wrong."""
    # Not splitlines: it ends lines at more than CSV does, such as U+2028.
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            number = reader.line_num
            if None in row or None in row.values():
                width = len(reader.fieldnames or ())
                yield (
                    number,
                    f"expected {width} cells, as in the head, got another number",
                )
                continue
            yield number, _with_json({str(k).strip(): v for k, v in row.items()})
    except csv.Error as error:
        yield reader.line_num, f"expected CSV, got: {error}"


def _with_json(row: dict[str, Any]) -> dict[str, Any] | str:
    for name in _JSON_FIELDS & row.keys():
        if row[name]:
            try:
                row[name] = orjson.loads(row[name])
            except orjson.JSONDecodeError:
                return f"{name}: expected JSON"
    return row


def _read_json(text: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Give each line with its fields, or with what is wrong; empty ones are left."""
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            content = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            yield number, f"expected JSON, got: {error}"
            continue
        is_object = isinstance(content, dict)
        yield number, content if is_object else "expected a JSON object"
