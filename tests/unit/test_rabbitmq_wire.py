"""The frames made and read by hand, with pamqp as the judge of both."""

from __future__ import annotations

import struct
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Final

import pamqp.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from pipeline.broker import rabbitmq_wire as wire
from pipeline.broker.rabbitmq_delivered import Content, Delivered

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pamqp.common import FieldTable

    from pipeline.message import HeaderValue

CHANNEL: Final = 7
FRAME_MAX: Final = 4096
LARGEST: Final = FRAME_MAX - wire.FRAME_OVERHEAD_BYTES

#: Text that UTF-8 can carry.
texts: Final = st.text(max_size=60)
#: What fits a short string, whatever it holds: 60 characters of four bytes.
names: Final = texts
#: pamqp allows these letters.
exchanges: Final = st.text("abcXYZ019-_.:", max_size=60)
headers: Final = st.dictionaries(
    # pamqp cuts the names of headers at 128 bytes.
    st.text(max_size=32),
    texts | st.booleans() | st.integers(min_value=-(2**63), max_value=2**63 - 1),
    max_size=8,
)
bodies: Final = st.binary(max_size=300) | st.sampled_from(
    [b"x" * size for size in (0, 1, LARGEST, LARGEST + 1, 2 * LARGEST, 3 * LARGEST + 1)]
)


@given(exchange=exchanges, routing_key=names, mandatory=st.booleans())
def test_method_frame_says_what_pamqp_would_say(
    exchange: str,
    routing_key: str,
    mandatory: bool,  # noqa: FBT001
) -> None:
    """The bytes of a ``basic.publish`` are those of pamqp, one for one."""
    method = commands.Basic.Publish(
        exchange=exchange, routing_key=routing_key, mandatory=mandatory
    )

    made = wire.publish_method(
        CHANNEL, exchange=exchange, routing_key=routing_key, mandatory=mandatory
    )

    assert pamqp.frame.marshal(method, CHANNEL) == made


@given(content_type=names, own=headers, message_id=names, body=bodies)
def test_content_is_read_by_pamqp_as_it_was_given(
    content_type: str, own: Mapping[str, HeaderValue], message_id: str, body: bytes
) -> None:
    """Properties, headers of each type and bodies of each size survive."""
    frames = _frames(_content(content_type, own, message_id, body))

    header, *parts = frames

    assert isinstance(header, ContentHeader)
    assert len(body) == header.body_size
    properties = header.properties
    assert content_type == (properties.content_type or "")
    assert own == (properties.headers or {})
    assert [type(v) for v in own.values()] == [
        type(v) for v in (properties.headers or {}).values()
    ]
    assert message_id == (properties.message_id or "")
    assert 2 == properties.delivery_mode
    assert all(isinstance(part, ContentBody) for part in parts)
    assert body == b"".join(p.value for p in parts if isinstance(p, ContentBody))


@pytest.mark.parametrize(
    ("size", "frames"),
    [
        (0, 0),
        (1, 1),
        (LARGEST - 1, 1),
        (LARGEST, 1),
        (LARGEST + 1, 2),
        (2 * LARGEST, 2),
        (2 * LARGEST + 1, 3),
    ],
)
def test_body_is_cut_into_as_few_frames_as_fit(size: int, frames: int) -> None:
    """No frame is larger than agreed on, and none is empty."""
    made = _content("application/json", {}, "id", b"x" * size)

    sizes = [len(frame) for frame in _cut(made)][1:]

    assert frames == len(sizes)
    assert all(wire.FRAME_OVERHEAD_BYTES < size <= FRAME_MAX for size in sizes)


@given(content_type=names, own=headers, message_id=names)
def test_size_of_the_header_frame_is_never_underrated(
    content_type: str, own: Mapping[str, HeaderValue], message_id: str
) -> None:
    """A header frame over the limit would cost us the connection."""
    tail = wire.header_tail(content_type, own)
    real = len(_cut(_content(content_type, own, message_id, b""))[0])

    assert real <= len(tail) + wire.HEADER_ROOM_BYTES


def test_message_id_that_is_too_long_keeps_its_end() -> None:
    """Foreign ids may fill the field; what we append to them has to be readable."""
    header = _frames(_content("a/b", {}, "ü" * 200 + ".1f", b""))[0]

    assert isinstance(header, ContentHeader)
    found = str(header.properties.message_id)
    assert ".1f" == found[-3:]
    assert len(found.encode()) <= wire.SHORT_STRING_LIMIT_BYTES + 2


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1])
def test_integer_of_more_than_64_bits_is_refused(value: int) -> None:
    """The error names the header."""
    with pytest.raises(ValueError, match="huge"):
        wire.table({"huge": value})


@pytest.mark.parametrize("text", ["x" * 256, "ü" * 128])
def test_short_string_of_more_than_255_bytes_is_refused(text: str) -> None:
    """Bytes count, not characters."""
    with pytest.raises(ValueError, match="255"):
        wire.short_string(text)
    with pytest.raises(ValueError, match="255"):
        wire.table({text: 1})
    with pytest.raises(ValueError, match="255"):
        wire.publish_method(1, exchange="x", routing_key=text, mandatory=True)


def test_lone_surrogate_is_replaced() -> None:
    """It cannot be sent; losing one character is better than losing the message."""
    header = _frames(_content("a/b", {"text": "a\ud800b"}, "id", b""))[0]

    assert isinstance(header, ContentHeader)
    assert {"text": "a?b"} == header.properties.headers


@given(
    tag=st.integers(min_value=0, max_value=2**63 - 1),
    multiple=st.booleans(),
    channel=st.integers(min_value=1, max_value=2**16 - 1),
)
def test_acknowledgement_says_what_pamqp_would_say(
    tag: int,
    multiple: bool,  # noqa: FBT001
    channel: int,
) -> None:
    """One frame, byte for byte."""
    method = commands.Basic.Ack(delivery_tag=tag, multiple=multiple)

    made = wire.acknowledge(channel, tag, multiple=multiple)

    assert pamqp.frame.marshal(method, channel) == made


@given(tag=st.integers(min_value=0, max_value=2**63 - 1))
def test_rejection_says_what_pamqp_would_say(tag: int) -> None:
    """Giving one delivery back is one ``basic.nack`` with ``requeue``."""
    method = commands.Basic.Nack(delivery_tag=tag, multiple=False, requeue=True)

    assert pamqp.frame.marshal(method, CHANNEL) == wire.give_back(CHANNEL, tag)


@pytest.mark.parametrize("kind", [commands.Basic.Ack, commands.Basic.Nack])
@pytest.mark.parametrize("multiple", [True, False])
def test_confirm_is_read(
    kind: type[commands.Basic.Ack | commands.Basic.Nack],
    multiple: bool,  # noqa: FBT001
) -> None:
    """Tag and ``multiple`` of an answer, whichever it is."""
    raw = pamqp.frame.marshal(kind(delivery_tag=2**40, multiple=multiple), CHANNEL)

    assert (2**40, multiple) == wire.confirm_of(raw, wire.FRAME_HEAD_BYTES)
    expected = wire.BASIC_ACK if kind is commands.Basic.Ack else wire.BASIC_NACK
    assert expected == wire.method_of(raw, wire.FRAME_HEAD_BYTES)


@given(own=headers, content_type=names, message_id=names, body=bodies)
def test_delivery_of_pamqp_is_read(
    own: FieldTable,
    content_type: str,
    message_id: str,
    body: bytes,
) -> None:
    """What pamqp writes, with the integers it chooses, is what we read."""
    properties = commands.Basic.Properties(
        content_type=content_type or None,
        headers=own,
        delivery_mode=2,
        message_id=message_id or None,
    )

    delivered = _delivered(_header(properties, body), body)

    assert (
        Delivered(
            tag=9,
            redelivered=True,
            routing_key="käy",
            content_type=content_type or None,
            headers=own,
            message_id=message_id,
            body=body,
        )
        == delivered
    )


@given(own=headers, content_type=names, message_id=names, body=bodies)
def test_what_we_write_is_what_we_read(
    own: dict[str, HeaderValue], content_type: str, message_id: str, body: bytes
) -> None:
    """The short way through the reader, for the messages that are ours."""
    header = _cut(_content(content_type, own, message_id, body))[0]

    delivered = _delivered(header, body)

    assert own == delivered.headers
    assert [type(v) for v in own.values()] == [
        type(v) for v in delivered.headers.values()
    ]
    assert (content_type, message_id, body) == (
        delivered.content_type,
        delivered.message_id,
        delivered.body,
    )


def test_foreign_headers_and_properties_are_left_to_pamqp() -> None:
    """Tables, lists, times, numbers: RabbitMQ's own notes and foreign publishers."""
    at = datetime(2026, 11, 2, 12, 0, 0, tzinfo=UTC)
    own: FieldTable = {
        "x-death": [{"reason": "delivery_limit", "count": 1, "time": at}],
        "table": {"deep": {"er": True}},
        "float": 0.5,
        "decimal": Decimal("1.5"),
        "nothing": None,
        "bytes": bytearray(b"\x00\xff"),
        "text": "ü",
    }
    properties = commands.Basic.Properties(
        content_type="text/plain",
        content_encoding="gzip",
        headers=own,
        delivery_mode=2,
        priority=3,
        correlation_id="c",
        reply_to="r",
        expiration="1000",
        message_id="m",
        timestamp=at,
        message_type="t",
        user_id="u",
        app_id="a",
    )

    delivered = _delivered(_header(properties, b"body"), b"body")

    assert own == delivered.headers
    assert ("text/plain", "m", b"body") == (
        delivered.content_type,
        delivered.message_id,
        delivered.body,
    )


def test_delivery_without_any_property_is_read() -> None:
    """Nothing is required."""
    delivered = _delivered(_header(commands.Basic.Properties(), b"b"), b"b")

    assert (None, {}, "", b"b") == (
        delivered.content_type,
        delivered.headers,
        delivered.message_id,
        delivered.body,
    )


@given(data=st.data())
def test_properties_that_cannot_be_read_leave_the_body(data: st.DataObject) -> None:
    """Poison: the message is still delivered, so that it can be dead-lettered."""
    good = _cut(_content("a/b", {"text": "ü", "count": 1}, "id", b"body"))[0]
    payload = bytearray(good[wire.FRAME_HEAD_BYTES : -1])
    cut = data.draw(st.integers(min_value=14, max_value=len(payload)))
    at = data.draw(st.integers(min_value=12, max_value=cut - 1))
    payload[at] = data.draw(st.integers(min_value=0, max_value=255))
    raw = struct.pack(">BHI", 2, CHANNEL, cut) + bytes(payload[:cut]) + b"\xce"

    delivered = _delivered(raw, b"body")

    assert b"body" == delivered.body
    assert isinstance(delivered.headers, dict)


def _content(
    content_type: str, own: Mapping[str, HeaderValue], message_id: str, body: bytes
) -> bytes:
    frames = wire.content_frames(
        CHANNEL,
        tail=wire.header_tail(content_type, own),
        message_id=message_id,
        body=body,
        frame_max=FRAME_MAX,
    )
    return b"".join(frames)


def _cut(raw: bytes) -> list[bytes]:
    """Cut bytes into frames, by their sizes alone."""
    frames = []
    while raw:
        (size,) = struct.unpack_from(">I", raw, 3)
        assert raw[size + wire.FRAME_HEAD_BYTES] == wire.FRAME_END[0]
        end = size + wire.FRAME_OVERHEAD_BYTES
        frames.append(raw[:end])
        raw = raw[end:]
    return frames


def _frames(raw: bytes) -> list[object]:
    """Let pamqp read all frames."""
    found: list[object] = []
    for frame in _cut(raw):
        used, channel, read = pamqp.frame.unmarshal(frame)
        assert (len(frame), CHANNEL) == (used, channel)
        found.append(read)
    return found


def _header(properties: commands.Basic.Properties, body: bytes) -> bytes:
    header = ContentHeader(body_size=len(body), properties=properties)
    return pamqp.frame.marshal(header, CHANNEL)


def _delivered(header: bytes, body: bytes) -> Delivered:
    """Feed a delivery's frames to the reader, as the splitter does."""
    method = pamqp.frame.marshal(
        commands.Basic.Deliver("tag", 9, True, "exchange", "käy"),  # noqa: FBT003
        CHANNEL,
    )
    start = wire.FRAME_HEAD_BYTES
    content = Content.of_delivery(method, start)
    assert not content.is_complete
    content.add(wire.HEADER_FRAME, header, start, len(header) - 8)
    if body:
        frame = pamqp.frame.marshal(ContentBody(body), CHANNEL)
        content.add(3, frame, start, len(body))
    assert content.is_complete
    return content.delivered()
