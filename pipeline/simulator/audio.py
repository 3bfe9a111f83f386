"""Short pieces of real music, composed from a seed and really encoded.

Files that only look like audio would hide every fault of a download, a type check
or a comparison. With PyAV (the extra ``media``) pieces are encoded as mp3 or m4a;
without it as 16-bit PCM WAV by the standard library. ``audio_format`` says which.
Everything here blocks for some ten milliseconds: call it in a thread.
"""

from __future__ import annotations

import io
import math
import struct
import sys
import wave
from array import array
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, cast

from pipeline.errors import ConfigurationError
from pipeline.simulator.chance import seeded

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

    from av import AudioFrame
    from av.audio.stream import AudioStream

AudioFormat: TypeAlias = Literal["mp3", "wav", "m4a"]

#: The media type that belongs to each format.
AUDIO_TYPES: Final[dict[AudioFormat, str]] = {
    "mp3": "audio/mpeg",
    "wav": "audio/wav",
    "m4a": "audio/mp4",
}

RATE_HZ: Final = 24_000
BARS: Final = 3
NOTES_PER_BAR: Final = 4
#: Five voices of at most 1.35 stay below full scale, 32,767, with this loudness.
LOUDNESS: Final = 4_500
_BIT_RATE: Final = 64_000
#: A chord as steps of the minor and major scales above its root.
_CHORDS: Final = ((0, 4, 7), (0, 3, 7), (0, 5, 9), (0, 4, 9))
_MELODY: Final = (12, 14, 16, 19, 21, 24)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Encoder:
    container: str
    codec: str
    sample_format: str
    #: Options that make the codec quick.
    codec_options: dict[str, str]
    #: Options that keep tags and versions out of the file.
    container_options: dict[str, str]


_ENCODERS: Final[dict[str, _Encoder]] = {
    "mp3": _Encoder(
        container="mp3",
        codec="libmp3lame",
        sample_format="s16p",
        codec_options={"compression_level": "7"},
        container_options={"id3v2_version": "0"},
    ),
    "m4a": _Encoder(
        container="ipod",
        codec="aac",
        sample_format="fltp",
        codec_options={"aac_coder": "fast"},
        container_options={"fflags": "+bitexact"},
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Music:
    """A composed piece."""

    #: One channel of signed 16-bit samples at ``RATE_HZ``.
    samples: array[int]

    @property
    def seconds(self) -> float:
        """How long it plays."""
        return len(self.samples) / RATE_HZ


def audio_format() -> AudioFormat:
    """Say how pieces are encoded here: ``mp3`` with PyAV installed, else ``wav``."""
    return "wav" if find_spec("av") is None else "mp3"


def piece_seconds(seed: int) -> float:
    """Say how long the piece of ``seed`` is, without composing it."""
    return BARS * NOTES_PER_BAR * _note_samples(seeded("tempo", seed)) / RATE_HZ


def compose(seed: int) -> Music:
    """Compose about three seconds: chords, a melody, a fade at both ends."""
    length = _note_samples(seeded("tempo", seed))
    chance = seeded("score", seed)
    root_hz = chance.uniform(110.0, 175.0)
    decay = [2.0 * LOUDNESS * math.exp(-4.0 * i / length) for i in range(length)]
    samples = array("h")
    for _ in range(BARS):
        chord = chance.choice(_CHORDS)
        shift = chance.choice((0, 5, 7, -3))
        voices = [_tone(root_hz, shift + step, length) for step in chord]
        backing = [LOUDNESS * (a + b + c) for a, b, c in zip(*voices, strict=True)]
        for _ in range(NOTES_PER_BAR):
            lead = _tone(root_hz, shift + chance.choice(_MELODY), length)
            notes = zip(backing, lead, decay, strict=True)
            samples.extend([int(chord + note * gain) for chord, note, gain in notes])
    _fade(samples)
    return Music(samples=samples)


def encode(music: Music, audio_format: AudioFormat) -> bytes:
    """Encode a piece; the same piece gives the same bytes.

    Raises:
        ConfigurationError: the format needs PyAV, and it is not installed.
    """
    if audio_format == "wav":
        return _encode_wav(music)
    try:
        import av  # noqa: PLC0415 - the wheel alone must work without it
    except ImportError as error:
        message = (
            f"expected PyAV for {audio_format} files, it is not installed: "
            "install the extra 'media', or ask for wav"
        )
        raise ConfigurationError(message) from error
    target = io.BytesIO()
    how = _ENCODERS[audio_format]
    with av.open(
        target, "w", format=how.container, options=how.container_options
    ) as output:
        added = output.add_stream(how.codec, rate=RATE_HZ, options=how.codec_options)
        stream = cast("AudioStream", added)
        stream.bit_rate = _BIT_RATE
        stream.layout = "mono"
        stream.format = how.sample_format
        for frame in _frames(music, how.sample_format):
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return target.getvalue()


def add_tags(
    data: bytes, audio_format: AudioFormat, *, title: str, comment: str
) -> bytes:
    """Write a title and a comment into an encoded piece, without encoding again.

    Two files with the same music and other comments are other files, as two
    tracks of a provider are, and cost next to nothing.
    """
    if audio_format == "mp3":
        frames = _id3_frame("TIT2", title) + _id3_frame("TALB", comment)
        size = bytes((len(frames) >> shift) & 0x7F for shift in (21, 14, 7, 0))
        return b"ID3\x03\x00\x00" + size + frames + data
    if audio_format == "wav":
        notes = _riff(b"INAM", title.encode()) + _riff(b"ICMT", comment.encode())
        body = data[8:] + _riff(b"LIST", b"INFO" + notes)
        return b"RIFF" + struct.pack("<I", len(body)) + body
    # A free box at the end is skipped by every reader of ISO base media files.
    text = f"{title}\n{comment}".encode()
    return data + struct.pack(">I4s", len(text) + 8, b"free") + text


def make_audio(
    seed: int,
    *,
    audio_format: AudioFormat | None = None,
    title: str = "Simulated",
    comment: str = "",
) -> bytes:
    """Compose, encode and tag one piece; ``None`` means ``audio_format()``.

    Raises:
        ConfigurationError: the format needs PyAV, and it is not installed.
    """
    chosen = audio_format or _default_format()
    data = encode(compose(seed), chosen)
    return add_tags(data, chosen, title=title, comment=comment)


def _default_format() -> AudioFormat:
    return audio_format()


def _note_samples(chance: Random) -> int:
    return int(RATE_HZ * chance.uniform(0.2, 0.27))


def _tone(root_hz: float, steps: int, length: int) -> list[float]:
    """Play one note: a few exact periods, repeated, so that it costs little."""
    frequency = root_hz * 2 ** (steps / 12)
    periods = 3
    span = round(periods * RATE_HZ / frequency)
    turn = 2 * math.pi * periods / span
    cycle = [math.sin(turn * i) + 0.35 * math.sin(2 * turn * i) for i in range(span)]
    return (cycle * (length // span + 1))[:length]


def _fade(samples: array[int]) -> None:
    fade = len(samples) // 12
    for i in range(fade):
        samples[i] = samples[i] * i // fade
        samples[-1 - i] = samples[-1 - i] * i // fade


def _encode_wav(music: Music) -> bytes:
    samples = music.samples[:]
    if sys.byteorder == "big":
        samples.byteswap()
    target = io.BytesIO()
    with wave.open(target, "wb") as output:
        output.setnchannels(1)
        output.setsampwidth(2)
        output.setframerate(RATE_HZ)
        output.writeframes(samples.tobytes())
    return target.getvalue()


def _frames(music: Music, sample_format: str) -> Iterator[AudioFrame]:
    from av import AudioFrame  # noqa: PLC0415 - see encode

    size = 576 if sample_format == "s16p" else 1024
    for start in range(0, len(music.samples), size):
        block = music.samples[start : start + size]
        frame = AudioFrame(sample_format, "mono", samples=len(block))
        frame.sample_rate = RATE_HZ
        frame.pts = start
        data = block.tobytes() if sample_format == "s16p" else _floats(block)
        frame.planes[0].update(data.ljust(frame.planes[0].buffer_size, b"\0"))
        yield frame


def _floats(samples: array[int]) -> bytes:
    return array("f", [sample / 32768 for sample in samples]).tobytes()


def _id3_frame(name: str, text: str) -> bytes:
    """Write an ID3v2.3 text frame in UTF-16, which version 2.3 readers know."""
    body = b"\x01" + text.encode("utf-16")
    return name.encode() + struct.pack(">IH", len(body), 0) + body


def _riff(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)
