"""Cover pictures, drawn from a seed and really encoded.

PNG needs only the standard library; JPEG needs PyAV (the extra ``media``).
Drawing blocks for some milliseconds: call it in a thread.
"""

from __future__ import annotations

import colorsys
import math
import struct
import zlib
from dataclasses import dataclass
from fractions import Fraction
from importlib.util import find_spec
from itertools import chain
from typing import Final, Literal, TypeAlias

from pipeline.errors import ConfigurationError
from pipeline.simulator.chance import seeded

PictureFormat: TypeAlias = Literal["png", "jpeg"]

#: The media type that belongs to each format.
PICTURE_TYPES: Final[dict[PictureFormat, str]] = {
    "png": "image/png",
    "jpeg": "image/jpeg",
}

#: Width and height in pixels.
SIDE: Final = 192
_COLOURS: Final = 256
_PNG_HEADER_BYTES: Final = 8 + 25


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """A drawn picture: one byte of colour number per pixel, and the colours."""

    rows: tuple[bytes, ...]
    #: 256 times red, green, blue.
    palette: bytes


def picture_formats() -> tuple[PictureFormat, ...]:
    """Say which formats can be made here: JPEG only with PyAV installed."""
    return ("png",) if find_spec("av") is None else ("png", "jpeg")


def draw(seed: int) -> Drawing:
    """Draw waves in two colours with a disc of other waves in the middle."""
    chance = seeded("picture", seed)
    hue, spread = chance.random(), chance.uniform(0.15, 0.5)
    palette = bytes(
        round(255 * part)
        for number in range(_COLOURS)
        for part in _colour(hue, spread, number)
    )
    ground, disc = (_waves(chance.randint(20, 90)) for _ in range(2))
    swing, bend = chance.uniform(8, 40), chance.uniform(20, 60)
    radius = chance.uniform(0.25, 0.4) * SIDE
    rows = []
    for y in range(SIDE):
        offset = int(swing * (1 + math.sin(y / bend)))
        row = ground[offset : offset + SIDE]
        half = int(math.sqrt(max(0.0, radius**2 - (y - SIDE / 2) ** 2)))
        left, right = SIDE // 2 - half, SIDE // 2 + half
        rows.append(row[:left] + disc[y : y + right - left] + row[right:])
    return Drawing(rows=tuple(rows), palette=palette)


def encode(drawing: Drawing, picture_format: PictureFormat) -> bytes:
    """Encode a drawing; the same drawing gives the same bytes.

    Raises:
        ConfigurationError: the format needs PyAV, and it is not installed.
    """
    if picture_format == "png":
        return _encode_png(drawing)
    try:
        import av  # noqa: PLC0415 - the wheel alone must work without it
    except ImportError as error:
        message = (
            "expected PyAV for jpeg pictures, it is not installed: "
            "install the extra 'media', or ask for png"
        )
        raise ConfigurationError(message) from error
    frame = av.VideoFrame(SIDE, SIDE, "rgb24")
    plane = frame.planes[0]
    colours = [drawing.palette[i : i + 3] for i in range(0, 3 * _COLOURS, 3)]
    rows = (b"".join([colours[pixel] for pixel in row]) for row in drawing.rows)
    plane.update(b"".join(row.ljust(plane.line_size, b"\0") for row in rows))
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.width = encoder.height = SIDE
    encoder.pix_fmt = "yuvj420p"
    encoder.time_base = Fraction(1)
    packets = [*encoder.encode(frame.reformat(format="yuvj420p")), *encoder.encode()]
    return b"".join(bytes(packet) for packet in packets)


def add_comment(data: bytes, picture_format: PictureFormat, comment: str) -> bytes:
    """Write a comment into an encoded picture, without encoding again."""
    if picture_format == "png":
        # Latin-1 is the alphabet of a tEXt chunk.
        text = b"Comment\0" + comment.encode("latin-1", "replace")
        head, tail = data[:_PNG_HEADER_BYTES], data[_PNG_HEADER_BYTES:]
        return head + _chunk(b"tEXt", text) + tail
    text = comment.encode()
    return data[:2] + b"\xff\xfe" + struct.pack(">H", len(text) + 2) + text + data[2:]


def make_picture(
    seed: int, *, picture_format: PictureFormat = "png", comment: str = ""
) -> bytes:
    """Draw and encode one picture.

    Raises:
        ConfigurationError: the format needs PyAV, and it is not installed.
    """
    data = encode(draw(seed), picture_format)
    return add_comment(data, picture_format, comment) if comment else data


def _colour(hue: float, spread: float, number: int) -> tuple[float, float, float]:
    share = number / _COLOURS
    return colorsys.hsv_to_rgb((hue + spread * share) % 1.0, 0.75, 0.25 + 0.7 * share)


def _waves(length: int) -> bytes:
    turn = 2 * math.pi / length
    return bytes(int(127.5 * (1 + math.sin(turn * i))) for i in range(3 * SIDE))


def _encode_png(drawing: Drawing) -> bytes:
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 3, 0, 0, 0)
    pixels = b"".join(chain.from_iterable((b"\0", row) for row in drawing.rows))
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"PLTE", drawing.palette)
        + _chunk(b"IDAT", zlib.compress(pixels, 6))
        + _chunk(b"IEND", b"")
    )


def _chunk(name: bytes, body: bytes) -> bytes:
    checksum = zlib.crc32(name + body)
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", checksum)
