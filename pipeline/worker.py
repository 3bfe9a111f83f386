"""The life of a delivery: receive, handle under a deadline, settle.

The only module that settles, and the only one that catches every exception. A
handler gets envelopes and says what to publish; it never sees the broker.
``docs/lifecycle.md`` follows one delivery through this module.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, TypeAlias, assert_never

from pipeline.errors import (
    BrokerError,
    BrokerUnavailable,
    DeliveryLost,
    LedgerUnavailable,
    PipelineError,
    Reject,
    Retry,
)
from pipeline.logs import get_logger
from pipeline.message import Envelope, Publication
from pipeline.metrics import DELIVERIES, DELIVERY_SECONDS, WORKER_PAUSED

if TYPE_CHECKING:
    from pipeline.retry import RetryPolicy
    from pipeline.broker.port import Broker, Consumer, Delivery

log = get_logger("worker")

#: Handles one envelope; returns what to publish, or raises to say how to settle.
Handler: TypeAlias = Callable[[Envelope], Awaitable[Sequence[Publication]]]
#: Handles many envelopes at once. The result has one entry for each, in order:
#: what to publish for it, or the error that a ``Handler`` would have raised.
BatchHandler: TypeAlias = Callable[
    [Sequence[Envelope]], Awaitable[Sequence[Sequence[Publication] | Exception]]
]

#: Something that every delivery needs is away: wait for it, count no attempt.
UNAVAILABLE: Final = (LedgerUnavailable, BrokerUnavailable)
PAUSE: Final = timedelta(seconds=0.5)
LONGEST_PAUSE: Final = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Done:
    """Handled: publish and acknowledge."""

    publications: Sequence[Publication]


@dataclass(frozen=True, slots=True)
class RetryLater:
    """Failed, attempts left: back to the queue after a wait."""

    wait: timedelta
    error: Exception


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Failed for good: to the dead-letter queue."""

    error: Exception


Outcome: TypeAlias = Done | RetryLater | DeadLetter


class DeadlineExceeded(PipelineError):
    """The handler did not finish in time; counts as an attempt."""


def one_by_one(handler: Handler) -> BatchHandler:
    """Make a batch handler of a handler of single envelopes."""

    async def handle(
        envelopes: Sequence[Envelope],
    ) -> Sequence[Sequence[Publication] | Exception]:
        (envelope,) = envelopes
        return [await handler(envelope)]

    return handle


def decide(
    result: Sequence[Publication] | Exception, *, attempt: int, policy: RetryPolicy
) -> Outcome:
    """Turn what a handler said about one envelope into how it is settled."""
    match result:
        case Reject():
            return DeadLetter(result)
        case Exception():
            after = result.after if isinstance(result, Retry) else None
            wait = policy.wait_after(attempt, at_least=after)
            return DeadLetter(result) if wait is None else RetryLater(wait, result)
        case _:
            return Done(result)


class Worker:
    """Consumes one queue with one handler until it is told to stop.

    Args:
        queue: name of the queue, without the prefix.
        handler: what to do with a batch of envelopes. It must be idempotent.
        batch_size: the most envelopes in one call of ``handler``.
        concurrency: the most calls of ``handler`` at the same time.
        deadline: the longest that one call may take.
        policy: when a failed delivery is tried again.
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
    ) -> None:
        self.queue = queue
        self._broker = broker
        self._handler = handler
        self._deadline = deadline
        self._policy = policy
        self._concurrency = concurrency
        self._batch_size = batch_size
        self._drain = drain
        self._consumer: Consumer | None = None

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
        """
        consumer = self._broker.consume(
            self.queue, prefetch=self._concurrency * self._batch_size
        )
        async with consumer:
            self._consumer = consumer
            stop = asyncio.create_task(self._stop_when(stopping, consumer))
            calls: set[asyncio.Task[None]] = set()
            try:
                while deliveries := await consumer.receive(self._batch_size):
                    calls.add(asyncio.create_task(self._process(consumer, deliveries)))
                    if len(calls) >= self._concurrency:
                        await _first_of(calls)
                await _all_of(calls, within=self._drain)
            finally:
                await _cancel(stop, *calls)

    @staticmethod
    async def _stop_when(stopping: asyncio.Event, consumer: Consumer) -> None:
        await stopping.wait()
        await consumer.stop()

    async def _process(
        self, consumer: Consumer, deliveries: Sequence[Delivery]
    ) -> None:
        """Handle and settle, waiting for what is unavailable as long as it takes."""
        pause = PAUSE
        while True:
            try:
                started = time.perf_counter()
                results = await self._handle([d.envelope for d in deliveries])
                await self._settle(consumer, deliveries, results, started)
            except UNAVAILABLE as error:
                WORKER_PAUSED.labels(self.queue).inc()
                log.warning(
                    "worker_paused",
                    queue=self.queue,
                    error_type=type(error).__name__,
                    error=str(error),
                    pause_seconds=pause.total_seconds(),
                )
                await asyncio.sleep(pause.total_seconds())
                pause = min(pause * 2, LONGEST_PAUSE)
            else:
                return

    async def _handle(
        self, envelopes: Sequence[Envelope]
    ) -> Sequence[Sequence[Publication] | Exception]:
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
                return [(await self._handle([e]))[0] for e in envelopes]
            if isinstance(error, TimeoutError) and limit.expired():
                seconds = self._deadline.total_seconds()
                message = f"expected an outcome within {seconds:g} s, got none"
                return [DeadlineExceeded(message)]
            return [error]

    async def _settle(
        self,
        consumer: Consumer,
        deliveries: Sequence[Delivery],
        results: Sequence[Sequence[Publication] | Exception],
        started: float,
    ) -> None:
        """Settle everything that succeeded in one go, the rest one by one."""
        done: list[Delivery] = []
        publications: list[Publication] = []
        failed: list[tuple[Delivery, Outcome]] = []
        for delivery, result in zip(deliveries, results, strict=True):
            outcome = decide(
                result, attempt=delivery.envelope.attempt, policy=self._policy
            )
            if isinstance(outcome, Done):
                done.append(delivery)
                publications.extend(outcome.publications)
            else:
                failed.append((delivery, outcome))
        if done:
            await self._ack(consumer, done, publications, started)
        for delivery, outcome in failed:
            await self._settle_failed(delivery, outcome, started)

    async def _ack(
        self,
        consumer: Consumer,
        done: Sequence[Delivery],
        publications: Sequence[Publication],
        started: float,
    ) -> None:
        outcome: Outcome = Done(publications)
        try:
            await consumer.ack(done, publications)
        except DeliveryLost:
            log.warning("delivery_lost", queue=self.queue, deliveries=len(done))
        except BrokerUnavailable:
            raise
        except BrokerError as error:
            # Unroutable or refused: nothing is settled yet, so try again later
            # by the same policy as a failing handler.
            for delivery in done:
                outcome = decide(
                    error, attempt=delivery.envelope.attempt, policy=self._policy
                )
                await self._settle_failed(delivery, outcome, started)
            return
        for delivery in done:
            self._report(delivery, outcome, started)

    async def _settle_failed(
        self, delivery: Delivery, outcome: Outcome, started: float
    ) -> None:
        now = datetime.now(UTC)
        try:
            match outcome:
                case RetryLater(wait, error):
                    await delivery.retry(wait, error, at=now)
                case DeadLetter(error):
                    await delivery.dead_letter(error, at=now)
                case Done(publications):
                    await delivery.ack(*publications)
                case _:
                    assert_never(outcome)
        except DeliveryLost:
            log.warning("delivery_lost", queue=self.queue, deliveries=1)
        self._report(delivery, outcome, started)

    def _report(self, delivery: Delivery, outcome: Outcome, started: float) -> None:
        """Write the one canonical log line of a delivery and count it."""
        seconds = time.perf_counter() - started
        envelope = delivery.envelope
        match outcome:
            case Done():
                name, error = "done", None
            case RetryLater(_, error):
                name = "retry"
            case DeadLetter(error):
                name = "dead_letter"
            case _:
                assert_never(outcome)
        DELIVERIES.labels(self.queue, name).inc()
        DELIVERY_SECONDS.labels(self.queue).observe(seconds)
        write = log.info if error is None else log.warning
        write(
            "delivery_settled",
            queue=self.queue,
            message_id=envelope.message_id,
            routing_key=envelope.routing_key,
            outcome=name,
            attempt=envelope.attempt,
            redelivered=delivery.redelivered,
            duration_ms=round(seconds * 1000, 1),
            **(
                {}
                if error is None
                else {"error_type": type(error).__name__, "error": str(error)[:200]}
            ),
        )


async def _first_of(calls: set[asyncio.Task[None]]) -> None:
    """Wait until one call has finished; raise what it raised."""
    done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    calls -= done
    for call in done:
        call.result()


async def _all_of(calls: set[asyncio.Task[None]], *, within: timedelta) -> None:
    """Wait for every call, at most ``within``; raise what one of them raised."""
    if calls:
        done, _ = await asyncio.wait(calls, timeout=within.total_seconds())
        for call in done:
            call.result()


async def _cancel(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
