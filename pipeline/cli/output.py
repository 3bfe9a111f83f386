"""Writes to standard output without holding up the event loop.

A pipe whose reader looks at the first page takes no more. A plain write would stand
still then, and the event loop with it: no lease would be renewed.
"""

from __future__ import annotations

import select
import sys
from typing import Final

import typer

#: A pipe that takes anything at all takes so many bytes at once (pipe(7)).
PIECE_BYTES: Final = select.PIPE_BUF
#: The most that a character takes in UTF-8.
CHARACTER_BYTES: Final = 4
#: How often to look whether a full pipe takes more.
LOOK_SECONDS: Final = 0.01


async def write(text: str | bytes) -> None:
    """Write ``text`` as it is, in pieces, each as soon as it is taken at once.

    Cancelling leaves the rest unwritten.

    Raises:
        OSError: it cannot be written, or nobody reads any more.
    """
    import asyncio

    poll = _poll()
    size = PIECE_BYTES // (CHARACTER_BYTES if isinstance(text, str) else 1)
    for start in range(0, len(text), size):
        # There is no event to wait for that files, pipes and terminals all have.
        while poll is not None and not poll.poll(0):  # noqa: ASYNC110
            await asyncio.sleep(LOOK_SECONDS)
        typer.echo(text[start : start + size], nl=False)


def _poll() -> select.poll | None:
    try:
        descriptor = sys.stdout.fileno()
    except OSError:
        return None  # it is no file: a test reads along
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return poll
