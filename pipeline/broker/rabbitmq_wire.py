"""The bytes of publishes, deliveries and confirms, as AMQP 0-9-1 has them. Pure.

Written out by hand because ingress and dedupe spend most of their time here
otherwise (``docs/decisions/0003``): the method frame of a publish is made once for
each exchange and routing key, header and body frames are joined from ready parts.
What deliveries say is read in ``rabbitmq_delivered.py``. Layout: AMQP 0-9-1
specification, sections 2.3.5 (frames), 4.2.5.5 (field tables) and 1.8.3 (``basic``);
field type letters as RabbitMQ reads them, see its page "AMQP 0-9-1 errata".
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from pipeline.message import EVENT_TYPE, OPERATION, ORIGIN, STAGE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.message import HeaderValue

FRAME_END: Final = b"\xce"
#: Type, channel and size before the payload, the end marker after it.
FRAME_OVERHEAD_BYTES: Final = 8
#: Of a header frame's payload, what stands before the properties.
CONTENT_BYTES: Final = 14
#: content-type, headers, delivery-mode and message-id are present.
PROPERTY_FLAGS: Final = 1 << 15 | 1 << 13 | 1 << 12 | 1 << 7
PERSISTENT: Final = b"\x02"
SHORT_STRING_LIMIT_BYTES: Final = 255
#: The most that a header frame, which cannot be split, has beside ``header_tail``.
HEADER_ROOM_BYTES: Final = (
    FRAME_OVERHEAD_BYTES + CONTENT_BYTES + 1 + SHORT_STRING_LIMIT_BYTES
)
#: The bit of a ``basic.nack``; the one before it is ``multiple``.
REQUEUE: Final = 2

#: Headers with few different values; the others are different in each message.
REPEATING: Final = frozenset({OPERATION, STAGE, ORIGIN, EVENT_TYPE})

METHOD_FRAME: Final = 1
HEADER_FRAME: Final = 2
#: Type, channel and size, which stand before the payload.
FRAME_HEAD_BYTES: Final = 7
HEARTBEAT: Final = b"\x08\x00\x00\x00\x00\x00\x00\xce"

# Class and method in one number.
CONNECTION_BLOCKED: Final = 10 << 16 | 60
CONNECTION_UNBLOCKED: Final = 10 << 16 | 61
CHANNEL_CLOSE: Final = 20 << 16 | 40
BASIC_RETURN: Final = 60 << 16 | 50
BASIC_DELIVER: Final = 60 << 16 | 60
BASIC_ACK: Final = 60 << 16 | 80
BASIC_NACK: Final = 60 << 16 | 120

#: What reading bytes that are not what they should be ends in, here and in pamqp.
UNREADABLE: Final = (ValueError, IndexError, KeyError, OverflowError, struct.error)

_FRAME = struct.Struct(">BHI")
#: A header frame up to its properties.
_HEADER = struct.Struct(">BHIHHQH")
#: The end of one frame and the head of the next.
_NEXT = struct.Struct(">BBHI")
_END: Final = FRAME_END[0]
_ONE_BYTE: Final = tuple(bytes((number,)) for number in range(256))
_METHOD = struct.Struct(">HHH")
_LONG = struct.Struct(">I")
_LONG_LONG = struct.Struct(">q")
_TAG = struct.Struct(">QB")
_SETTLE = struct.Struct(">BHIIQBB")


def short_string(text: str) -> bytes:
    """Encode a short string.

    Raises:
        ValueError: it is longer than 255 bytes in UTF-8.
    """
    raw = text.encode("utf-8", "replace")
    if len(raw) > SHORT_STRING_LIMIT_BYTES:
        message = f"expected at most 255 bytes, got {len(raw)}: {text[:40]}…"
        raise ValueError(message)
    return bytes((len(raw),)) + raw


def table(headers: Mapping[str, HeaderValue]) -> bytes:
    """Encode headers as a field table of strings, booleans and 64-bit integers.

    Raises:
        ValueError: a name is too long or an integer has more than 64 bits.
    """
    content = b"".join(
        _known_field(name, value) if name in REPEATING else _field(name, value)
        for name, value in headers.items()
    )
    return _LONG.pack(len(content)) + content


def _field(name: str, value: HeaderValue) -> bytes:
    kind = type(value)
    if kind is int:
        try:
            return _head(name, b"l") + _LONG_LONG.pack(value)
        except struct.error as error:
            message = f"expected an integer of 64 bits for {name}, got {value}"
            raise ValueError(message) from error
    if kind is bool:
        return _head(name, b"t") + (b"\x01" if value else b"\x00")
    raw = str(value).encode("utf-8", "replace")
    return _head(name, b"S") + _LONG.pack(len(raw)) + raw


@lru_cache(maxsize=1024, typed=True)
def _known_field(name: str, value: HeaderValue) -> bytes:
    """Encode a header whose value is the same in very many messages."""
    return _field(name, value)


@lru_cache(maxsize=256)
def _head(name: str, letter: bytes) -> bytes:
    """Encode a header's name and the letter of its type."""
    return short_string(name) + letter


def publish_method(
    channel: int, *, exchange: str, routing_key: str, mandatory: bool
) -> bytes:
    """Make the whole ``basic.publish`` frame.

    Raises:
        ValueError: a name is longer than 255 bytes.
    """
    payload = (
        _METHOD.pack(60, 40, 0)
        + short_string(exchange)
        + short_string(routing_key)
        + (b"\x01" if mandatory else b"\x00")
    )
    return _FRAME.pack(1, channel, len(payload)) + payload + FRAME_END


def header_tail(content_type: str, headers: Mapping[str, HeaderValue]) -> bytes:
    """Encode the properties that stand before the message id.

    Raises:
        ValueError: a value does not fit, as for ``table``.
    """
    return b"".join((_media_type(content_type), table(headers), PERSISTENT))


@lru_cache(maxsize=64)
def _media_type(content_type: str) -> bytes:
    return short_string(content_type)


def content_frames(
    channel: int, *, tail: bytes, message_id: str, body: bytes, frame_max: int
) -> Sequence[bytes]:
    """Make the header frame and the body frames of one message, in pieces.

    Args:
        channel: number of the channel.
        tail: from ``header_tail``.
        message_id: the AMQP property; of what is too long, the end is kept.
        body: may be empty.
        frame_max: the largest frame the connection agreed on, in bytes.
    """
    raw_id = message_id.encode("utf-8", "replace")[-SHORT_STRING_LIMIT_BYTES:]
    size, id_size = len(body), len(raw_id)
    payload_size = CONTENT_BYTES + len(tail) + 1 + id_size
    head = _HEADER.pack(2, channel, payload_size, 60, 0, size, PROPERTY_FLAGS)
    properties = tail, _ONE_BYTE[id_size], raw_id
    largest = frame_max - FRAME_OVERHEAD_BYTES
    if 0 < size <= largest:  # as nearly always
        return head, *properties, _NEXT.pack(_END, 3, channel, size), body, FRAME_END
    frames = [head, *properties]
    for start in range(0, size, largest):
        part = body[start : start + largest]
        frames += (_NEXT.pack(_END, 3, channel, len(part)), part)
    frames.append(FRAME_END)
    return frames


def acknowledge(channel: int, tag: int, *, multiple: bool = False) -> bytes:
    """Make a ``basic.ack`` frame."""
    return _SETTLE.pack(1, channel, 13, BASIC_ACK, tag, multiple, FRAME_END[0])


def give_back(channel: int, tag: int) -> bytes:
    """Make a ``basic.nack`` frame that puts one delivery back into its queue."""
    return _SETTLE.pack(1, channel, 13, BASIC_NACK, tag, REQUEUE, FRAME_END[0])


def frame_at(buffer: bytes, position: int) -> tuple[int, int, int] | None:
    """Give type, channel and size of a frame; ``None``: it is not complete."""
    if len(buffer) - position < FRAME_OVERHEAD_BYTES:
        return None
    kind, channel, size = _FRAME.unpack_from(buffer, position)
    if position + FRAME_OVERHEAD_BYTES + size > len(buffer):
        return None
    return kind, channel, size


def method_of(buffer: bytes, start: int) -> int:
    """Give class and method of a method frame's payload, as one number."""
    number: int = _LONG.unpack_from(buffer, start)[0]
    return number


def confirm_of(buffer: bytes, start: int) -> tuple[int, bool]:
    """Read delivery tag and ``multiple`` of an ack or a nack."""
    tag, bits = _TAG.unpack_from(buffer, start + 4)
    return tag, bool(bits & 1)


def short_string_at(buffer: bytes, position: int) -> tuple[str, int]:
    """Read a short string; give it and where the next field starts."""
    end = position + 1 + buffer[position]
    return buffer[position + 1 : end].decode("utf-8", "replace"), end
