"""In which order a consumer hands out what has arrived.

Without one: as it came. With one, the most urgent of those that have arrived goes
first. What is still in the queue cannot be looked at, so how far this reaches is how
many are let arrive.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

from pipeline.values import value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import timedelta

    from pipeline.message import Envelope

T = TypeVar("T")


@value
class Order:
    """Says what goes first."""

    #: Ranks an envelope: the smallest goes first, and equal ones as they came. It
    #: must not raise.
    rank: Callable[[Envelope], float]
    #: So many deliveries are chosen from, those in progress included.
    window: int
    #: Who has waited longer than this in the window goes first, whatever its rank: so
    #: nothing is held for ever.
    patience: timedelta


class Ordered(Generic[T]):
    """The part of a ``deque`` that a consumer needs, with another ``popleft``.

    Args:
        rank: of an item, asked for once.
        patience: as of ``Order``.
        clock: seconds that only go up.
    """

    def __init__(
        self,
        rank: Callable[[T], float],
        patience: timedelta,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rank = rank
        self._patience_seconds = patience.total_seconds()
        self._clock = clock
        #: When it came, its rank, and the item; in the order of arrival.
        self._items: list[tuple[float, float, T]] = []

    def __len__(self) -> int:
        """Count what waits."""
        return len(self._items)

    def append(self, item: T) -> None:
        """Add one that has arrived."""
        self._items.append((self._clock(), self._rank(item), item))

    def extend(self, items: Iterable[T]) -> None:
        """Add several."""
        for item in items:
            self.append(item)

    def popleft(self) -> T:
        """Take out what goes first.

        Raises:
            IndexError: there is nothing.
        """
        items = self._items
        chosen = 0
        if items and self._clock() - items[0][0] <= self._patience_seconds:
            # A window is small: to look through it costs less than to keep a heap.
            chosen = min(range(len(items)), key=lambda place: items[place][1])
        return items.pop(chosen)[-1]

    def clear(self) -> None:
        """Forget everything."""
        self._items.clear()


#: What has arrived at a consumer and was not received.
Waiting: TypeAlias = deque[T] | Ordered[T]


def make_waiting(
    order: Order | None, envelope_of: Callable[[T], Envelope]
) -> Waiting[T]:
    """Make what a consumer keeps its arrivals in."""
    if order is None:
        return deque()
    rank = order.rank
    return Ordered(lambda item: rank(envelope_of(item)), order.patience)
