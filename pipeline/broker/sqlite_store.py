"""What the embedded broker keeps: every step of a message's life is a method here.

Runs in the thread of the database, on its connection, inside a transaction that
``pipeline.sqlite.Database`` begins and commits. Times are milliseconds since 1970.
"""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING, Final

import orjson

from pipeline.broker.sqlite_message import (
    Claim,
    Counts,
    Parcel,
    Pulse,
    Row,
    exceeded,
    isolate,
    pack,
    within_bytes,
)
from pipeline.broker.sqlite_queries import (
    COPY,
    DELETE_HELD,
    DELETE_ONE_HELD,
    INSERT,
    LEASE,
    READY,
)
from pipeline.broker.sqlite_routing import Router, StoredQueue, declare
from pipeline.errors import BrokerUnavailable, DeliveryLost, Unroutable
from pipeline.message import from_milliseconds
from pipeline.sqlite import migrate
from pipeline.topology import DEAD, DELIVERY_LIMIT, QueueKind, dead_letter

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    import apsw

    from pipeline.topology import Topology

#: Marks a file as an embedded broker: "CBPQ".
APPLICATION_ID: Final = 0x43425051

#: At most so many delays end in one transaction.
EXPIRE_LIMIT: Final = 1000


class Store:
    """The messages of one handle's file, and the routes to its queues."""

    def __init__(self) -> None:
        #: Declared by this handle; declared again when the file is a new one.
        self.topology: Topology | None = None
        self._router = Router()

    def prepare(self, connection: apsw.Connection) -> None:
        """Bring a file that was just opened up to date."""
        schema = resources.files("pipeline.broker").joinpath("sqlite_schema.sql")
        scripts = [schema.read_text(encoding="utf-8")]
        migrate(connection, scripts, application_id=APPLICATION_ID)
        self._router = Router()
        if self.topology is not None:
            declare(connection, self.topology)

    def insert(
        self, connection: apsw.Connection, parcels: Iterable[Parcel], now: int
    ) -> Collection[str]:
        """Store messages in their order, all or none; returns the queues with some.

        Raises:
            Unroutable: no queue wants one of them.
        """
        self._router.refresh(connection)
        touched: set[str] = set()
        rows: list[tuple[object, ...]] = []
        for parcel in parcels:
            exchange, mandatory, *message = parcel
            if not self._router.has_exchange(exchange):
                self._router.restore(connection, self.topology)
            queues = self._router.routes(exchange, parcel.routing_key)
            if not queues and mandatory:
                text = (
                    f"no queue is bound to {exchange} for {parcel.routing_key!r}:"
                    " nothing was stored"
                )
                raise Unroutable(text)
            for queue in queues:
                delay = queue.delay_milliseconds
                due_at = None if delay is None else now + delay
                rows.append((queue.id, due_at, *message))
                touched.add(queue.name)
        if len(rows) == 1:
            connection.execute(INSERT, rows[0])
        elif rows:
            with connection:  # a savepoint: one of them may be too large
                connection.executemany(INSERT, rows)
        return touched

    def claim(
        self,
        connection: apsw.Connection,
        *,
        consumer: int,
        name: str,
        room: int,
        idle: bool,
        now: int,
        lease: int,
    ) -> Claim | None:
        """Lease up to ``room`` messages of a queue to a consumer, oldest first.

        ``idle`` tells that the consumer holds nothing else. Gives ``None`` if there
        is no such queue, and none can be declared.
        """
        self._router.refresh(connection)
        if was_gone := self._router.find_queue(name) is None:
            self._router.restore(connection, self.topology)
        queue = self._router.find_queue(name)
        if queue is None:
            return None
        # Nothing is written if nothing is found: an empty commit needs no fsync.
        connection.execute(
            "INSERT OR IGNORE INTO consumers VALUES (?, ?)", (consumer, now + lease)
        )
        lapsed = was_gone or connection.changes() > 0
        found = (Row(*row) for row in connection.execute(READY, (queue.id, room)))
        rows, cut = within_bytes(found)
        fresh, touched = self._bury_spent(connection, queue, rows, now)
        chosen, alone = fresh, False
        if queue.kind is QueueKind.WORK:
            chosen, alone = isolate(fresh, idle=idle)
        more = cut or len(rows) == room or len(chosen) < len(rows)
        if chosen:
            ids = orjson.dumps([row.id for row in chosen]).decode()
            connection.execute(LEASE, (consumer, ids))
        leased = [row._replace(deliveries=row.deliveries + 1) for row in chosen]
        return Claim(leased, more=more, alone=alone, touched=touched, lapsed=lapsed)

    def settle(
        self,
        connection: apsw.Connection,
        *,
        consumer: int,
        held: Sequence[tuple[int, int]],
        parcels: Sequence[Parcel],
        now: int,
    ) -> Collection[str]:
        """Delete what ``consumer`` holds and store ``parcels``, in one step.

        ``held`` has the id of each message and the number of its delivery. Returns
        the queues that got messages.

        Raises:
            DeliveryLost: one of them belongs to others; nothing is changed.
            Unroutable: as for ``insert``; nothing is changed.
        """
        if len(held) == 1:
            connection.execute(DELETE_ONE_HELD, (*held[0], consumer))
        else:
            connection.execute(DELETE_HELD, (orjson.dumps(held).decode(), consumer))
        if lost := len(held) - connection.changes():
            raise DeliveryLost(
                f"{lost} of {len(held)} deliveries were settled too late: the lease"
                " had run out or the consumer had been left"
            )
        return self.insert(connection, parcels, now) if parcels else ()

    def release(
        self, connection: apsw.Connection, *, consumer: int, message: int, delivery: int
    ) -> None:
        """Give one message back to its old place, unless it is lost already."""
        connection.execute(
            "UPDATE leases SET consumer = NULL"
            " WHERE message = ? AND deliveries = ? AND consumer = ?",
            (message, delivery, consumer),
        )

    def give_back(
        self,
        connection: apsw.Connection,
        *,
        consumer: int,
        received: Collection[int],
        leaves: bool,
    ) -> None:
        """Give back what a consumer holds but did not receive: it was not delivered.

        With ``leaves`` the consumer goes away, and the rest is given back as well.
        """
        connection.execute(
            "UPDATE leases SET consumer = NULL, deliveries = deliveries - 1"
            " WHERE consumer = ? AND message NOT IN (SELECT value FROM json_each(?))",
            (consumer, orjson.dumps(list(received)).decode()),
        )
        if leaves:
            connection.execute("DELETE FROM consumers WHERE id = ?", (consumer,))

    def is_due(self, connection: apsw.Connection, now: int) -> bool:
        """Tell whether ``maintain`` has something to do."""
        self._router.refresh(connection)
        expired = "SELECT 1 FROM consumers WHERE expires_at < ? LIMIT 1"
        if connection.execute(expired, (now,)).fetchone():
            return True
        heads = (self._head(connection, q) for q in self._router.delay_queues())
        return any(due_at is not None and due_at <= now for due_at in heads)

    def ready(
        self, connection: apsw.Connection, names: Iterable[str]
    ) -> Collection[str]:
        """Give those of the queues in which messages wait, or which are gone."""
        self._router.refresh(connection)
        return {
            name
            for name in names
            if (queue := self._router.find_queue(name)) is None
            or connection.execute(
                "SELECT 1 FROM messages INDEXED BY messages_by_queue"
                " LEFT JOIN leases ON message = id"
                " WHERE queue = ? AND consumer IS NULL LIMIT 1",
                (queue.id,),
            ).fetchone()
        }

    def maintain(
        self,
        connection: apsw.Connection,
        *,
        consumers: Collection[int],
        names: Iterable[str],
        now: int,
        lease: int,
    ) -> Pulse:
        """Renew our consumers, free what dead ones held, end delays that are over."""
        lapsed = self._renew(connection, consumers, now + lease)
        connection.execute("DELETE FROM consumers WHERE expires_at < ?", (now,))
        self._router.refresh(connection)
        for queue in self._router.delay_queues():
            self._expire(connection, queue, now)
        return Pulse(self.ready(connection, names), lapsed)

    def count(
        self, connection: apsw.Connection, name: str, delays: Iterable[str]
    ) -> Counts:
        """Count what waits in a queue and in the delay queues.

        Raises:
            BrokerUnavailable: there is no such queue.
        """
        self._router.refresh(connection)
        queue = self._router.find_queue(name)
        if queue is None:
            message = f"expected a queue {name}, found none: declare the topology first"
            raise BrokerUnavailable(message)
        there, held = connection.execute(
            "SELECT (SELECT count(*) FROM messages WHERE queue = ?1), (SELECT count(*)"
            " FROM leases JOIN messages ON id = message"
            " WHERE consumer IS NOT NULL AND queue = ?1)",
            (queue.id,),
        ).get
        delayed = connection.execute(
            "SELECT count(*) FROM messages JOIN queues ON queues.id = queue"
            " WHERE name IN (SELECT value FROM json_each(?))",
            (orjson.dumps(list(delays)).decode(),),
        ).get
        return Counts(there - held, held, delayed)

    def _renew(
        self, connection: apsw.Connection, consumers: Collection[int], until: int
    ) -> Collection[int]:
        """Keep consumers alive; returns those that were not known (any more)."""
        lapsed = []
        for consumer in consumers:
            connection.execute(
                "UPDATE consumers SET expires_at = ? WHERE id = ?", (until, consumer)
            )
            if not connection.changes():
                connection.execute(
                    "INSERT INTO consumers VALUES (?, ?)", (consumer, until)
                )
                lapsed.append(consumer)
        return lapsed

    def _bury_spent(
        self, connection: apsw.Connection, queue: StoredQueue, rows: list[Row], now: int
    ) -> tuple[list[Row], Collection[str]]:
        """Move what was delivered too often to the dead-letter queue."""
        topology = self.topology
        if queue.kind is not QueueKind.WORK or topology is None:
            return rows, ()
        name = queue.name.removeprefix(topology.queue_name(""))
        exchange = topology.exchange_name(DEAD)
        if not self._router.routes(exchange, name):
            return rows, ()
        kept: list[Row] = []
        touched: set[str] = set()
        for row in rows:
            if row.deliveries < DELIVERY_LIMIT:
                kept.append(row)
                continue
            noted = exceeded(row.envelope(), name, from_milliseconds(now))
            parcel = pack(dead_letter(name, noted), exchange=exchange, mandatory=True)
            touched.update(self.insert(connection, (parcel,), now))
            connection.execute("DELETE FROM messages WHERE id = ?", (row.id,))
        return kept, touched

    def _head(self, connection: apsw.Connection, queue: StoredQueue) -> int | None:
        row = connection.execute(
            "SELECT due_at FROM messages WHERE queue = ? ORDER BY id LIMIT 1",
            (queue.id,),
        ).fetchone()
        return None if row is None else row[0]

    def _expire(
        self, connection: apsw.Connection, queue: StoredQueue, now: int
    ) -> None:
        """Move what has waited long enough to the tail of its work queue."""
        due = []
        for number, due_at, key in connection.execute(
            "SELECT id, due_at, routing_key FROM messages INDEXED BY messages_by_queue"
            " WHERE queue = ? ORDER BY id LIMIT ?",
            (queue.id, EXPIRE_LIMIT),
        ):
            if due_at > now:
                break
            due.append((number, key))
        for number, key in due:
            targets = self._router.routes(queue.expires_to or "", key)
            for target in targets:
                connection.execute(COPY, (target.id, None, number))
            if not targets:
                # Nobody can take it yet: it is kept, and holds up nothing behind it.
                again = now + (queue.delay_milliseconds or 0)
                connection.execute(COPY, (queue.id, again, number))
            connection.execute("DELETE FROM messages WHERE id = ?", (number,))
