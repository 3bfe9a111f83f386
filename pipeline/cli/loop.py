"""Run a coroutine for a command: event loop, logs, and signals."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


def run_once(main: Coroutine[object, object, T]) -> T:
    """Run a command that does its work and ends; it reports by itself, without logs."""
    from pipeline.logs import configure_logs

    configure_logs(level="CRITICAL", form="text", stream=sys.stderr)
    return run_async(main)


def run_async(main: Coroutine[object, object, T]) -> T:
    """Run a coroutine to its end, on uvloop where that is installed."""
    import asyncio

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(main)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
