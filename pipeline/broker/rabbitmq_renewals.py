"""Giving back as new what only waited at a consumer that stops.

RabbitMQ counts how often a message came back, and takes one that comes back too often
for one that kills its worker, also where no handler ever saw it. A copy counts as
never delivered.

The copies go by the shortest delay: every user that consumes may publish there,
because there it retries, and not all of them may put messages into work queues. And
they go over a channel of their own: the broker closes the one over which it is asked
for what it does not allow, and the outcome of all else on it is unknown then.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from pipeline.broker.rabbitmq_connection import bounded
from pipeline.errors import BrokerError, BrokerUnavailable
from pipeline.logs import get_logger
from pipeline.topology import SUSPECT_DELIVERIES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from pipeline.broker.rabbitmq_plain import Publisher, Route
    from pipeline.message import Publication

log = get_logger("broker")

#: One more return, and the message would be handed out alone.
WORN_RETURNS: Final = SUSPECT_DELIVERIES - 1
#: How the broker's reason begins where a user may not.
ACCESS_REFUSED: Final = "ACCESS_REFUSED"


class Renewals:
    """Publishes copies over a channel that nobody else uses, one call at a time.

    Args:
        route: says where publications go, in the broker's names.
        open_publisher: opens such a channel, or raises ``BrokerUnavailable``.
    """

    def __init__(
        self,
        route: Callable[[Sequence[Publication]], Sequence[tuple[Route, Publication]]],
        open_publisher: Callable[[], Awaitable[Publisher]],
    ) -> None:
        self._route = route
        self._open_publisher = open_publisher
        self._opening: asyncio.Future[Publisher] | None = None
        self._turn = asyncio.Lock()
        #: The user may not; that is so for every queue, for all go the same way.
        self._is_refused = False

    async def publish(
        self, queue: str, copies: Sequence[Publication], *, within_seconds: float
    ) -> bool:
        """Publish copies of messages of ``queue``; tell whether all are stored.

        If not, some may be, and the messages have to go back as they are. That a
        user may not publish them is said once, and not tried again.
        """
        try:
            items = self._route(copies)
            async with bounded(within_seconds, "giving back as new"), self._turn:
                if self._is_refused:
                    return False
                publisher = await self._usable_publisher()
                await publisher.publish(items, deadline_seconds=within_seconds)
        except BrokerUnavailable as error:
            if ACCESS_REFUSED in str(error):
                self._note_refusal(queue, items[0][0].exchange, error)
            else:
                log.debug("not_renewed", queue=queue, error=str(error))
        except BrokerError as error:
            log.warning("not_renewed", queue=queue, error=str(error))
        else:
            return True
        return False

    async def close(self) -> None:
        """Fail what is in flight; the channel is closed with its connection."""
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.cancel()
            (opened,) = await asyncio.gather(opening, return_exceptions=True)
            if not isinstance(opened, BaseException):
                await opened.close()

    async def _usable_publisher(self) -> Publisher:
        opening = self._opening
        if opening is None or (opening.done() and not _is_open(opening)):
            self._opening = opening = asyncio.ensure_future(self._open_publisher())
        # A channel that is left in the middle of opening would cost the connection.
        return await asyncio.shield(opening)

    def _note_refusal(self, queue: str, exchange: str, refusal: BrokerError) -> None:
        self._is_refused = True
        error = (
            f"expected to be let publish to exchange {exchange}, was refused"
            f" ({refusal}): give this user the right to write there, as"
            " configs/rabbitmq/definitions.sh does, and start it again. Without it"
            " nothing can be retried, and what waits at every stop ends as a dead"
            " letter that no handler has seen"
        )
        log.warning("not_renewed", queue=queue, error=error)


def _is_open(opening: asyncio.Future[Publisher]) -> bool:
    is_there = not opening.cancelled() and opening.exception() is None
    return is_there and opening.result().is_open
