"""Which exchanges, queues and bindings there are, and where a message goes next.

Pure. The listing in ``build_topology`` is the architecture: every queue that the
pipeline has is named there. Reasons for the arguments: ``docs/operations.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from pipeline.message import Envelope, Publication, next_attempt, replayed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

#: Raised whenever the arguments of a queue change; it is part of queue names.
TOPOLOGY_VERSION: Final = 1

#: Public: the provider's callbacks, ``callback.<operation>.<stage>``.
CALLBACKS: Final = "callbacks"
#: Public: what we publish for others, ``task.<stage>``, ``asset.stored``, ...
EVENTS: Final = "events"
#: Internal: routes by queue name, straight to one work queue.
WORK: Final = "work"
#: Internal: routes by queue name, to the dead-letter queue of that queue.
DEAD: Final = "dead"
#: Internal: callbacks that no binding wanted; kept, because they were accepted.
UNROUTED: Final = "unrouted"

DEDUPE: Final = "dedupe"
DOWNLOAD: Final = "download"

#: A crash-loop guard only: retries are counted by our own header.
DELIVERY_LIMIT: Final = 20
#: A message that was delivered so often without being settled is handed out alone, so
#: that its neighbours are not counted as well when it takes its worker down.
SUSPECT_DELIVERIES: Final = 3

DEFAULT_DELAYS: Final = tuple(
    timedelta(seconds=seconds) for seconds in (5, 30, 120, 600, 3600, 21600)
)


class ExchangeKind(StrEnum):
    """How an exchange routes, in AMQP's words."""

    TOPIC = "topic"
    DIRECT = "direct"
    FANOUT = "fanout"


class QueueKind(StrEnum):
    """What a queue is for; adapters choose its arguments by this."""

    #: Has a consumer; poison that kills it goes to its dead-letter queue.
    WORK = "work"
    #: Holds dead letters until somebody replays or discards them.
    DEAD = "dead"
    #: Holds messages for a fixed time, then hands them to ``WORK``.
    DELAY = "delay"
    #: Keeps callbacks that no binding wanted.
    UNROUTED = "unrouted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """An exchange; all are durable."""

    name: str
    kind: ExchangeKind
    #: Gets what no binding wants.
    alternate: str | None = None
    #: Without an alternate, a publish that no binding wants raises ``Unroutable``
    #: if this is true, and is dropped if it is false: nobody asked for it.
    mandatory: bool = True
    #: Public names are a contract with others and never carry our version.
    public: bool = False


#: Those that are always there; each delay has one more.
_EXCHANGES: Final = (
    # Every callback goes to dedupe: nothing to choose, and choosing by topic would
    # cost the broker a fourth of what a callback costs it (``docs/decisions/0020``).
    Exchange(name=CALLBACKS, kind=ExchangeKind.FANOUT, alternate=UNROUTED, public=True),
    Exchange(name=EVENTS, kind=ExchangeKind.TOPIC, mandatory=False, public=True),
    Exchange(name=WORK, kind=ExchangeKind.DIRECT),
    Exchange(name=DEAD, kind=ExchangeKind.DIRECT),
    Exchange(name=UNROUTED, kind=ExchangeKind.FANOUT),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """A queue; all are durable."""

    name: str
    kind: QueueKind
    #: Only for ``DELAY``: how long a message stays.
    delay: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """Messages of ``exchange`` that match ``key`` are put into ``queue``."""

    exchange: str
    queue: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """Everything that has to exist on a broker."""

    prefix: str
    exchanges: tuple[Exchange, ...]
    queues: tuple[Queue, ...]
    bindings: tuple[Binding, ...]

    @property
    def work_queues(self) -> tuple[str, ...]:
        """Names of the queues that have a consumer and a dead-letter queue."""
        return tuple(q.name for q in self.queues if q.kind is QueueKind.WORK)

    def exchange_name(self, exchange: str) -> str:
        """Give the name of an exchange on the broker."""
        public = any(e.public for e in self.exchanges if e.name == exchange)
        version = "" if public else f"v{TOPOLOGY_VERSION}."
        return f"{self.prefix}.{version}{exchange}"

    def queue_name(self, queue: str) -> str:
        """Give the name of a queue on the broker."""
        return f"{self.prefix}.v{TOPOLOGY_VERSION}.{queue}"

    def delay_for(self, wait: timedelta) -> Queue:
        """Choose the shortest delay queue that waits at least ``wait``.

        A longer wait than the longest delay gets the longest one.
        """
        delays = sorted(
            (q for q in self.queues if q.delay is not None),
            key=lambda q: q.delay or timedelta(0),
        )
        return next((q for q in delays if q.delay and q.delay >= wait), delays[-1])

    def retry(self, queue: str, envelope: Envelope, wait: timedelta) -> Publication:
        """Send ``envelope`` back to ``queue``, one attempt on, after ``wait``."""
        return Publication(
            exchange=self.delay_for(wait).name,
            envelope=next_attempt(envelope),
            key=queue,
        )

    def as_new(self, queue: str, envelope: Envelope) -> Publication:
        """Send ``envelope`` back to ``queue`` after the shortest delay, as it is.

        The broker takes it for a new message. Whoever may retry may do this.
        """
        exchange = self.delay_for(timedelta(0)).name
        return Publication(exchange=exchange, envelope=envelope, key=queue)


def dead_letter(queue: str, envelope: Envelope) -> Publication:
    """Send ``envelope`` to the dead-letter queue of ``queue``."""
    return Publication(exchange=DEAD, envelope=envelope, key=queue)


def replay(queue: str, envelope: Envelope) -> Publication:
    """Send a dead letter of ``queue`` back to ``queue``, and to no other.

    What was ``unrouted`` goes where it came from, to be routed once more.
    """
    if queue == UNROUTED:
        return Publication(exchange=CALLBACKS, envelope=replayed(envelope))
    return hand_to(queue, replayed(envelope))


def hand_to(queue: str, envelope: Envelope) -> Publication:
    """Put ``envelope`` straight into one work queue, whatever its routing key."""
    return Publication(exchange=WORK, envelope=envelope, key=queue)


def dead_letter_queue(queue: str) -> str:
    """Name the dead-letter queue of a work queue; ``unrouted`` is its own."""
    return queue if queue == UNROUTED else f"dead.{queue}"


def notify_queue(subscription: str) -> str:
    """Name the work queue of a subscription."""
    return f"notify.{subscription}"


def delay_name(delay: timedelta) -> str:
    """Name a delay: ``delay.5s``, ``delay.2m``, ``delay.6h``, ``delay.250ms``."""
    milliseconds = round(delay.total_seconds() * 1000)
    for unit, size in (("h", 3_600_000), ("m", 60_000), ("s", 1000)):
        if milliseconds and milliseconds % size == 0:
            return f"delay.{milliseconds // size}{unit}"
    return f"delay.{milliseconds}ms"


def build_topology(
    *,
    subscriptions: Mapping[str, Sequence[str]] | None = None,
    prefix: str = "pipeline",
    delays: Sequence[timedelta] = DEFAULT_DELAYS,
) -> Topology:
    """List every exchange, queue and binding of the pipeline.

    Args:
        subscriptions: name of each subscription and the topic patterns it wants.
        prefix: put before every name on the broker.
        delays: the delay queues; a retry waits at least as long as it asked for.

    Raises:
        ValueError: no delay, or a delay of less than a millisecond.
    """
    if not delays or min(delays) < timedelta(milliseconds=1):
        message = f"expected delays of a millisecond or more, got {list(delays)}"
        raise ValueError(message)
    work = _work_queues(subscriptions or {})
    delay_queues = [
        Queue(name=delay_name(d), kind=QueueKind.DELAY, delay=d)
        for d in sorted(set(delays))
    ]
    return Topology(
        prefix=prefix,
        exchanges=(
            *_EXCHANGES,
            *(Exchange(name=q.name, kind=ExchangeKind.FANOUT) for q in delay_queues),
        ),
        queues=(
            *(Queue(name=name, kind=QueueKind.WORK) for name in work),
            *(
                Queue(name=dead_letter_queue(name), kind=QueueKind.DEAD)
                for name in work
            ),
            *delay_queues,
            Queue(name=UNROUTED, kind=QueueKind.UNROUTED),
        ),
        bindings=(
            *(binding for bindings in work.values() for binding in bindings),
            *(Binding(exchange=q.name, queue=q.name, key="") for q in delay_queues),
            Binding(exchange=UNROUTED, queue=UNROUTED, key=""),
        ),
    )


def _work_queues(
    subscriptions: Mapping[str, Sequence[str]],
) -> dict[str, list[Binding]]:
    """List the work queues, each with the bindings of itself and its dead letters."""
    wanted = {
        DEDUPE: [Binding(exchange=CALLBACKS, queue=DEDUPE, key="")],
        DOWNLOAD: [],
    }
    for name, patterns in subscriptions.items():
        queue = notify_queue(name)
        wanted[queue] = [Binding(exchange=EVENTS, queue=queue, key=p) for p in patterns]
    return {
        queue: [
            *bindings,
            Binding(exchange=WORK, queue=queue, key=queue),
            Binding(exchange=DEAD, queue=dead_letter_queue(queue), key=queue),
        ]
        for queue, bindings in wanted.items()
    }


def matches(pattern: str, key: str) -> bool:
    """Tell whether a routing key matches a topic pattern, as AMQP 0-9-1 has it.

    ``*`` stands for one word, ``#`` for none or more.
    """
    return _matches(pattern.split("."), key.split("."))


def _matches(pattern: Sequence[str], words: Sequence[str]) -> bool:
    """Match word lists by the table of reachable positions: never exponential."""
    reachable = {0}
    for part in pattern:
        if part == "#":
            reachable = set(range(min(reachable), len(words) + 1))
        else:
            reachable = {
                at + 1
                for at in reachable
                if at < len(words) and part in ("*", words[at])
            }
        if not reachable:
            return False
    return len(words) in reachable


def routed(topology: Topology, exchange: str, key: str) -> Iterable[str]:
    """Give the queues, each once, that a message reaches, alternates included."""
    by_name = {e.name: e for e in topology.exchanges}
    while True:
        found = by_name[exchange]
        queues = dict.fromkeys(
            b.queue
            for b in topology.bindings
            if b.exchange == exchange and _routes(found.kind, b.key, key)
        )
        if queues or found.alternate is None:
            return queues
        exchange = found.alternate


def _routes(kind: ExchangeKind, binding_key: str, key: str) -> bool:
    if kind is ExchangeKind.FANOUT:
        return True
    if kind is ExchangeKind.DIRECT:
        return binding_key == key
    return matches(binding_key, key)
