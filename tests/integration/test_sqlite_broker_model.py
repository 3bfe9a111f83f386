"""Any sequence of calls on the embedded broker does what a simple model does."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from pipeline.broker.sqlite import SqliteBroker
from pipeline.errors import FetchFailed
from pipeline.message import MESSAGE_ID
from pipeline.topology import (
    DEDUPE,
    DOWNLOAD,
    SUSPECT_DELIVERIES,
    dead_letter_queue,
    hand_to,
    replay,
)
from tests.factories import make_envelope, make_publication, make_topology
from tests.waiting import receive

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from pipeline.broker.port import Consumer, Delivery

T = TypeVar("T")

AT = datetime(2026, 11, 2, 12, 0, tzinfo=UTC)
DELAY = timedelta(hours=1)
DEAD = dead_letter_queue(DEDUPE)
PREFETCH = 3


@dataclass
class Model:
    """What should be where, by message id, in the order of the queues."""

    dedupe: list[str] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    download: list[str] = field(default_factory=list)
    delayed: list[str] = field(default_factory=list)
    dead: list[str] = field(default_factory=list)
    #: How often each message was delivered since it was put into its queue.
    times: Counter[str] = field(default_factory=Counter)

    def gives_one(self) -> bool:
        """Whether a consumer gets a message: suspects are handed out alone."""
        if not self.dedupe or len(self.held) >= PREFETCH:
            return False
        concerned = [*(self.times[one] - 1 for one in self.held)]
        if self.held:
            concerned.append(self.times[self.dedupe[0]])
        return all(times < SUSPECT_DELIVERIES for times in concerned)


class BrokerMachine(RuleBasedStateMachine):
    """Drives one broker and one consumer of ``dedupe``."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="broker-model-"))
        self.runner = asyncio.Runner()
        self.topology = make_topology(delays=(DELAY,))
        self.model = Model()
        self.now = 1_800_000_000.0
        self.deliveries: list[Delivery] = []
        self.broker: SqliteBroker
        self.consumer: Consumer | None = None

    def run(self, coroutine: Coroutine[object, object, T]) -> T:
        """Run to the end."""
        return self.runner.run(coroutine)

    @initialize()
    def open(self) -> None:
        """Begin with an empty file."""
        self.run(self._open())

    async def _open(self) -> None:
        self.broker = SqliteBroker(
            self.folder / "broker.db",
            deadline=timedelta(seconds=10),
            lease=timedelta(days=1),
            clock=lambda: self.now,
        )
        await self.broker.__aenter__()
        await self.broker.declare(self.topology)

    @rule(count=st.integers(min_value=1, max_value=4))
    def publish(self, count: int) -> None:
        """Messages go to the tail."""
        publications = [make_publication() for _ in range(count)]
        self.run(self.broker.publish(*publications))
        self.model.dedupe += [p.envelope.message_id for p in publications]

    @precondition(lambda self: self.model.gives_one())
    @rule()
    def receive_one(self) -> None:
        """The oldest message that nobody holds comes first."""
        (delivery,) = self.run(self._receive())
        assert self.model.dedupe.pop(0) == delivery.envelope.message_id
        self.model.held.append(delivery.envelope.message_id)
        self.model.times[delivery.envelope.message_id] += 1
        assert delivery.redelivered == (
            self.model.times[delivery.envelope.message_id] > 1
        )
        self.deliveries.append(delivery)

    async def _receive(self) -> list[Delivery]:
        if self.consumer is None:
            self.consumer = self.broker.consume(DEDUPE, prefetch=PREFETCH)
            await self.consumer.__aenter__()
        return await receive(self.consumer, 1, within=30)

    @precondition(lambda self: self.deliveries)
    @rule(data=st.data(), how=st.sampled_from(["ack", "hand on", "retry", "bury"]))
    def settle(self, data: st.DataObject, how: str) -> None:
        """A delivery is gone from its queue and is where it was sent."""
        at = data.draw(st.integers(0, len(self.deliveries) - 1))
        delivery = self.deliveries.pop(at)
        message_id = self.model.held.pop(at)
        del self.model.times[message_id]
        match how:
            case "ack":
                self.run(delivery.ack())
            case "hand on":
                onward = make_envelope()
                self.run(delivery.ack(hand_to(DOWNLOAD, onward)))
                self.model.download.append(onward.message_id)
            case "retry":
                self.run(delivery.retry(DELAY, FetchFailed("503"), at=AT))
                self.model.delayed.append(message_id)
            case _:
                self.run(delivery.dead_letter(FetchFailed("503"), at=AT))
                self.model.dead.append(message_id)

    @rule()
    def wait_out_the_delay(self) -> None:
        """What was delayed goes to the tail, in its order."""
        self.now += DELAY.total_seconds() + 1
        self.run(self.broker.depth(DEDUPE))
        self.model.dedupe += self.model.delayed
        self.model.delayed.clear()

    @rule()
    def replay_everything(self) -> None:
        """Dead letters go back, in their order."""
        self.run(self._replay())
        self.model.dedupe += self.model.dead
        self.model.dead.clear()

    async def _replay(self) -> None:
        async with self.broker.consume(DEAD, prefetch=100) as consumer:
            letters = await receive(consumer, len(self.model.dead))
            await consumer.ack(letters, [replay(DEDUPE, x.envelope) for x in letters])

    @rule(restart=st.booleans())
    def leave(self, restart: bool) -> None:  # noqa: FBT001
        """What was held is back in its old place."""
        if self.consumer is not None:
            self.run(self.consumer.__aexit__(None, None, None))
        if restart:
            self.run(self.broker.__aexit__(None, None, None))
            self.run(self._open())
        self.consumer = None
        self.deliveries.clear()
        order = self._stored_order()
        given_back = [*self.model.held, *self.model.dedupe]
        self.model.held.clear()
        self.model.dedupe = sorted(given_back, key=order.index)

    def _stored_order(self) -> list[str]:
        """The places of messages; the model does not remember old ones."""
        name = self.topology.queue_name(DEDUPE)
        rows = self.run(
            self.broker._session.read(
                lambda connection: connection.execute(
                    "SELECT CAST(headers AS TEXT) ->> ? FROM messages"
                    " JOIN queues ON queues.id = queue"
                    " WHERE name = ? ORDER BY messages.id",
                    (f'$."{MESSAGE_ID}"', name),
                ).fetchall()
            )
        )
        return [str(message_id) for (message_id,) in rows]

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        """Every message is in exactly one place."""
        if not hasattr(self, "broker"):
            return
        work = self.run(self.broker.depth(DEDUPE))
        assert (
            len(self.model.dedupe) + len(self.model.held) == work.ready + work.unacked
        )
        assert len(self.model.delayed) == work.delayed
        assert len(self.model.dead) == self.run(self.broker.depth(DEAD)).ready
        assert len(self.model.download) == self.run(self.broker.depth(DOWNLOAD)).ready

    def teardown(self) -> None:
        """Close and remove the file."""
        if hasattr(self, "broker"):
            if self.consumer is not None:
                self.run(self.consumer.__aexit__(None, None, None))
            self.run(self.broker.__aexit__(None, None, None))
        self.runner.close()
        shutil.rmtree(self.folder)


TestBrokerModel = BrokerMachine.TestCase
TestBrokerModel.settings = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
