"""The life of a delivery: receive, handle under a deadline, settle.

The only module that settles, and the only one that catches every exception. A
handler gets envelopes and says what to publish; it never sees the broker.
``docs/lifecycle.md`` follows one delivery through this module.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, TypeAlias

from pipeline.errors import (
    BrokerUnavailable,
    DeliveryLost,
    LeaseHeld,
    LedgerUnavailable,
    PipelineError,
    PublishRefused,
    Unroutable,
)
from pipeline.failpoints import reach
from pipeline.logs import get_logger
from pipeline.message import TASK_ID, Envelope, Publication
from pipeline.metrics import DELIVERIES, DELIVERY_SECONDS, WORKER_PAUSED
from pipeline.outcome import (
    OUTCOME_NAMES,
    Done,
    Failed,
    Outcome,
    Result,
    RetryLater,
    decide,
    decide_failed,
)

if TYPE_CHECKING:
    from pipeline.broker.order import Order
    from pipeline.broker.port import Broker, Consumer, Delivery
    from pipeline.retry import RetryPolicy

log = get_logger("worker")

#: Handles one envelope; returns what to publish, or raises to say how to settle.
Handler: TypeAlias = Callable[[Envelope], Awaitable[Sequence[Publication]]]
#: Handles many envelopes at once. The result has one entry for each, in order:
#: what to publish for it, or the error that a ``Handler`` would have raised.
BatchHandler: TypeAlias = Callable[[Sequence[Envelope]], Awaitable[Sequence[Result]]]

#: What a delivery needs is away, or another worker's: wait for it, count no attempt.
UNAVAILABLE: Final = (LedgerUnavailable, BrokerUnavailable, LeaseHeld)
#: The broker took none of what was published, so nothing was settled.
NOT_TAKEN: Final = (PublishRefused, Unroutable)
PAUSE: Final = timedelta(seconds=0.5)
LONGEST_PAUSE: Final = timedelta(seconds=10)

#: What the handler said of each delivery, by the delivery's identity.
Results: TypeAlias = dict[int, Result]


class DeadlineExceeded(PipelineError):
    """The handler did not finish in time; counts as an attempt."""


def one_by_one(handler: Handler) -> BatchHandler:
    """Make a batch handler of a handler of single envelopes."""

    async def handle(envelopes: Sequence[Envelope]) -> Sequence[Result]:
        (envelope,) = envelopes
        return [await handler(envelope)]

    return handle


class Worker:
    """Consumes one queue with one handler until it is told to stop.

    Args:
        queue: name of the queue, without the prefix.
        handler: what to do with a batch of envelopes. It must be idempotent.
        batch_size: the most envelopes in one call of ``handler``.
        concurrency: the most calls of ``handler`` at the same time.
        deadline: the longest that one call may take.
        policy: when a failed delivery is tried again.
        drain: the longest that calls in progress may go on once we are stopping.
        order: which delivery of its window is begun first; ``None``: as they came.
    """

    def __init__(
        self,
        broker: Broker,
        queue: str,
        handler: BatchHandler,
        *,
        deadline: timedelta,
        policy: RetryPolicy,
        concurrency: int = 1,
        batch_size: int = 1,
        drain: timedelta = timedelta(seconds=20),
        order: Order | None = None,
    ) -> None:
        self.queue = queue
        self._broker = broker
        self._handler = handler
        self._deadline = deadline
        self._policy = policy
        self._concurrency = concurrency
        self._batch_size = batch_size
        self._drain = drain
        self._order = order
        self._consumer: Consumer | None = None
        # Made once: to find a label or a logger costs more than to use it.
        self._counts = {
            kind: DELIVERIES.labels(queue, name) for kind, name in OUTCOME_NAMES.items()
        }
        self._seconds = DELIVERY_SECONDS.labels(queue)
        self._log = log.bind(queue=queue)
        self._before_settle = f"{queue.partition('.')[0]}.before_settle"

    @property
    def problem(self) -> str | None:
        """Say why nothing is consumed now; ``None``: the broker delivers to us."""
        if self._consumer is None or not self._consumer.is_active:
            return f"queue {self.queue} has no consumer: the broker is not connected"
        return None

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until ``stopping`` is set, then drain.

        Shutdown: (1) stop consuming, (2) let calls in progress finish for at most
        ``drain``, then cancel them, (3) leave the consumer, which gives back what
        is not settled. Cancelling does (3) at once.

        Raises:
            ExceptionGroup: there is an error in this program; all is given back.
        """
        order, in_progress = self._order, self._concurrency * self._batch_size
        prefetch = in_progress if order is None else max(in_progress, order.window)
        opening = self._broker.consume(self.queue, prefetch=prefetch, order=order)
        async with opening as consumer:
            self._consumer = consumer
            async with asyncio.TaskGroup() as group:
                stop = group.create_task(_stop_when(stopping, consumer))
                calls: set[asyncio.Task[None]] = set()
                while deliveries := await consumer.receive(self._batch_size):
                    call = self._process(consumer, list(deliveries), stop)
                    calls.add(group.create_task(call))
                    calls = await self._with_room(calls, stop)
                await _finish(calls, within=self._drain)

    async def _with_room(
        self, calls: set[asyncio.Task[None]], stop: asyncio.Task[None]
    ) -> set[asyncio.Task[None]]:
        """Wait until one more call may start, or until we are stopping."""
        calls = {call for call in calls if not call.done()}
        while len(calls) >= self._concurrency and not stop.done():
            await asyncio.wait({*calls, stop}, return_when=asyncio.FIRST_COMPLETED)
            calls = {call for call in calls if not call.done()}
        return calls

    async def _process(
        self, consumer: Consumer, left: list[Delivery], stop: asyncio.Task[None]
    ) -> None:
        """Handle and settle, waiting for what is unavailable as long as it takes.

        A delivery that cannot even be dead-lettered stays un-acked until it can be.
        What is not settled when we stop is given back by leaving the consumer.
        """
        started = time.perf_counter()
        results: Results | None = None
        pause = PAUSE
        while left:
            try:
                if results is None:
                    results = await self._results(left)
                    await reach(self._before_settle)
                await self._settle(consumer, left, results, started)
            except (*UNAVAILABLE, *NOT_TAKEN) as error:
                # What was handled is not handled again: only settling has to wait.
                await self._pause(error, pause, stop)
                pause = min(pause * 2, LONGEST_PAUSE)
                if stop.done():
                    return

    async def _results(self, left: Sequence[Delivery]) -> Results:
        answers = await self._handle([delivery.envelope for delivery in left])
        return dict(zip(map(id, left), answers, strict=True))

    async def _pause(
        self, error: PipelineError, pause: timedelta, stop: asyncio.Task[None]
    ) -> None:
        seconds, text = pause.total_seconds(), str(error)
        if isinstance(error, LeaseHeld):
            seconds = min(seconds, error.left.total_seconds())
            self._log.info("lease_held", error=text, pause_seconds=seconds)
        else:
            WORKER_PAUSED.labels(self.queue).inc()
            kind = type(error).__name__
            self._log.warning(
                "worker_paused", error_type=kind, error=text, pause_seconds=seconds
            )
        await asyncio.wait({stop}, timeout=seconds)

    async def _handle(self, envelopes: Sequence[Envelope]) -> Sequence[Result]:
        """Call the handler; a batch that fails as a whole is handled one by one.

        So one poisonous message costs its neighbours a second call and no more.
        """
        try:
            async with asyncio.timeout(self._deadline.total_seconds()) as limit:
                return await self._handler(envelopes)
        except UNAVAILABLE:
            raise
        except Exception as error:  # noqa: BLE001  the one place that catches all
            if len(envelopes) > 1:
                return await self._handle_each(envelopes)
            if isinstance(error, TimeoutError) and limit.expired():
                seconds = self._deadline.total_seconds()
                message = f"expected an outcome within {seconds:g} s, got none"
                return [DeadlineExceeded(message)]
            return [error]

    async def _handle_each(self, envelopes: Sequence[Envelope]) -> Sequence[Result]:
        """Handle each alone, all at once: so one that hangs costs one deadline.

        Raises:
            LedgerUnavailable, BrokerUnavailable: one of them was told so.
        """
        try:
            async with asyncio.TaskGroup() as group:
                calls = [group.create_task(self._handle([e])) for e in envelopes]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        return [call.result()[0] for call in calls]

    async def _settle(
        self,
        consumer: Consumer,
        left: list[Delivery],
        results: Results,
        started: float,
    ) -> None:
        """Settle all that succeeded in one go, the rest one by one.

        What is settled is taken out of ``left``, also when an error ends this early.
        """
        done: list[tuple[Delivery, Done]] = []
        failed: list[tuple[Delivery, Failed]] = []
        for delivery in left:
            attempt = delivery.envelope.attempt
            result = results[id(delivery)]
            outcome = decide(result, attempt=attempt, policy=self._policy)
            if isinstance(outcome, Done):
                done.append((delivery, outcome))
            else:
                failed.append((delivery, outcome))
        if done:
            failed += await self._ack(consumer, left, done, started)
        for delivery, outcome in failed:
            await self._settle_failed(delivery, outcome, started)
            left.remove(delivery)

    async def _ack(
        self,
        consumer: Consumer,
        left: list[Delivery],
        done: Sequence[tuple[Delivery, Done]],
        started: float,
    ) -> list[tuple[Delivery, Failed]]:
        """Publish and acknowledge; return the deliveries for which that was refused.

        Those are tried again later by the same policy as if their handler had
        failed. One of them costs its neighbours a second copy and no more.
        """
        deliveries = [delivery for delivery, _ in done]
        publications = [p for _, outcome in done for p in outcome.publications]
        try:
            await consumer.ack(deliveries, publications)
        except (DeliveryLost, *NOT_TAKEN) as error:
            if len(done) > 1:
                alone = [
                    await self._ack(consumer, left, [one], started) for one in done
                ]
                return [refused for some in alone for refused in some]
            if isinstance(error, DeliveryLost):
                self._log.warning("delivery_lost", deliveries=1)
                left.remove(deliveries[0])
                return []
            attempt = deliveries[0].envelope.attempt
            outcome = decide_failed(error, attempt=attempt, policy=self._policy)
            return [(deliveries[0], outcome)]
        settled = set(map(id, deliveries))
        left[:] = [delivery for delivery in left if id(delivery) not in settled]
        for delivery, handled in done:
            self._report(delivery, handled, started)
        return []

    async def _settle_failed(
        self, delivery: Delivery, outcome: Failed, started: float
    ) -> None:
        now = datetime.now(UTC)
        try:
            if isinstance(outcome, RetryLater):
                await delivery.retry(outcome.wait, outcome.error, at=now)
            else:
                await delivery.dead_letter(outcome.error, at=now)
        except DeliveryLost:
            self._log.warning("delivery_lost", deliveries=1)
            return
        self._report(delivery, outcome, started)

    def _report(self, delivery: Delivery, outcome: Outcome, started: float) -> None:
        """Write the one canonical log line of a delivery and count it."""
        seconds = time.perf_counter() - started
        envelope = delivery.envelope
        kind = type(outcome)
        self._counts[kind].inc()
        self._seconds.observe(seconds)
        fields: dict[str, object] = {
            "message_id": envelope.message_id,
            "routing_key": envelope.routing_key,
            "task_id": envelope.headers.get(TASK_ID),
            "outcome": OUTCOME_NAMES[kind],
            "attempt": envelope.attempt,
            "redelivered": delivery.redelivered,
            "duration_ms": round(seconds * 1000, 1),
        }
        if isinstance(outcome, Done):
            self._log.info("delivery_settled", **fields)
        else:
            fields["error_type"] = type(outcome.error).__name__
            fields["error"] = str(outcome.error)[:200]
            self._log.warning("delivery_settled", **fields)


async def _stop_when(stopping: asyncio.Event, consumer: Consumer) -> None:
    await stopping.wait()
    await consumer.stop()


async def _finish(calls: set[asyncio.Task[None]], *, within: timedelta) -> None:
    """Wait for every call, at most ``within``, then cancel those that are left."""
    if calls:
        _, late = await asyncio.wait(calls, timeout=within.total_seconds())
        for call in late:
            call.cancel()
