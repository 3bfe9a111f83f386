"""What the quick way needs to know of the inside of aiohttp: is it there?"""

from __future__ import annotations

from typing import Final

from aiohttp import web
from aiohttp.http import HttpRequestParser

#: What we have to know of the inside of aiohttp's connections for the quick way.
KNOWN_NAMES: Final = frozenset(
    {
        "_buffer_paused",
        "_close",
        "_force_close",
        "_handler_waiter",
        "_keepalive_handle",
        "_keepalive_timeout",
        "_messages",
        "_msg_queue_resume_size",
        "_next_keepalive_close_time",
        "_parser",
        "_paused",
        "_reading_paused",
        "_request_in_progress",
        "_task_handler",
        "_waiter",
        # Called, not kept:
        "_drain_helper",
        "_process_keepalive",
        "_resume_reading_if_drained",
    }
)


def knows_aiohttp() -> bool:
    """Tell whether connections look inside as the quick way needs it."""
    return all(hasattr(web.RequestHandler, name) for name in KNOWN_NAMES) and hasattr(
        HttpRequestParser, "message_consumed"
    )
