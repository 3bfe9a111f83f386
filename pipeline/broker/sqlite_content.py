"""What is in one queue of an embedded broker, and how much of the file is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import orjson

from pipeline.message import PUBLISHED_AT, from_milliseconds

if TYPE_CHECKING:
    from datetime import datetime

    import apsw


class Content(NamedTuple):
    """What a queue holds now."""

    #: Messages, those that somebody holds included.
    messages: int
    #: When the first of them was published; ``None``: unknown, or there is none.
    oldest_at: datetime | None
    #: Bytes of the file that hold something, of all queues; it never shrinks itself.
    used_bytes: int


def content_of(connection: apsw.Connection, name: str) -> Content:
    """Measure the queue with the full name ``name``; one that is missing is empty."""
    queue = connection.execute("SELECT id FROM queues WHERE name = ?", (name,)).get
    messages = connection.execute(
        "SELECT count(*) FROM messages WHERE queue = ?", (queue,)
    ).get
    headers = connection.execute(
        "SELECT headers FROM messages INDEXED BY messages_by_queue"
        " WHERE queue = ? ORDER BY id LIMIT 1",
        (queue,),
    ).get
    pages = connection.pragma("page_count") - connection.pragma("freelist_count")
    return Content(
        messages=messages,
        oldest_at=None if headers is None else _published_at(headers),
        used_bytes=pages * connection.pragma("page_size"),
    )


def _published_at(headers: bytes) -> datetime | None:
    found = orjson.loads(headers).get(PUBLISHED_AT)
    return from_milliseconds(found) if isinstance(found, int) else None
