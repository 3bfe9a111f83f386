"""Brings what is in the spool to the broker: in order, published before removed."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from pipeline.errors import (
    AlreadySettled,
    BrokerError,
    BrokerUnavailable,
    DeliveryLost,
    PublishRefused,
    Unroutable,
)
from pipeline.failpoints import reach
from pipeline.logs import get_logger
from pipeline.message import Publication
from pipeline.metrics import FORWARDED
from pipeline.spool.spool import LEASE
from pipeline.topology import CALLBACKS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipeline.broker.port import Consumer, Delivery
    from pipeline.spool.outlet import Outlet

log = get_logger("spool")

#: Leased ahead, so that the next batch is there when one is done.
PREFETCH: Final = 1024
#: At most so many are published together.
BATCH_LIMIT: Final = 256
#: How often the broker is looked at while it is known to be away.
POLL_SECONDS: Final = 0.1
#: Nothing has come for so long: the spool may be empty.
IDLE_SECONDS: Final = 0.2
#: How often the spool is measured, and how many times longer than that takes it rests.
MEASURE_SECONDS: Final = 1.0
MEASURE_SHARE: Final = 30
#: The first wait after the broker has refused a callback, and the longest.
REFUSED_SECONDS: Final = 0.5
LONGEST_REFUSED_SECONDS: Final = 5.0


class Forwarder:
    """Drains the spool in order of receipt while the process runs; a role.

    While the circuit is open it is the probe, with one callback at a time, so that
    no caller has to wait for a broker that may be away.
    """

    name = "forwarder"
    problem = None

    def __init__(
        self, outlet: Outlet, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._outlet = outlet
        self._spool = outlet.spool
        self._clock = clock
        self._batch_size = BATCH_LIMIT
        self._refused_seconds = REFUSED_SECONDS

    async def run(self, stopping: asyncio.Event) -> None:
        """Forward until ``stopping`` is set; the rest waits for the next start."""
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._look(), name="spool look"),
                group.create_task(self._measure(), name="spool measure"),
                group.create_task(self._forward_all(), name="spool forward"),
            ]
            await stopping.wait()
            for task in tasks:
                task.cancel()

    async def _look(self) -> None:
        while True:
            self._outlet.look()
            await asyncio.sleep(POLL_SECONDS)

    async def _measure(self) -> None:
        while True:
            began = self._clock()
            try:
                await self._spool.measure()
            except BrokerUnavailable as error:
                log.debug("spool_not_measured", error=str(error))
            # Counting what waits takes longer the more that is, and holds up what
            # comes: never more than a little of the time.
            pause = MEASURE_SHARE * (self._clock() - began)
            await asyncio.sleep(max(MEASURE_SECONDS, pause))

    async def _forward_all(self) -> None:
        while True:
            await self._spool.filled.wait()
            try:
                await self._wait_for_the_dead()
                await self._drain()
            except BrokerError as error:
                # Of the spool's file, not of the broker that is forwarded to.
                log.warning("forwarding_failed", error=str(error), waiting="spool")
                await asyncio.sleep(MEASURE_SECONDS)

    async def _wait_for_the_dead(self) -> None:
        """Wait for what a killed process held, because that came first.

        Another process that lives and forwards too is not waited for.
        """
        due_at = self._clock() + LEASE.total_seconds() + 1
        # Other processes change it, so there is no event to wait for.
        while self._clock() < due_at and await self._spool.count_held():  # noqa: ASYNC110
            await asyncio.sleep(POLL_SECONDS)

    async def _drain(self) -> None:
        began, count = self._clock(), 0
        await self._spool.measure()
        while self._spool.filled.is_set():
            count += await self._drain_first_queue()
        seconds = round(self._clock() - began, 3)
        log.info("spool_drained", messages=count, seconds=seconds)

    async def _drain_first_queue(self) -> int:
        """Forward until another queue has the oldest, or there is nothing; count."""
        count, queue = 0, self._spool.first_queue
        async with self._spool.consume(PREFETCH) as consumer:
            while self._spool.filled.is_set() and self._spool.first_queue == queue:
                deliveries: Sequence[Delivery] = ()
                try:
                    async with asyncio.timeout(IDLE_SECONDS):
                        deliveries = await consumer.receive(BATCH_LIMIT)
                except TimeoutError:
                    await self._spool.measure()
                await self._forward(consumer, deliveries)
                count += len(deliveries)
        return count

    async def _forward(
        self, consumer: Consumer, deliveries: Sequence[Delivery]
    ) -> None:
        """Publish and remove ``deliveries``, however long the broker is away."""
        waiting = list(deliveries)
        while waiting:
            await self._until_worth_a_try()
            is_probe = not self._outlet.circuit.is_closed
            batch = waiting[: 1 if is_probe else self._batch_size]
            try:
                await self._outlet.broker.publish(
                    *(
                        Publication(exchange=CALLBACKS, envelope=delivery.envelope)
                        for delivery in batch
                    )
                )
            except BrokerError as error:
                await self._failed(error)
                continue
            self._outlet.succeeded()
            self._batch_size = min(self._batch_size * 2, BATCH_LIMIT)
            self._refused_seconds = REFUSED_SECONDS
            await reach("forwarder.before_ack")
            await self._remove(consumer, batch)
            del waiting[: len(batch)]

    async def _until_worth_a_try(self) -> None:
        while not self._is_worth_a_try():  # noqa: ASYNC110  depends on the time
            await asyncio.sleep(POLL_SECONDS)

    def _is_worth_a_try(self) -> bool:
        outlet = self._outlet
        if outlet.broker.problem is not None:
            return False
        return outlet.circuit.may_probe(self._clock())

    async def _failed(self, error: BrokerError) -> None:
        """Go on with fewer at a time; where the broker says no, wait a while."""
        self._outlet.failed(error)
        if not isinstance(error, Unroutable | PublishRefused):
            # Perhaps it is only slow: a batch that is too large would never end.
            self._batch_size = max(1, self._batch_size // 2)
            return
        # One at a time, so that what the broker takes is not sent to it again.
        self._batch_size = 1
        log.warning("forwarding_failed", error=str(error), waiting="broker")
        await asyncio.sleep(self._refused_seconds)
        self._refused_seconds = min(self._refused_seconds * 2, LONGEST_REFUSED_SECONDS)

    async def _remove(self, consumer: Consumer, batch: Sequence[Delivery]) -> None:
        """Remove what the broker has; what was lost comes again, with the same id."""
        try:
            await consumer.ack(batch)
        except DeliveryLost:
            for delivery in batch:
                try:
                    await consumer.ack((delivery,))
                except (DeliveryLost, AlreadySettled):
                    continue
        self._spool.forwarded(len(batch))
        FORWARDED.inc(len(batch))
