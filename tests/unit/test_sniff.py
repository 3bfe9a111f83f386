"""What a file is, by its first bytes."""

from __future__ import annotations

import pytest

from pipeline.assets.sniff import is_text, sniff

FILES = {
    "mp3 with a tag": (b"ID3\x04\x00" + b"\0" * 20, ".mp3"),
    "mp3 without one": (b"\xff\xfb\x90\x64" + b"\0" * 20, ".mp3"),
    "mp3 of MPEG 2": (b"\xff\xf3\x48\xc4" + b"\0" * 20, ".mp3"),
    "wav": (b"RIFF\x24\x08\0\0WAVEfmt ", ".wav"),
    "wav beyond 4 GB": (b"RF64\xff\xff\xff\xffWAVEds64", ".wav"),
    "m4a": (b"\0\0\0\x1cftypM4A \0\0\2\0", ".m4a"),
    "mp4": (b"\0\0\0\x20ftypisom\0\0\2\0", ".mp4"),
    "flac": (b"fLaC\0\0\0\x22", ".flac"),
    "ogg": (b"OggS\0\2\0\0", ".ogg"),
    "aac": (b"\xff\xf1\x50\x80\x02\x1f\xfc", ".aac"),
    "midi": (b"MThd\0\0\0\6\0\1", ".mid"),
    "png": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", ".png"),
    "jpeg": (b"\xff\xd8\xff\xe0\0\x10JFIF", ".jpg"),
    "webp": (b"RIFF\x24\x08\0\0WEBPVP8 ", ".webp"),
    "gif": (b"GIF89a\1\0\1\0", ".gif"),
}

NO_FILES = {
    "nothing": b"",
    "one byte": b"\xff",
    "a page": b"<!DOCTYPE html><html>",
    "json": b'{"code": 404}',
    "utf-16 text": "\ufeffnot found".encode("utf-16-le"),
    "a picture in MP4": b"\0\0\0\x1cftypavif\0\0\0\0",
    "a riff of another kind": b"RIFF\x24\x08\0\0AVI LIST",
    "gzip": b"\x1f\x8b\x08\0\0\0\0\0",
    "a program": b"\x7fELF\2\1\1\0",
    "mp3 with a forbidden bit rate": b"\xff\xfb\xf0\x64",
    "mp3 with a forbidden sample rate": b"\xff\xfb\x9c\x64",
    "zeros": b"\0" * 100,
}


@pytest.mark.parametrize("name", FILES)
def test_type_is_told_by_the_first_bytes(name: str) -> None:
    """Every type that the provider sends is known."""
    head, suffix = FILES[name]

    found = sniff(head)

    assert found is not None
    assert suffix == found.suffix


@pytest.mark.parametrize("name", NO_FILES)
def test_what_is_no_file_of_ours_has_no_type(name: str) -> None:
    """Short, foreign and damaged beginnings are not taken for files."""
    assert sniff(NO_FILES[name]) is None


def test_families_are_the_first_half_of_the_media_type() -> None:
    """A file in MP4 is a video as far as its first bytes tell."""
    families = {
        name: found.family for name in FILES if (found := sniff(FILES[name][0]))
    }

    assert {"audio", "image", "video"} == set(families.values())
    assert "video" == families["mp4"]
    assert "audio" == families["m4a"]
    assert "image" == families["webp"]


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"<html>", True),
        (b'{"error": "gone"}', True),
        ("nicht verfügbar".encode(), True),
        (b"", False),
        (b"\x1f\x8b\x08\0", False),
        (b"text and a \0", False),
    ],
)
def test_text_is_told_from_bytes(head: bytes, expected: bool) -> None:  # noqa: FBT001
    """An error page with status 200 has to be told from a file we do not know."""
    assert expected == is_text(head)
