"""Consuming from RabbitMQ: subscribe, hand out, acknowledge many with one frame."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self

import aiormq

from pipeline.broker.port import Consumer, Delivery
from pipeline.broker.rabbitmq_arrivals import Arrivals
from pipeline.broker.rabbitmq_channels import open_consumer_channel
from pipeline.broker.rabbitmq_connection import bounded, left_until, reason_of
from pipeline.broker.rabbitmq_delivered import decode, of_message, returns_of
from pipeline.broker.rabbitmq_renewals import WORN_RETURNS
from pipeline.broker.rabbitmq_stream import FrameStream, Tap, stream_of
from pipeline.broker.rabbitmq_unacked import (
    Unacked,
    is_worn,
    require_held,
    require_unsettled,
    tag_of,
)
from pipeline.errors import BrokerError, BrokerUnavailable
from pipeline.failpoints import reach
from pipeline.logs import get_logger, report_death
from pipeline.topology import SUSPECT_DELIVERIES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from types import TracebackType

    from aio_pika.abc import AbstractConnection
    from aiormq.abc import DeliveredMessage

    from pipeline.broker.order import Order
    from pipeline.broker.rabbitmq_delivered import Delivered
    from pipeline.message import Publication
    from pipeline.topology import Topology

log = get_logger("broker")

RESUBSCRIBE_PAUSE_SECONDS: Final = 0.5
#: Longer where somebody has to mend something first.
MISTAKE_PAUSE_SECONDS: Final = 2.0
#: What a broker gets to answer a goodbye that has left the one before unanswered.
LAST_WORD_SECONDS: Final = 0.5


class RabbitConsumer(Consumer):
    """One consumer on a channel of its own, subscribed again after every loss.

    A delivery belongs to the channel it came over. When that channel is gone the
    broker has taken its deliveries back, and settling one raises
    ``DeliveryLost``.
    """

    def __init__(
        self,
        *,
        queue: str,
        prefetch: int,
        order: Order | None,
        topology: Topology,
        connect: Callable[[], Awaitable[AbstractConnection]],
        redeclare: Callable[[], Awaitable[None]],
        publish: Callable[..., Awaitable[None]],
        renew: Callable[..., Awaitable[bool]],
        deadline_seconds: float,
        require_open: Callable[[], None],
        on_closed: Callable[[RabbitConsumer], None],
    ) -> None:
        self.queue = queue
        self._prefetch = prefetch
        self._topology = topology
        self._connect = connect
        self._redeclare = redeclare
        self._publish = publish
        self._renew_all = renew
        self._deadline_seconds = self._goodbye_seconds = deadline_seconds
        self._require_open = require_open
        self._on_closed = on_closed
        self._channel: aiormq.abc.AbstractChannel | None = None
        self._stream: FrameStream | None = None
        self._tap: tuple[int, Tap] | None = None
        self._consumer_tag = f"pipeline.{queue}.{id(self):x}"
        self._is_subscribed = False
        self._is_gone = False
        #: Of the present channel; ``None``: there is none.
        self._unacked: Unacked | None = None
        self._isolates = queue in topology.work_queues
        self._arrived = Arrivals(lambda: self.unacked == len(self._arrived), order)
        self._something = asyncio.Event()
        self._stopped = False
        self._subscriber: asyncio.Task[None] | None = None

    @property
    def is_active(self) -> bool:
        channel = self._channel
        is_open = channel is not None and not channel.is_closed
        return self._is_subscribed and is_open and not self._stopped

    @property
    def unacked(self) -> int:
        """How many deliveries are neither settled nor given back."""
        return 0 if self._unacked is None else len(self._unacked)

    async def __aenter__(self) -> Self:
        self._subscriber = report_death(
            asyncio.create_task(self._stay_subscribed(), name=f"consume {self.queue}")
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped = True
        self._something.set()
        try:
            # The subscriber's end forgets what is un-acked: send what is due before.
            if self._unacked is not None:
                await self._unacked.flush(within_seconds=self._deadline_seconds)
            if self._subscriber is not None:
                self._subscriber.cancel()
                await asyncio.gather(self._subscriber, return_exceptions=True)
                self._subscriber = None
            await self._close_channel()
        finally:
            self._untap()
            self._forget()
            self._on_closed(self)

    async def _close_channel(self) -> None:
        """Close the channel, which gives everything back, in its order."""
        channel, self._channel = self._channel, None
        if channel is None or channel.is_closed:
            return
        try:
            async with bounded(self._goodbye_seconds, "closing a consumer"):
                await channel.close()
        except BrokerUnavailable as problem:
            log.debug("consumer_close_failed", error=str(problem))

    async def receive(self, limit: int = 1) -> Sequence[Delivery]:
        while True:
            # Asked for before: if it ran out between the two, nothing would wake us.
            gathering_seconds = self._arrived.gathering_seconds
            if taken := self._arrived.take(limit):
                return taken
            if self._stopped:
                return ()
            self._something.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(gathering_seconds or None):
                    await self._something.wait()

    async def stop(self) -> None:
        if self._stopped:
            return
        self._stopped = True
        self._something.set()
        channel = self._channel
        if channel is None or channel.is_closed:
            self._arrived.clear()
            return
        try:
            async with bounded(self._deadline_seconds, "cancelling a consumer"):
                await channel.basic_cancel(self._consumer_tag)
                # What was on its way has arrived before the answer did.
                waiting = [*self._arrived.drain()]
                await self._renew(waiting)
                for delivery in waiting:
                    if delivery.tag is not None:
                        await self._give_back(delivery)
        except BrokerUnavailable as problem:
            # The channel is gone, and with it everything un-acked.
            self._arrived.clear()
            self._goodbye_seconds = LAST_WORD_SECONDS
            log.debug("consumer_cancel_failed", error=str(problem))

    async def _renew(self, deliveries: Sequence[Delivery]) -> None:
        """Give back as new what only waited, before once more makes it a suspect."""
        worn = [one for one in deliveries if is_worn(one)]
        # The rest of the time is for giving back what cannot be renewed.
        due_at = asyncio.get_running_loop().time() + self._deadline_seconds / 2
        # One first: what follows a refusal to a closed channel costs the connection.
        for some in filter(None, (worn[:1], worn[1:])):
            copies = [self._topology.as_new(self.queue, one.envelope) for one in some]
            seconds = left_until(due_at)
            if not await self._renew_all(self.queue, copies, within_seconds=seconds):
                return
            # If they are lost by now, they are delivered again as well.
            with suppress(BrokerError):
                await self.ack(some)

    async def ack(
        self,
        deliveries: Sequence[Delivery],
        publications: Sequence[Publication] = (),
    ) -> None:
        self._require_open()
        for delivery in deliveries:
            require_unsettled(delivery)
        tags = [tag_of(delivery) for delivery in deliveries]
        require_held(deliveries, tags, self._unacked)
        # While we publish, nobody else can settle them.
        for delivery in deliveries:
            delivery.tag = None
        if publications:
            try:
                await self._publish(*publications)
            except BaseException:
                for delivery, known in zip(deliveries, tags, strict=True):
                    delivery.tag = known
                raise
            await reach("rabbitmq.before_ack")
            # The channel of the deliveries may be lost, though publishing has worked.
            require_held(deliveries, tags, self._unacked)
        for unacked, tag in tags:
            unacked.settle(tag)
        self._note_settled()

    def _note_settled(self) -> None:
        if self._arrived.has_suspects:
            self._something.set()

    async def release(self, delivery: Delivery) -> None:
        self._require_open()
        require_unsettled(delivery)
        async with bounded(self._deadline_seconds, "giving a delivery back"):
            await self._give_back(delivery)

    async def _give_back(self, delivery: Delivery) -> None:
        unacked, tag = tag_of(delivery)
        delivery.tag = None
        # If its channel is gone, it is given back already.
        if unacked is self._unacked and unacked.is_usable:
            await unacked.give_back(tag)
        self._note_settled()

    async def _stay_subscribed(self) -> None:
        while not self._stopped:
            try:
                await self._subscribe()
            except BrokerUnavailable as error:
                log.debug("subscribe_failed", queue=self.queue, error=str(error))
            except BrokerError as error:
                log.warning("subscribe_failed", queue=self.queue, error=str(error))
                await asyncio.sleep(MISTAKE_PAUSE_SECONDS)
            except Exception:
                # Whatever the mistake is, a consumer that gave up would go unnoticed.
                log.exception("background_step_failed", task=f"consume {self.queue}")
                await asyncio.sleep(MISTAKE_PAUSE_SECONDS)
            finally:
                self._forget()
                if not self._stopped:
                    self._channel = None
            await asyncio.sleep(RESUBSCRIBE_PAUSE_SECONDS)

    async def _subscribe(self) -> None:
        """Consume until the channel closes or the broker cancels us."""
        name = self._topology.queue_name(self.queue)
        lost = asyncio.Event()
        async with bounded(self._deadline_seconds, f"consuming from {name}"):
            if self._is_gone:
                # All of it: a queue without its bindings would get nothing.
                await self._redeclare()
                self._is_gone = False
            connection = await self._connect()
            channel = await open_consumer_channel(connection, lost)
            self._stream = stream = stream_of(connection)
            self._unacked = unacked = Unacked(channel, stream)

            def deliver(delivered: Delivered) -> None:
                self._deliver(delivered, unacked)

            async def deliver_slowly(message: DeliveredMessage) -> None:
                self._deliver(of_message(message), unacked)

            if stream is not None:
                self._tap = channel.number, Tap(on_delivery=deliver)
                stream.tap(*self._tap)
            await channel.basic_qos(prefetch_count=self._prefetch)
            # Deliveries come, and may be settled, before the answer to this does.
            self._channel = channel
            try:
                await channel.basic_consume(
                    name, deliver_slowly, consumer_tag=self._consumer_tag
                )
            except aiormq.exceptions.ChannelNotFoundEntity:
                self._is_gone = True
                raise
            except aiormq.exceptions.ChannelAccessRefused as error:
                raise BrokerError(
                    f"consuming from {name}: {reason_of(error)}"
                ) from error
        self._is_subscribed = True
        await lost.wait()
        self._forget()
        await self._close_lost(channel)

    async def _close_lost(self, channel: aiormq.abc.AbstractChannel) -> None:
        try:
            if not channel.is_closed:
                async with bounded(self._deadline_seconds, "closing a lost consumer"):
                    await channel.close()
        finally:
            self._untap()

    def _untap(self) -> None:
        """Leave a channel that is closed to aiormq again.

        Not before: half a delivery would be given to aiormq, which cannot make
        sense of it.
        """
        if self._stream is not None and self._tap is not None:
            self._stream.untap(*self._tap)
            self._tap = None

    def _forget(self) -> None:
        """Drop everything of a lost channel: the broker delivers it again."""
        self._is_subscribed = False
        self._arrived.clear()
        unacked, self._unacked = self._unacked, None
        if unacked is not None:
            self.losses += 1
            unacked.drop()

    def _deliver(self, delivered: Delivered, unacked: Unacked) -> None:
        if unacked is not self._unacked:
            return
        # Looking at dead letters delivers them in vain, and harms nobody.
        returns = returns_of(delivered) if self._isolates else 0
        unacked.add(delivered.tag, is_worn=returns >= WORN_RETURNS)
        delivery = Delivery(
            envelope=decode(delivered, self._topology),
            queue=self.queue,
            redelivered=delivered.redelivered,
            tag=(unacked, delivered.tag),
            consumer=self,
            topology=self._topology,
        )
        self._arrived.add(delivery, is_suspect=returns >= SUSPECT_DELIVERIES)
        self._something.set()
