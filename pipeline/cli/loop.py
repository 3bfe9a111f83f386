"""Run a coroutine for a command: event loop, logs, and signals."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Final, TypeVar

import typer

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine

T = TypeVar("T")

#: What shells give for a process that SIGTERM has ended.
TERMINATED: Final = 128 + signal.SIGTERM


def run_once(main: Coroutine[object, object, T]) -> T:
    """Run a command that does its work and ends; it reports by itself, without logs.

    SIGTERM ends it as Ctrl-C does: what it holds is given back.

    Raises:
        typer.Exit: SIGTERM came.
    """
    from pipeline.logs import configure_logs

    configure_logs(level="CRITICAL", form="text", stream=sys.stderr)
    return run_async(heeding_terminate(main))


def run_async(main: Coroutine[object, object, T]) -> T:
    """Run a coroutine to its end, on uvloop where that is installed."""
    import asyncio

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(main)


async def heeding_terminate(main: Coroutine[object, object, T]) -> T:
    """Let SIGTERM cancel ``main`` as Ctrl-C does, so that it cleans up.

    Once: ``timeout`` sends it twice, and some send it after SIGINT. Neither stops
    what is cleaned up by then.

    Raises:
        typer.Exit: with ``TERMINATED``, after ``main`` has cleaned up.
    """
    import asyncio

    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None  # noqa: S101  there is one in every coroutine
    heard = False

    def on_terminate() -> None:
        nonlocal heard
        if not task.cancelling():
            heard = task.cancel()

    loop.add_signal_handler(signal.SIGTERM, on_terminate)
    try:
        return await main
    except asyncio.CancelledError:
        if heard:
            raise typer.Exit(TERMINATED) from None
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
