"""What a delivery says: from its frames to an envelope. Pure.

Of the properties only those are read that an envelope needs. Header types that we
never send (tables, lists, times: foreign publishers and RabbitMQ's own notes) and
unusual properties are left to pamqp.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from pamqp.header import ContentHeader

from pipeline.broker import rabbitmq_wire as wire
from pipeline.message import Envelope, Failure, decode_headers
from pipeline.topology import DELIVERY_LIMIT
from pipeline.values import value

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiormq.abc import DeliveredMessage

    from pipeline.topology import Topology

#: RabbitMQ's own header on what it has dead-lettered by itself.
DEATHS: Final = "x-death"
#: And on what it delivers once more.
DELIVERY_COUNT: Final = "x-delivery-count"

# Property flags of those that are read; the others in between are skipped.
_CONTENT_TYPE: Final = 1 << 15
_HEADERS: Final = 1 << 13
_MESSAGE_ID: Final = 1 << 7
#: Anything but content type, headers, delivery mode and message id.
_UNUSUAL: Final = 0xFFFF ^ wire.PROPERTY_FLAGS

_STRING_TYPE: Final = ord("S")
_INTEGER_TYPE: Final = ord("l")
_BOOLEAN_TYPE: Final = ord("t")

_LONG = struct.Struct(">I")
_SIGNED = struct.Struct(">q")
_TAG = struct.Struct(">QB")
_BODY_SIZE = struct.Struct(">Q")
_SHORT = struct.Struct(">H")


@value
class Delivered:
    """What a delivery says, as far as an envelope needs it."""

    #: 0 for a returned message.
    tag: int
    redelivered: bool
    routing_key: str
    content_type: str | None
    headers: dict[str, Any]
    message_id: str
    body: bytes


class Content:
    """A delivery or a return whose header and body frames are still coming."""

    __slots__ = (
        "_header",
        "_parts",
        "_redelivered",
        "_remaining",
        "_routing_key",
        "_tag",
    )

    def __init__(self, *, tag: int, redelivered: bool, routing_key: str) -> None:
        self._tag = tag
        self._redelivered = redelivered
        self._routing_key = routing_key
        self._header = b""
        self._parts: list[bytes] = []
        self._remaining = -1

    @classmethod
    def of_delivery(cls, buffer: bytes, start: int) -> Content:
        """Read the method of a delivery."""
        position = start + 4
        position += 1 + buffer[position]  # the consumer tag
        tag, redelivered = _TAG.unpack_from(buffer, position)
        position += _TAG.size
        position += 1 + buffer[position]  # the exchange
        routing_key, _ = wire.short_string_at(buffer, position)
        return cls(tag=tag, redelivered=bool(redelivered), routing_key=routing_key)

    @classmethod
    def of_return(cls) -> Content:
        """Start on a returned message, of which only the id is wanted."""
        return cls(tag=0, redelivered=False, routing_key="")

    @property
    def is_complete(self) -> bool:
        """Whether the last byte of the body is here."""
        return self._remaining == 0

    def add(self, kind: int, buffer: bytes, start: int, size: int) -> None:
        """Take the payload of a header or body frame."""
        if kind == wire.HEADER_FRAME:
            self._header = buffer[start : start + size]
            (self._remaining,) = _BODY_SIZE.unpack_from(self._header, 4)
        else:
            self._parts.append(buffer[start : start + size])
            self._remaining -= size

    def delivered(self) -> Delivered:
        """Decode what has arrived."""
        content_type, headers, message_id = _properties(self._header)
        parts = self._parts
        return Delivered(
            tag=self._tag,
            redelivered=self._redelivered,
            routing_key=self._routing_key,
            content_type=content_type,
            headers=headers,
            message_id=message_id,
            body=parts[0] if len(parts) == 1 else b"".join(parts),
        )


def decode(delivered: Delivered, topology: Topology) -> Envelope:
    """Read an envelope; what the broker dead-lettered by itself is a failure too."""
    headers = delivered.headers
    death = _crash_loop(headers)
    # Names with x- are the broker's own remarks, and change from hop to hop.
    ours = {k: v for k, v in headers.items() if not k.startswith("x-")}
    envelope = decode_headers(
        ours,
        body=delivered.body,
        wire_key=_first_key(death) or delivered.routing_key,
        content_type=delivered.content_type,
        fallback_id=delivered.message_id,
    )
    return (
        envelope if death is None else replace(envelope, failure=_loop(death, topology))
    )


def returns_of(delivered: Delivered) -> int:
    """Tell how often the broker counts a message as come back, never settled."""
    count = delivered.headers.get(DELIVERY_COUNT) if delivered.redelivered else 0
    return count if isinstance(count, int) else 0


def of_message(message: DeliveredMessage) -> Delivered:
    """Take what aiormq has decoded by itself, where there is no short cut."""
    properties = message.header.properties
    frame = message.delivery
    return Delivered(
        tag=message.delivery_tag or 0,
        redelivered=bool(getattr(frame, "redelivered", False)),
        routing_key=message.routing_key or "",
        content_type=properties.content_type,
        headers=dict(properties.headers or {}),
        message_id=properties.message_id or "",
        body=message.body,
    )


def _properties(header: bytes) -> tuple[str | None, dict[str, Any], str]:
    """Read content type, headers and message id of a header frame's payload.

    Properties and header types that we never send are left to pamqp. What cannot
    be read at all is left out: the body is worth keeping, and to fail here would
    cost the connection again and again.
    """
    try:
        return _readable_properties(header)
    except wire.UNREADABLE:
        return None, {}, ""


def _readable_properties(header: bytes) -> tuple[str | None, dict[str, Any], str]:
    (flags,) = _SHORT.unpack_from(header, 12)
    headers: dict[str, Any] | None = {}
    content_type, message_id = None, ""
    position = 14
    if not flags & _UNUSUAL:
        if flags & _CONTENT_TYPE:
            content_type, position = wire.short_string_at(header, position)
        if flags & _HEADERS:
            headers, position = _plain_table(header, position)
        if flags & 1 << 12:
            position += 1  # the delivery mode
        if headers is not None:
            if flags & _MESSAGE_ID:
                message_id, _ = wire.short_string_at(header, position)
            return content_type, headers, message_id
    full = ContentHeader()
    full.unmarshal(header)
    properties = full.properties
    return (
        properties.content_type,
        dict(properties.headers or {}),
        properties.message_id or "",
    )


def _plain_table(header: bytes, position: int) -> tuple[dict[str, Any] | None, int]:
    """Read a table of strings, booleans and 64-bit integers.

    ``None`` instead of the table: it holds other types.
    """
    (size,) = _LONG.unpack_from(header, position)
    position += 4
    end = position + size
    found: dict[str, Any] = {}
    while position < end:
        value_at = position + 1 + header[position]
        name = header[position + 1 : value_at].decode("utf-8", "replace")
        kind = header[value_at]
        value_at += 1
        if kind == _STRING_TYPE:
            (length,) = _LONG.unpack_from(header, value_at)
            position = value_at + 4 + length
            found[name] = header[value_at + 4 : position].decode("utf-8", "replace")
        elif kind == _INTEGER_TYPE:
            (found[name],) = _SIGNED.unpack_from(header, value_at)
            position = value_at + 8
        elif kind == _BOOLEAN_TYPE:
            found[name] = header[value_at] != 0
            position = value_at + 1
        else:
            return None, end
    return found, end


def _crash_loop(headers: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Find RabbitMQ's own note that a message has reached the delivery limit."""
    deaths = headers.get(DEATHS)
    for death in deaths if isinstance(deaths, list) else ():
        if isinstance(death, dict) and death.get("reason") == "delivery_limit":
            return death
    return None


def _first_key(death: Mapping[str, Any] | None) -> str:
    """Give the routing key that a message had when the broker took it away."""
    keys = death.get("routing-keys") if death is not None else None
    return str(keys[0]) if isinstance(keys, list) and keys else ""


def _loop(death: Mapping[str, Any], topology: Topology) -> Failure:
    at = death.get("time")
    when = at.replace(tzinfo=UTC) if isinstance(at, datetime) else datetime.now(UTC)
    return Failure(
        queue=str(death.get("queue", "")).removeprefix(topology.queue_name("")),
        error_type="DeliveryLimitExceeded",
        error_text=(
            f"delivered {DELIVERY_LIMIT} times and never settled: the worker dies or"
            " is cut off while it handles this message"
        ),
        first_failed_at=when,
        last_failed_at=when,
    )
