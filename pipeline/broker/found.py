"""What a broker says of itself: how many messages wait, and what there is."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import BrokerError


@dataclass(frozen=True, slots=True, kw_only=True)
class Depth:
    """How many messages wait."""

    #: In the queue, waiting for a consumer.
    ready: int
    #: Delivered by this handle, neither acknowledged nor given back.
    unacked: int
    #: The same of every handle; ``None``: there are consumers, it cannot be told.
    held: int | None
    #: In the delay queues, which all work queues share.
    delayed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A part of the topology that is not as this version would make it."""

    #: A sentence: what was expected, what is there, what to do.
    text: str
    #: The pipeline works all the same, so ``Broker.declare`` accepts it.
    is_tolerated: bool = False
    #: It is not known whether there is one: this user may not compare.
    is_unseen: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundQueue:
    """A queue that is on the broker, whether a topology names it or not."""

    #: Without the prefix, such as ``notify.shop``.
    name: str
    #: How many messages wait in it; on the embedded broker also those held.
    messages: int
    #: Whether somebody takes from it now.
    is_used: bool

    def require_idle(self) -> None:
        """Refuse to go on while it is in use or has messages.

        Raises:
            BrokerError: it is, or it has.
        """
        if self.messages or self.is_used:
            used = "somebody takes from it" if self.is_used else "nobody takes from it"
            message = (
                f"queue {self.name}: expected it to be empty and unused, found"
                f" {self.messages} messages, and {used}: it was not removed"
            )
            raise BrokerError(message)
