"""Files of submissions, and what is noted beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeline.errors import SubmissionInvalid
from pipeline.submission.journal import SUFFIX, Entry, Journal, State
from pipeline.submission.lines import read_lines
from pipeline.task import TaskId

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.submission.lines import Line


def read(folder: Path, name: str, text: str) -> Sequence[Line]:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return read_lines(path, operation="upload-extend")


def refused(folder: Path, name: str, text: str) -> str:
    with pytest.raises(SubmissionInvalid) as caught:
        read(folder, name, text)
    return str(caught.value)


def test_csv_has_a_request_on_each_line(tmp_path: Path) -> None:
    """Also with the mark that spreadsheets put first, and lines inside of cells."""
    text = (
        "\ufeffuploadUrl,prompt, model,operation,source_file,extra\n"
        'https://a.example/1.mp3,"la\nla",V5,,,\n'
        'https://a.example/2.mp3,,V4,upload-cover,two.mp3,"{""new"": 1}"\n'
    )

    first, second = read(tmp_path, "songs.csv", text)

    assert {
        "uploadUrl": "https://a.example/1.mp3",
        "prompt": "la\nla",
        "model": "V5",
    } == first.fields
    assert ("upload-extend", None) == (first.operation, first.source_file)
    assert ("upload-cover", "two.mp3") == (second.operation, str(second.source_file))
    assert {"new": 1} == second.fields["extra"]
    assert (3, 4) == (first.number, second.number)


@pytest.mark.parametrize(
    "mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e"]
)
def test_cell_may_hold_what_is_a_new_line_elsewhere(tmp_path: Path, mark: str) -> None:
    """Lyrics that were copied from a document have such marks."""
    text = f"model,prompt\nV5,la{mark}la\nV4,lu\n"

    first, second = read(tmp_path, "songs.csv", text)

    assert {"model": "V5", "prompt": f"la{mark}la"} == first.fields
    assert (2, 3) == (first.number, second.number)


def test_json_lines_have_an_object_each(tmp_path: Path) -> None:
    text = '{"operation": "wav", "taskId": "t-1"}\n\n{"model": "V5"}\n'

    first, second = read(tmp_path, "songs.jsonl", text)

    assert ("wav", {"taskId": "t-1"}, 1) == (
        first.operation,
        first.fields,
        first.number,
    )
    assert ("upload-extend", 3) == (second.operation, second.number)


def test_every_line_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    message = refused(tmp_path, "a.jsonl", '{\n{}\n[1]\n"x"\n' + "[" * 5000)

    assert all(f"line {n}: " in message for n in (1, 3, 4, 5))
    assert "line 2" not in message


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.csv", "model,prompt\nV5\n", "line 2: expected 2 cells"),
        ("a.csv", "model\nV5,la\n", "line 2: expected 1 cells"),
        ("a.csv", 'model,extra\nV5,{"\n', "line 2: extra: expected JSON"),
        ("a.csv", 'model\n"V5\n', "expected CSV"),
        ("a.csv", "", "at least one line"),
        ("a.csv", "model\n", "at least one line"),
        ("a.jsonl", "\n\n", "at least one line"),
        ("a.txt", "{}", "ends in .csv, .jsonl or .ndjson"),
    ],
)
def test_file_that_cannot_be_read(
    tmp_path: Path, name: str, text: str, expected: str
) -> None:
    assert expected in refused(tmp_path, name, text)


def test_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    binary = tmp_path / "b.csv"
    binary.write_bytes(b"\xff\xfe\x00")

    for path in (tmp_path / "a.csv", binary):
        with pytest.raises(SubmissionInvalid, match="expected a file of UTF-8 text"):
            read_lines(path, operation="wav")


def test_line_is_known_by_what_it_says_and_not_by_where_it_stands(
    tmp_path: Path,
) -> None:
    a, b = read(tmp_path, "1.jsonl", '{"model": "V5", "title": "a"}\n{"title": "b"}')
    c, d, e = read(
        tmp_path,
        "2.jsonl",
        '{"title": "b"}\n{"title": "a", "model": "V5", "style": ""}\n{"title": "b"}',
    )

    assert (a.key, b.key) == (d.key, c.key)
    # A second line that says the same is another song.
    assert e.key not in {a.key, b.key}


def entry(key: str, state: State = State.SUBMITTED, **changes: str) -> Entry:
    task_id = TaskId(changes.get("task_id", "t-1"))
    return Entry(key=key, state=state, number=1, task_id=task_id)


def test_what_was_noted_is_there_at_the_next_start(tmp_path: Path) -> None:
    batch = tmp_path / "songs.csv"
    with Journal.opened(batch) as journal:
        journal.note(entry("a", State.UNKNOWN))
        journal.note(entry("a"))
        journal.note(entry("b", State.REFUSED))

    with Journal.opened(batch) as journal:
        assert {"a": entry("a"), "b": entry("b", State.REFUSED)} == journal.entries


def test_note_that_was_cut_off_harms_no_other(tmp_path: Path) -> None:
    batch = tmp_path / "songs.csv"
    with Journal.opened(batch) as journal:
        journal.note(entry("a"))
        journal.note(entry("b"))
    beside = tmp_path / f"songs.csv{SUFFIX}"
    beside.write_bytes(beside.read_bytes()[:-10])

    with Journal.opened(batch) as journal:
        assert {"a"} == journal.entries.keys()
        journal.note(entry("c"))
    with Journal.opened(batch) as journal:
        assert {"a", "c"} == journal.entries.keys()


def test_batch_belongs_to_one_process_at_a_time(tmp_path: Path) -> None:
    batch = tmp_path / "songs.csv"

    with Journal.opened(batch):  # noqa: SIM117  the second is refused
        with pytest.raises(SubmissionInvalid, match="another process"):
            Journal.opened(batch).__enter__()


def test_journal_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(SubmissionInvalid, match="can be written"):
        Journal.opened(tmp_path / "nowhere" / "songs.csv").__enter__()
