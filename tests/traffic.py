"""Traffic that goes on while tests break things, and an account of it.

Messages are published in two ways, straight to the broker and through an ingress
with an outage spool, and consumed all the time. What was promised (confirmed, or
answered 200) is held against what came.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import pytest

from pipeline.broker import open_broker
from pipeline.errors import BrokerError, BrokerUnavailable, DeliveryLost
from pipeline.message import TASK_ID
from pipeline.topology import DEDUPE
from tests.disk import watched_disk
from tests.factories import make_publication
from tests.outage import running_outage, until_drained, until_up
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pipeline.broker.port import Broker, Consumer
    from pipeline.topology import Topology
    from tests.disk import Disk
    from tests.outage import Outage

PUBLISHERS: Final = 4
#: Between two messages of one publisher, and between two callbacks.
PAUSE_SECONDS: Final = 0.02
DEADLINE: Final = timedelta(seconds=5)


class Traffic:
    """What was sent, promised and received; ids are message ids and task ids."""

    def __init__(self, outage: Outage, disk: Disk) -> None:
        self.outage = outage
        #: What the disk of the spool does meanwhile.
        self.disk = disk
        #: Confirmed by the broker.
        self.confirmed: set[str] = set()
        #: Answered 200 by the ingress.
        self.accepted: set[str] = set()
        #: How often each came.
        self.received: Counter[str] = Counter()
        #: Answers of the ingress, and what the slowest took.
        self.statuses: Counter[int] = Counter()
        self.slowest_seconds = 0.0
        #: What takes the messages.
        self.consumer: Consumer | None = None
        self._sent_at: dict[str, float] = {}
        self._newest_received = 0.0

    @property
    def lost(self) -> set[str]:
        """What was promised and has not come."""
        return (self.confirmed | self.accepted) - self.received.keys()

    async def until_confirmed(self, more: int, *, within: float = 30) -> None:
        """Wait until ``more`` messages were confirmed from now on."""
        enough = len(self.confirmed) + more

        async def is_confirmed() -> bool:
            return len(self.confirmed) >= enough

        await eventually(is_confirmed, within=within)

    async def until_flowing(self, since: float, *, within: float = 30) -> float:
        """Wait until something comes that was sent after ``since``.

        Gives the seconds from then. Thirty are promised.
        """

        async def is_flowing() -> bool:
            return self._newest_received > since

        before = len(self.confirmed), len(self.received)
        try:
            await eventually(is_flowing, within=within)
        except TimeoutError:
            confirmed = len(self.confirmed) - before[0]
            received = len(self.received) - before[1]
            is_active = self.consumer is not None and self.consumer.is_active
            pytest.fail(
                f"nothing that was sent later came within {within} s; meanwhile"
                f" {confirmed} were confirmed, {received} received;"
                f" subscribed: {is_active}"
            )
        return time.monotonic() - since

    async def publish(self, broker: Broker) -> None:
        """Publish for ever."""
        while True:
            publication = make_publication()
            message_id = publication.envelope.message_id
            self._sent_at[message_id] = time.monotonic()
            try:
                await broker.publish(publication)
                self.confirmed.add(message_id)
            except BrokerError:
                pass  # unknown, or refused for want of a leader
            await asyncio.sleep(PAUSE_SECONDS)

    async def consume(self, consumer: Consumer) -> None:
        """Take what comes, for ever; count first, acknowledge then."""
        while True:
            deliveries = await consumer.receive(100)
            for delivery in deliveries:
                envelope = delivery.envelope
                name = str(envelope.headers.get(TASK_ID, envelope.message_id))
                self.received[name] += 1
                sent_at = self._sent_at.get(name, 0.0)
                self._newest_received = max(self._newest_received, sent_at)
            try:
                await consumer.ack(deliveries)
            except (DeliveryLost, BrokerUnavailable):
                continue

    async def post(self) -> None:
        """Send callbacks for ever, at a steady rate whatever the answers take."""
        async with asyncio.TaskGroup() as group:
            for number in itertools.count():
                group.create_task(self._post(f"task-{number:05}"))
                await asyncio.sleep(PAUSE_SECONDS)

    async def _post(self, task_id: str) -> None:
        began = time.monotonic()
        (status,) = await self.outage.post(task_id)
        self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - began)
        self.statuses[status] += 1
        if status == 200:
            self.accepted.add(task_id)


@asynccontextmanager
async def running_traffic(
    url: str, topology: Topology, folder: Path
) -> AsyncIterator[Traffic]:
    """Publish, post and consume; afterwards all that was promised has to come.

    Raises:
        TimeoutError: the spool was not drained, or something has not come.
    """
    async with (
        running_outage(url, topology, folder) as outage,
        watched_disk(folder) as disk,
        open_broker(url, deadline=DEADLINE) as publishing,
        open_broker(url, deadline=DEADLINE) as consuming,
    ):
        await until_up(outage)
        for broker in (publishing, consuming):
            await broker.declare(topology)
        traffic = Traffic(outage, disk)
        async with (
            consuming.consume(DEDUPE, prefetch=500) as consumer,
            asyncio.TaskGroup() as group,
        ):
            traffic.consumer = consumer
            taking = group.create_task(traffic.consume(consumer))
            sending = [group.create_task(traffic.post())]
            sending += [
                group.create_task(traffic.publish(publishing))
                for _ in range(PUBLISHERS)
            ]
            yield traffic
            for task in sending:
                task.cancel()
            await asyncio.wait(sending)
            await until_drained(outage)
            await eventually(lambda: _has_come(traffic), within=30)
            taking.cancel()


async def _has_come(traffic: Traffic) -> bool:
    return not traffic.lost
