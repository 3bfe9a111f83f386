"""Decode one audio file in a process that may die: a script, started by ``probe.py``.

It imports nothing of this package, takes limits on itself before it looks at the
file, and says what it found as one line of JSON. Whatever a hostile file does to the
decoder, it does it here.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from typing import Any

import av

#: Demuxers of the types the asset store takes as audio. Not HLS, concat and others
#: that read further files and addresses named in the first one.
FORMATS = "mp3,wav,flac,ogg,aac,mov,mp4,m4a"
#: Decoders for what is in those; others are never opened, not for pictures either.
CODECS = (
    "mp3,mp3float,aac,flac,alac,opus,vorbis,"
    "pcm_u8,pcm_s16le,pcm_s24le,pcm_s32le,pcm_f32le,pcm_f64le,"
    "pcm_s16be,pcm_s24be,pcm_s32be"
)
#: File descriptors: the three of every process, the file, and a few for Python.
OPEN_FILES = 16
NICENESS = 10


def main() -> int:
    """Decode; print what was found or why not; give the exit code."""
    path, memory_bytes, cpu_seconds, longest_seconds = sys.argv[1:5]
    limit(int(memory_bytes), int(cpu_seconds))
    try:
        found = decode(path, float(longest_seconds))
    except MemoryError:
        found = {"error": "it needs more memory than it may have"}
    except (av.FFmpegError, ValueError, OSError) as error:
        # Not its whole text: the path is in there.
        text = getattr(error, "strerror", None) or type(error).__name__
        found = {"error": f"it cannot be decoded: {text}"}
    sys.stdout.write(json.dumps(found) + "\n")
    return 1 if "error" in found else 0


def limit(memory_bytes: int, cpu_seconds: int) -> None:
    """Give up what is not needed; nothing of it can be taken back."""
    os.nice(NICENESS)
    limits = {
        "RLIMIT_AS": (memory_bytes, memory_bytes),
        # The first ends it with a signal that says why, the second in any case.
        "RLIMIT_CPU": (cpu_seconds, cpu_seconds + 1),
        "RLIMIT_CORE": (0, 0),
        "RLIMIT_FSIZE": (0, 0),
        "RLIMIT_NOFILE": (OPEN_FILES, OPEN_FILES),
    }
    for name, soft_and_hard in limits.items():
        kind = getattr(resource, name, None)
        if kind is not None:
            resource.setrlimit(kind, soft_and_hard)


def decode(path: str, longest_seconds: float) -> dict[str, Any]:
    """Decode the first audio stream from beginning to end."""
    options = {
        "format_whitelist": FORMATS,
        "protocol_whitelist": "file",
        "codec_whitelist": CODECS,
    }
    with av.open(f"file:{path}", options=options) as container:
        if not container.streams.audio:
            return {"error": "there is no audio in it"}
        stream = container.streams.audio[0]
        context = stream.codec_context
        context.options = {"codec_whitelist": CODECS}
        context.thread_count = 1
        samples = 0
        is_silent = True
        for frame in container.decode(stream):
            samples += frame.samples
            if samples > longest_seconds * context.sample_rate:
                return {"error": f"it plays for longer than {longest_seconds:g} s"}
            is_silent = is_silent and is_quiet(frame)
        if not samples:
            return {"error": "there is not one sample in it"}
        return {
            "duration_seconds": samples / context.sample_rate,
            "codec": context.name,
            "sample_rate_hz": context.sample_rate,
            "channels": context.channels,
            "is_silent": is_silent,
        }


def is_quiet(frame: av.AudioFrame) -> bool:
    """Tell whether every sample of a frame is nought."""
    quiet = b"\x80" if frame.format.name.startswith("u8") else b"\0"
    width = 1 if frame.format.is_planar else frame.layout.nb_channels
    # What is behind the samples is there for alignment.
    used = frame.samples * frame.format.bytes * width
    return all(not bytes(plane)[:used].strip(quiet) for plane in frame.planes)


if __name__ == "__main__":
    sys.exit(main())
