"""Cutting the broker's bytes into frames: ours are decoded, others passed on."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Final, Self

import aiormq
import pamqp.frame
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp import commands
from pamqp.body import ContentBody
from pamqp.header import ContentHeader, ProtocolHeader
from pamqp.heartbeat import Heartbeat
from yarl import URL

from pipeline.broker import rabbitmq_wire as wire
from pipeline.broker.rabbitmq_stream import FrameStream, Splitter, Tap

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from hypothesis.strategies import SearchStrategy

TAPPED: Final = 3
OTHER: Final = 4
HEARTBEAT: Final = pamqp.frame.marshal(Heartbeat(), 0)

Event = tuple[object, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Some frames that belong together, and what should come of them."""

    frames: bytes
    #: What the tap should hear; ``None``: the frames are for aiormq.
    event: Event | None = None


@dataclass(slots=True)
class Listener:
    """Notes what a tap is told."""

    events: list[Event] = field(default_factory=list)

    def tap(self) -> Tap:
        """Make a tap that tells us."""
        return Tap(
            on_delivery=lambda d: self.events.append(("delivery", d.tag, d.body)),
            on_confirm=lambda *told: self.events.append(("confirm", *told)),
            on_return=lambda message_id: self.events.append(("return", message_id)),
        )


def _content(channel: int, body: bytes, part_bytes: int, message_id: str) -> bytes:
    properties = commands.Basic.Properties(message_id=message_id, headers={"n": 1})
    header = ContentHeader(body_size=len(body), properties=properties)
    parts = [body[at : at + part_bytes] for at in range(0, len(body), part_bytes)]
    frames = pamqp.frame.marshal(header, channel)
    for part in parts:
        frames += pamqp.frame.marshal(ContentBody(part), channel)
    return frames


def delivery(tag: int, body: bytes, *, channel: int, part_bytes: int = 40) -> Step:
    """Make a delivery in several frames."""
    method = commands.Basic.Deliver("consumer", tag, False, "exchange", "key")  # noqa: FBT003
    frames = pamqp.frame.marshal(method, channel)
    frames += _content(channel, body, part_bytes, "id")
    event = ("delivery", tag, body) if channel == TAPPED else None
    return Step(frames=frames, event=event)


def returned(message_id: str, body: bytes, *, channel: int) -> Step:
    """Make a return of a message that no queue wanted."""
    method = commands.Basic.Return(312, "NO_ROUTE", "exchange", "key")
    frames = pamqp.frame.marshal(method, channel)
    frames += _content(channel, body, 40, message_id)
    event = ("return", message_id) if channel == TAPPED else None
    return Step(frames=frames, event=event)


def confirm(tag: int, *, multiple: bool, positive: bool, channel: int) -> Step:
    """Make an ack or a nack."""
    kind = commands.Basic.Ack if positive else commands.Basic.Nack
    frames = pamqp.frame.marshal(kind(delivery_tag=tag, multiple=multiple), channel)
    event = ("confirm", tag, multiple, positive) if channel == TAPPED else None
    return Step(frames=frames, event=event)


def method(frame: pamqp.base.Frame, channel: int) -> Step:
    """Make a frame that is none of ours."""
    return Step(frames=pamqp.frame.marshal(frame, channel))


_bodies: Final = st.binary(max_size=130)
_tags: Final = st.integers(min_value=1, max_value=2**40)
_channels: Final = st.sampled_from([TAPPED, OTHER])
_steps: Final[SearchStrategy[Step]] = st.one_of(
    st.builds(delivery, _tags, _bodies, channel=_channels),
    st.builds(returned, st.text("abc.19", min_size=1), _bodies, channel=_channels),
    st.builds(
        confirm,
        _tags,
        multiple=st.booleans(),
        positive=st.booleans(),
        channel=_channels,
    ),
    st.sampled_from(
        [
            method(commands.Basic.ConsumeOk("consumer"), TAPPED),
            method(commands.Basic.Cancel("consumer"), TAPPED),
            method(commands.Channel.CloseOk(), TAPPED),
            method(commands.Queue.DeclareOk("queue", 1, 1), OTHER),
            Step(frames=HEARTBEAT),
        ]
    ),
)


def _in_chunks(raw: bytes, cuts: Iterable[int]) -> list[bytes]:
    ends = sorted({cut % (len(raw) + 1) for cut in cuts} | {0, len(raw)})
    return [raw[start:end] for start, end in pairwise(ends)]


@settings(max_examples=200)
@given(steps=st.lists(_steps, max_size=12), cuts=st.lists(st.integers(0, 5000)))
def test_every_frame_reaches_its_reader_in_order(
    steps: Sequence[Step], cuts: Sequence[int]
) -> None:
    """Whatever pieces the socket hands over: nothing is lost, torn or swapped."""
    splitter, listener = Splitter(), Listener()
    splitter.taps[TAPPED] = listener.tap()
    raw = b"".join(step.frames for step in steps)

    passed_on = b"".join(splitter.feed(chunk) for chunk in _in_chunks(raw, cuts))

    assert [s.event for s in steps if s.event is not None] == listener.events
    assert b"".join(s.frames for s in steps if s.event is None) == passed_on


def test_byte_by_byte_is_enough() -> None:
    """A frame counts when its last byte is here, and not before."""
    splitter, listener = Splitter(), Listener()
    splitter.taps[TAPPED] = listener.tap()
    step = delivery(5, b"x" * 100, channel=TAPPED)

    for byte in step.frames[:-1]:
        assert b"" == splitter.feed(bytes([byte]))
        assert [] == listener.events
    assert b"" == splitter.feed(step.frames[-1:])

    assert [step.event] == listener.events


def test_contents_of_two_channels_may_be_interleaved() -> None:
    """The broker sends frames of channels in turn; each has its own content."""
    splitter, first, second = Splitter(), Listener(), Listener()
    splitter.taps.update({1: first.tap(), 2: second.tap()})
    deliveries = [
        _cut(delivery(7, bytes([channel]) * 90, channel=channel).frames)
        for channel in (1, 2)
    ]
    mixed = [frame for pair in zip(*deliveries, strict=True) for frame in pair]

    passed_on = [splitter.feed(frame) for frame in mixed]

    assert b"" == b"".join(passed_on)
    assert [("delivery", 7, b"\x01" * 90)] == first.events
    assert [("delivery", 7, b"\x02" * 90)] == second.events


def test_channel_without_a_tap_is_left_alone() -> None:
    """Before a channel is tapped and after, all of its frames are aiormq's."""
    splitter, listener = Splitter(), Listener()
    step = delivery(1, b"body", channel=TAPPED)

    before = splitter.feed(step.frames)
    splitter.taps[TAPPED] = listener.tap()
    splitter.feed(step.frames)
    del splitter.taps[TAPPED]
    after = splitter.feed(step.frames)

    assert (step.frames, step.frames) == (before, after)
    assert [step.event] == listener.events


def test_old_tap_cannot_remove_the_new_one() -> None:
    """A channel's number is free again before its user has noticed the end."""
    stream, old, new = FrameStream(), Tap(), Tap()
    stream.tap(TAPPED, old)
    stream.tap(TAPPED, new)

    stream.untap(TAPPED, old)

    assert {TAPPED: new} == stream._splitter.taps
    stream.untap(TAPPED, new)
    assert {} == stream._splitter.taps


def test_channel_that_the_broker_closes_is_announced_and_passed_on() -> None:
    """Whoever writes has to stop before aiormq answers."""
    splitter = Splitter()
    reasons: list[str] = []
    splitter.taps[TAPPED] = Tap(on_close=reasons.append)
    close = commands.Channel.Close(404, "NOT_FOUND - ü", 60, 40)
    frames = method(close, TAPPED).frames + method(close, OTHER).frames

    assert frames == splitter.feed(frames)
    assert ["NOT_FOUND - ü"] == reasons


def test_alarms_are_noted_and_passed_on() -> None:
    """aiormq has to know them as well."""
    splitter = Splitter()
    blocked = method(commands.Connection.Blocked("low on disk: ü"), 0)
    unblocked = method(commands.Connection.Unblocked(), 0)

    assert blocked.frames == splitter.feed(blocked.frames)
    assert "low on disk: ü" == splitter.blocked
    assert unblocked.frames == splitter.feed(unblocked.frames)
    assert splitter.blocked is None


def test_server_of_another_protocol_is_left_to_aiormq() -> None:
    """RabbitMQ refuses a client with its own protocol header, which is no frame."""
    splitter = Splitter()
    header = ProtocolHeader().marshal()

    answers = [splitter.feed(bytes([byte])) for byte in header]

    assert header == b"".join(answers)
    assert b"more" == splitter.feed(b"more")


@given(data=st.binary(max_size=200), cuts=st.lists(st.integers(0, 200)))
def test_garbage_is_refused_or_passed_on(data: bytes, cuts: Sequence[int]) -> None:
    """It never hangs, and is never mistaken for a message."""
    splitter, listener = Splitter(), Listener()
    splitter.taps[TAPPED] = listener.tap()
    passed_on = b""

    try:
        for chunk in _in_chunks(data, cuts):
            passed_on += splitter.feed(chunk)
    except wire.UNREADABLE:
        return

    assert [] == listener.events
    assert passed_on == data[: len(passed_on)]


@given(data=st.data())
def test_broken_frames_are_refused_or_ignored(data: st.DataObject) -> None:
    """One wrong byte anywhere in a conversation ends in nothing but our errors."""
    steps = [
        delivery(1, b"x" * 50, channel=TAPPED),
        confirm(2, multiple=False, positive=True, channel=TAPPED),
        returned("id.1", b"y", channel=TAPPED),
        method(commands.Connection.Blocked("memory"), 0),
    ]
    raw = bytearray(b"".join(step.frames for step in steps))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] = data.draw(st.integers(0, 255))
    splitter, listener = Splitter(), Listener()
    splitter.taps[TAPPED] = listener.tap()

    try:
        splitter.feed(bytes(raw))
    except wire.UNREADABLE:
        return

    assert len(listener.events) <= 3


def test_frame_without_its_end_is_refused() -> None:
    """So bytes that are out of step are noticed at once."""
    splitter = Splitter()
    frame = bytearray(confirm(1, multiple=True, positive=True, channel=TAPPED).frames)
    frame[-1] = 0

    with pytest.raises(ValueError, match="end"):
        splitter.feed(bytes(frame))


class _Broker:
    """Accepts one connection and sends what it is told."""

    def __init__(self) -> None:
        self._writers: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
        self.url = URL()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = URL(f"amqp://127.0.0.1:{port}/")
        self._accepted: list[asyncio.StreamWriter] = []
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._accepted:
            writer.close()
        await self._server.wait_closed()

    async def _accept(
        self, _: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._accepted.append(writer)
        await self._writers.put(writer)

    async def accepted(self) -> asyncio.StreamWriter:
        """Wait for the connection."""
        async with asyncio.timeout(5):
            return await self._writers.get()


async def test_connection_that_breaks_the_protocol_is_closed() -> None:
    """The reader gets an error of the connection, which aiormq knows to handle."""
    stream = FrameStream()
    async with _Broker() as broker:
        reader, writer = await stream.create(broker.url)
        server = await broker.accepted()
        stream.tap(TAPPED, Tap())

        server.write(b"\x01\x00\x03\x00\x00\x00\x02garbage without an end")
        async with asyncio.timeout(5):
            with pytest.raises(ConnectionError):
                await reader.readexactly(1)

        writer.close()


async def test_tapped_frames_count_as_signs_of_life() -> None:
    """aiormq would take a connection for stuck on which it sees no frame."""
    stream, listener = FrameStream(), Listener()
    step = confirm(1, multiple=False, positive=True, channel=TAPPED)
    async with _Broker() as broker:
        reader, writer = await stream.create(broker.url)
        server = await broker.accepted()
        stream.tap(TAPPED, listener.tap())

        server.write(step.frames)
        async with asyncio.timeout(5):
            assert HEARTBEAT == await reader.readexactly(len(HEARTBEAT))

        assert [step.event] == listener.events
        writer.close()


async def test_half_a_frame_is_no_sign_of_life() -> None:
    """A frame that never ends must not keep a dead connection alive."""
    stream, listener = FrameStream(), Listener()
    huge = b"\x03\x00\x03\xff\xff\xff\xff"
    async with _Broker() as broker:
        reader, writer = await stream.create(broker.url)
        server = await broker.accepted()
        stream.tap(TAPPED, listener.tap())

        server.write(huge + b"x" * 1000)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await reader.readexactly(1)

        assert [] == listener.events
        writer.close()


async def test_address_that_refuses_is_an_error_of_aiormq() -> None:
    """That is what aiormq expects of a transport."""
    async with _Broker() as broker:
        url = broker.url

    with pytest.raises(aiormq.exceptions.AMQPConnectionError):
        await FrameStream().create(url)


def _cut(raw: bytes) -> list[bytes]:
    frames = []
    while raw:
        end = int.from_bytes(raw[3:7]) + wire.FRAME_OVERHEAD_BYTES
        frames.append(raw[:end])
        raw = raw[end:]
    return frames
