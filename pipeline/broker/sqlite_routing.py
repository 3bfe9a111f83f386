"""The topology inside the embedded broker: declared, compared, and followed.

Runs in the thread of the database, on its connection.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

from pipeline.broker.found import FoundQueue
from pipeline.errors import TopologyMismatch
from pipeline.logs import get_logger
from pipeline.topology import (
    WORK,
    Binding,
    Exchange,
    ExchangeKind,
    Queue,
    QueueKind,
    Topology,
    routed,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import apsw

log = get_logger("broker")

#: Routing keys come from outside: what was worked out for them is bounded.
ROUTES_LIMIT: Final = 10_000


class StoredQueue(NamedTuple):
    """A queue as the database has it."""

    id: int
    name: str
    kind: QueueKind
    delay_milliseconds: int | None
    expires_to: str | None


def declare(connection: apsw.Connection, topology: Topology) -> None:
    """Add what is missing; nothing that is there is changed.

    Raises:
        TopologyMismatch: something is there with other arguments.
    """
    if differing := list(_conflicts(connection, topology)):
        raise TopologyMismatch("; ".join(differing))
    before = connection.total_changes()
    connection.executemany(
        "INSERT OR IGNORE INTO exchanges VALUES (?, ?, ?)",
        [_exchange_row(topology, exchange) for exchange in topology.exchanges],
    )
    connection.executemany(
        "INSERT INTO queues (name, kind, delay_milliseconds, expires_to)"
        " VALUES (?, ?, ?, ?) ON CONFLICT (name) DO NOTHING",
        [_queue_row(topology, queue) for queue in topology.queues],
    )
    connection.executemany(
        "INSERT OR IGNORE INTO bindings (exchange, queue, key)"
        " VALUES (?, (SELECT id FROM queues WHERE name = ?), ?)",
        [_binding_row(topology, binding) for binding in topology.bindings],
    )
    if connection.total_changes() != before:
        connection.execute("UPDATE topology SET generation = random()")


def delete(connection: apsw.Connection, topology: Topology) -> None:
    """Remove what ``topology`` names, and the messages in its queues."""
    delete_queues(connection, [topology.queue_name(q.name) for q in topology.queues])
    exchanges = [(topology.exchange_name(e.name),) for e in topology.exchanges]
    connection.executemany("DELETE FROM bindings WHERE exchange = ?", exchanges)
    connection.executemany("DELETE FROM exchanges WHERE name = ?", exchanges)


def delete_queues(connection: apsw.Connection, names: Iterable[str]) -> None:
    """Remove queues, given by their full names, and the messages in them."""
    rows = [(name,) for name in names]
    for table in ("messages", "bindings"):
        its_id = "(SELECT id FROM queues WHERE name = ?)"
        connection.executemany(f"DELETE FROM {table} WHERE queue = {its_id}", rows)  # noqa: S608
    connection.executemany("DELETE FROM queues WHERE name = ?", rows)
    connection.execute("UPDATE topology SET generation = random()")


def delete_queue(connection: apsw.Connection, name: str) -> None:
    """Remove one queue and the messages in it."""
    delete_queues(connection, [name])


def delete_if_idle(connection: apsw.Connection, name: str) -> None:
    """Remove one queue unless something is in it.

    Raises:
        BrokerError: something is; nothing is changed.
    """
    for found in queues_under(connection, name):
        if not found.name:  # not one whose name goes on
            replace(found, name=name).require_idle()
    delete_queues(connection, [name])


def sqlite_version(connection: apsw.Connection) -> str:
    """Give the version of SQLite, as the file's own connection has it."""
    return str(connection.execute("SELECT sqlite_version()").get)


def queues_under(connection: apsw.Connection, start: str) -> list[FoundQueue]:
    """Give the queues whose full names begin with ``start``."""
    return [
        FoundQueue(name=name, messages=messages, is_used=held > 0)
        for name, messages, held in connection.execute(
            "SELECT substr(name, length(?1) + 1), count(messages.id), count(consumer)"
            " FROM queues LEFT JOIN messages ON queue = queues.id"
            " LEFT JOIN leases ON message = messages.id"
            " WHERE substr(name, 1, length(?1)) = ?1 GROUP BY queues.id ORDER BY name",
            (start,),
        )
    ]


def differences(connection: apsw.Connection, topology: Topology) -> list[str]:
    """Give a sentence for everything that is not as ``topology`` has it."""
    return [
        *_missing(connection, topology),
        *_conflicts(connection, topology),
        *_surplus(connection, topology),
    ]


class Router:
    """Finds the queues for a routing key and remembers them.

    Follows changes that other processes make, by their generation number.
    """

    def __init__(self) -> None:
        self._generation: int | None = None
        #: The generation at which ``restore`` was tried last.
        self._restored: int | None = None
        self._everything = Topology(prefix="", exchanges=(), queues=(), bindings=())
        self._exchanges: frozenset[str] = frozenset()
        self._queues: dict[str, StoredQueue] = {}
        self._routes: dict[tuple[str, str], tuple[StoredQueue, ...]] = {}

    def refresh(self, connection: apsw.Connection) -> None:
        """See whether the topology has changed; once in each transaction is enough."""
        generation = connection.execute("SELECT generation FROM topology").get
        if generation != self._generation:
            self._load(connection)
            self._generation = generation

    def restore(self, connection: apsw.Connection, topology: Topology | None) -> None:
        """Declare again what another process has deleted.

        Only once after each change: what is missing then was never declared, or
        cannot be.
        """
        if topology is None or self._generation == self._restored:
            return
        try:
            declare(connection, topology)
        except TopologyMismatch as error:
            log.error("topology_mismatch", error=str(error))  # noqa: TRY400
        self.refresh(connection)
        self._restored = self._generation

    def has_exchange(self, name: str) -> bool:
        """Tell whether there is an exchange of that name."""
        return name in self._exchanges

    def find_queue(self, name: str) -> StoredQueue | None:
        """Give the queue of that name."""
        return self._queues.get(name)

    def delay_queues(self) -> list[StoredQueue]:
        """Give every delay queue in the file, whatever its prefix."""
        return [q for q in self._queues.values() if q.delay_milliseconds is not None]

    def routes(self, exchange: str, key: str) -> tuple[StoredQueue, ...]:
        """Give the queues that a message reaches; none if there is no exchange."""
        found = self._routes.get((exchange, key))
        if found is None:
            if len(self._routes) >= ROUTES_LIMIT:
                self._routes.clear()
            found = ()
            if exchange in self._exchanges:
                names = routed(self._everything, exchange, key)
                found = tuple(self._queues[name] for name in names)
            self._routes[exchange, key] = found
        return found

    def _load(self, connection: apsw.Connection) -> None:
        # The rules of routing are those of ``pipeline.topology``: the whole file is
        # read as one topology whose names have their prefix already.
        self._routes.clear()
        self._queues = {
            name: StoredQueue(number, name, QueueKind(kind), delay, expires_to)
            for number, name, kind, delay, expires_to in connection.execute(
                "SELECT id, name, kind, delay_milliseconds, expires_to FROM queues"
            )
        }
        self._everything = Topology(
            prefix="",
            exchanges=tuple(
                Exchange(name=name, kind=ExchangeKind(kind), alternate=alternate)
                for name, kind, alternate in connection.execute(
                    "SELECT name, kind, alternate FROM exchanges"
                )
            ),
            queues=tuple(
                Queue(name=queue.name, kind=queue.kind, delay=_delay(queue))
                for queue in self._queues.values()
            ),
            bindings=tuple(
                Binding(exchange=exchange, queue=queue, key=key)
                for exchange, queue, key in connection.execute(
                    "SELECT exchange, name, key FROM bindings"
                    " JOIN queues ON id = queue ORDER BY id"
                )
            ),
        )
        self._exchanges = frozenset(e.name for e in self._everything.exchanges)


def _delay(queue: StoredQueue) -> timedelta | None:
    milliseconds = queue.delay_milliseconds
    return None if milliseconds is None else timedelta(milliseconds=milliseconds)


def _exchange_row(
    topology: Topology, exchange: Exchange
) -> tuple[str, str, str | None]:
    alternate = exchange.alternate
    return (
        topology.exchange_name(exchange.name),
        exchange.kind,
        None if alternate is None else topology.exchange_name(alternate),
    )


def _queue_row(
    topology: Topology, queue: Queue
) -> tuple[str, str, int | None, str | None]:
    name = topology.queue_name(queue.name)
    if queue.delay is None:
        return name, queue.kind, None, None
    milliseconds = round(queue.delay.total_seconds() * 1000)
    return name, queue.kind, milliseconds, topology.exchange_name(WORK)


def _binding_row(topology: Topology, binding: Binding) -> tuple[str, str, str]:
    return (
        topology.exchange_name(binding.exchange),
        topology.queue_name(binding.queue),
        binding.key,
    )


def _conflicts(connection: apsw.Connection, topology: Topology) -> Iterator[str]:
    """Say which arguments differ between what is declared and what is there."""
    for exchange in topology.exchanges:
        name, *wanted = _exchange_row(topology, exchange)
        found = connection.execute(
            "SELECT kind, alternate FROM exchanges WHERE name = ?", (name,)
        ).fetchone()
        yield from _compare("exchange", name, ("kind", "alternate"), wanted, found)
    for queue in topology.queues:
        name, *arguments = _queue_row(topology, queue)
        found = connection.execute(
            "SELECT kind, delay_milliseconds, expires_to FROM queues WHERE name = ?",
            (name,),
        ).fetchone()
        columns = ("kind", "delay in milliseconds", "exchange after the delay")
        yield from _compare("queue", name, columns, arguments, found)


def _compare(
    what: str,
    name: str,
    columns: tuple[str, ...],
    wanted: list[str | None] | list[str | int | None],
    found: tuple[object, ...] | None,
) -> Iterator[str]:
    if found is not None:
        for column, expected, got in zip(columns, wanted, found, strict=True):
            if expected != got:
                yield f"{what} {name}: expected {column} {expected}, found {got}"


def _missing(connection: apsw.Connection, topology: Topology) -> Iterator[str]:
    exchanges, queues, bindings = _names(connection)
    for exchange in topology.exchanges:
        name = topology.exchange_name(exchange.name)
        if name not in exchanges:
            yield f"exchange {name}: expected it to exist, found none"
    for queue in topology.queues:
        name = topology.queue_name(queue.name)
        if name not in queues:
            yield f"queue {name}: expected it to exist, found none"
    for binding in topology.bindings:
        source, name, key = _binding_row(topology, binding)
        if (source, name, key) not in bindings:
            yield (
                f"queue {name}: expected a binding to {source} by {key!r}, found none"
            )


def _surplus(connection: apsw.Connection, topology: Topology) -> Iterator[str]:
    wanted = {_binding_row(topology, binding) for binding in topology.bindings}
    ours = {name for _, name, _ in wanted}
    for source, name, key in sorted(_names(connection)[2] - wanted):
        if name in ours:
            yield f"queue {name}: expected no binding to {source} by {key!r}, found one"


def _names(
    connection: apsw.Connection,
) -> tuple[set[str], set[str], set[tuple[str, str, str]]]:
    exchanges = {name for (name,) in connection.execute("SELECT name FROM exchanges")}
    queues = {name for (name,) in connection.execute("SELECT name FROM queues")}
    bindings = set(
        connection.execute(
            "SELECT exchange, name, key FROM bindings JOIN queues ON id = queue"
        )
    )
    return exchanges, queues, bindings
