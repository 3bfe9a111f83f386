"""What every broker does for us, and the promises that the contract suite checks.

Two adapters: ``sqlite.py`` (embedded) and ``rabbitmq.py``. Both route with the
same ``Topology`` and carry the same headers, so retrying and dead-lettering are
written once, here, as "publish, then acknowledge".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Self

from pipeline.message import Envelope, Publication, failed
from pipeline.topology import dead_letter

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Collection, Sequence
    from datetime import datetime, timedelta
    from types import TracebackType

    from pipeline.broker.found import Depth, Difference, FoundQueue
    from pipeline.broker.order import Order
    from pipeline.topology import Topology


class Broker(ABC):
    """A handle on a broker, to be used as an async context manager.

    Entering returns at once, even while the broker is down: a background task
    connects and reconnects. Every other call waits for the connection at most as
    long as the handle's deadline, then raises ``BrokerUnavailable``.

    All methods may be called concurrently by tasks of one event loop. All but
    ``problem`` and ``begin`` raise ``BrokerClosed`` before entering and after leaving.
    """

    @abstractmethod
    async def __aenter__(self) -> Self:
        """Start connecting in the background."""

    @abstractmethod
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give back what is unsettled and close. Idempotent."""

    @property
    @abstractmethod
    def problem(self) -> str | None:
        """Say in a sentence why publishing cannot work now; ``None``: it can."""

    @abstractmethod
    async def version(self) -> str:
        """Name what holds the messages and its version, such as ``RabbitMQ 3.10.8``.

        Raises:
            BrokerUnavailable: no answer in time.
        """

    @abstractmethod
    async def declare(self, topology: Topology) -> Sequence[Difference]:
        """Make sure that everything in ``topology`` exists. Idempotent.

        Has to be called once on every handle, before anything else: names are
        looked up in the topology. The topology is declared again by itself where
        the broker came back without it, or another process has deleted it.

        Where the user may not declare, it is enough that everything is there.

        Returns the differences that are tolerated, which are logged as well.

        Raises:
            TopologyMismatch: something exists with other arguments; nothing that
                existed was changed.
            TopologyMissing: something is missing that this user may not declare.
            BrokerUnavailable: no answer in time.
        """

    @abstractmethod
    async def check(self, topology: Topology) -> Sequence[Difference]:
        """Compare the broker with ``topology`` and change nothing.

        Raises:
            BrokerUnavailable: no answer in time.
        """

    @abstractmethod
    async def delete(self, topology: Topology) -> None:
        """Remove everything in ``topology``, with every message in it. Idempotent.

        For tests, demos and for putting a pipeline out of service. Consumers of its
        queues lose them; this handle has to declare again before anything else.

        Raises:
            BrokerUnavailable: no answer in time; some of it may be removed.
        """

    @abstractmethod
    async def find_queues(
        self, topology: Topology, names: Collection[str]
    ) -> Sequence[FoundQueue]:
        """Give those of the queues ``names`` that there are, and change nothing.

        A broker that can list its queues (RabbitMQ cannot, over AMQP 0-9-1) also
        gives all others under the prefix of ``topology``: some may be left over
        from other settings.

        Raises:
            BrokerUnavailable: no answer in time.
        """

    @abstractmethod
    async def delete_queue(
        self, topology: Topology, name: str, *, if_idle: bool = False
    ) -> None:
        """Remove one queue under the prefix of ``topology``, with what is in it.

        ``topology`` need not name it. Idempotent. With ``if_idle`` only an empty one
        that nobody takes from. RabbitMQ cannot do this in one step: what is
        published between the last look and the removal is lost, and said to be.

        Raises:
            BrokerError: it is not idle, and is left as it was; or messages were lost.
            BrokerUnavailable: no answer in time.
        """

    @abstractmethod
    async def publish(self, *publications: Publication) -> None:
        """Publish, and return only when every message is stored on disk.

        Messages of one call are stored in their order. If the call raises, any
        of them may have been stored, except as said below. Cancelling the call
        leaves the outcome unknown as well.

        Raises:
            Unroutable: no queue is bound for one of them; that one is not stored.
            PublishRefused: a queue is full, or has no leader just now; that message
                is not stored.
            BrokerUnavailable: no answer in time; the outcome is unknown.
        """

    def begin(
        self,
        publication: Publication,  # noqa: ARG002
    ) -> asyncio.Future[None] | None:
        """Begin to publish one message, where nothing has to be waited for before.

        For whoever has thousands of them a second: it takes no task. Gives what is
        done once the message is stored on disk, and otherwise raises what ``publish``
        would; cancelled, it leaves the outcome unknown. ``None``: nothing was done,
        and ``publish`` is to be used, for which there need not be anything wrong.
        """
        return None

    @abstractmethod
    def consume(
        self, queue: str, *, prefetch: int, order: Order | None = None
    ) -> Consumer:
        """Make a consumer, which its context starts; ``order`` is of what arrived."""

    @abstractmethod
    async def depth(self, queue: str) -> Depth:
        """Count what waits in ``queue``.

        Raises:
            BrokerUnavailable: no answer in time, or the queue does not exist.
        """


class Consumer(ABC):
    """Deliveries of one queue, to be used as an async context manager.

    At most ``prefetch`` deliveries are un-acked at any time. A consumer survives
    a lost connection: it subscribes again by itself, and what was un-acked is
    delivered again. Leaving the context gives back what is un-acked.
    """

    #: How often the broker took back what was un-acked here, because the connection
    #: or the lease was lost; it is delivered again, here or elsewhere.
    losses: int = 0

    @abstractmethod
    async def __aenter__(self) -> Self:
        """Subscribe, or start trying to."""

    @abstractmethod
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop consuming and give back every delivery that is not settled."""

    @property
    @abstractmethod
    def is_active(self) -> bool:
        """Whether the broker counts this as a consumer now."""

    @abstractmethod
    async def receive(self, limit: int = 1) -> Sequence[Delivery]:
        """Wait for a delivery and return up to ``limit`` of those that are here.

        Returns an empty sequence only after ``stop``. Cancelling loses nothing.
        """

    @abstractmethod
    async def stop(self) -> None:
        """Take no new deliveries; those not yet received are given back.

        Deliveries that were received can still be settled. ``receive`` returns
        an empty sequence from now on; all ``losses`` are up to date. Idempotent.
        """

    @abstractmethod
    async def ack(
        self,
        deliveries: Sequence[Delivery],
        publications: Sequence[Publication] = (),
    ) -> None:
        """Publish, wait until that is stored, then acknowledge ``deliveries``.

        All of them must come from this consumer. If publishing fails, nothing is
        acknowledged and the deliveries can still be settled in another way.

        Raises:
            AlreadySettled: one of them is settled; nothing was done.
            DeliveryLost: the broker took one of them back: nothing is published or
                acknowledged. Of several, those that are not lost can still be
                settled, one by one. Only where the broker is lost while we publish
                may the copies be there as well as the redelivery.
            Unroutable, PublishRefused, BrokerUnavailable: as for ``publish``.
        """

    @abstractmethod
    async def release(self, delivery: Delivery) -> None:
        """Give ``delivery`` back unchanged; ``Delivery.release`` calls this."""


class Delivery:
    """One message handed to us, to be settled exactly once.

    ``retry`` and ``dead_letter`` publish a copy that says what went wrong and
    then acknowledge the original, so a crash in between duplicates the message
    and never loses it.
    """

    __slots__ = ("_consumer", "_topology", "envelope", "queue", "redelivered", "tag")

    def __init__(
        self,
        *,
        envelope: Envelope,
        queue: str,
        redelivered: bool,
        tag: object,
        consumer: Consumer,
        topology: Topology,
    ) -> None:
        #: The message.
        self.envelope = envelope
        #: The queue it came from, without the prefix.
        self.queue = queue
        #: Whether it may have been delivered before.
        self.redelivered = redelivered
        #: The adapter's own name for it.
        self.tag = tag
        self._consumer = consumer
        self._topology = topology

    async def ack(self, *publications: Publication) -> None:
        """Publish, wait until that is stored, then acknowledge.

        Raises:
            As ``Consumer.ack``.
        """
        await self._consumer.ack((self,), publications)

    async def retry(
        self, wait: timedelta, error: BaseException, *, at: datetime
    ) -> None:
        """Put it back into its queue after ``wait``, one attempt on.

        The wait is rounded up to a delay queue of the topology.

        Raises:
            As ``Consumer.ack``.
        """
        noted = failed(self.envelope, queue=self.queue, error=error, at=at)
        await self.ack(self._topology.retry(self.queue, noted, wait))

    async def dead_letter(self, error: BaseException, *, at: datetime) -> None:
        """Put it into the dead-letter queue of its queue.

        Raises:
            As ``Consumer.ack``.
        """
        noted = failed(self.envelope, queue=self.queue, error=error, at=at)
        await self.ack(dead_letter(self.queue, noted))

    async def release(self) -> None:
        """Give it back unchanged; it will be delivered again, as redelivered.

        Raises:
            AlreadySettled: it is settled.
        """
        await self._consumer.release(self)
