"""Run a coroutine for a command: event loop, logs, and signals."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


def run_once(main: Coroutine[object, object, T]) -> T:
    """Run a command that does its work and ends; it reports by itself, without logs.

    SIGTERM ends it as Ctrl-C does: what it holds is given back.

    Raises:
        KeyboardInterrupt: either came.
    """
    from pipeline.logs import configure_logs

    configure_logs(level="CRITICAL", form="text", stream=sys.stderr)
    return run_async(_until_told(main))


def run_async(main: Coroutine[object, object, T]) -> T:
    """Run a coroutine to its end, on uvloop where that is installed."""
    import asyncio

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(main)


async def _until_told(main: Coroutine[object, object, T]) -> T:
    import asyncio
    import signal

    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    is_told = False

    def heard() -> None:
        nonlocal is_told
        is_told = True
        if task is not None:
            task.cancel()

    loop.add_signal_handler(signal.SIGTERM, heard)
    try:
        return await main
    except asyncio.CancelledError:
        if is_told:
            raise KeyboardInterrupt from None
        raise
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
