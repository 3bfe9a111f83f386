"""What a handle on the embedded broker shares with its consumers.

The file, the clock, and one task of upkeep: it renews leases, frees what dead
consumers held, ends delays, and notices what other processes publish.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import apsw

from pipeline.broker.sqlite_message import Parcel, pack
from pipeline.broker.sqlite_store import Store
from pipeline.errors import (
    BrokerClosed,
    BrokerUnavailable,
    PublishRefused,
    TopologyMismatch,
    Unroutable,
)
from pipeline.sqlite import Database, DatabaseUnavailable, SchemaMismatch

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Collection, Sequence
    from datetime import timedelta

    from pipeline.message import Publication
    from pipeline.topology import Topology

T = TypeVar("T")

#: How often other processes' work is looked for while there are consumers.
UPKEEP_SECONDS: Final = 0.05

#: How often a file that could not be used is tried again.
PROBE_SECONDS: Final = 1.0

#: A lease is renewed so often while it lasts, so that one late renewal is no loss.
RENEWALS_PER_LEASE: Final = 3


class Waiting(Protocol):
    """What the session knows of a consumer."""

    #: Chosen at random, for the consumer's row in the database.
    id: int
    #: Full name of its queue.
    name: str
    #: Whether it found its queue empty, or nothing, when it looked last.
    is_starved: bool

    @property
    def is_lost(self) -> bool:
        """Whether it could not look: for want of its queue, or of the file."""

    @property
    def unacked(self) -> int:
        """How many messages it holds."""

    async def leave(self) -> None:
        """Give everything back. Idempotent; never raises."""

    def wake(self) -> None:
        """Look again: something has come."""

    def lapse(self) -> None:
        """The lease had run out: what was not received belongs to others now."""


class Session:
    """One handle's way to the file; opened and closed by the broker."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        deadline: timedelta,
        lease: timedelta,
        clock: Callable[[], float],
    ) -> None:
        self.store = Store()
        self.database = Database(
            path, busy_timeout=deadline, deadline=deadline, prepare=self.store.prepare
        )
        self.consumers: set[Waiting] = set()
        self.lease_milliseconds = round(lease.total_seconds() * 1000)
        self.is_open = False
        self._clock = clock
        #: Full name and ``mandatory`` of each exchange that was declared.
        self._exchanges: dict[str, tuple[str, bool]] = {}
        self._needed = asyncio.Event()
        self._upkeep: asyncio.Task[None] | None = None
        self._renewed_at = float("-inf")

    async def open(self) -> None:
        """Start the thread and the upkeep; does not wait for the file."""
        await self.database.__aenter__()
        self.is_open = True
        self._needed.set()
        self._upkeep = asyncio.create_task(self._keep_up())

    async def close(self) -> None:
        """Let the consumers leave, stop the upkeep, close the file. Idempotent."""
        try:
            for consumer in tuple(self.consumers):
                await consumer.leave()
        finally:
            self.is_open = False
            task, self._upkeep = self._upkeep, None
            if task is not None:
                task.cancel()
                await asyncio.wait((task,))
            await self.database.__aexit__(None, None, None)

    @property
    def problem(self) -> str | None:
        """Say why nothing can be published now; ``None``: it can."""
        if not self.is_open:
            return "the broker handle is closed"
        if self._upkeep is not None and self._upkeep.done():
            return "the upkeep has ended, which is an error in the program"
        if self.store.topology is None:
            return self.database.problem or "the topology is not declared yet"
        return self.database.problem

    @property
    def now(self) -> int:
        """Milliseconds since 1970."""
        return int(self._clock() * 1000)

    def require_open(self) -> None:
        """Raise unless the handle is open.

        Raises:
            BrokerClosed: it is not.
        """
        if not self.is_open:
            message = "the broker handle is used before it was opened or after close"
            raise BrokerClosed(message)

    def require_declared(self) -> Topology:
        """Give the topology that was declared.

        Raises:
            BrokerClosed: there is none yet, or the handle is not open.
        """
        self.require_open()
        if self.store.topology is None:
            message = "declare the topology first: names are looked up in it"
            raise BrokerClosed(message)
        return self.store.topology

    def declared(self, topology: Topology) -> None:
        """Look names up in ``topology`` from now on."""
        self.store.topology = topology
        self._exchanges = {
            exchange.name: (topology.exchange_name(exchange.name), exchange.mandatory)
            for exchange in topology.exchanges
        }

    def forget_topology(self) -> None:
        """Ask for a new declaration before anything else is done."""
        self.store.topology = None
        self._exchanges = {}

    def pack(self, publications: Sequence[Publication]) -> list[Parcel]:
        """Make publications ready to be stored.

        Raises:
            Unroutable: the topology has no such exchange.
            PublishRefused: a header cannot be stored.
        """
        parcels = []
        for publication in publications:
            found = self._exchanges.get(publication.exchange)
            if found is None:
                message = (
                    f"expected one of the exchanges {sorted(self._exchanges)},"
                    f" got {publication.exchange!r}"
                )
                raise Unroutable(message)
            exchange, mandatory = found
            parcels.append(pack(publication, exchange=exchange, mandatory=mandatory))
        return parcels

    async def write(
        self, run: Callable[[apsw.Connection], T], *, is_atomic: bool = False
    ) -> T:
        """Run ``run`` in a transaction and wait until that is on disk.

        ``is_atomic`` says that ``run`` leaves nothing behind when it raises.

        Raises:
            BrokerClosed: the handle is not open.
            BrokerUnavailable: no answer in time; the outcome is unknown.
        """
        self.require_open()
        return await self._answer(
            self.database.submit(run, writes=True, is_atomic=is_atomic)
        )

    async def read(self, run: Callable[[apsw.Connection], T]) -> T:
        """Run ``run``, which must not write.

        Raises:
            As ``write``.
        """
        self.require_open()
        return await self._answer(self.database.submit(run, writes=False))

    def wake(self, names: Collection[str]) -> None:
        """Tell the consumers of these queues that there is something to fetch."""
        for consumer in self.consumers:
            if consumer.name in names:
                consumer.wake()

    def attend(self) -> None:
        """Let the upkeep run: there is a consumer, or something went wrong."""
        self._needed.set()

    async def _answer(self, future: asyncio.Future[T]) -> T:
        try:
            return await future
        except (DatabaseUnavailable, SchemaMismatch, apsw.TooBigError) as error:
            self.attend()
            raise translated(error) from error

    async def _keep_up(self) -> None:
        with suppress(BrokerUnavailable, TopologyMismatch):
            await self.write(_touch)  # opens the file, so that ``problem`` is known
        while True:
            if not self.consumers and self.database.problem is None:
                self._needed.clear()
                await self._needed.wait()
            failing = self.database.problem is not None
            await asyncio.sleep(PROBE_SECONDS if failing else UPKEEP_SECONDS)
            with suppress(BrokerUnavailable, TopologyMismatch):
                if failing:
                    await self.write(_touch)
                await self._look()

    async def _look(self) -> None:
        """See what has come up since the last look, and wake who waits for it."""
        now = self.now
        starved = {c.name for c in self.consumers if c.is_starved}
        due, ready = await self.read(
            lambda connection: (
                self.store.is_due(connection, now),
                self.store.ready(connection, starved),
            )
        )
        renewed_ago = time.monotonic() - self._renewed_at
        if due or renewed_ago * 1000 * RENEWALS_PER_LEASE >= self.lease_milliseconds:
            ready = await self.maintain(starved)
        for consumer in self.consumers:
            if consumer.name in ready or consumer.is_lost:
                consumer.wake()

    async def maintain(self, names: Collection[str]) -> Collection[str]:
        """Do what is due; gives those of the queues that are worth a look.

        Raises:
            As ``write``.
        """
        self._renewed_at = time.monotonic()
        pulse = await self.write(
            partial(
                self.store.maintain,
                consumers=[consumer.id for consumer in self.consumers],
                names=names,
                now=self.now,
                lease=self.lease_milliseconds,
            )
        )
        for consumer in self.consumers:
            if consumer.id in pulse.lapsed:
                consumer.lapse()
        return pulse.ready


def translated(error: BaseException) -> BaseException:
    """Put an error of the database into the words of ``pipeline.errors``."""
    match error:
        case DatabaseUnavailable():
            told: BaseException = BrokerUnavailable(str(error))
        case SchemaMismatch():
            told = TopologyMismatch(str(error))
        case apsw.TooBigError():
            told = PublishRefused(f"expected a message of less than 1 GB: {error}")
        case _:
            return error
    told.__cause__ = error
    return told


def _touch(connection: apsw.Connection) -> None:
    """Write a page that says the same as before: shows whether writing works."""
    connection.execute("UPDATE topology SET generation = generation")
