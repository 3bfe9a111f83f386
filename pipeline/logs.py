"""Structured logs: one line of key = value for each thing that happened.

The event is a constant in the past tense; everything else is a key. No payloads,
secrets, query strings or signatures. Events are listed in ``docs/operations.md``.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from contextlib import suppress
from datetime import UTC, datetime
from io import TextIOWrapper
from typing import TYPE_CHECKING, Final, Literal, TextIO, cast

import orjson
import structlog

if TYPE_CHECKING:
    from collections.abc import Mapping

    from structlog.typing import (
        EventDict,
        FilteringBoundLogger,
        Processor,
        WrappedLogger,
    )

LogFormat = Literal["auto", "json", "text"]

#: Libraries that log as an error, with a traceback, what the adapter around them
#: says in one line: a connection that was lost. They speak at level DEBUG only.
_SPOKEN_FOR: Final = ("aio_pika", "aiormq")


#: Of JSON, as orjson and most readers have it.
LARGEST_INTEGER: Final = 2**63 - 1


class _Stream:
    """Sends what one turn of the event loop writes in one go, at its end.

    A batch of deliveries gives a hundred lines at once, and a system call for each
    would cost more than to make it. Outside of a loop each line is sent at once.

    A line that cannot be written is lost: its reader has gone, the disk is full, or the
    stream is closed. There is nobody to tell it to, and no reason to leave a callback
    unanswered.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._due_in: asyncio.AbstractEventLoop | None = None

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._flush_now()
            return
        if self._due_in is not loop:
            self._due_in = loop
            loop.call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._due_in = None
        with suppress(OSError, ValueError):
            self._stream.flush()


def get_logger(component: str) -> FilteringBoundLogger:
    """Give the logger of a component; it is configured on first use."""
    logger: FilteringBoundLogger = structlog.get_logger(component=component)
    return logger


def configure_logs(
    *, level: str = "INFO", form: LogFormat = "auto", stream: TextIO | None = None
) -> None:
    """Send logs to ``stream`` (standard output), as JSON or as coloured text.

    ``auto`` writes text on a terminal and JSON elsewhere. Loggers of libraries
    are sent the same way, from WARNING up. JSON is UTF-8 whatever the locale; what
    else cannot be written is escaped, since strangers choose what a line tells of.
    """
    stream = sys.stdout if stream is None else stream
    as_text = form == "text" or (form == "auto" and stream.isatty())
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(
            encoding=None if as_text else "utf-8", errors="backslashreplace"
        )
    sent = cast("TextIO", _Stream(stream))
    shared: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(colors=stream.isatty()) if as_text else _to_json
    )
    number = logging.getLevelNamesMapping()[level]
    structlog.configure(
        processors=[*shared, renderer] if as_text else [_to_line],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(sent),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sent)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                renderer,
            ],
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
        )
    )
    _direct_libraries(handler, number)


def _direct_libraries(handler: logging.Handler, level: int) -> None:
    """Give the standard library's loggers, which others use, one way out."""
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(level, logging.WARNING))
    for name in _SPOKEN_FOR:
        silenced = logging.CRITICAL if level > logging.DEBUG else logging.NOTSET
        logging.getLogger(name).setLevel(silenced)


def report_death(task: asyncio.Task[None]) -> asyncio.Task[None]:
    """Log an error if a background task ends by one, which nobody would see."""

    def note(ended: asyncio.Task[None]) -> None:
        if not ended.cancelled() and (error := ended.exception()) is not None:
            get_logger("background").error(
                "background_task_failed", task=ended.get_name(), error=repr(error)
            )

    task.add_done_callback(note)
    return task


def _to_line(logger: WrappedLogger, method: str, event: EventDict) -> str:
    """Add level, time and traceback, and make the line, in one step.

    A worker writes a line for each delivery: four steps of structlog take twice as
    long as this one.
    """
    if "exc_info" in event:
        event = structlog.processors.format_exc_info(logger, method, event)
    event["level"] = "error" if method == "exception" else method
    event["timestamp"] = datetime.now(UTC)
    return _to_json(logger, method, event)


def _to_json(_: WrappedLogger, __: str, event: EventDict) -> str:
    """Make the line. Never raises: whoever logs has better things to do."""
    try:
        return _dump(event)
    except TypeError:  # a surrogate, a key that is no text, an integer without end
        return _dump({_told(name): _tell(found) for name, found in event.items()})


def _dump(event: Mapping[str, object]) -> str:
    return orjson.dumps(event, default=str, option=orjson.OPT_UTC_Z).decode()


def _tell(found: object) -> object:
    """Give what JSON can hold as it is, and anything else in words."""
    if found is None or isinstance(found, bool | float | datetime):
        return found
    if isinstance(found, int) and abs(found) <= LARGEST_INTEGER:
        return found
    return _told(found)


def _told(found: object) -> str:
    try:
        text = str(found)
    except Exception:  # noqa: BLE001  it is a stranger's
        text = f"<{type(found).__name__}>"
    return text.encode(errors="backslashreplace").decode()
