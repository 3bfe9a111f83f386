"""What has arrived at a consumer and nobody has received yet, and in which order.

A message that was delivered again and again without being settled may be what takes
its worker down. Handed out like any other, it would take those down with it that are
handled beside it, over and over, until the broker gives up all of them. So it is
handed out alone; and since its neighbours have been delivered as often as it has,
nobody knows which one it is: they come one at a time, in random order, so that each
has its chance before the culprit has its turn.
"""

from __future__ import annotations

import random
import time
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from pipeline.broker.order import make_waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pipeline.broker.order import Order, Waiting
    from pipeline.broker.port import Delivery

#: How long others are waited for, or the first to arrive would always have its turn.
GATHER_SECONDS: Final = 0.05


class Arrivals:
    """Holds deliveries until they are received.

    Args:
        is_idle: tells whether everything that was handed out is settled.
        order: of those that are no suspects; ``None``: as they came.
    """

    def __init__(self, is_idle: Callable[[], bool], order: Order | None = None) -> None:
        self._is_idle = is_idle
        self._usual: Waiting[Delivery] = make_waiting(order, attrgetter("envelope"))
        self._suspects: list[Delivery] = []
        self._suspect_came_at = 0.0
        #: A suspect was handed out: nothing else is until it is settled.
        self._is_alone = False

    def __len__(self) -> int:
        """Count what nobody has received."""
        return len(self._usual) + len(self._suspects)

    @property
    def has_suspects(self) -> bool:
        """Whether what comes next depends on settlements."""
        return self._is_alone or bool(self._suspects)

    def add(self, delivery: Delivery, *, is_suspect: bool) -> None:
        """Note an arrival."""
        if is_suspect:
            self._suspects.append(delivery)
            self._suspect_came_at = time.monotonic()
        else:
            self._usual.append(delivery)

    def take(self, limit: int) -> Sequence[Delivery]:
        """Give up to ``limit`` deliveries; none: not yet."""
        if self.has_suspects:
            if not self._is_idle() or self.gathering_seconds > 0:
                return ()
            # By turns, so that suspects hold up nobody for long, nor are held up.
            self._is_alone = bool(self._suspects) and not (
                self._is_alone and self._usual
            )
            if self._is_alone:
                chosen = random.randrange(len(self._suspects))  # noqa: S311 no secret
                return (self._suspects.pop(chosen),)
        usual = self._usual
        return [usual.popleft() for _ in range(min(limit, len(usual)))]

    @property
    def gathering_seconds(self) -> float:
        """How long to wait for more suspects before one is chosen."""
        if not self._suspects:
            return 0.0
        return max(0.0, self._suspect_came_at + GATHER_SECONDS - time.monotonic())

    def drain(self) -> Iterator[Delivery]:
        """Give everything, to be given back."""
        while self._usual:
            yield self._usual.popleft()
        while self._suspects:
            yield self._suspects.pop()

    def clear(self) -> None:
        """Forget everything: the broker delivers it again."""
        self._usual.clear()
        self._suspects.clear()
        self._is_alone = False
