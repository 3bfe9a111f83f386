"""What every publisher does, and the plain one: through aio-pika's interface.

``rabbitmq_publisher.py`` has the fast one, which is what is used as long as aiormq
lets us have its transport.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

import aio_pika
import aiormq
import pamqp.commands

from pipeline.broker import rabbitmq_wire as wire
from pipeline.broker.rabbitmq_connection import bounded
from pipeline.errors import BrokerUnavailable, PublishRefused, Unroutable
from pipeline.message import encode_headers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipeline.message import Publication

CLOSED: Final = "the connection to the broker was closed; the outcome is unknown"
UNCONFIRMED: Final = "the broker did not confirm in time; the outcome is unknown"
#: RabbitMQ refuses frames below this (AMQP 0-9-1, frame-min-size).
FRAME_MIN_BYTES: Final = 4096
#: Taken where the broker sets no limit.
FRAME_MAX_BYTES: Final = 131_072


class Route:
    """Where a publication goes, in the broker's names."""

    __slots__ = ("exchange", "mandatory")

    def __init__(self, exchange: str, *, mandatory: bool) -> None:
        self.exchange = exchange
        self.mandatory = mandatory


class Publisher(ABC):
    """Publishes over one channel until that channel closes.

    Args:
        on_refused: called with this object when the broker has answered with a nack.
    """

    def __init__(self, on_refused: Callable[[Publisher], None]) -> None:
        self._on_refused = on_refused

    @property
    @abstractmethod
    def is_open(self) -> bool:
        """Whether publishing can still work."""

    @abstractmethod
    async def publish(
        self, items: Sequence[tuple[Route, Publication]], *, deadline_seconds: float
    ) -> None:
        """Publish all, and return when all are confirmed.

        Raises:
            Unroutable, PublishRefused, BrokerUnavailable: as ``Broker.publish``.
        """

    def begin(
        self,
        route: Route,  # noqa: ARG002
        publication: Publication,  # noqa: ARG002
        *,
        deadline_seconds: float,  # noqa: ARG002
    ) -> asyncio.Future[None] | None:
        """Begin to publish one, where nothing has to be waited for before.

        Gives what is done when that is confirmed, and raises as ``publish`` does;
        ``None``: nothing was done, and ``publish`` is to be used.
        """
        return None

    @abstractmethod
    async def close(self) -> None:
        """Fail what is in flight; the channel is closed with the connection."""

    @abstractmethod
    async def shut(self) -> None:
        """Close, and the channel as well, of a connection that goes on."""


def unroutable(exchange: str, routing_key: str) -> Unroutable:
    """Say that a message was returned."""
    return Unroutable(
        f"no queue is bound to exchange {exchange} for routing key {routing_key};"
        " run `pipeline topology check`"
    )


def refused(exchange: str, routing_key: str) -> PublishRefused:
    """Say that a message was answered with a nack."""
    return PublishRefused(
        f"the broker refused a message to exchange {exchange} with routing key"
        f" {routing_key}: a queue has reached its limit, or has no leader just now"
    )


def fitting_tail(publication: Publication, frame_max: int) -> bytes:
    """Encode the properties; what does not fit would cost us the connection.

    Raises:
        ValueError: a value or all of them together are too large.
    """
    content_type = publication.envelope.content_type
    tail = wire.header_tail(content_type, encode_headers(publication))
    if len(tail) > frame_max - wire.HEADER_ROOM_BYTES:
        size = len(tail) + wire.HEADER_ROOM_BYTES
        raise ValueError(f"expected headers of at most {frame_max} bytes, got {size}")
    return tail


def largest_frame(agreed: int) -> int:
    """Give the largest frame we send; 0 stands for no limit."""
    return max(agreed or FRAME_MAX_BYTES, FRAME_MIN_BYTES)


class PlainPublisher(Publisher):
    """The same promises through aio-pika's public interface."""

    def __init__(
        self,
        channel: aio_pika.abc.AbstractChannel,
        frame_max: int,
        on_refused: Callable[[Publisher], None],
    ) -> None:
        super().__init__(on_refused)
        self._channel = channel
        self._frame_max = largest_frame(frame_max)
        self._exchanges: dict[str, aio_pika.abc.AbstractExchange] = {}
        self._in_flight: set[asyncio.Task[None]] = set()

    @property
    def is_open(self) -> bool:
        return not self._channel.is_closed

    async def publish(
        self, items: Sequence[tuple[Route, Publication]], *, deadline_seconds: float
    ) -> None:
        tasks = [
            asyncio.ensure_future(self._publish(route, item, deadline_seconds))
            for route, item in items
        ]
        self._in_flight.update(tasks)
        try:
            results = await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            self._in_flight.difference_update(tasks)
        for result in results:
            if isinstance(result, asyncio.CancelledError):
                raise BrokerUnavailable(CLOSED) from result
            if isinstance(result, BaseException):
                raise result

    async def close(self) -> None:
        for task in self._in_flight:
            task.cancel()

    async def shut(self) -> None:
        await self.close()
        await self._channel.close()

    async def _publish(
        self, route: Route, publication: Publication, deadline_seconds: float
    ) -> None:
        envelope = publication.envelope
        key = publication.wire_key
        try:
            wire.short_string(key)
            fitting_tail(publication, self._frame_max)
        except ValueError as error:
            raise PublishRefused(f"cannot be sent: {error}") from error
        message = aio_pika.Message(
            envelope.body,
            content_type=envelope.content_type,
            headers=dict(encode_headers(publication)),
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        )
        async with bounded(deadline_seconds, UNCONFIRMED):
            exchange = self._exchanges.get(route.exchange)
            if exchange is None:
                exchange = await self._channel.get_exchange(
                    route.exchange, ensure=False
                )
                self._exchanges[route.exchange] = exchange
            try:
                answer = await exchange.publish(message, key, mandatory=route.mandatory)
            except aiormq.exceptions.PublishError as error:
                raise unroutable(route.exchange, key) from error
            except aiormq.exceptions.DeliveryError as error:
                self._on_refused(self)
                raise refused(route.exchange, key) from error
        if not isinstance(answer, pamqp.commands.Basic.Ack):
            self._on_refused(self)
            raise PublishRefused(f"expected an ack, got {answer!r}")
