"""A second of video, from a seed, in MP4: with PyAV really encoded.

Without PyAV (the extra ``media``) it is the container alone, with no stream in it:
enough to be told from a page of text, not enough to be played.
"""

from __future__ import annotations

import io
import struct
from importlib.util import find_spec
from typing import Final, Literal, TypeAlias

from pipeline.simulator.chance import seeded

VideoFormat: TypeAlias = Literal["mp4"]

VIDEO_TYPE: Final = "video/mp4"
#: Width and height in pixels; a multiple of 16, so that rows need no filling up.
SIDE: Final = 64
FRAMES: Final = 12
_SHELL: Final = struct.pack(">I4s4sI4s4s", 24, b"ftyp", b"isom", 512, b"isom", b"mp41")


def make_video(seed: int, *, comment: str = "") -> bytes:
    """Make one video; the same seed and comment give the same bytes."""
    data = _SHELL if find_spec("av") is None else _encode(seed)
    # A free box at the end is skipped by every reader of ISO base media files.
    text = comment.encode()
    return data + struct.pack(">I4s", len(text) + 8, b"free") + text


def _encode(seed: int) -> bytes:
    import av  # noqa: PLC0415 - the wheel alone must work without it

    chance = seeded("video", seed)
    colour = bytes(chance.randrange(60, 200) for _ in range(3))
    target = io.BytesIO()
    options = {"fflags": "+bitexact"}
    with av.open(target, "w", format="mp4", options=options) as output:
        stream = output.add_stream("mpeg4", rate=FRAMES)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        for number in range(FRAMES):
            frame = av.VideoFrame(SIDE, SIDE, "rgb24")
            plane = frame.planes[0]
            rows = (_row(colour, number, y, plane.line_size) for y in range(SIDE))
            plane.update(b"".join(rows))
            frame.pts = number
            output.mux(stream.encode(frame.reformat(format="yuv420p")))
        output.mux(stream.encode(None))
    return target.getvalue()


def _row(colour: bytes, number: int, y: int, line_size: int) -> bytes:
    """Paint a row of a bar that moves down from frame to frame."""
    bar = number * SIDE // FRAMES <= y < (number + 1) * SIDE // FRAMES
    pixel = bytes(255 - part for part in colour) if bar else colour
    return (pixel * SIDE).ljust(line_size, b"\0")
