"""Look through dead letters, replay them, discard them."""

from __future__ import annotations

from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from pipeline.dead_letters.letter import DeadLetter, Selection
from pipeline.dead_letters.walk import BATCH, Pace, Walk
from pipeline.errors import BrokerError, LedgerError
from pipeline.failpoints import reach
from pipeline.topology import dead_letter_queue
from pipeline.topology import replay as to_own_queue

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Sequence

    from pipeline.broker.found import Depth
    from pipeline.broker.port import Broker, Delivery
    from pipeline.message import Envelope, Publication


@dataclass(slots=True, kw_only=True)
class Progress:
    """How far a look, a replay or a removal is; one object, which changes."""

    #: Dead letters there were at the start and nobody held.
    total: int = 0
    #: Those that other readers held at the start: they are not looked at. ``None``:
    #: there were other readers, and the broker does not tell how many they held.
    held: int | None = 0
    #: Looked at so far.
    seen: int = 0
    #: Replayed or discarded so far, or what would have been.
    matched: int = 0
    #: The same by queue.
    by_queue: dict[str, int] = field(default_factory=dict)

    @property
    def missed(self) -> int | None:
        """How many were there and could not be looked at; ``None``: perhaps some."""
        return None if self.held is None else self.held + max(0, self.total - self.seen)

    def add(self, depth: Depth) -> None:
        """Count what a queue holds at the start."""
        self.total += depth.ready
        known = self.held is not None and depth.held is not None
        self.held = (self.held or 0) + (depth.held or 0) if known else None


class OnProgress(Protocol):
    """Hears how far it is."""

    def __call__(self, progress: Progress, /) -> None:
        """Take note; must return at once."""


class Settle(Protocol):
    """Says what is published before dead letters of a work queue are acknowledged."""

    async def __call__(
        self, queue: str, envelopes: Sequence[Envelope], /
    ) -> Sequence[Publication]:
        """Settle what else there is to be settled, and give the publications."""


async def browse(
    broker: Broker,
    queues: Sequence[str],
    selection: Selection,
    *,
    progress: Progress | None = None,
) -> AsyncGenerator[DeadLetter, None]:
    """Yield the dead letters of work ``queues``, the oldest of each first.

    They are given back when the generator is closed; use ``aclosing``. What could
    not be looked at, because others hold it, is counted in ``progress``.

    Raises:
        BrokerUnavailable: the broker does not answer, or has taken back what was
            seen: dead letters that were not yielded may be there.
    """
    looked = Progress() if progress is None else progress
    for queue in queues:
        async with Walk(broker, queue) as walk:
            looked.add(walk.depth)
            while deliveries := await walk.receive(BATCH):
                looked.seen += len(deliveries)
                for delivery in deliveries:
                    letter = DeadLetter(queue=queue, envelope=delivery.envelope)
                    if selection.matches(letter):
                        looked.matched += 1
                        yield letter


async def find(
    broker: Broker,
    queues: Sequence[str],
    message_id: str,
    *,
    progress: Progress | None = None,
) -> DeadLetter | None:
    """Find a dead letter by its message id; ``progress``: as for ``browse``.

    Raises:
        BrokerUnavailable: the broker does not answer.
    """
    wanted = Selection(message_id=message_id)
    found = browse(broker, queues, wanted, progress=progress)
    async with aclosing(found) as letters:
        async for letter in letters:
            return letter
    return None


async def replay(
    broker: Broker,
    queues: Sequence[str],
    selection: Selection,
    *,
    limit: int | None = None,
    rate: float | None = None,
    dry_run: bool = False,
    on_progress: OnProgress | None = None,
) -> Progress:
    """Send dead letters back to the queue each of them failed in, and to no other.

    Each starts again at attempt 1 and counts the replay. The copy is stored before
    the dead letter is acknowledged, so dying in between duplicates and never loses;
    the message id stays the same. What fails again meanwhile is not replayed twice.
    After an error those counted in the last report are replayed, and perhaps a batch
    more; the error says so, and the next call takes the rest.

    Args:
        broker: where.
        queues: names of work queues, or ``unrouted``.
        selection: which.
        limit: at most so many.
        rate: at most so many each second, over any second.
        dry_run: count and change nothing.
        on_progress: called after every batch.

    Raises:
        BrokerUnavailable, PublishRefused, Unroutable: as ``Broker.publish``; also if
            the broker took back what is held.
    """
    job = _Job(broker, selection, limit=limit, dry_run=dry_run, report=on_progress)
    with job.said("replayed"):
        return await job.run(queues, settle=_replayed, pace=Pace(rate))


async def discard(
    broker: Broker,
    queues: Sequence[str],
    selection: Selection,
    *,
    limit: int | None = None,
    dry_run: bool = False,
    settle: Settle | None = None,
    on_progress: OnProgress | None = None,
) -> Progress:
    """Remove dead letters for ever.

    ``settle`` is asked what to publish before they are removed (``GivingUp``).
    Other arguments and errors: as ``replay``.
    """
    job = _Job(broker, selection, limit=limit, dry_run=dry_run, report=on_progress)
    with job.said("discarded"):
        return await job.run(queues, settle=settle or _forgotten, pace=Pace(None))


async def _replayed(queue: str, envelopes: Sequence[Envelope]) -> Sequence[Publication]:
    return [to_own_queue(queue, envelope) for envelope in envelopes]


async def _forgotten(_: str, __: Sequence[Envelope]) -> Sequence[Publication]:
    return ()


class _Job:
    """Settles every dead letter of a selection."""

    def __init__(
        self,
        broker: Broker,
        selection: Selection,
        *,
        limit: int | None,
        dry_run: bool,
        report: OnProgress | None,
    ) -> None:
        self._broker = broker
        self._selection = selection
        self._limit = limit
        self._dry_run = dry_run
        self._report = report
        self._progress = Progress()

    @contextmanager
    def said(self, verb: str) -> Iterator[None]:
        """Say in an error how much was done before it."""
        try:
            yield
        except (BrokerError, LedgerError) as error:
            done, total = self._progress.matched, self._progress.total
            if self._dry_run:
                raise
            raise type(error)(
                f"{error}; {done:,} of {total:,} dead letters were {verb} before that"
            ) from error

    async def run(
        self, queues: Sequence[str], *, settle: Settle, pace: Pace
    ) -> Progress:
        progress = self._progress
        for queue in queues:
            progress.add(await self._broker.depth(dead_letter_queue(queue)))
        for queue in queues:
            async with Walk(self._broker, queue) as walk:
                while not self._is_enough:
                    deliveries = await walk.receive(pace.batch)
                    if not deliveries:
                        break
                    chosen = self._choose(queue, deliveries)
                    if chosen and not self._dry_run:
                        copies = await settle(queue, [d.envelope for d in chosen])
                        await reach("dead_letters.before_ack")
                        await walk.ack(chosen, copies)
                    self._note(queue, len(deliveries), len(chosen))
                    if not self._dry_run:
                        await pace.keep(len(chosen))
        return progress

    @property
    def _is_enough(self) -> bool:
        return self._limit is not None and self._progress.matched >= self._limit

    def _choose(self, queue: str, deliveries: Sequence[Delivery]) -> list[Delivery]:
        chosen = [
            delivery
            for delivery in deliveries
            if self._selection.matches(
                DeadLetter(queue=queue, envelope=delivery.envelope)
            )
        ]
        if self._limit is None:
            return chosen
        return chosen[: self._limit - self._progress.matched]

    def _note(self, queue: str, seen: int, matched: int) -> None:
        progress = self._progress
        progress.seen += seen
        progress.matched += matched
        if matched:
            progress.by_queue[queue] = progress.by_queue.get(queue, 0) + matched
        if self._report is not None:
            self._report(progress)
