"""What an audio file really is: decoded in a child process with limits.

A decoder is a large program that reads what strangers have written. So it runs in a
process of its own, for one file, with little memory and little time; if that dies,
nothing but the file is given up. This module never imports the decoder.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import orjson

from pipeline.errors import AssetRefused, ConfigurationError, FetchFailed
from pipeline.values import value

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Sequence

#: The child; a script by itself, so that it starts without this package.
PROGRAM: Final = Path(__file__).with_name("child.py")
#: More than this is not read of what the child says.
ANSWER_BYTES: Final = 64 * 1024
#: Nothing survives the signal for long, unless the disk holds it.
REAP_SECONDS: Final = 10.0
#: What a dynamic linker needs where Python is not in its usual place.
_KEPT_VARIABLES: Final = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


@value
class ProbeLimits:
    """What decoding one file may take."""

    #: Of addresses, the decoder's own libraries (some 150 MiB) included.
    memory_bytes: int = 512 * 1024 * 1024
    #: Of computing; decoding ten minutes takes about one.
    cpu: timedelta = timedelta(seconds=60)
    #: From the start to the answer.
    wall: timedelta = timedelta(seconds=120)
    #: Of playing; a file that plays for longer is refused.
    longest: timedelta = timedelta(hours=4)


@value
class Probe:
    """What was found by decoding a file from beginning to end."""

    #: Counted in decoded samples, whatever the file says of itself.
    duration_seconds: float
    #: The decoder's name, such as ``mp3float``.
    codec: str
    sample_rate_hz: int
    channels: int
    #: Whether every sample is nought.
    is_silent: bool


DEFAULT_LIMITS: Final = ProbeLimits()


def require_decoder(setting: str = "download.check_audio") -> None:
    """Make sure that there is something to decode with, as a setting wants it.

    Raises:
        ConfigurationError: the extra ``media`` is not installed.
    """
    if find_spec("av") is None:
        message = (
            f"{setting}: expected the library av to decode with, found none:"
            " install callback-pipeline[media]"
        )
        raise ConfigurationError(message)


async def probe(
    path: Path, *, limits: ProbeLimits = DEFAULT_LIMITS, program: Path = PROGRAM
) -> Probe:
    """Decode the audio in a file, from beginning to end, in a child process.

    Only the file itself is opened, whatever it names, and only the formats the asset
    store takes. Being cancelled kills the child.

    Args:
        path: the file; absolute, because the child stands elsewhere.
        limits: what it may take.
        program: the child; tests have others.

    Raises:
        AssetRefused: there is no audio in it, it cannot be decoded, or decoding it
            takes too much or takes the decoder down.
        FetchFailed: the child could not be started, or was too slow as a whole,
            which may be the machine's fault.
    """
    process = await _start(path, limits, program)
    seconds = limits.wall.total_seconds()
    try:
        async with asyncio.timeout(seconds):
            answer = await _read(process)
            code = await process.wait()
    except TimeoutError as error:
        message = f"expected the file to be decoded within {seconds:g} s"
        raise FetchFailed(message) from error
    finally:
        await _end(process)
    return _judge(answer, code, limits)


async def _start(path: Path, limits: ProbeLimits, program: Path) -> Process:
    arguments: Sequence[object] = (
        program,
        path,
        limits.memory_bytes,
        max(1, round(limits.cpu.total_seconds())),
        limits.longest.total_seconds(),
    )
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    try:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",  # neither the folder it runs in nor the environment is looked at
            *map(str, arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            cwd="/",
            env=kept,
            start_new_session=True,
        )
    except OSError as error:
        message = f"the decoder cannot be started: {error.strerror}"
        raise FetchFailed(message) from error


async def _read(process: Process) -> bytes:
    """Read what the child says to its end.

    Raises:
        AssetRefused: it says more than an answer can be long.
    """
    answer = b""
    while piece := await _output(process).read(ANSWER_BYTES):
        answer += piece
        if len(answer) > ANSWER_BYTES:
            message = "expected an answer of the decoder, it says something without end"
            raise AssetRefused(message)
    return answer


def _output(process: Process) -> asyncio.StreamReader:
    assert process.stdout is not None  # noqa: S101  it was asked for
    return process.stdout


async def _end(process: Process) -> None:
    """Kill what is left of the child, and whatever it has started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    # Shielded, or a zombie would stay, and a pipe that is not read to its end.
    await asyncio.shield(_reap(process))


async def _reap(process: Process) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(REAP_SECONDS):
            while await _output(process).read(ANSWER_BYTES):
                """Thrown away."""
            await process.wait()


def _judge(answer: bytes, code: int, limits: ProbeLimits) -> Probe:
    if code == -signal.SIGXCPU:
        seconds = limits.cpu.total_seconds()
        message = f"decoding it takes more than {seconds:g} s of computing"
        raise AssetRefused(message)
    if code < 0:
        message = f"it takes the decoder down (signal {-code})"
        raise AssetRefused(message)
    try:
        found = orjson.loads(answer)
        if "error" in found:
            raise AssetRefused(str(found["error"])[:ANSWER_BYTES])
        return Probe(
            duration_seconds=float(found["duration_seconds"]),
            codec=str(found["codec"]),
            sample_rate_hz=int(found["sample_rate_hz"]),
            channels=int(found["channels"]),
            is_silent=bool(found["is_silent"]),
        )
    except (ValueError, TypeError, KeyError) as error:
        message = f"expected an answer of the decoder, it ended with {code}"
        raise AssetRefused(message) from error
