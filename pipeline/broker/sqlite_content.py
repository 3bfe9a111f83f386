"""What is in the queues of an embedded broker that have one name under any prefix."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import orjson

from pipeline.message import PUBLISHED_AT, from_milliseconds
from pipeline.topology import QueueKind

if TYPE_CHECKING:
    from datetime import datetime

    import apsw


class Content(NamedTuple):
    """What the queues hold now."""

    #: Messages, those that somebody holds included.
    messages: int
    #: Those of the file that consumers hold; what died holds for as long as its lease.
    held: int
    #: Full name of the queue that has the oldest; ``None``: all are empty.
    first_queue: str | None
    #: When the oldest was published; ``None``: unknown, or there is none.
    oldest_at: datetime | None
    #: Bytes of the file that hold something, of all queues; it never shrinks itself.
    used_bytes: int


def content_of(connection: apsw.Connection, queue: str) -> Content:
    """Measure the queues of kind ``UNROUTED`` that have the name ``queue``.

    Whatever their prefix, and whatever version of the topology made them.
    """
    found: list[tuple[int, str, bytes]] = []
    messages = 0
    for number, name in connection.execute(
        "SELECT id, name FROM queues"
        " WHERE kind = ?1 AND substr(name, -length(?2)) = ?2",
        (QueueKind.UNROUTED.value, f".{queue}"),
    ).fetchall():
        for first, headers in connection.execute(
            "SELECT id, headers FROM messages INDEXED BY messages_by_queue"
            " WHERE queue = ? ORDER BY id LIMIT 1",
            (number,),
        ):
            # The order of ids is that in which they came, whatever their queue.
            found.append((first, str(name), headers))
            messages += connection.execute(
                "SELECT count(*) FROM messages WHERE queue = ?", (number,)
            ).get
    oldest = min(found, default=None)
    pages = connection.pragma("page_count") - connection.pragma("freelist_count")
    return Content(
        messages=messages,
        held=connection.execute(
            "SELECT count(*) FROM leases WHERE consumer IS NOT NULL"
        ).get,
        first_queue=oldest and oldest[1],
        oldest_at=oldest and _published_at(oldest[2]),
        used_bytes=pages * connection.pragma("page_size"),
    )


def _published_at(headers: bytes) -> datetime | None:
    found = orjson.loads(headers).get(PUBLISHED_AT)
    return from_milliseconds(found) if isinstance(found, int) else None
