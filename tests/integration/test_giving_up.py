"""Discarding the dead letter of a download gives its file up."""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import AsyncExitStack, asynccontextmanager, closing
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import apsw
import pytest

from pipeline.broker import open_broker
from pipeline.dead_letters import GivingUp, Selection, discard
from pipeline.errors import BrokerUnavailable, FetchFailed, LedgerUnavailable
from pipeline.events.catalogue import AssetExpired, AssetsReady, parse_event
from pipeline.events.publications import asset_requested
from pipeline.ledger import open_ledger
from pipeline.message import failed
from pipeline.task import AssetKey, AssetState, Stage, StoredAsset
from pipeline.topology import DOWNLOAD, dead_letter, dead_letter_queue, notify_queue
from tests.callbacks import TASK, after, make_claim, make_update
from tests.factories import SUBSCRIPTION, make_envelope, make_topology
from tests.rabbitmq_node import delete_topology
from tests.tcp_proxy import TcpProxy
from tests.waiting import eventually, receive, receive_nothing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from pipeline.broker.port import Broker
    from pipeline.events.catalogue import Event
    from pipeline.ledger.port import Ledger
    from pipeline.message import Envelope, Publication
    from pipeline.topology import Topology

AUDIO = AssetKey(task_id=TASK, track_id="8551-1", kind="audio")
IMAGE = AssetKey(task_id=TASK, track_id="8551-1", kind="image")
TOLD = notify_queue(SUBSCRIPTION)


@pytest.fixture
def ledger_url(tmp_path: Path) -> str:
    """Address of a ledger."""
    return f"sqlite:///{tmp_path}/ledger.db"


@pytest.fixture
async def ledger(ledger_url: str) -> AsyncIterator[Ledger]:
    """An open ledger in a file of its own."""
    async with open_ledger(ledger_url) as opened:
        yield opened


@pytest.fixture(params=["sqlite", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def broker_url(request: pytest.FixtureRequest) -> str:
    """Address of a broker that soon takes back what a killed process held."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
async def topology(broker_url: str) -> AsyncIterator[Topology]:
    """One with a subscriber to everything about files."""
    made = make_topology(patterns=("asset.#", "task.assets_ready"))
    yield made
    if broker_url.startswith("amqp"):
        await delete_topology(broker_url, made)


@pytest.fixture
async def broker(broker_url: str, topology: Topology) -> AsyncIterator[Broker]:
    """An open handle on which the topology is declared."""
    async with open_broker(broker_url, deadline=timedelta(seconds=10)) as opened:
        await opened.declare(topology)
        yield opened


async def _request(ledger: Ledger) -> dict[AssetKey, Envelope]:
    """Record a complete task with one track and two files; give the requests."""
    links = {"audio": "https://a.example/1.mp3", "image": "https://a.example/1.png"}
    claim = make_claim(make_update(Stage.COMPLETE, links=links))
    (recorded,) = await ledger.record([claim])
    return {
        asset.key: asset_requested(
            asset,
            owner=claim.owner,
            stage=Stage.COMPLETE,
            source="/pipeline",
            at=after(1),
        ).envelope
        for asset in recorded.requested
    }


async def _bury(broker: Broker, *envelopes: Envelope) -> None:
    error = FetchFailed("answered 500")
    await broker.publish(
        *(
            dead_letter(DOWNLOAD, failed(e, queue=DOWNLOAD, error=error, at=after(2)))
            for e in envelopes
        )
    )


async def _discard(broker: Broker, ledger: Ledger) -> GivingUp:
    giving_up = GivingUp(ledger, clock=lambda: after(60))
    await discard(broker, [DOWNLOAD], Selection(), settle=giving_up)
    return giving_up


@asynccontextmanager
async def _breakable(
    url: str, topology: Topology
) -> AsyncIterator[tuple[Broker, Callable[[], Awaitable[None]]]]:
    """Open a handle that can be made to lose what it holds."""
    async with AsyncExitStack() as stack:
        proxy: TcpProxy | None = None
        if url.startswith("amqp"):
            proxy = await stack.enter_async_context(TcpProxy.to(url))
            url = proxy.url_for(url)
        opened = open_broker(url, deadline=timedelta(seconds=10))
        await stack.enter_async_context(opened)
        await opened.declare(topology)

        async def cut() -> None:
            if proxy is None:
                with closing(apsw.Connection(urlsplit(url).path[1:])) as other:
                    # The upkeep may be writing just then.
                    other.set_busy_timeout(20_000)
                    other.execute("PRAGMA foreign_keys = ON")
                    other.execute("DELETE FROM consumers")
                return
            connections = proxy.accepted
            proxy.cut()

            async def is_back() -> bool:
                return proxy.accepted >= connections + 2

            await eventually(is_back)
            await opened.depth(dead_letter_queue(DOWNLOAD))

        yield opened, cut


async def _is_buried(broker: Broker, count: int) -> None:
    async def is_so() -> bool:
        return count == (await broker.depth(dead_letter_queue(DOWNLOAD))).ready

    await eventually(is_so)


async def _told(broker: Broker, count: int) -> list[Event]:
    async with broker.consume(TOLD, prefetch=10) as consumer:
        deliveries = await receive(consumer, count)
        await consumer.ack(deliveries)
        assert await receive_nothing(consumer, seconds=0.2)
    return [parse_event(delivery.envelope.body) for delivery in deliveries]


async def _told_ids(broker: Broker, count: int) -> set[str]:
    async with broker.consume(TOLD, prefetch=10) as consumer:
        deliveries = await receive(consumer, count)
        await consumer.ack(deliveries)
    return {str(delivery.envelope.message_id) for delivery in deliveries}


async def test_discarded_file_counts_as_expired_and_the_task_gets_ready(
    broker: Broker, ledger: Ledger
) -> None:
    """One file is stored, the other one is given up: nobody waits any more."""
    requests = await _request(ledger)
    stored = StoredAsset(
        sha256="ab" * 32, size_bytes=5, content_type="image/png", location="x.png"
    )
    await ledger.settle_asset(IMAGE, stored, at=after(5))
    await _bury(broker, requests[AUDIO])

    giving_up = await _discard(broker, ledger)

    expired, ready = await _told(broker, 2)
    assert isinstance(expired, AssetExpired)
    assert AUDIO == expired.data.key
    assert "given up" in expired.data.reason
    assert isinstance(ready, AssetsReady)
    asset = await ledger.find_asset(AUDIO)
    assert asset is not None
    assert AssetState.EXPIRED is asset.state
    assert 1 == giving_up.files
    await _is_buried(broker, 0)


async def test_file_that_was_stored_meanwhile_stays_stored(
    broker: Broker, ledger: Ledger
) -> None:
    """The letter was replayed by somebody else, say: there is nothing to give up."""
    requests = await _request(ledger)
    stored = StoredAsset(
        sha256="ab" * 32, size_bytes=5, content_type="audio/mpeg", location="x.mp3"
    )
    await ledger.settle_asset(AUDIO, stored, at=after(5))
    await _bury(broker, requests[AUDIO], make_envelope())

    giving_up = await _discard(broker, ledger)

    asset = await ledger.find_asset(AUDIO)
    assert asset is not None
    assert AssetState.STORED is asset.state
    assert 0 == giving_up.files
    assert [] == await _told(broker, 0)
    await _is_buried(broker, 0)


async def test_nothing_is_removed_where_the_ledger_is_another_one(
    broker: Broker, ledger: Ledger, tmp_path: Path
) -> None:
    """On a machine without the workers' ledger the files would wait for ever."""
    requests = await _request(ledger)
    await _bury(broker, requests[AUDIO])

    async with open_ledger(f"sqlite:///{tmp_path}/empty.db") as empty:
        with pytest.raises(LedgerUnavailable, match="--ledger-url"):
            await _discard(broker, empty)

    await _is_buried(broker, 1)


async def test_ledger_that_knows_other_tasks_alone_is_another_one_too(
    broker: Broker, ledger: Ledger, tmp_path: Path
) -> None:
    """The file would stay pending in the right one, with nothing left to replay."""
    requests = await _request(ledger)
    await _bury(broker, requests[AUDIO])

    async with open_ledger(f"sqlite:///{tmp_path}/other.db") as other:
        await other.record([make_claim(make_update(task_id="another"))])
        with pytest.raises(LedgerUnavailable, match=f"knows task {TASK}"):
            await _discard(broker, other)

        await _is_buried(broker, 1)
        forced = GivingUp(other, clock=lambda: after(60), with_unknown=True)
        await discard(broker, [DOWNLOAD], Selection(), settle=forced)

    assert 0 == forced.files
    await _is_buried(broker, 0)


async def test_file_that_a_known_task_does_not_have_is_let_go(
    broker: Broker, ledger: Ledger, tmp_path: Path
) -> None:
    """Nobody waits for it."""
    requests = await _request(ledger)
    await _bury(broker, requests[AUDIO], requests[IMAGE])

    async with open_ledger(f"sqlite:///{tmp_path}/other.db") as other:
        await other.record([make_claim(make_update(tracks=[]))])
        giving_up = await _discard(broker, other)

    assert 0 == giving_up.files
    await _is_buried(broker, 0)


async def test_discard_that_loses_its_letters_tells_the_same_at_the_second_try(
    broker: Broker, broker_url: str, topology: Topology, ledger: Ledger
) -> None:
    """The files are settled, the letters are not: nothing was published so far.

    The first batch may have one of the two letters or both.
    """
    requests = await _request(ledger)
    await _bury(broker, *requests.values())
    giving_up = GivingUp(ledger, clock=lambda: after(60))
    first: set[str] = set()

    async with _breakable(broker_url, topology) as (walking, cut):

        async def settle(
            queue: str, envelopes: Sequence[Envelope]
        ) -> Sequence[Publication]:
            found = await giving_up(queue, envelopes)
            first.update(p.envelope.message_id for p in found)
            await cut()
            return found

        with pytest.raises(BrokerUnavailable, match="0 of 2 dead letters"):
            await discard(walking, [DOWNLOAD], Selection(), settle=settle)

    await _is_buried(broker, 2)
    await _discard(broker, ledger)

    assert first
    assert first <= await _told_ids(broker, 3)
    await _is_buried(broker, 0)


async def test_discard_that_is_killed_tells_the_same_at_the_second_try(
    broker: Broker, broker_url: str, topology: Topology, ledger: Ledger, ledger_url: str
) -> None:
    """Killed between the ledger and the broker.

    It dies with its first batch, which may have one of the two or both.
    """
    requests = await _request(ledger)
    await _bury(broker, *requests.values())
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(Path(__file__).with_name("giving_up_process.py"))),
        *(broker_url, topology.prefix, ledger_url),
        stdout=asyncio.subprocess.PIPE,
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    async with asyncio.timeout(30):
        printed, _ = await process.communicate()
    assert -signal.SIGKILL == process.returncode
    await _is_buried(broker, 2)

    await _discard(broker, ledger)

    lines = [line.split() for line in printed.decode().splitlines()]
    first = {line[1] for line in lines if line[0] == "event"}
    assert first
    assert first <= await _told_ids(broker, 3)
    await _is_buried(broker, 0)
