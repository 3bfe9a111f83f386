"""Where a callback goes: to the broker, or into the spool while that takes none."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from pipeline.errors import BrokerError, PublishRefused, SpoolRefused, Unroutable
from pipeline.failpoints import reach
from pipeline.logs import get_logger
from pipeline.metrics import CIRCUIT_OPEN, SPOOLED
from pipeline.spool.circuit import Circuit

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

    from pipeline.broker.port import Broker
    from pipeline.message import Publication
    from pipeline.spool.spool import Spool

log = get_logger("spool")

#: The broker has refused: a queue is full.
REFUSED: Final = "refused"
#: The broker has no queue for it.
UNROUTABLE: Final = "unroutable"
#: The broker gave no answer in time.
NO_ANSWER: Final = "no_answer"
#: The broker is known to be away, so it was not asked.
NOT_ASKED: Final = "not_asked"


class Outlet:
    """Publishes callbacks, and falls back on the spool.

    Args:
        broker: its deadline is the longest that a confirm is waited for.
        spool: open.
        clock: gives monotonic seconds.
    """

    def __init__(
        self,
        broker: Broker,
        spool: Spool,
        *,
        circuit: Circuit | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.broker = broker
        self.spool = spool
        self.circuit = circuit or Circuit()
        self._clock = clock
        #: The last publish was confirmed, and nothing wrong was seen since; then the
        #: broker is not asked how it is, which costs more than all else here.
        self._is_sound = False
        # Looked up once: that takes longer than counting.
        causes = (REFUSED, UNROUTABLE, NO_ANSWER, NOT_ASKED)
        self._spooled = {cause: SPOOLED.labels(cause) for cause in causes}

    @property
    def broker_problem(self) -> str | None:
        """Why nothing is published now; ``None``: it is."""
        if (problem := self.broker.problem) is not None:
            return problem
        if not self.circuit.is_closed:
            return "the broker did not confirm the last publishes; it is tried again"
        return None

    @property
    def problem(self) -> str | None:
        """Why the spool takes nothing; ``None``: it does."""
        return self.spool.problem

    @property
    def is_in_use(self) -> bool:
        """Whether callbacks wait in the spool."""
        return self.spool.messages > 0

    @property
    def state(self) -> Mapping[str, object]:
        """What there is to say about the spool, for people."""
        return {
            "messages": self.spool.messages,
            "oldest_seconds": round(self.spool.oldest_seconds, 1),
            "used_bytes": self.spool.used_bytes,
            "circuit": self.circuit.state.value,
        }

    def begin(self, publication: Publication) -> asyncio.Future[None] | None:
        """Begin to publish a callback, as ``Broker.begin``.

        If that fails, it has to be handed on to ``publish_failed``; if it does not,
        ``publish_succeeded`` has to hear of it.
        """
        return self.broker.begin(publication) if self._is_sound else None

    def publish_succeeded(self) -> None:
        """Note that the broker has confirmed what was begun."""
        if not self._is_sound:
            self.succeeded()

    async def publish_failed(
        self, publication: Publication, error: BrokerError
    ) -> None:
        """Return once a callback is safe that the broker did not take.

        Args:
            publication: the callback.
            error: what became of it at the broker.

        Raises:
            BrokerError: the spool does not take it either.
        """
        await self._store(publication, self.failed(error), error)

    async def publish(self, publication: Publication) -> None:
        """Return once the callback is safe: confirmed by the broker, or spooled.

        If the call raises, the callback may be on the broker all the same.

        Raises:
            BrokerError: the broker did not take it, nor did the spool.
        """
        if self._is_sound or self.broker_problem is None:
            try:
                await self.broker.publish(publication)
            except BrokerError as error:
                await self.publish_failed(publication, error)
            else:
                self.publish_succeeded()
            return
        try:
            await self._store(publication, NOT_ASKED)
        except SpoolRefused as refused:
            await self._publish_all_the_same(publication, refused)

    def look(self) -> None:
        """Notice that the broker is away; to be called every now and then."""
        if self._is_sound and self.broker.problem is not None:
            self._is_sound = False

    def succeeded(self) -> None:
        """Note that the broker has answered."""
        self._is_sound = True
        if not self.circuit.is_closed:
            log.info("circuit_closed")
            CIRCUIT_OPEN.set(0)
        self.circuit.succeeded()

    def failed(self, error: BrokerError) -> str:
        """Note that a publish has failed; gives the cause for the metrics."""
        if isinstance(error, Unroutable | PublishRefused):
            # An answer all the same, and a quick one.
            self.succeeded()
            return UNROUTABLE if isinstance(error, Unroutable) else REFUSED
        self._is_sound = False
        was_closed = self.circuit.is_closed
        self.circuit.failed(self._clock())
        if was_closed and not self.circuit.is_closed:
            log.warning("circuit_opened", error=str(error))
            CIRCUIT_OPEN.set(1)
        return NO_ANSWER

    async def _publish_all_the_same(
        self, publication: Publication, refused: SpoolRefused
    ) -> None:
        """Try the broker: there is nothing to lose but time, and it may be back."""
        try:
            await self.broker.publish(publication)
        except BrokerError as error:
            raise SpoolRefused(f"{self.broker.problem or error}; {refused}") from error
        self.succeeded()

    async def _store(
        self, publication: Publication, cause: str, error: BrokerError | None = None
    ) -> None:
        is_first = not self.spool.messages
        try:
            await self.spool.store(publication)
        except SpoolRefused as refused:
            if error is None:
                raise
            raise SpoolRefused(f"{error}; {refused}") from error
        await reach("spool.after_write")
        self._spooled[cause].inc()
        if is_first and self.spool.messages == 1:
            why = error or self.broker_problem
            log.warning("spool_filling", cause=cause, error=str(why))
