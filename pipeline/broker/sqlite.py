"""The embedded broker: one SQLite file, several processes, no server.

What it does to messages is in ``sqlite_store.py``, its tables in
``sqlite_schema.sql``, its routes in ``sqlite_routing.py``.
"""

from __future__ import annotations

import time
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Final, Self

from pipeline.broker.found import Depth, Difference, FoundQueue
from pipeline.broker.port import Broker
from pipeline.broker.sqlite_consumer import SqliteConsumer
from pipeline.broker.sqlite_content import Content, content_of
from pipeline.broker.sqlite_routing import (
    declare,
    delete,
    delete_if_idle,
    delete_queue,
    differences,
    queues_under,
    sqlite_version,
)
from pipeline.broker.sqlite_session import Session
from pipeline.metrics import BROKER_CONNECTED
from pipeline.topology import QueueKind

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Collection, Sequence
    from types import TracebackType

    from pipeline.broker.order import Order
    from pipeline.message import Publication
    from pipeline.topology import Topology

DEFAULT_LEASE: Final = timedelta(seconds=30)


class SqliteBroker(Broker):
    """A handle on an embedded broker.

    Args:
        path: the file, on a local disk; it is made if there is none.
        deadline: the longest that any call waits for the file.
        lease: what a consumer holds goes to others so long after its process has
            died or has stood still.
        clock: gives seconds since 1970.
        is_main: the pipeline's own broker, of which the metrics tell.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        deadline: timedelta,
        lease: timedelta = DEFAULT_LEASE,
        clock: Callable[[], float] = time.time,
        is_main: bool = True,
    ) -> None:
        self._is_main = is_main
        self._session = Session(path, deadline=deadline, lease=lease, clock=clock)

    async def __aenter__(self) -> Self:
        await self._session.open()
        if self._is_main:
            BROKER_CONNECTED.set(1)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()
        if self._is_main:
            BROKER_CONNECTED.set(0)

    @property
    def problem(self) -> str | None:
        return self._session.problem

    async def version(self) -> str:
        return f"SQLite {await self._session.read(sqlite_version)}"

    async def declare(self, topology: Topology) -> Sequence[Difference]:
        await self._session.write(partial(declare, topology=topology))
        self._session.declared(topology)
        return ()

    async def check(self, topology: Topology) -> Sequence[Difference]:
        found = await self._session.read(partial(differences, topology=topology))
        return [Difference(text=text) for text in found]

    async def delete(self, topology: Topology) -> None:
        # Before, or one of our consumers would declare it again at once.
        self._session.forget_topology()
        await self._session.write(partial(delete, topology=topology))

    async def find_queues(
        self,
        topology: Topology,
        names: Collection[str],  # noqa: ARG002
    ) -> Sequence[FoundQueue]:
        """See ``Broker.find_queues``; gives all there are, so ``names`` adds none."""
        start = topology.queue_name("")
        return await self._session.read(partial(queues_under, start=start))

    async def delete_queue(
        self, topology: Topology, name: str, *, if_idle: bool = False
    ) -> None:
        full = topology.queue_name(name)
        run = delete_if_idle if if_idle else delete_queue
        await self._session.write(partial(run, name=full))

    async def publish(self, *publications: Publication) -> None:
        """See ``Broker.publish``; all are stored or none."""
        session = self._session
        session.require_declared()
        if publications:
            parcels = session.pack(publications)
            touched = await session.write(
                partial(session.store.insert, parcels=parcels, now=session.now),
                is_atomic=True,
            )
            session.wake(touched)

    def consume(
        self, queue: str, *, prefetch: int, order: Order | None = None
    ) -> SqliteConsumer:
        topology = self._session.require_declared()
        name = topology.queue_name(queue)
        return SqliteConsumer(self._session, topology, name, prefetch, order)

    def consume_full(self, name: str, *, prefetch: int) -> SqliteConsumer:
        """Consume from a queue of the file by its full name, under any prefix."""
        topology = self._session.require_declared()
        return SqliteConsumer(self._session, topology, name, prefetch, None)

    async def depth(self, queue: str) -> Depth:
        session = self._session
        topology = session.require_declared()
        name = topology.queue_name(queue)
        delays = [
            topology.queue_name(q.name)
            for q in topology.queues
            if q.kind is QueueKind.DELAY
        ]
        now = session.now
        if await session.read(partial(session.store.is_due, now=now)):
            await session.maintain(())
        counts = await session.read(
            partial(session.store.count, name=name, delays=delays)
        )
        unacked = sum(c.unacked for c in session.consumers if c.name == name)
        return Depth(
            ready=counts.ready,
            unacked=unacked,
            held=counts.held,
            delayed=counts.delayed,
        )

    async def content(self, queue: str) -> Content:
        """Measure ``queue`` under every prefix that the file has, and the file.

        Raises:
            BrokerUnavailable: no answer in time.
        """
        return await self._session.read(partial(content_of, queue=queue))
