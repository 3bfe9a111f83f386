"""What a file is, by its first bytes.

Neither the provider's ``Content-Type`` (``application/octet-stream`` at times) nor
the suffix of a link can be trusted. The signatures are our own: the suffix is part
of a file's address in the store, so it must never change with the version of a
library (puremagic 1.x on Python 3.11 and 2.x on 3.12 answer in different shapes).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: As many first bytes as ``sniff`` and ``is_text`` look at.
HEAD_BYTES: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class FileType:
    """A type of file that the store takes."""

    #: Media type, such as ``audio/mpeg``.
    content_type: str
    #: Suffix in the store, with its dot.
    suffix: str

    @property
    def family(self) -> str:
        """The first half of the media type: ``audio``, ``image`` or ``video``."""
        return self.content_type.partition("/")[0]


MP3: Final = FileType(content_type="audio/mpeg", suffix=".mp3")
WAV: Final = FileType(content_type="audio/wav", suffix=".wav")
M4A: Final = FileType(content_type="audio/mp4", suffix=".m4a")
FLAC: Final = FileType(content_type="audio/flac", suffix=".flac")
OGG: Final = FileType(content_type="audio/ogg", suffix=".ogg")
AAC: Final = FileType(content_type="audio/aac", suffix=".aac")
MIDI: Final = FileType(content_type="audio/midi", suffix=".mid")
MP4: Final = FileType(content_type="video/mp4", suffix=".mp4")
PNG: Final = FileType(content_type="image/png", suffix=".png")
JPEG: Final = FileType(content_type="image/jpeg", suffix=".jpg")
WEBP: Final = FileType(content_type="image/webp", suffix=".webp")
GIF: Final = FileType(content_type="image/gif", suffix=".gif")

_STARTS: Final = (
    (b"ID3", MP3),
    (b"fLaC", FLAC),
    (b"OggS", OGG),
    (b"MThd", MIDI),
    (b"\x89PNG\r\n\x1a\n", PNG),
    (b"\xff\xd8\xff", JPEG),
    (b"GIF87a", GIF),
    (b"GIF89a", GIF),
)
#: By the four bytes at offset 8 of a RIFF file.
_RIFF: Final = {b"WAVE": WAV, b"WEBP": WEBP}
#: Brands of ISO media files (ISO/IEC 14496-12) that hold audio alone.
_AUDIO_BRANDS: Final = frozenset({b"M4A ", b"M4B ", b"M4P "})
#: Brands of pictures in the same container, which players of MP4 cannot show.
_PICTURE_BRANDS: Final = frozenset({b"avif", b"avis", b"heic", b"heix", b"mif1"})
_TEXT_BYTES: Final = frozenset({*range(0x20, 0x7F), *range(0x80, 0x100), *b"\t\n\r\f"})


def sniff(head: bytes) -> FileType | None:
    """Tell the type from the first ``HEAD_BYTES`` bytes; ``None``: none we take."""
    for start, file_type in _STARTS:
        if head.startswith(start):
            return file_type
    if head[:4] in (b"RIFF", b"RF64"):
        return _RIFF.get(head[8:12])
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        if brand in _PICTURE_BRANDS:
            return None
        return M4A if brand in _AUDIO_BRANDS else MP4
    return _mpeg_frame(head)


def is_text(head: bytes) -> bool:
    """Tell whether this is text: a page, JSON or XML that explains an error."""
    return bool(head) and _TEXT_BYTES.issuperset(head[:HEAD_BYTES])


def _mpeg_frame(head: bytes) -> FileType | None:
    """Read the header of a bare MPEG audio frame (ISO/IEC 11172-3, 13818-7).

    Eleven bits of sync alone would also match a UTF-16 text, so the fields which
    have forbidden values are looked at as well.
    """
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:  # noqa: PLR2004
        return None
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    if layer == 0:
        is_adts = head[1] & 0xF6 == 0xF0 and head[2] >> 2 & 15 < 13  # noqa: PLR2004
        return AAC if is_adts else None
    is_layer_3 = layer == 1 and version != 1
    has_rates = head[2] >> 4 not in (0, 15) and head[2] >> 2 & 3 != 3  # noqa: PLR2004
    return MP3 if is_layer_3 and has_rates else None
