"""A walk through dead letters in whose middle the broker takes back what is held."""

from __future__ import annotations

import asyncio
import re
from contextlib import aclosing
from datetime import timedelta
from typing import TYPE_CHECKING

import apsw
import pytest

from pipeline.broker import open_broker
from pipeline.broker.sqlite import SqliteBroker
from pipeline.dead_letters import Progress, Selection, browse, discard, replay
from pipeline.dead_letters.walk import PAGE
from pipeline.errors import BrokerUnavailable, LinkExpired, Reject
from pipeline.message import failed
from pipeline.topology import DOWNLOAD, dead_letter, dead_letter_queue
from tests.callbacks import after
from tests.factories import make_envelope, make_topology
from tests.tcp_proxy import TcpProxy
from tests.waiting import eventually, receive

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from pipeline.broker.port import Broker
    from pipeline.message import Envelope, Publication
    from pipeline.topology import Topology

COUNT = 300
#: The second half of all.
LATER = Selection(error_type="LinkExpired")
DEAD = dead_letter_queue(DOWNLOAD)
PATIENT = timedelta(seconds=10)


@pytest.fixture
async def proxy(rabbitmq_url: str) -> AsyncIterator[TcpProxy]:
    """A network between us and the broker."""
    async with TcpProxy.to(rabbitmq_url) as made:
        yield made


@pytest.fixture
async def broker(
    rabbitmq_url: str, rabbit_topology: Topology, proxy: TcpProxy
) -> AsyncIterator[Broker]:
    """A handle on RabbitMQ by way of the proxy, with dead letters."""
    url = proxy.url_for(rabbitmq_url)
    async with open_broker(url, deadline=PATIENT) as opened:
        await opened.declare(rabbit_topology)
        await _bury(opened)
        yield opened


async def _bury(broker: Broker, start: int = 0) -> None:
    numbers = range(start, start + COUNT)
    envelopes = [make_envelope(message_id=f"m{n}") for n in numbers]
    half = COUNT // 2
    errors = [Reject("poison")] * half + [LinkExpired("gone")] * half
    await broker.publish(
        *(
            dead_letter(DOWNLOAD, failed(e, queue=DOWNLOAD, error=error, at=after(1)))
            for e, error in zip(envelopes, errors, strict=True)
        )
    )


async def _is_counted(broker: Broker, queue: str, count: int) -> None:
    async def is_so() -> bool:
        return count == (await broker.depth(queue)).ready

    await eventually(is_so)


async def _taken(broker: Broker, queue: str) -> set[str]:
    count = (await broker.depth(queue)).ready
    async with broker.consume(queue, prefetch=COUNT * 2) as consumer:
        deliveries = await receive(consumer, count)
        await consumer.ack(deliveries)
    return {str(d.envelope.message_id) for d in deliveries}


async def _cut(broker: Broker, proxy: TcpProxy) -> None:
    """Cut, and wait until both connections are made again and answer."""
    connections = proxy.accepted
    proxy.cut()

    async def is_back() -> bool:
        return proxy.accepted >= connections + 2

    await eventually(is_back)
    await broker.depth(DEAD)


def _said(raised: pytest.ExceptionInfo[BrokerUnavailable], verb: str) -> int:
    found = re.search(rf"; (\d+) of 300 dead letters were {verb}", str(raised.value))
    assert found is not None, str(raised.value)
    return int(found[1])


@pytest.mark.rabbitmq
async def test_replay_that_loses_its_connection_ends_and_says_how_far_it_came(
    broker: Broker, proxy: TcpProxy
) -> None:
    """What is delivered again would be taken for the letters not looked at yet."""

    cut_at: list[int] = []

    def cut(progress: Progress) -> None:
        if progress.seen >= 200 and not cut_at:
            cut_at.append(progress.matched)
            proxy.cut()

    with pytest.raises(BrokerUnavailable) as raised:
        await replay(broker, [DOWNLOAD], LATER, rate=100, on_progress=cut)

    done = _said(raised, "replayed")
    assert cut_at == [done]

    async def is_given_back() -> bool:
        return (await broker.depth(DEAD)).ready >= COUNT - done

    await eventually(is_given_back)
    rest = await replay(broker, [DOWNLOAD], LATER)
    # The acknowledgements of the last batch may have been on their way.
    assert 150 <= done + rest.matched <= 160
    expected = {f"m{n}" for n in range(150, 300)}
    assert expected == await _taken(broker, DOWNLOAD)
    await _is_counted(broker, DEAD, 150)


@pytest.mark.rabbitmq
async def test_discard_that_loses_its_connection_removes_no_more_than_it_says(
    broker: Broker, proxy: TcpProxy
) -> None:
    """The batch that was taken back is not counted, and is there still."""

    async def cut(_: str, __: Sequence[Envelope]) -> Sequence[Publication]:
        await _cut(broker, proxy)
        return ()

    with pytest.raises(BrokerUnavailable) as raised:
        await discard(broker, [DOWNLOAD], LATER, settle=cut)

    assert 0 == _said(raised, "discarded")
    await _is_counted(broker, DEAD, COUNT)
    assert 150 == (await discard(broker, [DOWNLOAD], LATER)).matched
    await _is_counted(broker, DEAD, 150)


@pytest.mark.rabbitmq
async def test_list_that_loses_its_connection_fails_and_repeats_nothing(
    broker: Broker, proxy: TcpProxy
) -> None:
    """Half a list without a word would look like a whole one."""
    seen: list[str] = []
    await _bury(broker, COUNT)  # more than what one consumer has here already

    async def look() -> None:
        async with aclosing(browse(broker, [DOWNLOAD], Selection())) as letters:
            async for letter in letters:
                seen.append(letter.envelope.message_id)
                if len(seen) == 150:
                    await _cut(broker, proxy)

    with pytest.raises(BrokerUnavailable, match="took them back"):
        await look()

    assert 150 <= len(seen) < 2 * COUNT
    assert len(set(seen)) == len(seen)
    await _is_counted(broker, DEAD, 2 * COUNT)


def _lapse(path: Path) -> None:
    """Free what everybody holds, as others do when a process stood still."""
    other = apsw.Connection(str(path))
    other.set_busy_timeout(20_000)  # the upkeep may be writing just then
    other.execute("PRAGMA foreign_keys = ON")
    other.execute("DELETE FROM consumers")
    other.close()


@pytest.mark.parametrize("at", [PAGE, PAGE + COUNT], ids=["page", "end"])
async def test_list_whose_lease_lapses_shows_nothing_twice(
    tmp_path: Path, at: int
) -> None:
    """The next consumer would get the oldest again; the upkeep has not looked yet."""
    path = tmp_path / "broker.db"
    seen: list[str] = []
    async with SqliteBroker(path, deadline=PATIENT) as broker:
        await broker.declare(make_topology())
        for start in range(0, 3 * COUNT, COUNT):
            await _bury(broker, start)

        async def look() -> None:
            async with aclosing(browse(broker, [DOWNLOAD], Selection())) as letters:
                async for letter in letters:
                    seen.append(letter.envelope.message_id)
                    if len(seen) == at:
                        upkeep = broker._session._upkeep
                        assert upkeep is not None
                        upkeep.cancel()
                        await asyncio.wait((upkeep,))
                        _lapse(path)

        with pytest.raises(BrokerUnavailable, match="took them back"):
            await look()

        assert len(set(seen)) == len(seen)
        await _is_counted(broker, DEAD, 3 * COUNT)


async def test_replay_whose_lease_lapses_counts_nothing_of_its_batch(
    tmp_path: Path,
) -> None:
    """On the embedded broker one lost delivery undoes the whole batch."""
    path = tmp_path / "broker.db"
    async with open_broker(f"sqlite:///{path}", deadline=PATIENT) as broker:
        await broker.declare(make_topology())
        await _bury(broker)

        async def lapse(_: str, __: Sequence[Envelope]) -> Sequence[Publication]:
            _lapse(path)
            return ()

        with pytest.raises(BrokerUnavailable, match="took them back") as raised:
            await discard(broker, [DOWNLOAD], Selection(), settle=lapse)

        assert 0 == _said(raised, "discarded")
        await _is_counted(broker, DEAD, COUNT)
