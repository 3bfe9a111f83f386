"""Opening channels: to publish over, the fastest way there is, and to consume over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.broker.rabbitmq_plain import PlainPublisher, Publisher
from pipeline.broker.rabbitmq_publisher import FastPublisher
from pipeline.broker.rabbitmq_stream import stream_of
from pipeline.broker.rabbitmq_topology import frame_max_of
from pipeline.logs import get_logger

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    import aiormq
    from aio_pika.abc import AbstractConnection

log = get_logger("broker")


async def open_publisher(
    connection: AbstractConnection, on_refused: Callable[[Publisher], None]
) -> Publisher:
    """Open a channel to publish over; ``on_refused`` is told of nacks."""
    channel = connection.channel(publisher_confirms=True, on_return_raises=True)
    await channel.initialize()
    raw = await channel.get_underlay_channel()
    if (stream := stream_of(connection)) is not None:
        return FastPublisher(raw, stream, frame_max_of(connection), on_refused)
    log.info("publishing_plainly")
    return PlainPublisher(channel, frame_max_of(connection), on_refused)


async def open_consumer_channel(
    connection: AbstractConnection, lost: asyncio.Event
) -> aiormq.abc.AbstractChannel:
    """Open a channel; ``lost`` is set when it closes or the broker cancels."""
    wrapped = connection.channel(publisher_confirms=False)
    await wrapped.initialize()
    channel = await wrapped.get_underlay_channel()

    def note(_: object) -> None:
        lost.set()

    channel.closing.add_done_callback(note)
    channel.on_consumer_cancel_callbacks.add(note)
    return channel
