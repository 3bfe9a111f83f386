"""Samples of downloads: the clocks, and a place that is alike for all."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One download of everything, one way."""

    seconds: float
    cpu_seconds: float
    #: The longest that the event loop did not get to a timer; 0 for curl.
    stall_seconds: float = 0.0
    #: What other programs had of all processors; 0 where nobody tells.
    others_share: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a case is measured."""

    url: str
    file_bytes: int
    count: int
    root: Path
    #: The server's process.
    server_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The clocks at one moment, all in seconds."""

    wall: float
    #: CPU of this process and its children.
    own: float
    #: CPU of the server.
    server: float
    #: CPU of everything.
    all: float

    @classmethod
    def take(cls, server_id: int) -> Self:
        """Read all clocks; what the system does not tell is 0."""
        server = total = 0.0
        try:
            tick = os.sysconf("SC_CLK_TCK")
            own = Path(f"/proc/{server_id}/stat").read_text().rpartition(")")[2].split()
            server = (int(own[11]) + int(own[12])) / tick
            cpu = [int(n) for n in Path("/proc/stat").read_text().split()[1:9]]
            idle, waiting = cpu[3], cpu[4]
            total = (sum(cpu) - idle - waiting) / tick
        except OSError:
            pass
        return cls(
            wall=time.perf_counter(), own=sum(os.times()[:4]), server=server, all=total
        )

    def since(self, before: Self) -> Sample:
        """Give what happened between two moments."""
        seconds = self.wall - before.wall
        own = self.own - before.own
        others = self.all - before.all - own - (self.server - before.server)
        share = others / seconds / (os.cpu_count() or 1)
        return Sample(seconds=seconds, cpu_seconds=own, others_share=max(0.0, share))


@contextmanager
def fresh(place: Place) -> Iterator[Path]:
    """Give an empty folder, a disk that has nothing to write, and warm memory.

    A virtual machine may get memory from its host only when a page is touched,
    and give it back when it is freed. The first to write after a pause would pay
    for that, which can double its time: so pages are touched here, for all ways.
    """
    out = place.root / "out"
    out.mkdir()
    os.sync()
    touched = out / "touched"
    with touched.open("wb") as file:
        zeros = bytes(MIB)
        for _ in range(0, place.file_bytes * place.count, MIB):
            file.write(zeros)
    touched.unlink()
    try:
        yield out
    finally:
        shutil.rmtree(out)
