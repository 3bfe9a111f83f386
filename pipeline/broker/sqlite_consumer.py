"""A consumer of the embedded broker: leases ahead, settles in one transaction."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, Self

from pipeline.broker.order import make_waiting
from pipeline.broker.port import Consumer, Delivery
from pipeline.broker.sqlite_message import Row, read_tag
from pipeline.broker.sqlite_session import translated
from pipeline.errors import (
    AlreadySettled,
    BrokerClosed,
    BrokerUnavailable,
    DeliveryLost,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pipeline.broker.order import Order, Waiting
    from pipeline.broker.sqlite_message import Claim
    from pipeline.broker.sqlite_session import Session
    from pipeline.message import Publication
    from pipeline.topology import Topology

#: At most so many messages are leased in one transaction.
FETCH_LIMIT: Final = 256
#: With bodies of so much that nobody has received no more are fetched.
BUFFER_BYTES: Final = 16 * 1024 * 1024


class SqliteConsumer(Consumer):
    """See ``Consumer``; made by ``SqliteBroker.consume``."""

    def __init__(
        self,
        session: Session,
        topology: Topology,
        name: str,
        prefetch: int,
        order: Order | None,
    ) -> None:
        if prefetch < 1:
            message = f"expected a prefetch of 1 or more, got {prefetch}"
            raise ValueError(message)
        self.id = secrets.randbits(62)
        #: The full name of its queue, and what is left without our own prefix.
        self.name = name
        self.queue = name.removeprefix(topology.queue_name(""))
        self.is_starved = False
        self._session = session
        self._topology = topology
        self._prefetch = prefetch
        #: Leased, not yet received.
        self._buffer: Waiting[Row] = make_waiting(order, Row.envelope)
        self._buffer_bytes = 0
        #: Tags of what was received and is not settled.
        self._held: set[int] = set()
        #: Tags of what is being settled now.
        self._settling: set[int] = set()
        self._waiters: set[asyncio.Future[None]] = set()
        self._is_open = False
        self._is_stopped = False
        self._is_fetching = False
        self._is_registered = False
        #: Something came while a fetch was on its way: fetch again after it.
        self._fetch_again = False
        #: What is held was delivered too often: it is to be finished alone.
        self._is_alone = False
        self._error: BaseException | None = None

    async def __aenter__(self) -> Self:
        """Begin to fetch."""
        self._session.require_open()
        self._is_open = True
        self._session.consumers.add(self)
        self._session.attend()
        self._fetch()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.leave()

    async def leave(self) -> None:
        """Give everything back; if that fails, the lease runs out by itself."""
        if not self._is_open:
            return
        self._is_open = False
        self._halt()
        self._session.consumers.discard(self)
        with suppress(BrokerUnavailable, BrokerClosed):
            await self._give_back(leaves=True)

    @property
    def is_active(self) -> bool:
        """Whether messages are being fetched, and the lease is alive."""
        return self._is_open and not self._is_stopped and self._is_registered

    @property
    def is_lost(self) -> bool:
        """Whether there is no queue, or no file, to fetch from."""
        return self.is_starved and not self._is_registered

    @property
    def unacked(self) -> int:
        """How many messages are leased and not settled."""
        return len(self._buffer) + len(self._held) + len(self._settling)

    async def receive(self, limit: int = 1) -> Sequence[Delivery]:
        while not self._buffer:
            if self._is_stopped:
                return ()
            if not self._is_open:
                message = f"the consumer of {self.queue} is used before it was opened"
                raise BrokerClosed(message)
            if self._error is not None:
                raise self._error
            self._fetch()
            await self._wait()
        rows = [
            self._buffer.popleft() for _ in range(max(1, min(limit, len(self._buffer))))
        ]
        self._buffer_bytes -= sum(len(row.body) for row in rows)
        self._held.update(row.tag for row in rows)
        self._fetch()
        return [self._delivery(row) for row in rows]

    async def stop(self) -> None:
        if self._is_stopped:
            return
        self._halt()
        with suppress(BrokerUnavailable):  # then it is done when the context is left
            await self._give_back(leaves=False)
            # Others have what is held here if this process stood still too long.
            await self._session.maintain(())

    async def ack(
        self,
        deliveries: Sequence[Delivery],
        publications: Sequence[Publication] = (),
    ) -> None:
        """See ``Consumer.ack``; all of it is one transaction."""
        session = self._session
        session.require_open()
        parcels = session.pack(publications)
        held = self._take([delivery.tag for delivery in deliveries])
        if not held and not parcels:
            return
        try:
            touched = await session.write(
                partial(
                    session.store.settle,
                    consumer=self.id,
                    held=[*map(read_tag, held)],
                    parcels=parcels,
                    now=session.now,
                )
            )
        except DeliveryLost:
            if len(held) > 1:  # those that are not lost are settled one by one
                self._held.update(held)
            raise
        except BaseException:
            self._held.update(held)
            raise
        finally:
            self._settling.difference_update(held)
            self._fetch()
        session.wake(touched)

    async def release(self, delivery: Delivery) -> None:
        session = self._session
        session.require_open()
        held = self._take([delivery.tag])
        message, number = read_tag(held[0])
        try:
            await session.write(
                partial(
                    session.store.release,
                    consumer=self.id,
                    message=message,
                    delivery=number,
                )
            )
        except BaseException:
            self._held.update(held)
            raise
        finally:
            self._settling.difference_update(held)
        session.wake((self.name,))

    def wake(self) -> None:
        """Fetch: something has come into the queue."""
        self.is_starved = False
        self._fetch_again = self._is_fetching
        self._fetch()

    def lapse(self) -> None:
        """Forget what was leased and not received: others have it now."""
        self._note_loss()
        self.wake()

    def _take(self, tags: Iterable[object]) -> list[int]:
        """Mark deliveries as being settled.

        Raises:
            AlreadySettled: one of them is; none was marked.
        """
        taken: list[int] = []
        for tag in tags:
            if not isinstance(tag, int) or tag not in self._held:
                self._settling.difference_update(taken)
                self._held.update(taken)
                message = (
                    f"delivery {tag} from {self.queue} was settled before, or came"
                    " from another consumer: settle each delivery once"
                )
                raise AlreadySettled(message)
            self._held.discard(tag)
            self._settling.add(tag)
            taken.append(tag)
        return taken

    def _fetch(self) -> None:
        """Ask for as many messages as there is room for, if there may be any."""
        unacked = self.unacked
        room = self._prefetch - unacked
        is_worth_it = not self._buffer or 2 * room >= self._prefetch
        if (
            self._is_fetching
            or self._is_stopped
            or not self._session.is_open
            or self.is_starved
            or room < 1
            or self._buffer_bytes >= BUFFER_BYTES
            or not is_worth_it
            or (self._is_alone and unacked)
        ):
            return
        self._is_fetching = True
        session = self._session
        session.database.submit(
            partial(
                session.store.claim,
                consumer=self.id,
                name=self.name,
                room=min(room, FETCH_LIMIT),
                idle=not unacked,
                now=session.now,
                lease=session.lease_milliseconds,
            ),
            writes=True,
            patient=True,
        ).add_done_callback(self._arrived)

    def _arrived(self, future: asyncio.Future[Claim | None]) -> None:
        """Take what was leased; a callback, because nobody can cancel it."""
        self._is_fetching = False
        if future.cancelled():
            return
        if (error := future.exception()) is not None:
            self._failed(error)
            return
        claim = future.result()
        if claim is None:
            if self._is_registered:
                self._note_loss()
            self._missed()
            return
        if claim.lapsed:
            self._note_loss()
        self._is_registered = True
        if self._is_stopped:
            return  # it is given back by the transaction that follows this one
        was_idle = not self.unacked
        self._buffer.extend(claim.rows)
        self._buffer_bytes += sum(len(row.body) for row in claim.rows)
        self._is_alone = claim.alone
        self.is_starved = not claim.more and not self._fetch_again
        self._fetch_again = False
        self._session.wake(claim.touched)
        if self._buffer:
            self._wake_receivers()
        if claim.rows or was_idle:
            self._fetch()

    def _note_loss(self) -> None:
        if self._held or self._settling:
            self.losses += 1
        self._buffer.clear()
        self._buffer_bytes = 0

    def _missed(self) -> None:
        """Be no consumer; the upkeep wakes us as soon as we may be one again."""
        self._is_registered = False
        self.is_starved = True
        self._session.attend()

    def _failed(self, error: BaseException) -> None:
        self._missed()
        told = translated(error)
        if not isinstance(told, BrokerUnavailable):
            self._error = told
            self._wake_receivers()

    def _halt(self) -> None:
        self._is_stopped = True
        self._buffer.clear()
        self._buffer_bytes = 0
        self._wake_receivers()

    async def _give_back(self, *, leaves: bool) -> None:
        session = self._session
        await session.write(
            partial(
                session.store.give_back,
                consumer=self.id,
                received=[read_tag(tag)[0] for tag in self._held | self._settling],
                leaves=leaves,
            )
        )
        session.wake((self.name,))

    def _delivery(self, row: Row) -> Delivery:
        return Delivery(
            envelope=row.envelope(),
            queue=self.queue,
            redelivered=row.deliveries > 1,
            tag=row.tag,
            consumer=self,
            topology=self._topology,
        )

    async def _wait(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    def _wake_receivers(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
