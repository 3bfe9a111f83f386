"""A demo as it goes by on the screen: one line for everything that happens."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import orjson

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.simulator import ReceivedRequest, SentCallback

#: As in a listing: enough of a task id to tell tasks apart.
ID_LENGTH: Final = 8

_COLOURS: Final = {
    "callback": "blue",
    "event": "green",
    "failed": "red",
    "note": "cyan",
}


class Timeline:
    """Writes lines with the time since the start; quiet if it has no writer."""

    def __init__(self, write: Callable[[str, str], None] | None) -> None:
        self._write = write
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return time.monotonic() - self._started

    def callback_sent(self, sent: SentCallback) -> None:
        """Note one attempt of the provider to deliver a callback."""
        answer = sent.error if sent.status is None else str(sent.status)
        repeat = f", repeat {sent.repeat}" if sent.repeat else ""
        retry = f", attempt {sent.attempt}" if sent.attempt > 1 else ""
        kind = "callback" if sent.is_accepted else "failed"
        text = f"callback {sent.stage}{repeat}{retry} → {answer}"
        self._line(kind, sent.task_id, text)

    def notified(self, received: ReceivedRequest) -> None:
        """Note one request that a simulated subscriber got."""
        event = orjson.loads(received.body)
        data = event.get("data", {})
        detail = data.get("kind", "")
        late = " (late)" if data.get("late") else ""
        kind = "event" if received.status == 200 else "failed"  # noqa: PLR2004
        text = f"  {event['type']}{late} {detail}".rstrip()
        arrow = f"{text} → {received.endpoint} {received.status}"
        self._line(kind, str(event.get("subject", "")), arrow)

    def note(self, text: str) -> None:
        """Write a remark."""
        self._line("note", "", text)

    def _line(self, kind: str, task_id: str, text: str) -> None:
        if self._write is not None:
            short = task_id[:ID_LENGTH]
            self._write(
                f"{self.seconds:6.2f}s  {short:<{ID_LENGTH}}  {text}", _COLOURS[kind]
            )
