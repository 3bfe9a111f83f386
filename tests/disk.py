"""How long the disk keeps others waiting, beside what tests measure."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

#: Between two looks.
PAUSE_SECONDS: Final = 0.02
#: Where one write takes so long, a commit of the spool, which may be several, may take
#: longer than the 2 s that the ingress waits for it. It has to refuse then: 503.
STALLED_SECONDS: Final = 0.5


class Disk:
    """What another program would have waited for the same disk."""

    #: The longest that one small write took until it was on the disk.
    longest_seconds = 0.0

    @property
    def may_refuse(self) -> bool:
        """Whether it stood still for so long that an ingress may answer 503."""
        return self.longest_seconds > STALLED_SECONDS


@asynccontextmanager
async def watched_disk(folder: Path) -> AsyncIterator[Disk]:
    """Write to the disk of a folder again and again."""
    disk = Disk()
    path = folder / "disk"
    await asyncio.to_thread(_write, path)  # makes the file: that takes longer
    stopping = asyncio.Event()
    watching = asyncio.create_task(_watch(disk, path, stopping))
    try:
        yield disk
    finally:
        stopping.set()
        await watching


async def _watch(disk: Disk, path: Path, stopping: asyncio.Event) -> None:
    while not stopping.is_set():
        took = await asyncio.to_thread(_write, path)
        disk.longest_seconds = max(disk.longest_seconds, took)
        await asyncio.sleep(PAUSE_SECONDS)


def _write(path: Path) -> float:
    with path.open("ab") as file:
        file.write(bytes(4096))
        file.flush()
        began = time.monotonic()
        os.fsync(file.fileno())
        return time.monotonic() - began
