"""The bytes of a publish, as AMQP 0-9-1 lays them out. Pure.

Written out by hand because the ingress spends most of its time here otherwise:
the method frame is made once for each exchange and routing key, and header and
body frames are joined from ready parts (``docs/decisions/0003``). Layout: AMQP
0-9-1 specification, sections 2.3.5 (frames), 4.2.5.5 (field tables) and 1.8.3.3
(``basic.publish``); field type letters as RabbitMQ reads them, see its page
"AMQP 0-9-1 errata".
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.message import HeaderValue

FRAME_END: Final = b"\xce"
#: Type, channel and size before the payload, the end marker after it.
FRAME_OVERHEAD_BYTES: Final = 8
#: content-type, headers, delivery-mode and message-id are present.
PROPERTY_FLAGS: Final = 1 << 15 | 1 << 13 | 1 << 12 | 1 << 7
PERSISTENT: Final = b"\x02"
SHORT_STRING_LIMIT_BYTES: Final = 255

_FRAME = struct.Struct(">BHI")
_CONTENT = struct.Struct(">HHQH")
_METHOD = struct.Struct(">HHH")
_LONG = struct.Struct(">I")
_STRING = struct.Struct(">cI")
_LONG_LONG = struct.Struct(">cq")


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
    parts = []
    for name, value in headers.items():
        parts.append(_header_name(name))
        if isinstance(value, str):
            raw = value.encode("utf-8", "replace")
            parts.append(_STRING.pack(b"S", len(raw)))
            parts.append(raw)
        elif isinstance(value, bool):
            parts.append(b"t\x01" if value else b"t\x00")
        else:
            try:
                parts.append(_LONG_LONG.pack(b"l", value))
            except struct.error as error:
                message = f"expected an integer of 64 bits for {name}, got {value}"
                raise ValueError(message) from error
    content = b"".join(parts)
    return _LONG.pack(len(content)) + content


@lru_cache(maxsize=256)
def _header_name(name: str) -> bytes:
    """Encode a header's name once; there are about twenty of them."""
    return short_string(name)


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
    return short_string(content_type) + table(headers) + PERSISTENT


def content_frames(
    channel: int, *, tail: bytes, message_id: str, body: bytes, frame_max: int
) -> list[bytes]:
    """Make the header frame and the body frames of one message.

    Args:
        channel: number of the channel.
        tail: from ``header_tail``.
        message_id: the AMQP property; ASCII, at most 255 characters.
        body: may be empty.
        frame_max: the largest frame the connection agreed on, in bytes.
    """
    raw_id = message_id.encode()
    properties = b"".join((tail, bytes((len(raw_id),)), raw_id))
    frames = [
        _FRAME.pack(2, channel, _CONTENT.size + len(properties)),
        _CONTENT.pack(60, 0, len(body), PROPERTY_FLAGS),
        properties,
        FRAME_END,
    ]
    largest = frame_max - FRAME_OVERHEAD_BYTES
    if len(body) <= largest:
        if body:
            frames += (_FRAME.pack(3, channel, len(body)), body, FRAME_END)
        return frames
    for start in range(0, len(body), largest):
        part = body[start : start + largest]
        frames += (_FRAME.pack(3, channel, len(part)), part, FRAME_END)
    return frames


def header_frame_bytes(tail: bytes, message_id: str) -> int:
    """Give the size of the header frame, which cannot be split."""
    return FRAME_OVERHEAD_BYTES + _CONTENT.size + len(tail) + 1 + len(message_id)
