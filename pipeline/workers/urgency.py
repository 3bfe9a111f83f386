"""Which download is begun first: the one whose link has the least time left."""

from __future__ import annotations

from datetime import timedelta
from math import inf
from typing import TYPE_CHECKING, Final

from pipeline.broker.order import Order
from pipeline.errors import Reject
from pipeline.events.catalogue import AssetRequested, parse_event

if TYPE_CHECKING:
    from pipeline.assets.lifetime import Lifetimes
    from pipeline.message import Envelope

#: RabbitMQ cuts off whoever holds a delivery for 30 minutes, and takes back all that
#: the connection's channel has; some of that is left for settling.
LONGEST_HELD: Final = timedelta(minutes=25)
#: So long may a request be overtaken by others.
PATIENCE: Final = timedelta(minutes=5)


def by_time_left(
    lifetimes: Lifetimes, *, window: int, concurrency: int, deadline: timedelta
) -> Order | None:
    """Make the order of downloads; ``None``: as they were asked for.

    The window is made smaller where it could be held for too long: once patience is
    over, a request waits for those before it, each of which takes up to its deadline.
    """
    rounds = (LONGEST_HELD - PATIENCE) // deadline
    safe = min(window, concurrency * rounds)
    if safe <= concurrency:
        return None  # nothing would ever wait, so there is nothing to choose from

    def dies_at(envelope: Envelope) -> float:
        try:
            event = parse_event(envelope.body)
        except Reject:
            return -inf  # a dead letter at once, whenever its turn is
        if not isinstance(event, AssetRequested):
            return -inf
        lasts = lifetimes.of(event.data.url)
        return event.time.timestamp() + lasts.total_seconds()

    return Order(rank=dies_at, window=safe, patience=PATIENCE)
