"""What keeps callbacks for good: the outlet with its spool, or the broker alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio

    from pipeline.broker.port import Broker
    from pipeline.errors import BrokerError
    from pipeline.message import Publication


class Store(Protocol):
    """Keeps a callback: at once, or begun now and heard of later."""

    async def publish(self, publication: Publication) -> None:
        """Return once a callback is safe.

        Raises:
            BrokerError: it may or may not be.
        """

    def begin(self, publication: Publication) -> asyncio.Future[None] | None:
        """Begin to keep a callback, as ``Broker.begin``.

        What becomes of it is to be told: to ``publish_failed`` if it raises a
        ``BrokerError``, to ``publish_succeeded`` if it does not.
        """

    def publish_succeeded(self) -> None:
        """Note that a callback is safe that was begun."""

    async def publish_failed(
        self, publication: Publication, error: BrokerError
    ) -> None:
        """Return once a callback is safe of which the beginning has failed.

        Raises:
            BrokerError: as ``publish``.
        """


class BrokerStore:
    """The broker alone: what it does not take is not kept.

    Args:
        broker: open.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def publish(self, publication: Publication) -> None:
        """See ``Store.publish``."""
        await self._broker.publish(publication)

    def begin(self, publication: Publication) -> asyncio.Future[None] | None:
        """See ``Store.begin``."""
        return self._broker.begin(publication)

    def publish_succeeded(self) -> None:
        """See ``Store.publish_succeeded``; nobody wants to know."""

    async def publish_failed(
        self,
        publication: Publication,  # noqa: ARG002
        error: BrokerError,
    ) -> None:
        """See ``Store.publish_failed``; there is nothing else that would take it."""
        raise error
