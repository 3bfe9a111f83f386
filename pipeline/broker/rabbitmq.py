"""The RabbitMQ adapter: quorum queues, confirms, mandatory routing.

Two connections, because an alarm on the broker blocks those that publish: one
publishes, the other consumes. ``docs/operations.md`` has the reasons for every
argument; ``rabbitmq_publisher.py`` is the hot path.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self

from pipeline.broker.found import Depth, Difference, FoundQueue
from pipeline.broker.port import Broker
from pipeline.broker.rabbitmq_channels import open_publisher
from pipeline.broker.rabbitmq_connection import Link, bounded, left_until
from pipeline.broker.rabbitmq_consumer import RabbitConsumer
from pipeline.broker.rabbitmq_lookup import count, find_queues
from pipeline.broker.rabbitmq_plain import Publisher, Route
from pipeline.broker.rabbitmq_renewals import Renewals
from pipeline.broker.rabbitmq_topology import (
    declare,
    delete,
    delete_if_idle,
    delete_queue,
    differences,
    server_version,
)
from pipeline.broker.rabbitmq_unacked import require_prefetch
from pipeline.errors import (
    BrokerClosed,
    BrokerUnavailable,
    TopologyMismatch,
    TopologyMissing,
    Unroutable,
)
from pipeline.logs import get_logger
from pipeline.metrics import BROKER_CONNECTED
from pipeline.topology import QueueKind

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import timedelta
    from types import TracebackType

    from aio_pika.abc import AbstractConnection

    from pipeline.broker.order import Order
    from pipeline.message import Publication
    from pipeline.topology import Topology

log = get_logger("broker")

#: A channel that refuses is replaced no sooner, nor before its calls are over.
RENEWAL_SECONDS: Final = 5.0


class RabbitBroker(Broker):
    """A handle on a RabbitMQ server or cluster (3.10 to 4.x).

    Args:
        url: ``amqp://user:password@host:port/vhost`` or ``amqps://…``; for a cluster
            ``amqp://user:password@one:port,two:port/vhost``.
        deadline: the longest that any call waits for the broker.
        name: shown in the management console.
        fast: use the short cut for frames where aiormq lets us.
    """

    def __init__(
        self,
        url: str,
        *,
        deadline: timedelta,
        name: str = "pipeline",
        heartbeat_seconds: int = 15,
        fast: bool = True,
    ) -> None:
        self._deadline_seconds = deadline.total_seconds()
        self._topology: Topology | None = None
        self._routes: dict[str, Route] = {}
        self._publisher: Publisher | None = None
        #: Publish no more, but may still be told of what they have published.
        self._retired: list[Publisher] = []
        self._may_renew_at = 0.0
        self._renewals = Renewals(self._routed, self._open_renewals)
        self._publishing = Link(
            url,
            name=f"{name} publish",
            heartbeat_seconds=heartbeat_seconds,
            fast=fast,
            on_up=self._on_publishing_up,
            on_down=self._on_publishing_down,
        )
        # Each consumer opens its channel, and notices by itself that it has closed.
        self._consuming = Link(
            url,
            name=f"{name} consume",
            heartbeat_seconds=heartbeat_seconds,
            fast=fast,
        )
        self._consumers: set[RabbitConsumer] = set()
        self._counting: set[asyncio.Task[list[tuple[int, int]]]] = set()
        self._reopening = asyncio.Lock()
        self._is_open = False

    async def __aenter__(self) -> Self:
        self._is_open = True
        self._publishing.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._is_open:
            return
        self._is_open = False
        # All at once: each waits for a broker that may not answer any more.
        async with asyncio.TaskGroup() as group:
            for consumer in tuple(self._consumers):
                group.create_task(consumer.__aexit__(None, None, None))
        for counting in self._counting:
            counting.cancel()
        await asyncio.gather(*self._counting, return_exceptions=True)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._consuming.close())
            group.create_task(self._publishing.close())

    @property
    def problem(self) -> str | None:
        if not self._is_open:
            return "the broker handle is closed"
        if self._topology is None:
            return self._publishing.problem or "the topology is not declared yet"
        # A channel that is closed is opened again by the next publish.
        if (problem := self._publishing.problem) is not None:
            return problem
        if (alarm := self._publishing.blocked) is not None:
            return f"the broker takes no messages: alarm on {alarm}"
        return None

    async def version(self) -> str:
        self._require_open()
        connection = await self._publishing.connection(self._deadline_seconds)
        return f"RabbitMQ {'.'.join(map(str, server_version(connection)))}"

    async def declare(self, topology: Topology) -> Sequence[Difference]:
        self._require_open()
        connection = await self._publishing.connection(self._deadline_seconds)
        async with bounded(self._declare_seconds, "declaring the topology"):
            tolerated = await declare(connection, topology)
        self._topology = topology
        self._routes = {
            e.name: Route(topology.exchange_name(e.name), mandatory=e.mandatory)
            for e in topology.exchanges
        }
        return tolerated

    async def check(self, topology: Topology) -> Sequence[Difference]:
        self._require_open()
        connection = await self._publishing.connection(self._deadline_seconds)
        async with bounded(self._declare_seconds, "comparing the topology"):
            return await differences(connection, topology)

    async def delete(self, topology: Topology) -> None:
        self._require_open()
        self._topology, self._routes = None, {}
        connection = await self._publishing.connection(self._deadline_seconds)
        async with bounded(self._declare_seconds, "deleting the topology"):
            await delete(connection, topology)

    async def find_queues(
        self, topology: Topology, names: Collection[str]
    ) -> Sequence[FoundQueue]:
        self._require_open()
        connection = await self._publishing.connection(self._deadline_seconds)
        async with bounded(self._declare_seconds, "looking for queues"):
            return await find_queues(connection, topology, names)

    async def delete_queue(
        self, topology: Topology, name: str, *, if_idle: bool = False
    ) -> None:
        self._require_open()
        connection = await self._publishing.connection(self._deadline_seconds)
        async with bounded(self._declare_seconds, f"deleting queue {name}"):
            remove = delete_if_idle if if_idle else delete_queue
            await remove(connection, topology, name)

    async def publish(self, *publications: Publication) -> None:
        self._require_declared()
        routed = self._routed(publications)
        publisher, seconds = self._publisher, self._deadline_seconds
        if publisher is None or not publisher.is_open:
            due_at = asyncio.get_running_loop().time() + seconds
            publisher = await self._wait_for_publisher(due_at)
            seconds = left_until(due_at)
        try:
            await publisher.publish(routed, deadline_seconds=seconds)
        except BrokerUnavailable:
            # Whoever tries again at once must let the loop hear that an alarm is over.
            await asyncio.sleep(0)
            raise

    def begin(self, publication: Publication) -> asyncio.Future[None] | None:
        route, seconds = self._routes.get(publication.exchange), self._deadline_seconds
        if self._publisher is None or route is None or not self._is_open:
            return None
        return self._publisher.begin(route, publication, deadline_seconds=seconds)

    def _routed(self, items: Sequence[Publication]) -> list[tuple[Route, Publication]]:
        try:
            return [(self._routes[item.exchange], item) for item in items]
        except KeyError as error:
            raise Unroutable(f"the topology has no exchange {error}") from error

    def consume(
        self, queue: str, *, prefetch: int, order: Order | None = None
    ) -> RabbitConsumer:
        require_prefetch(prefetch)
        consumer = RabbitConsumer(
            queue=queue,
            prefetch=prefetch,
            order=order,
            topology=self._require_declared(),
            connect=self._connect_to_consume,
            redeclare=self._redeclare,
            publish=self.publish,
            renew=self._renewals.publish,
            deadline_seconds=self._deadline_seconds,
            require_open=self._require_open,
            on_closed=self._consumers.discard,
        )
        self._consumers.add(consumer)
        return consumer

    async def depth(self, queue: str) -> Depth:
        topology = self._require_declared()
        connection = await self._publishing.connection(self._deadline_seconds)
        delays = [q.name for q in topology.queues if q.kind is QueueKind.DELAY]
        names = [topology.queue_name(name) for name in (queue, *delays)]
        counting = asyncio.create_task(self._count(connection, names))
        self._counting.add(counting)
        counting.add_done_callback(self._counting.discard)
        # A channel that is left in the middle of opening or closing would cost us
        # the connection, and with it all that is being published.
        (ready, consumers), *others = await asyncio.shield(counting)
        unacked = sum(c.unacked for c in self._consumers if c.queue == queue)
        held = None if consumers else 0
        delayed = sum(messages for messages, _ in others)
        return Depth(ready=ready, unacked=unacked, held=held, delayed=delayed)

    async def _count(
        self, connection: AbstractConnection, names: Sequence[str]
    ) -> list[tuple[int, int]]:
        async with bounded(self._deadline_seconds, f"counting queue {names[0]}"):
            return await count(connection, names)

    @property
    def _declare_seconds(self) -> float:
        """Fifty quorum queues made at once take a small machine some seconds."""
        return max(30.0, self._deadline_seconds)

    def _require_open(self) -> None:
        if not self._is_open:
            raise BrokerClosed("the broker handle is not open: use it in `async with`")

    def _require_declared(self) -> Topology:
        self._require_open()
        if self._topology is None:
            raise BrokerClosed("declare the topology first: names are looked up in it")
        return self._topology

    async def _connect_to_consume(self) -> AbstractConnection:
        return await self._consuming.connection(self._deadline_seconds)

    async def _redeclare(self) -> None:
        """Bring back what was deleted on the broker while we were at work."""
        if self._topology is not None:
            # We may not bring it back; whether it is there, the subscription tells.
            with suppress(TopologyMissing):
                await self.declare(self._topology)

    async def _on_publishing_up(self, connection: AbstractConnection) -> None:
        async with bounded(self._declare_seconds, "declaring the topology"):
            await self._declare_again(connection)
        async with bounded(self._deadline_seconds, "opening a channel to publish"):
            self._publisher = await open_publisher(connection, self._retire)
        BROKER_CONNECTED.set(1)

    async def _declare_again(self, connection: AbstractConnection) -> None:
        """Bring back what the broker came back without."""
        if self._topology is not None:
            try:
                await declare(connection, self._topology)
            except TopologyMismatch as error:
                log.error("topology_mismatch", error=str(error))  # noqa: TRY400
            except TopologyMissing as error:
                # Whoever may has to bring it back; the rest can be used meanwhile.
                log.warning("topology_incomplete", error=str(error))

    async def _on_publishing_down(self) -> None:
        BROKER_CONNECTED.set(0)
        publisher, self._publisher = self._publisher, None
        retired, self._retired = self._retired, []
        for one in (publisher, *retired, self._renewals):
            if one is not None:
                async with bounded(self._deadline_seconds, "closing a channel"):
                    await one.close()

    def _retire(self, publisher: Publisher) -> None:
        """Let the next publish use another channel, where this one was refused.

        In a cluster, a channel that met a queue without a leader can go on refusing
        long after there is one again, until the lost node is back (seen on 3.10.8).
        """
        now = asyncio.get_running_loop().time()
        if publisher is self._publisher and now >= self._may_renew_at:
            self._may_renew_at = now + max(RENEWAL_SECONDS, self._deadline_seconds)
            self._publisher = None
            self._retired.append(publisher)

    async def _open_renewals(self) -> Publisher:
        if (problem := self.problem) is not None:
            raise BrokerUnavailable(problem)
        connection = await self._publishing.connection(self._deadline_seconds)
        return await open_publisher(connection, self._retire)

    async def _wait_for_publisher(self, due_at: float) -> Publisher:
        """Wait for the connection; open a new channel if only that was lost.

        The broker closes one when an exchange is gone: that is declared again, too.
        """
        connection = await self._publishing.connection(left_until(due_at))
        what = "opening a channel to publish"
        async with bounded(left_until(due_at), what), self._reopening:
            publisher = self._publisher
            if publisher is None or not publisher.is_open:
                if publisher is not None:
                    await self._declare_again(connection)
                publisher = await open_publisher(connection, self._retire)
                self._publisher = publisher
                while len(self._retired) > 1:
                    await self._retired.pop(0).shut()
        return publisher
