"""How the embedded broker writes messages down and reads them back.

The small values that go between the event loop and the thread of the database.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

import orjson

from pipeline.errors import PublishRefused
from pipeline.message import Failure, decode_headers, encode_headers
from pipeline.topology import DELIVERY_LIMIT, SUSPECT_DELIVERIES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from datetime import datetime

    from pipeline.message import Envelope, Publication

#: At most so many bytes of bodies are claimed at once, and one body however large.
CLAIM_BYTES: Final = 8 * 1024 * 1024
#: A row id of SQLite has so many bits, and is positive here.
_ID_BITS: Final = 63


class Parcel(NamedTuple):
    """A publication, ready to be stored."""

    #: Full name, with the prefix.
    exchange: str
    #: Whether a message that no binding wants is an error.
    mandatory: bool
    routing_key: str
    content_type: str
    #: JSON.
    headers: bytes
    body: bytes


class Row(NamedTuple):
    """A message as the database has it."""

    id: int
    routing_key: str
    content_type: str
    headers: bytes
    body: bytes
    #: How often it was delivered, this time included.
    deliveries: int

    @property
    def tag(self) -> int:
        """Name this delivery of this message.

        In one number: whoever looks through a long queue holds very many.
        """
        return self.deliveries << _ID_BITS | self.id

    def envelope(self) -> Envelope:
        """Decode the message. Never raises."""
        return decode_headers(
            orjson.loads(self.headers),
            body=self.body,
            wire_key=self.routing_key,
            content_type=self.content_type,
            fallback_id=f"message-{self.id}",
        )


def read_tag(tag: int) -> tuple[int, int]:
    """Give the message's id and the number of the delivery."""
    return tag & (1 << _ID_BITS) - 1, tag >> _ID_BITS


class Claim(NamedTuple):
    """What a consumer got."""

    rows: Sequence[Row]
    #: Whether there may be more that it could have.
    more: bool
    #: Whether the one row is to be finished before the next is claimed.
    alone: bool
    #: Queues that got messages: dead letters, of what was delivered too often.
    touched: Collection[str]
    #: Whether what the consumer held is lost: it is new, its lease had run out, or
    #: its queue was gone.
    lapsed: bool


class Pulse(NamedTuple):
    """What has happened since somebody looked last."""

    #: Queues, of those asked for, in which messages wait, or which are gone.
    ready: Collection[str]
    #: Consumers, of those renewed, whose lease had run out already.
    lapsed: Collection[int]


class Counts(NamedTuple):
    """How many messages there are."""

    ready: int
    held: int
    delayed: int


def pack(publication: Publication, *, exchange: str, mandatory: bool) -> Parcel:
    """Write a publication the way it is stored.

    Raises:
        PublishRefused: a header or a name cannot be stored.
    """
    try:
        headers = orjson.dumps(encode_headers(publication))
        publication.wire_key.encode()
        publication.envelope.content_type.encode()
    except (orjson.JSONEncodeError, UnicodeEncodeError) as error:
        message = (
            "expected headers and routing key of valid text and 64-bit integers in"
            f" message {publication.envelope.message_id!r}: {error}"
        )
        raise PublishRefused(message) from error
    return Parcel(
        exchange,
        mandatory,
        publication.wire_key,
        publication.envelope.content_type,
        headers,
        publication.envelope.body,
    )


def exceeded(envelope: Envelope, queue: str, at: datetime) -> Envelope:
    """Note on a message that nobody could settle it."""
    earlier = envelope.failure
    return replace(
        envelope,
        failure=Failure(
            queue=queue,
            error_type="DeliveryLimitExceeded",
            error_text=(
                f"delivered {DELIVERY_LIMIT} times and never settled: the worker dies"
                " or is cut off while it handles this message"
            ),
            first_failed_at=at if earlier is None else earlier.first_failed_at,
            last_failed_at=at,
        ),
    )


def isolate(rows: list[Row], *, idle: bool) -> tuple[list[Row], bool]:
    """Leave out what must not be claimed together with others."""
    first = next(
        (at for at, row in enumerate(rows) if row.deliveries >= SUSPECT_DELIVERIES),
        None,
    )
    if first is None:
        return rows, False
    if first > 0:
        return rows[:first], False
    return (rows[:1], True) if idle else ([], False)


def within_bytes(found: Iterable[Row]) -> tuple[list[Row], bool]:
    """Take rows until their bodies are many bytes; tell whether there may be more."""
    rows: list[Row] = []
    size_bytes = 0
    for row in found:
        rows.append(row)
        size_bytes += len(row.body)
        if size_bytes >= CLAIM_BYTES:
            return rows, True
    return rows, False
