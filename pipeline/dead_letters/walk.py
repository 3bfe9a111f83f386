"""One pass over a dead-letter queue, and how fast it may go.

Looking means holding: what is not settled stays un-acked until the end, so that
nothing is seen twice, and is then given back. A consumer whose prefetch is used up
gets no more, so a walk goes on with a fresh one and keeps the earlier ones open.
Nothing of a message is kept once it has been handed on: memory does not grow with
the queue. So when the broker takes back what is held, what comes again cannot be told
from what is new, and the walk ends with an error.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Final, Self

from pipeline.errors import BrokerUnavailable, DeliveryLost
from pipeline.topology import dead_letter_queue

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from pipeline.broker.found import Depth
    from pipeline.broker.port import Broker, Consumer, Delivery
    from pipeline.message import Publication

#: Un-acked at one consumer; with bodies of some KiB this bounds our memory.
PAGE: Final = 500
#: Published and acknowledged in one go.
BATCH: Final = 200
#: A walk ends early when nothing came for so long from a broker that is there.
IDLE_SECONDS: Final = 2.0
#: The longest to wait for a broker that is away.
PATIENCE_SECONDS: Final = 15.0
#: The longest to wait until what was given back can be counted again, and how often
#: to look. RabbitMQ closes a channel before its queues have taken back what it held.
GIVE_BACK_SECONDS: Final = 2.0
GIVE_BACK_LOOK_SECONDS: Final = 0.02
#: Further behind than this, a paced replay starts its schedule anew: what it caught
#: up on would be a burst.
LARGEST_LAG_SECONDS: Final = 0.1


class Walk:
    """One pass over the dead letters that a queue holds now, each seen once."""

    #: What was there at the start; known once it is entered.
    depth: Depth

    def __init__(self, broker: Broker, queue: str) -> None:
        self._broker = broker
        self._name = dead_letter_queue(queue)
        self._consumers = AsyncExitStack()
        self._consumer: Consumer | None = None
        #: Those that something was received from, and their losses until then.
        self._used: list[tuple[Consumer, int]] = []
        self._left = 0
        #: Received from the present consumer and not acknowledged.
        self._held = 0
        #: Acknowledged at the present consumer.
        self._acked = 0
        #: Received and not acknowledged, of any consumer.
        self._unsettled = 0
        #: How many there will be when those are given back, unless others take some.
        self._staying = 0

    async def __aenter__(self) -> Self:
        """Count what is there; what comes later is not part of this walk."""
        self.depth = await self._broker.depth(self._name)
        self._left = self._staying = self.depth.ready
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give everything back that was not acknowledged.

        What was given back is there for the next walk, unless somebody else took it.

        Raises:
            BrokerUnavailable: what was seen was not held until now.
        """
        if self._consumer is not None:
            # RabbitMQ loses acknowledgements that are followed at once by the end of
            # their channel, if they are many; the answer to this comes after them.
            await self._consumer.stop()
        was_held = self._holds_all
        await self._consumers.__aexit__(kind, error, trace)
        if kind is None and not was_held:
            raise self._interrupted()
        # A look that is left early ends its generator.
        if kind is None or issubclass(kind, GeneratorExit):
            await self._await_given_back()

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """Give up to ``limit`` dead letters not seen yet; none: that was all.

        Raises:
            BrokerUnavailable: no answer, or what was seen before comes again.
        """
        if self._left <= 0:
            return ()
        consumer = await self._usable_consumer()
        deliveries = await self._arrivals(consumer, min(limit, self._left))
        self._require_held()
        if deliveries and not self._held + self._acked:
            self._used.append((consumer, consumer.losses))
        self._left -= len(deliveries)
        self._held += len(deliveries)
        self._unsettled += len(deliveries)
        return deliveries

    async def ack(
        self, deliveries: Sequence[Delivery], publications: Sequence[Publication]
    ) -> None:
        """Publish, then acknowledge.

        Raises:
            BrokerUnavailable: they were taken back, and are dead letters still. The
                copies may be there as well.
            Unroutable, PublishRefused: as for ``Consumer.ack``.
        """
        if self._consumer is None:
            return
        try:
            await self._consumer.ack(deliveries, publications)
        except DeliveryLost as error:
            raise self._interrupted() from error
        self._held -= len(deliveries)
        self._acked += len(deliveries)
        self._unsettled -= len(deliveries)
        self._staying -= len(deliveries)

    async def _usable_consumer(self) -> Consumer:
        """Give the present consumer, or a fresh one if too much of it is held.

        Near the end of its prefetch a consumer hands out ever smaller batches. Where
        some are acknowledged and some are held it is left early: it gives back what
        has arrived and was not received, and the next one gets that.
        """
        if self._consumer is not None:
            if self._held < (PAGE * 3 // 4 if self._acked else PAGE):
                return self._consumer
            await self._consumer.stop()
            # If others were given what is held, the next one would get it again.
            self._require_held()
        fresh = self._broker.consume(self._name, prefetch=PAGE)
        self._consumer = await self._consumers.enter_async_context(fresh)
        self._held = self._acked = 0
        return self._consumer

    async def _await_given_back(self) -> None:
        if not self._unsettled:
            return
        give_up_at = time.monotonic() + GIVE_BACK_SECONDS
        with suppress(BrokerUnavailable):
            while (await self._broker.depth(self._name)).ready < self._staying:
                if time.monotonic() > give_up_at:
                    return
                await asyncio.sleep(GIVE_BACK_LOOK_SECONDS)

    def _require_held(self) -> None:
        """Go on only while everything that was received is settled or still held."""
        if not self._holds_all:
            raise self._interrupted()

    @property
    def _holds_all(self) -> bool:
        return all(consumer.losses == losses for consumer, losses in self._used)

    def _interrupted(self) -> BrokerUnavailable:
        return BrokerUnavailable(
            f"expected to hold the dead letters of queue {self._name} until the end,"
            " but the connection or the lease was lost and the broker took them back"
        )

    async def _arrivals(self, consumer: Consumer, limit: int) -> Sequence[Delivery]:
        started = time.monotonic()
        while True:
            try:
                async with asyncio.timeout(IDLE_SECONDS):
                    return await consumer.receive(limit)
            except TimeoutError:
                self._require_held()
                if consumer.is_active:
                    return ()  # somebody else took the rest
            if time.monotonic() - started > PATIENCE_SECONDS:
                message = (
                    f"expected the dead letters of queue {self._name} within"
                    f" {PATIENCE_SECONDS:g} s, got no connection:"
                    f" {self._broker.problem or 'no consumer'}"
                )
                raise BrokerUnavailable(message)


class Pace:
    """Spreads work evenly over time."""

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        #: Set by the first batch: the way to it is no time to be made up for.
        self._started: float | None = None
        self._done = 0

    @property
    def batch(self) -> int:
        """How many at once, so that a tenth of a second sees no burst."""
        return BATCH if self._rate is None else max(1, min(BATCH, int(self._rate / 10)))

    async def keep(self, count: int) -> None:
        """Wait until ``count`` more are due; time lost is not caught up on."""
        if self._rate is None:
            return
        now = time.monotonic()
        if self._started is None:
            self._started = now
        self._done += count
        ahead = self._started + self._done / self._rate - now
        if ahead > 0:
            await asyncio.sleep(ahead)
        elif ahead < -LARGEST_LAG_SECONDS:
            self._started -= ahead
