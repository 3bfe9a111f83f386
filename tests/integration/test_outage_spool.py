"""The broker is away, or does not want: callbacks are answered 200 and arrive."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import aio_pika
import pytest

from pipeline.spool.outlet import NOT_ASKED
from tests.disk import watched_disk
from tests.outage import (
    body_of,
    names,
    published,
    running_outage,
    until_drained,
    until_up,
)
from tests.rabbitmq_node import delete_topology
from tests.tcp_proxy import TcpProxy
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pipeline.topology import Topology
    from tests.disk import Disk
    from tests.outage import Outage
    from tests.rabbitmq_node import RabbitNode

pytestmark = [pytest.mark.rabbitmq, pytest.mark.usefixtures("nothing_unhandled")]

#: What the answers may take where they do not wait for the broker one after the other:
#: ten such waits take 20 s.
ANSWER_SECONDS = 12.0


@pytest.fixture
async def proxy(rabbitmq_url: str) -> AsyncIterator[TcpProxy]:
    """What stands between the ingress and the broker."""
    async with TcpProxy.to(rabbitmq_url) as made:
        yield made


async def test_broker_down_or_refusing(
    rabbitmq_url: str, rabbit_topology: Topology, proxy: TcpProxy, tmp_path: Path
) -> None:
    """The ingress starts without a broker, keeps callbacks, and brings them later."""
    await proxy.refuse()
    url = proxy.url_for(rabbitmq_url)
    async with (
        running_outage(url, rabbit_topology, tmp_path) as outage,
        watched_disk(tmp_path) as disk,
    ):
        before = await _not_asked(outage)
        began = time.monotonic()

        statuses = await outage.post(*names(20))

        took = time.monotonic() - began
        assert [200] * 20 == statuses
        assert before + 20 == await _not_asked(outage)
        assert took < ANSWER_SECONDS + _commits_seconds(20, disk)
        status, ready = await outage.ready()
        assert (200, "degraded") == (status, ready["status"])
        await _until_waiting(outage, 20)
        assert "127.0.0.1" in ready["checks"]["broker"]
        await eventually(lambda: _shows(outage, "pipeline_spool_messages 20.0"))

        await proxy.accept()
        await until_drained(outage)

        assert names(20) == await published(rabbitmq_url, rabbit_topology, 20)
        assert (200, "ready") == ((await outage.ready())[0], await _state(outage))


async def test_broker_is_a_black_hole(
    rabbitmq_url: str, rabbit_topology: Topology, proxy: TcpProxy, tmp_path: Path
) -> None:
    """The first wait for the confirm, those after the circuit has opened do not."""
    url = proxy.url_for(rabbitmq_url)
    async with (
        running_outage(url, rabbit_topology, tmp_path) as outage,
        watched_disk(tmp_path) as disk,
    ):
        await until_up(outage)
        assert [200] == await outage.post("task-before")
        proxy.hold()
        began = time.monotonic()

        first = await asyncio.gather(*(outage.post(name) for name in names(10)))

        took = time.monotonic() - began
        assert [[200]] * 10 == first
        assert took < ANSWER_SECONDS + _commits_seconds(10, disk)
        assert not outage.outlet.circuit.is_closed
        assert await _shows(outage, "pipeline_circuit_open 1.0")
        before = await _not_asked(outage)
        began = time.monotonic()
        assert [200] * 20 == await outage.post(*names(20, start=10))
        took = time.monotonic() - began
        assert before + 20 == await _not_asked(outage)
        assert took < ANSWER_SECONDS + _commits_seconds(20, disk)
        status, ready = await outage.ready()
        assert (200, "degraded") == (status, ready["status"])

        proxy.resume()
        await until_drained(outage)

        assert outage.outlet.circuit.is_closed
        found = await published(rabbitmq_url, rabbit_topology, 31)
    assert {"task-before", *names(30)} == {*found}
    spooled_later = [name for name in found if name in names(20, start=10)]
    assert names(20, start=10) == spooled_later


async def test_black_hole_that_lasts_until_the_connection_is_given_up(
    rabbitmq_url: str, rabbit_topology: Topology, proxy: TcpProxy, tmp_path: Path
) -> None:
    """The library cancels tasks of others then: no request and no forwarder dies."""
    url = f"{proxy.url_for(rabbitmq_url)}?heartbeat=1"
    async with running_outage(url, rabbit_topology, tmp_path) as outage:
        await until_up(outage)
        proxy.hold()
        sent: list[str] = []
        statuses = []

        async def is_given_up() -> bool:
            sent.append(f"task-{len(sent):05}")
            statuses.extend(await outage.post(sent[-1]))
            return outage.outlet.broker.problem is not None

        await eventually(is_given_up, within=20)
        sent += names(5, start=len(sent))
        statuses += await outage.post(*sent[-5:])
        assert {200} == {*statuses}
        proxy.resume()
        await until_drained(outage)

        found = await published(rabbitmq_url, rabbit_topology, len(sent))

    assert sent == sorted(found)


async def test_connection_cut_while_callbacks_come(
    rabbitmq_url: str, rabbit_topology: Topology, proxy: TcpProxy, tmp_path: Path
) -> None:
    """All are answered 200 and none is lost, whatever was on its way."""
    url = proxy.url_for(rabbitmq_url)
    async with running_outage(url, rabbit_topology, tmp_path) as outage:
        await until_up(outage)
        posting = [asyncio.create_task(outage.post(name)) for name in names(200)]
        proxy.cut()

        statuses = [status for (status,) in await asyncio.gather(*posting)]

        assert [200] * 200 == statuses
        await until_drained(outage)
        found = await published(rabbitmq_url, rabbit_topology, 200)
    assert names(200) == sorted(found)


async def test_return_no_route(
    rabbitmq_url: str, rabbit_topology: Topology, tmp_path: Path
) -> None:
    """What no queue wants is kept until one does."""
    async with running_outage(rabbitmq_url, rabbit_topology, tmp_path) as outage:
        await until_up(outage)
        await _delete_queues(rabbitmq_url, rabbit_topology, "dedupe", "unrouted")

        assert [200] * 5 == await outage.post(*names(5))

        _, ready = await outage.ready()
        assert "degraded" == ready["status"]
        await _until_waiting(outage, 5)
        await outage.ingress.broker.declare(rabbit_topology)
        await until_drained(outage)
        assert names(5) == await published(rabbitmq_url, rabbit_topology, 5)


@pytest.fixture
async def node_topology(
    rabbitmq_node: RabbitNode, rabbit_topology: Topology
) -> AsyncIterator[Topology]:
    """The same names on the private node."""
    yield rabbit_topology
    await delete_topology(rabbitmq_node.url, rabbit_topology)


async def test_nack_queue_full(
    rabbitmq_node: RabbitNode, node_topology: Topology, tmp_path: Path
) -> None:
    """A full queue refuses; what it refused waits for room."""
    queue = node_topology.queue_name("dedupe")
    url = rabbitmq_node.url
    async with running_outage(url, node_topology, tmp_path) as outage:
        await until_up(outage)
        limit = '{"max-length": 1}'
        await asyncio.to_thread(
            rabbitmq_node.control, "set_policy", "full", f"^{queue}$", limit
        )
        try:
            assert [200] * 20 == await outage.post(*names(20))
            assert outage.spool.messages > 0
            assert outage.outlet.circuit.is_closed
            # Whoever takes messages makes room for others.
            assert {*names(20)} == {*await published(url, node_topology, 20)}
            await until_drained(outage)
        finally:
            await asyncio.to_thread(rabbitmq_node.control, "clear_policy", "full")


async def test_broker_disk_or_memory_alarm(
    rabbitmq_node: RabbitNode, node_topology: Topology, tmp_path: Path
) -> None:
    """A broker that is blocked is known to be: nobody waits for it."""
    url = rabbitmq_node.url
    async with (
        running_outage(url, node_topology, tmp_path) as outage,
        watched_disk(tmp_path) as disk,
    ):
        await until_up(outage)
        await asyncio.to_thread(rabbitmq_node.raise_memory_alarm)
        try:
            began = time.monotonic()
            assert [200] == await outage.post("task-00000")
            took = time.monotonic() - began
            assert took < ANSWER_SECONDS + _commits_seconds(1, disk)

            async def is_told() -> bool:
                return "alarm" in str(outage.outlet.broker_problem)

            await eventually(is_told)
            before = await _not_asked(outage)
            began = time.monotonic()
            assert [200] * 10 == await outage.post(*names(10, start=1))
            took = time.monotonic() - began
            assert before + 10 == await _not_asked(outage)
            assert took < ANSWER_SECONDS + _commits_seconds(10, disk)
            assert "degraded" == await _state(outage)
        finally:
            await asyncio.to_thread(rabbitmq_node.clear_memory_alarm)
        await until_drained(outage)
        assert {*names(11)} == {*await published(url, node_topology, 11)}


async def test_drains_while_new_callbacks_keep_coming(
    rabbitmq_url: str, rabbit_topology: Topology, proxy: TcpProxy, tmp_path: Path
) -> None:
    """What waited arrives in order, among what comes meanwhile."""
    await proxy.refuse()
    url = proxy.url_for(rabbitmq_url)
    async with running_outage(url, rabbit_topology, tmp_path) as outage:
        waiting = names(500)
        for start in range(0, 500, 50):
            await asyncio.gather(*(outage.post(n) for n in waiting[start : start + 50]))
        # Until it looks, it may count twice what came while it looked before.
        await outage.spool.measure()
        kept = outage.spool.messages
        await proxy.accept()
        fresh: list[str] = []
        while outage.spool.filled.is_set():
            fresh.append(f"task-new-{len(fresh)}")
            assert [200] == await outage.post(fresh[-1])

        found = await published(rabbitmq_url, rabbit_topology, 500 + len(fresh))

    assert 500 == kept
    assert {*waiting, *fresh} == {*found}


async def test_full_spool_answers_503_and_the_publish_path_still_works(
    rabbitmq_url: str, rabbit_topology: Topology, proxy: TcpProxy, tmp_path: Path
) -> None:
    """Nothing is answered 200 that is kept nowhere."""
    await proxy.refuse()
    url = proxy.url_for(rabbitmq_url)
    async with running_outage(
        url, rabbit_topology, tmp_path, forwards=False, max_bytes="1MiB"
    ) as outage:
        body = body_of("large").ljust(200_000)
        accepted = 0
        while (answer := await outage.ingress.post(data=body)).status == 200:
            accepted += 1
        assert 503 == answer.status
        assert "5" == answer.headers["retry-after"]
        assert "not_stored" == answer.problem["code"]
        assert 3 <= accepted <= 6
        status, ready = await outage.ready()
        assert (503, "not ready") == (status, ready["status"])
        assert "max_bytes" in ready["checks"]["spool"]

        await proxy.accept()
        await until_up(outage)

        await _until_taken(outage, "task-after")
        assert (200, "degraded") == ((await outage.ready())[0], await _state(outage))


async def test_ingress_disk_full(
    rabbitmq_url: str, rabbit_topology: Topology, proxy: TcpProxy, tmp_path: Path
) -> None:
    """A floor of free bytes refuses before the disk is full; publishing goes on."""
    url = proxy.url_for(rabbitmq_url)
    async with running_outage(
        url, rabbit_topology, tmp_path, min_free_bytes=2**60
    ) as outage:
        await until_up(outage)
        await _until_taken(outage, "task-00000")
        assert "degraded" == await _state(outage)
        await proxy.refuse()
        proxy.cut()

        async def is_refused() -> bool:
            return (await outage.post("task-00001")) == [503]

        await eventually(is_refused, within=30)
        assert 503 == (await outage.ready())[0]
        await proxy.accept()
        await until_up(outage)
        await _until_taken(outage, "task-00002")


def _commits_seconds(count: int, disk: Disk) -> float:
    """Give what commits of the spool may take: each may be several writes."""
    return 3 * count * disk.longest_seconds


async def _not_asked(outage: Outage) -> float:
    """Count the callbacks for which nobody waited for the broker."""
    metrics = (await outage.ingress.get("/metrics")).body.decode()
    name = f'pipeline_spooled_total{{cause="{NOT_ASKED}"}} '
    (line,) = (one for one in metrics.splitlines() if one.startswith(name))
    return float(line.removeprefix(name))


async def _until_taken(outage: Outage, task_id: str) -> None:
    """Send a callback again as the provider does: a confirm may come too late."""

    async def is_taken() -> bool:
        (status,) = await outage.post(task_id)
        assert status in {200, 503}
        return status == 200

    await eventually(is_taken, within=30)


async def _state(outage: Outage) -> str:
    return str((await outage.ready())[1]["status"])


async def _until_waiting(outage: Outage, count: int) -> None:
    """What comes while the spool is measured counts twice until the next time."""

    async def are_waiting() -> bool:
        _, ready = await outage.ready()
        return bool(ready["spool"]["messages"] == count)

    await eventually(are_waiting)


async def _shows(outage: Outage, line: str) -> bool:
    metrics = await outage.ingress.get("/metrics")
    return line in metrics.body.decode().splitlines()


async def _delete_queues(url: str, topology: Topology, *queues: str) -> None:
    async with await aio_pika.connect(url) as connection:
        channel = await (await connection.channel()).get_underlay_channel()
        for queue in queues:
            await channel.queue_delete(topology.queue_name(queue))
