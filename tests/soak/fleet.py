"""The processes of the pipeline, and an init that starts them again."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

from tests.command_line import ROOT
from tests.soak.memory import Sample, read_rss_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from types import TracebackType

#: As systemd's RestartSec would be set.
RESTART_SECONDS: Final = 1.0
LOOK_EVERY_SECONDS: Final = 0.1
SAMPLE_EVERY_SECONDS: Final = 1.0
#: `drain` and what comes after it.
STOP_SECONDS: Final = 40.0


@dataclass(slots=True, kw_only=True)
class Member:
    """One process that has to run."""

    name: str
    kind: str
    arguments: Sequence[str]
    #: Of its `/readyz`.
    port: int
    process: subprocess.Popen[bytes] | None = None
    #: Ends that nobody here has caused, by exit code.
    own_ends: list[int] = field(default_factory=list)
    #: Whether we have killed the process that runs, or ran last.
    is_killed: bool = False

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)


class Fleet:
    """Runs members until its context is left; an end is followed by a start.

    Args:
        members: what has to run.
        folder: working directory, and where their output goes.
        progress: gives the part of the run that has passed, 0 to 1.
    """

    def __init__(
        self, members: Sequence[Member], folder: Path, progress: Callable[[], float]
    ) -> None:
        self.members = members
        self.samples: list[Sample] = []
        #: Load of the machine for each of its processors.
        self.loads: list[float] = []
        #: How late we were at the most, in a loop that waits most of the time.
        self.latest_seconds = 0.0
        self._folder = folder
        self._progress = progress
        self._watching: asyncio.Task[None] | None = None
        #: Exit codes other than 0 after a request to stop, by name.
        self.bad_stops: dict[str, int] = {}

    async def __aenter__(self) -> Self:
        for member in self.members:
            self._start(member)
        self._watching = asyncio.create_task(self._watch())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Ask all to stop in order, and wait for it. Idempotent."""
        watching, self._watching = self._watching, None
        if watching is None:
            return
        watching.cancel()
        await asyncio.wait({watching})
        for member in self.members:
            self._has_ended(member)
            member.send(signal.SIGCONT)
            member.send(signal.SIGTERM)
        await asyncio.gather(*map(self._end, self.members))

    def of(self, kind: str) -> list[Member]:
        """Give the members of a kind."""
        return [member for member in self.members if member.kind == kind]

    def kill(self, member: Member) -> None:
        """End a process as a power cut would."""
        if member.process is not None and member.process.poll() is None:
            member.is_killed = True
            member.process.kill()

    async def _end(self, member: Member) -> None:
        process = member.process
        if process is None:
            return
        try:
            code = await asyncio.to_thread(process.wait, STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            code = await asyncio.to_thread(process.wait, STOP_SECONDS)
        if code:
            self.bad_stops[member.name] = code

    async def _watch(self) -> None:
        due: dict[str, float] = {}
        sampled = 0.0
        while True:
            now = time.monotonic()
            for member in self.members:
                self._look(member, due, now)
            if now - sampled >= SAMPLE_EVERY_SECONDS:
                sampled = now
                self._sample()
            await asyncio.sleep(LOOK_EVERY_SECONDS)
            late = time.monotonic() - now - LOOK_EVERY_SECONDS
            self.latest_seconds = max(self.latest_seconds, late)

    def _look(self, member: Member, due: dict[str, float], now: float) -> None:
        """Start a member again, a while after its end."""
        if member.process is not None:
            if not self._has_ended(member):
                return
            due[member.name] = now + RESTART_SECONDS
        if now >= due.get(member.name, 0.0):
            self._start(member)

    @staticmethod
    def _has_ended(member: Member) -> bool:
        """Tell whether a process has ended, and note it if that was not our doing.

        Others kill too: a system that runs out of memory does.
        """
        code = None if member.process is None else member.process.poll()
        if code is None:
            return False
        member.process = None
        if not (member.is_killed and code == -signal.SIGKILL):
            member.own_ends.append(code)
        return True

    def _sample(self) -> None:
        """Measure the first of each kind, which is spared in the second half."""
        self.loads.append(os.getloadavg()[0] / (os.cpu_count() or 1))
        at = self._progress()
        seen: set[str] = set()
        for member in self.members:
            if member.kind in seen or not 0 < at <= 1:
                continue
            seen.add(member.kind)
            size = member.process and read_rss_bytes(member.process.pid)
            if size:
                self.samples.append(Sample(kind=member.kind, at=at, rss_bytes=size))

    def _start(self, member: Member) -> None:
        log = self._folder / f"{member.name}.log"
        errors = self._folder / f"{member.name}.err"
        environ = {k: v for k, v in os.environ.items() if not k.startswith("PIPELINE_")}
        member.is_killed = False
        with log.open("ab") as logged, errors.open("ab") as error:
            member.process = subprocess.Popen(
                [sys.executable, "-m", "pipeline", *member.arguments],
                cwd=self._folder,
                env=environ | {"PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=logged,
                stderr=error,
                # Ctrl-C is for the soak, which then stops them.
                start_new_session=True,
            )
