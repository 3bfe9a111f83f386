"""What the fast publisher keeps of a message until the broker has answered for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.broker.rabbitmq_plain import refused, unroutable

if TYPE_CHECKING:
    import asyncio

    from pipeline.errors import BrokerError
    from pipeline.message import Envelope


class Call:
    """One call of ``publish``: its future is done when all its messages are."""

    __slots__ = ("due_at", "error", "future", "waiting")

    def __init__(
        self, future: asyncio.Future[None], waiting: int, due_at: float
    ) -> None:
        self.future = future
        self.waiting = waiting
        self.due_at = due_at
        self.error: BrokerError | None = None

    def one_done(self, error: BrokerError | None) -> None:
        self.waiting -= 1
        if error is not None and self.error is None:
            self.error = error
        if self.waiting == 0:
            self.finish(self.error)

    def finish(self, error: BrokerError | None) -> None:
        if self.future.done():
            return
        if error is None:
            self.future.set_result(None)
        else:
            self.future.set_exception(error)


class Message:
    """One message on its way out, then waiting for its confirm."""

    __slots__ = ("call", "envelope", "method", "returned", "size_bytes", "tail", "way")

    def __init__(
        self,
        call: Call,
        envelope: Envelope,
        method: bytes,
        tail: bytes,
        way: tuple[str, str],
    ) -> None:
        self.call = call
        #: ``None`` once it is sent: who waits for an answer needs no body.
        self.envelope: Envelope | None = envelope
        self.method = method
        self.tail = tail
        #: Exchange and routing key.
        self.way = way
        self.size_bytes = len(tail) + len(envelope.body) + 128
        self.returned = False

    def confirmed(self, *, positive: bool) -> None:
        """Note the broker's answer; a returned message is acked as well."""
        if self.returned:
            self.call.one_done(unroutable(*self.way))
        elif positive:
            self.call.one_done(None)
        else:
            self.call.one_done(refused(*self.way))
