"""A worker is frozen at work (SIGSTOP), another takes over, the first wakes up.

Real processes on real brokers and ledgers. The first is woken while the second is
still at work: without a fence its late record would be the one that counts.
"""

from __future__ import annotations

import asyncio
import hashlib
import signal
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import apsw
import pytest

from pipeline.broker import open_broker
from pipeline.events.publications import asset_requested, task_event
from pipeline.ledger import open_ledger
from pipeline.task import AssetKey, AssetState, Stage, event_id
from pipeline.topology import DOWNLOAD, build_topology, dead_letter_queue, notify_queue
from tests.callbacks import TASK, after, make_claim, make_update
from tests.command_line import CommandLine
from tests.factories import unique_prefix
from tests.file_server import FileServer, answer, make_mp3
from tests.rabbitmq_node import delete_topology
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pipeline.broker.port import Broker
    from pipeline.ledger.port import Ledger
    from pipeline.topology import Topology
    from tests.command_line import Running
    from tests.file_server import Answer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

SHOP: Final = "shop"
AUDIO: Final = AssetKey(task_id=TASK, track_id="8551-1", kind="audio")
FIRST, SECOND = make_mp3(5000), make_mp3(6000)
#: Starting, noticing that a connection is dead, waiting for a lease: on a busy machine.
WITHIN: Final = 60.0
#: A connection is dead after twice as much silence: more than a stall of the worker
#: that took over, which is to keep what it has.
HEARTBEAT: Final = "3s"


class Gates:
    """Answers one request after the other, each when a test says so and how."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = answers
        self._gates = [asyncio.Event() for _ in answers]
        self.came = 0

    async def __call__(self, writer: asyncio.StreamWriter) -> None:
        number = self.came
        self.came += 1
        await self._gates[number].wait()
        await self._answers[number](writer)

    def open(self, number: int) -> None:
        """Let a request, counted from 0, be answered."""
        self._gates[number].set()

    async def until(self, count: int) -> None:
        """Wait until so many requests have come."""

        async def have_come() -> bool:
            return self.came >= count

        await eventually(have_come, within=WITHIN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A broker and a ledger, and where workers on them are started."""

    folder: Path
    broker: Broker
    ledger: Ledger
    topology: Topology
    settings: str

    def command_line(self, name: str) -> CommandLine:
        """Give a folder of its own to a process."""
        folder = self.folder / name
        folder.mkdir()
        (folder / "pipeline.toml").write_text(self.settings, encoding="utf-8")
        return CommandLine(folder)

    async def freeze(self, running: Running) -> None:
        """Stop a process; not while it has a SQLite file locked, for nobody passes."""

        async def is_frozen() -> bool:
            running.process.send_signal(signal.SIGSTOP)
            if not any(map(is_locked, self.folder.glob("*.db"))):
                return True
            running.process.send_signal(signal.SIGCONT)
            return False

        await eventually(is_frozen)

    async def until_settled(self, queue: str) -> None:
        """Wait until nothing is left of a queue's messages; none may be dead."""

        async def is_empty() -> bool:
            depth = await self.broker.depth(queue)
            return (0, 0, 0) == (depth.ready, depth.unacked, depth.delayed)

        await eventually(is_empty, within=WITHIN)
        assert (await self.broker.depth(dead_letter_queue(queue))).ready == 0


def is_locked(path: Path) -> bool:
    """Tell whether somebody is writing to a SQLite file."""
    connection = apsw.Connection(str(path))
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
    except apsw.BusyError:
        return True
    finally:
        connection.close()
    return False


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("rabbitmq", marks=[pytest.mark.rabbitmq, pytest.mark.postgres]),
    ]
)
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """Addresses of a broker and of a ledger."""
    if request.param == "sqlite":
        broker: str = request.getfixturevalue("sqlite_url")
        return broker, f"sqlite:///{tmp_path}/ledger.db"
    return (
        request.getfixturevalue("rabbitmq_url"),
        request.getfixturevalue("postgres_ledger_url"),
    )


@pytest.fixture
async def server() -> AsyncIterator[FileServer]:
    """A subscriber, and a server of files."""
    async with FileServer() as running:
        yield running


@pytest.fixture
async def place(
    urls: tuple[str, str], server: FileServer, tmp_path: Path
) -> AsyncIterator[Place]:
    """Everything that is there before the first worker."""
    broker_url, ledger_url = urls
    subscriptions = tmp_path / "subscriptions.toml"
    subscriptions.write_text(
        f'[[subscriptions]]\nname = "{SHOP}"\nurl = "{server.url("/hook")}"\n'
        'events = ["task.#"]\n',
        encoding="utf-8",
    )
    prefix = unique_prefix()
    topology = build_topology(prefix=prefix, subscriptions={SHOP: ["task.#"]})
    settings = f"""
broker_url = "{broker_url}"
ledger_url = "{ledger_url}"
assets_url = "{tmp_path}/assets"
subscriptions_file = "{subscriptions}"
[broker]
prefix = "{prefix}"
heartbeat = "{HEARTBEAT}"
[download]
allow_private_addresses = true
"""
    async with (
        open_broker(broker_url, deadline=timedelta(seconds=30)) as broker,
        open_ledger(ledger_url) as ledger,
    ):
        await broker.declare(topology)
        yield Place(
            folder=tmp_path,
            broker=broker,
            ledger=ledger,
            topology=topology,
            settings=settings,
        )
    if broker_url.startswith("amqp"):
        await delete_topology(broker_url, topology)


@asynccontextmanager
async def frozen_and_taken_over(
    place: Place, worker: str, gates: Gates
) -> AsyncIterator[tuple[Running, Running]]:
    """Freeze a worker at its request, have another begin, wake the first one.

    In the body the first one has been told that it is too late, and the second one
    waits for its answer. After it both are stopped.
    """
    with place.command_line("first").running("worker", worker) as first:
        await gates.until(1)
        await place.freeze(first)
        with place.command_line("second").running("worker", worker) as second:
            await gates.until(2)
            gates.open(0)
            first.process.send_signal(signal.SIGCONT)

            async def has_lost() -> bool:
                return bool(first.events("lease_lost"))

            await eventually(has_lost, within=WITHIN)
            yield first, second
            assert await asyncio.to_thread(second.stop) == 0
            assert await asyncio.to_thread(first.stop) == 0


async def test_a_frozen_notification_that_wakes_up_is_fenced_off(
    place: Place, server: FileServer
) -> None:
    gates = Gates(answer(status=500), answer(status=204))
    server.add("/hook", gates)
    update = make_update()
    event = task_event(
        update,
        event_id(update),
        late=False,
        origin="callback",
        received_at=after(0),
        source="/pipeline",
        at=after(1),
    )
    await place.broker.publish(event)

    async with frozen_and_taken_over(place, "notify", gates) as (first, second):
        untouched = await place.ledger.list_notifications(TASK)
        gates.open(1)
        await place.until_settled(notify_queue(SHOP))

    assert [] == list(untouched)
    (noted,) = await place.ledger.list_notifications(TASK)
    assert (1, 204) == (noted.attempts, noted.status)
    assert noted.delivered_at is not None
    # A subscriber that drops what it knows by its id has seen one.
    assert [event.envelope.message_id] * 2 == [
        request.headers["webhook-id"] for request in server.requests
    ]
    assert ["done"] == [e["outcome"] for e in second.events("delivery_settled")]
    assert {"done"} >= {e["outcome"] for e in first.events("delivery_settled")}


async def test_a_frozen_download_that_wakes_up_is_fenced_off(
    place: Place, server: FileServer
) -> None:
    gates = Gates(answer(FIRST), answer(SECOND))
    links = {"audio": server.add("/1.mp3", gates)}
    claim = make_claim(make_update(Stage.COMPLETE, links=links))
    (recorded,) = await place.ledger.record([claim])
    (asset,) = recorded.requested
    await place.broker.publish(
        asset_requested(
            asset,
            owner=claim.owner,
            stage=Stage.COMPLETE,
            source="/pipeline",
            at=after(1),
        )
    )

    async with (
        place.broker.consume(notify_queue(SHOP), prefetch=10) as subscriber,
        frozen_and_taken_over(place, "download", gates) as (first, second),
    ):
        untouched = await place.ledger.find_asset(AUDIO)
        gates.open(1)
        async with asyncio.timeout(WITHIN):
            told = await subscriber.receive(10)
        await subscriber.ack(told)
        await place.until_settled(DOWNLOAD)
        await place.until_settled(notify_queue(SHOP))

    assert untouched is not None
    assert untouched.state is AssetState.PENDING
    stored = await place.ledger.find_asset(AUDIO)
    assert stored is not None
    assert hashlib.sha256(SECOND).hexdigest() == stored.sha256
    assert ["task.assets_ready"] == [one.envelope.routing_key for one in told]
    assert 2 == len(server.requests)
    assert ["done"] == [e["outcome"] for e in second.events("delivery_settled")]
    assert {"done"} >= {e["outcome"] for e in first.events("delivery_settled")}
