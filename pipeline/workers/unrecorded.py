"""What a worker has done in the outside world and the ledger has not heard of yet.

While the ledger can be read but not written (its disk is full), a delivery is handled
again and again. Its effect must not be: who was told is not told anew, what was
fetched is not fetched anew. Only the record has to wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from pipeline.message import Envelope, MessageId

T = TypeVar("T")

#: Deliveries that went elsewhere leave theirs behind: the oldest are forgotten.
MOST: Final = 10_000


class Unrecorded(Generic[T]):
    """Keeps what was done, by message, until the ledger has it.

    In memory: a process that ends forgets, and the effect is then repeated.
    """

    def __init__(self) -> None:
        #: With the attempt and the replay it is good for; ``None``: for all.
        self._kept: dict[MessageId, tuple[T, tuple[int, int] | None]] = {}

    def keep(self, envelope: Envelope, done: T, *, is_final: bool) -> None:
        """Keep what was done for a message.

        Unless it ``is_final``, a later attempt does not find it, and tries anew.
        """
        self.drop(envelope)
        good_for = None if is_final else _turn(envelope)
        self._kept[envelope.message_id] = (done, good_for)
        if len(self._kept) > MOST:
            del self._kept[next(iter(self._kept))]

    def find(self, envelope: Envelope) -> T | None:
        """Give what was done, if it need not be done again."""
        done, good_for = self._kept.get(envelope.message_id, (None, None))
        return done if good_for in {None, _turn(envelope)} else None

    def drop(self, envelope: Envelope) -> None:
        """Forget it: it is recorded."""
        self._kept.pop(envelope.message_id, None)


def _turn(envelope: Envelope) -> tuple[int, int]:
    return envelope.attempt, envelope.replays
