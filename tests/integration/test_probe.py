"""Audio is decoded apart: what is hostile harms nothing but itself."""

from __future__ import annotations

import asyncio
import os
import struct
import textwrap
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.assets.local import LocalAssetStore
from pipeline.assets.sniff import M4A, MIDI, MP3, WAV
from pipeline.audio import child
from pipeline.audio.check import AudioCheck
from pipeline.audio.probe import DEFAULT_LIMITS, probe
from pipeline.errors import AssetMissing, AssetRefused, FetchFailed
from pipeline.simulator.audio import add_tags, compose, encode, piece_seconds
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pipeline.assets.sniff import FileType
    from pipeline.simulator.audio import AudioFormat
    from pipeline.task import StoredAsset

SEED = 3
PLAYLIST = """\
#EXTM3U
#EXT-X-TARGETDURATION:3
#EXTINF:3,
a.mp3
#EXT-X-ENDLIST
"""


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LocalAssetStore]:
    """An empty store."""
    async with LocalAssetStore(tmp_path / "assets") as opened:
        yield opened


async def put(
    store: LocalAssetStore, body: bytes, file_type: FileType = MP3
) -> StoredAsset:
    async with store.create(file_type) as upload:
        await upload.write(body)
        return await upload.commit()


def make_file(folder: Path, name: str, body: bytes) -> Path:
    path = folder / name
    path.write_bytes(body)
    return path


def make_wav(frames: int, *, value: int = 0) -> bytes:
    """Make a WAV file of one channel in which every sample is the same."""
    data = struct.pack("<h", value) * frames
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 8000, 16000, 2, 16)
    chunk = struct.pack("<4sI", b"data", len(data)) + data
    return (
        b"RIFF"
        + struct.pack("<I", 4 + len(form) + len(chunk))
        + b"WAVE"
        + (form + chunk)
    )


def make_program(folder: Path, code: str) -> Path:
    """Make a child that does something else than decode."""
    path = folder / "child.py"
    path.write_text(textwrap.dedent(code), encoding="utf-8")
    return path


async def refusal(path: Path, **changes: object) -> str:
    """Probe a file that must be refused; give the reason."""
    limits = replace(DEFAULT_LIMITS, **changes)  # type: ignore[arg-type]
    with pytest.raises(AssetRefused) as caught:
        await probe(path, limits=limits)
    assert str(path) not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("audio_format", "codec"),
    [("mp3", "mp3float"), ("m4a", "aac"), ("wav", "pcm_s16le")],
)
async def test_real_audio_is_what_it_is(
    audio_format: AudioFormat, codec: str, tmp_path: Path
) -> None:
    body = encode(compose(SEED), audio_format)
    body = add_tags(body, audio_format, title="A title", comment="and more")

    found = await probe(make_file(tmp_path, f"a.{audio_format}", body))

    assert (codec, 24_000, 1, False) == (
        found.codec,
        found.sample_rate_hz,
        found.channels,
        found.is_silent,
    )
    assert abs(found.duration_seconds - piece_seconds(SEED)) < 0.06


@pytest.mark.parametrize("name", ["list.mp3", "list.m3u8", "list.wav"])
async def test_playlist_is_refused_under_any_name(name: str, tmp_path: Path) -> None:
    """Its demuxer would open what stands in it."""
    make_file(tmp_path, "a.mp3", encode(compose(SEED), "mp3"))

    reason = await refusal(make_file(tmp_path, name, PLAYLIST.encode()))

    assert "cannot be decoded" in reason


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"ID3\x04\x00\x00\x00\x00\x00\x00" + b"\x55" * 5000,
        b"ffconcat version 1.0\nfile a.mp3\n",
        b"<MPD><BaseURL>http://127.0.0.1:1/</BaseURL></MPD>",
        os.urandom(5000),
    ],
    ids=["nothing", "no frames", "concat", "dash", "noise"],
)
async def test_what_is_no_audio_is_refused(body: bytes, tmp_path: Path) -> None:
    assert await refusal(make_file(tmp_path, "a.mp3", body))


async def test_file_without_a_sample_is_refused(tmp_path: Path) -> None:
    assert await refusal(make_file(tmp_path, "a.wav", make_wav(0)))


async def test_file_that_unfolds_into_hours_is_refused(tmp_path: Path) -> None:
    path = make_file(tmp_path, "a.wav", make_wav(80_000, value=7))

    reason = await refusal(path, longest=timedelta(seconds=2))

    assert "it plays for longer than 2 s" == reason


async def test_file_that_asks_for_memory_hits_the_limit(tmp_path: Path) -> None:
    """The table of its samples claims 200 million of them."""
    body = bytearray(encode(compose(SEED), "m4a"))
    at = body.index(b"stsz") + 12
    body[at : at + 4] = struct.pack(">I", 200_000_000)
    path = make_file(tmp_path, "a.m4a", bytes(body))
    before = _memory_bytes()

    reason = await refusal(path)

    assert reason
    assert _memory_bytes() - before < 50 * 2**20


async def test_memory_is_really_limited(tmp_path: Path) -> None:
    path = make_file(tmp_path, "a.mp3", encode(compose(SEED), "mp3"))

    assert await refusal(path, memory_bytes=16 * 2**20)


async def test_file_that_takes_long_to_decode_hits_the_limit(tmp_path: Path) -> None:
    path = make_file(tmp_path, "a.mp3", encode(compose(SEED), "mp3") * 3000)

    reason = await refusal(path, cpu=timedelta(seconds=1))

    assert "decoding it takes more than 1 s of computing" == reason


@pytest.mark.parametrize("audio_format", ["mp3", "m4a", "wav"])
def test_decoding_says_the_same_outside_of_a_child(
    audio_format: AudioFormat, tmp_path: Path
) -> None:
    body = encode(compose(SEED), audio_format)

    found = child.decode(str(make_file(tmp_path, "a", body)), 10)
    silent = child.decode(str(make_file(tmp_path, "b", make_wav(8000))), 10)
    long = child.decode(str(make_file(tmp_path, "c", make_wav(8000))), 0.5)

    assert abs(found["duration_seconds"] - piece_seconds(SEED)) < 0.06
    assert (False, True) == (found["is_silent"], silent["is_silent"])
    assert {"error": "it plays for longer than 0.5 s"} == long


async def test_crash_of_the_child_is_a_refusal(tmp_path: Path) -> None:
    crash = make_program(
        tmp_path, "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)"
    )

    with pytest.raises(AssetRefused, match="takes the decoder down \\(signal 11\\)"):
        await probe(tmp_path / "a.mp3", program=crash)


@pytest.mark.parametrize(
    "code",
    ["raise SystemExit(7)", "print('not json')", "print('[]')", "print('{}')"],
)
async def test_child_that_says_nothing_sensible_is_a_refusal(
    code: str, tmp_path: Path
) -> None:
    with pytest.raises(AssetRefused, match="expected an answer of the decoder"):
        await probe(tmp_path / "a.mp3", program=make_program(tmp_path, code))


async def test_child_that_talks_without_end_is_cut_off(tmp_path: Path) -> None:
    endless = make_program(tmp_path, "while True: print('x' * 1000)")

    with pytest.raises(AssetRefused, match="without end"):
        await probe(
            tmp_path / "a.mp3",
            limits=replace(DEFAULT_LIMITS, wall=timedelta(seconds=20)),
            program=endless,
        )


async def test_child_that_stands_still_is_killed_with_all_it_has_started(
    tmp_path: Path,
) -> None:
    """The machine may be to blame, so the file is tried again."""
    noted = tmp_path / "pids"
    still = make_program(
        tmp_path,
        f"""
        import os, time
        child = os.fork()
        with open({str(noted)!r}, "a") as file:
            file.write(f"{{os.getpid()}}\\n")
        time.sleep(600)
        """,
    )
    # Time enough for both of them to begin on a busy machine.
    limits = replace(DEFAULT_LIMITS, wall=timedelta(seconds=6))

    with pytest.raises(FetchFailed, match="within 6 s"):
        await probe(tmp_path / "a.mp3", limits=limits, program=still)

    pids = [int(line) for line in noted.read_text(encoding="utf-8").split()]
    assert 2 == len(pids)

    async def are_gone() -> bool:
        return not any(_is_running(pid) for pid in pids)

    await eventually(are_gone)


async def test_cancelling_kills_the_child(tmp_path: Path) -> None:
    noted = tmp_path / "pid"
    still = make_program(
        tmp_path,
        f"""
        import os, time
        with open({str(noted)!r}, "w") as file:
            file.write(str(os.getpid()))
        time.sleep(600)
        """,
    )
    probing = asyncio.create_task(probe(tmp_path / "a.mp3", program=still))

    async def has_started() -> bool:
        return noted.exists() and bool(noted.read_text(encoding="utf-8"))

    await eventually(has_started)
    probing.cancel()
    started = time.monotonic()
    await asyncio.gather(probing, return_exceptions=True)

    assert probing.cancelled()
    # Left alone it would stop at the limit, or in ten minutes.
    assert time.monotonic() - started < 15
    assert not _is_running(int(noted.read_text(encoding="utf-8")))


async def test_silence_is_refused_for_a_track_and_not_for_a_stem(
    store: LocalAssetStore,
) -> None:
    stored = await put(store, make_wav(8000), WAV)
    check = AudioCheck().check

    with pytest.raises(AssetRefused, match=r"got 1\.0 s of silence"):
        await check(store, stored, "audio")

    await check(store, stored, "drums")


async def test_only_what_has_sound_is_decoded(store: LocalAssetStore) -> None:
    notes = await put(store, b"MThd nothing that can be decoded", MIDI)
    page = await put(store, b"no audio at all", M4A)
    check = AudioCheck(concurrency=1).check

    await check(store, notes, "audio")
    await check(store, page, "image")
    with pytest.raises(AssetRefused, match=page.location):
        await check(store, page, "audio")


async def test_file_that_has_vanished_is_fetched_again(store: LocalAssetStore) -> None:
    stored = await put(store, make_wav(8000), WAV)
    lost = replace(stored, location=stored.location.replace("wav", "mp3"))

    with pytest.raises(FetchFailed) as caught:
        await AudioCheck().check(store, lost, "audio")

    assert isinstance(caught.value.__cause__, AssetMissing)


def _memory_bytes() -> int:
    """Give what this process has in memory."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _is_running(pid: int) -> bool:
    """Tell whether a process lives; one that has ended and waits does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
