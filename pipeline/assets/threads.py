"""The threads of a store that hash what comes in."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final

#: Threads that hash and write: no more than can run, or they take the processors
#: and the interpreter's lock from the event loop.
WRITERS: Final = min(4, os.cpu_count() or 1)
#: Of the threads that hash: the least priority that there is.
NICENESS: Final = 19


def make_writers() -> ThreadPoolExecutor:
    """Make threads that work on what is left over by the event loop."""
    return ThreadPoolExecutor(
        WRITERS, thread_name_prefix="assets", initializer=_step_back
    )


def _step_back() -> None:
    """Let the event loop go first, where both want a processor.

    It gives the interpreter's lock away with every read from a socket; to get it
    back it must run again at once, not after the hashing of others.
    """
    if hasattr(os, "setpriority"):
        with suppress(OSError):  # not everywhere may a thread have its own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
