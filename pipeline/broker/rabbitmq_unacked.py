"""What one channel has delivered and the broker still counts as un-acked.

Acknowledgements of one turn of the event loop are sent together, all below the
first open delivery with a single frame. They take the same way as what is given
back: one that overtook it and meant "all up to here" would settle that as well.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from typing import TYPE_CHECKING, Final, cast

from pipeline.broker import rabbitmq_wire as wire
from pipeline.broker.rabbitmq_connection import FOREIGN_ERRORS
from pipeline.errors import AlreadySettled, DeliveryLost
from pipeline.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Sequence

    import aiormq

    from pipeline.broker.port import Delivery
    from pipeline.broker.rabbitmq_stream import FrameStream

log = get_logger("broker")

#: The field has 16 bits (AMQP 0-9-1, ``basic.qos``), and 0 means without limit.
MOST_PREFETCHED: Final = 65_535


class Unacked:
    """Keeps count of the deliveries of one channel and settles them.

    Args:
        channel: where they came from.
        stream: the short cut; ``None``: settle through aiormq.
    """

    def __init__(
        self, channel: aiormq.abc.AbstractChannel, stream: FrameStream | None
    ) -> None:
        self._channel = channel
        self._stream = stream
        #: Delivery tag, in the order of arrival -> settled, but not sent yet?
        self._tags: dict[int, bool] = {}
        #: Those that have come back so often that once more would make a difference.
        self._worn: set[int] = set()
        self._flush_is_due = False
        #: Only where there is no short cut.
        self._sending: set[asyncio.Task[None]] = set()

    @property
    def is_usable(self) -> bool:
        """Whether the channel is open still."""
        return not self._channel.is_closed

    def __len__(self) -> int:
        """Count what is neither settled nor given back."""
        return sum(not is_settled for is_settled in self._tags.values())

    def __contains__(self, tag: object) -> bool:
        """Tell whether a delivery is ours, settled or not."""
        return tag in self._tags

    def add(self, tag: int, *, is_worn: bool = False) -> None:
        """Note a delivery that has arrived."""
        self._tags[tag] = False
        if is_worn:
            self._worn.add(tag)

    def has_worn(self, tag: int) -> bool:
        """Tell what was said of a delivery when it arrived."""
        return tag in self._worn

    def settle(self, tag: int) -> None:
        """Acknowledge a delivery soon."""
        self._tags[tag] = True
        if not self._flush_is_due:
            self._flush_is_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    async def give_back(self, tag: int) -> None:
        """Put a delivery back into its queue."""
        self._tags.pop(tag, None)
        self._worn.discard(tag)
        if self._stream is not None:
            self._stream.write(wire.give_back(self._channel.number, tag))
        else:
            await self._channel.basic_nack(tag, requeue=True, wait=False)

    async def flush(self, *, within_seconds: float) -> None:
        """Send what is settled now, before the channel is closed."""
        self._flush()
        if self._sending:
            await asyncio.wait(self._sending, timeout=within_seconds)

    def drop(self) -> None:
        """Forget everything: the broker delivers it again."""
        self._tags.clear()
        self._worn.clear()
        for task in self._sending:
            task.cancel()

    def _flush(self) -> None:
        self._flush_is_due = False
        if not self.is_usable:
            return
        tags = self._tags
        settled = [tag for tag, is_settled in tags.items() if is_settled]
        self._tags = {tag: False for tag, is_settled in tags.items() if not is_settled}
        self._worn.difference_update(settled)
        if self._stream is not None:
            lowest_open = next(iter(self._tags), None)
            frames = _acknowledge(self._channel.number, settled, lowest_open)
            self._stream.write(frames)
            return
        for tag in settled:
            # One by one: in aiormq's queue they can overtake what is given back.
            task = asyncio.create_task(self._acknowledge_plainly(tag))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _acknowledge_plainly(self, tag: int) -> None:
        try:
            await self._channel.basic_ack(tag, wait=False)
        except FOREIGN_ERRORS as error:
            # The channel is gone: the broker delivers it again.
            log.debug("ack_failed", error=str(error))


def _acknowledge(
    channel: int, settled: Sequence[int], lowest_open: int | None
) -> bytes:
    """Acknowledge with as few frames as can be. Both are in the order of tags."""
    together = (
        len(settled) if lowest_open is None else bisect_left(settled, lowest_open)
    )
    frames = [wire.acknowledge(channel, tag) for tag in settled[together:]]
    if together:
        highest = settled[together - 1]
        frames.append(wire.acknowledge(channel, highest, multiple=True))
    return b"".join(frames)


def require_prefetch(prefetch: int) -> None:
    """Refuse what RabbitMQ cannot be told."""
    if not 1 <= prefetch <= MOST_PREFETCHED:
        message = f"expected a prefetch of 1 to {MOST_PREFETCHED}, got {prefetch}"
        raise ValueError(message)


def require_held(
    deliveries: Sequence[Delivery],
    tags: Sequence[tuple[Unacked, int]],
    present: Unacked | None,
) -> None:
    """Let nothing be published or acknowledged for what somebody else has got by now.

    Of several, each can still be settled alone, which tells which ones are lost.

    Raises:
        DeliveryLost: a tag is not of the channel that is there at present.
    """
    lost = sum(unacked is not present or tag not in unacked for unacked, tag in tags)
    if lost:
        for delivery, known in zip(deliveries, tags, strict=True):
            delivery.tag = known if len(deliveries) > 1 else None
        message = f"{lost} of {len(deliveries)} deliveries went back to the broker"
        raise DeliveryLost(message)


def require_unsettled(delivery: Delivery) -> None:
    """Refuse what was settled before."""
    if delivery.tag is None:
        raise AlreadySettled(
            f"message {delivery.envelope.message_id} of queue {delivery.queue}"
            " is settled already"
        )


def is_worn(delivery: Delivery) -> bool:
    """Tell whether it had come back so often that once more would make a difference."""
    unacked, tag = tag_of(delivery)
    return unacked.has_worn(tag)


def tag_of(delivery: Delivery) -> tuple[Unacked, int]:
    """Give what a delivery belongs to, and its delivery tag there."""
    return cast("tuple[Unacked, int]", delivery.tag)
