"""Callbacks on this machine's disk, in the order in which they came.

An embedded broker with one queue: a callback that ``store`` has returned for is
synced to the disk, many share a sync, and what was half written when the power went
is undone at the next start. Several processes may share the file.

Its names do not depend on ``broker.prefix``: whatever is in the file was answered
200, and is to go out under whatever settings there are now (``docs/decisions/0038``).
"""

from __future__ import annotations

import asyncio
import os
import time
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from pipeline.broker.sqlite import SqliteBroker
from pipeline.errors import BrokerError, BrokerUnavailable, SpoolRefused
from pipeline.logs import get_logger
from pipeline.message import Publication
from pipeline.metrics import (
    SPOOL_BYTES,
    SPOOL_MESSAGES,
    SPOOL_OLDEST_SECONDS,
    SPOOL_REFUSALS,
)
from pipeline.topology import (
    Binding,
    Exchange,
    ExchangeKind,
    Queue,
    QueueKind,
    Topology,
)

if TYPE_CHECKING:
    from types import TracebackType

    from pipeline.broker.port import Consumer
    from pipeline.settings import SpoolSettings

log = get_logger("spool")

#: The queue, and the exchange in front of it.
SPOOL: Final = "spool"
#: Of names in the file. Those of older files have the broker's prefix in its place.
PREFIX: Final = "pipeline"
#: What a process held that was killed is free again after this.
LEASE: Final = timedelta(seconds=5)
#: How often the free room of the disk is looked at, at most.
LOOK_SECONDS: Final = 0.25
#: About what a callback takes beside its body.
OVERHEAD_BYTES: Final = 600


_TOPOLOGY: Final = Topology(
    prefix=PREFIX,
    exchanges=(Exchange(name=SPOOL, kind=ExchangeKind.FANOUT),),
    # No work queue: of those, what is delivered too often is put aside.
    queues=(Queue(name=SPOOL, kind=QueueKind.UNROUTED),),
    bindings=(Binding(exchange=SPOOL, queue=SPOOL, key=""),),
)
_QUEUE: Final = _TOPOLOGY.queue_name(SPOOL)


class Cause(Enum):
    """Why a callback is not taken."""

    #: It holds as much as it may.
    FULL = "full"
    #: The disk has too little room left.
    DISK = "disk"
    #: The oldest has waited for too long.
    AGE = "age"
    #: The file cannot be written.
    FAILED = "failed"


class Refusal(NamedTuple):
    """Why nothing is taken now."""

    cause: Cause
    text: str


def has_file(settings: SpoolSettings) -> bool:
    """Tell whether there is a file that may hold callbacks; waits for the disk.

    One that cannot be looked at may.
    """
    try:
        return settings.path.is_file()
    except OSError:
        return True


class Spool:
    """The spool, to be used as an async context manager.

    Entering makes the file if there is none. Where that cannot be done the spool
    takes nothing and says so; it is tried again every second.

    Args:
        settings: where it is and how much it may hold.
    """

    def __init__(self, settings: SpoolSettings) -> None:
        #: Set while there is something to forward.
        self.filled = asyncio.Event()
        #: Callbacks that wait, as far as is known.
        self.messages = 0
        #: When the first of them came in.
        self.oldest_at: datetime | None = None
        #: Full name of the queue in the file that has the first of them.
        self.first_queue = _QUEUE
        #: What it takes on the disk.
        self.used_bytes = 0
        self._settings = settings
        self._folder = settings.path.absolute().parent
        self._broker = SqliteBroker(
            settings.path,
            deadline=settings.timeout,
            lease=LEASE,
            is_main=False,
        )
        self._is_declared = False
        self._stored = 0
        self._free_bytes = 0
        self._looked_at = float("-inf")

    async def __aenter__(self) -> Self:
        await self._broker.__aenter__()
        try:
            await self.measure()
        except BrokerUnavailable as error:
            log.warning("spool_unavailable", error=str(error))
        except BaseException:
            await self._broker.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._broker.__aexit__(kind, error, trace)

    @property
    def problem(self) -> str | None:
        """Why no callback is taken; ``None``: they are."""
        refusal = self._refusal()
        return None if refusal is None else refusal.text

    @property
    def failure(self) -> str | None:
        """Why the file cannot be used; ``None``: it can."""
        return self._broker.problem

    @property
    def oldest_seconds(self) -> float:
        """How long the first has waited; 0 if there is none."""
        if not self.messages or self.oldest_at is None:
            return 0.0
        return max(0.0, (datetime.now(UTC) - self.oldest_at).total_seconds())

    async def store(self, publication: Publication) -> None:
        """Take one callback; returns once it is on the disk.

        Raises:
            SpoolRefused: it is not taken; where writing took too long it may be
                there all the same.
        """
        refusal = self._refusal()
        if refusal is not None:
            SPOOL_REFUSALS.labels(refusal.cause.value).inc()
            raise SpoolRefused(refusal.text)
        envelope = publication.envelope
        try:
            await self._broker.publish(Publication(exchange=SPOOL, envelope=envelope))
        except BrokerError as error:
            SPOOL_REFUSALS.labels(Cause.FAILED.value).inc()
            raise SpoolRefused(f"spool: {error}") from error
        if not self.messages:
            self.oldest_at = envelope.published_at
        self._stored += 1
        self.messages += 1
        self.used_bytes += len(envelope.body) + OVERHEAD_BYTES
        self.filled.set()

    def consume(self, prefetch: int) -> Consumer:
        """Make a consumer of ``first_queue``, as it is now.

        What it acknowledges is to be told to ``forwarded``.
        """
        return self._broker.consume_full(self.first_queue, prefetch=prefetch)

    def forwarded(self, count: int) -> None:
        """Note that so many are gone."""
        self.messages = max(0, self.messages - count)

    async def measure(self) -> None:
        """Look at what there really is, and show it in the metrics.

        Raises:
            BrokerUnavailable: the file cannot be used.
            TopologyMismatch: it is no spool, or one of a newer version.
        """
        if not self._is_declared:
            await self._broker.declare(_TOPOLOGY)
            self._is_declared = True
        stored = self._stored
        content = await self._broker.content(SPOOL)
        # What came meanwhile may be counted twice, until the next look.
        self.messages = content.messages + self._stored - stored
        self.oldest_at = content.oldest_at or self.oldest_at
        self.used_bytes = content.used_bytes
        self.first_queue = content.first_queue or _QUEUE
        if self.messages:
            self.filled.set()
        else:
            self.filled.clear()
        SPOOL_MESSAGES.set(self.messages)
        SPOOL_BYTES.set(self.used_bytes)
        SPOOL_OLDEST_SECONDS.set(self.oldest_seconds)

    async def count_held(self) -> int:
        """Count what consumers hold, of this process or of others, dead or alive.

        Raises:
            BrokerUnavailable: the file cannot be used.
        """
        # Takes from the dead what they held.
        await self._broker.depth(SPOOL)
        return (await self._broker.content(SPOOL)).held

    def _refusal(self) -> Refusal | None:
        limits = self._settings
        if (problem := self._broker.problem) is not None:
            return Refusal(Cause.FAILED, f"spool: {problem}")
        if self.used_bytes >= limits.max_bytes:
            text = f"spool.max_bytes: {int(limits.max_bytes)} bytes are used up"
            return Refusal(Cause.FULL, text)
        if (free := self._free()) < limits.min_free_bytes:
            text = (
                f"spool.min_free_bytes: expected {int(limits.min_free_bytes)} free"
                f" bytes in {self._folder}, found {free}"
            )
            return Refusal(Cause.DISK, text)
        if self.oldest_seconds > limits.max_age.total_seconds():
            text = f"spool.max_age: the oldest has waited {self.oldest_seconds:.0f} s"
            return Refusal(Cause.AGE, text)
        return None

    def _free(self) -> int:
        """Give the free bytes of the disk, as they were a moment ago."""
        now = time.monotonic()
        if now - self._looked_at >= LOOK_SECONDS:
            self._looked_at = now
            try:
                found = os.statvfs(self._folder)
            except OSError:
                self._free_bytes = 0
            else:
                self._free_bytes = found.f_bavail * found.f_frsize
        return self._free_bytes
