"""A worker that has no consumer says so in ``/readyz``, until it has one again."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import aio_pika
import aiohttp
import pytest

from pipeline.broker import open_broker
from pipeline.topology import DEDUPE, Topology, build_topology
from tests.command_line import CommandLine
from tests.factories import make_publication, unique_prefix
from tests.rabbitmq_node import delete_topology
from tests.tcp_proxy import TcpProxy
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.command_line import Running

pytestmark = [pytest.mark.rabbitmq, pytest.mark.timeout(120, func_only=True)]

RECOVERY_SECONDS = 30.0


@pytest.fixture
async def topology(rabbitmq_url: str) -> AsyncIterator[Topology]:
    """What the command line declares under a prefix of its own."""
    made = build_topology(prefix=unique_prefix())
    yield made
    await delete_topology(rabbitmq_url, made)


async def test_worker_has_no_consumer_while_its_connections_are_cut(
    rabbitmq_url: str, topology: Topology, tmp_path: Path
) -> None:
    cli = CommandLine(tmp_path, {"PIPELINE_BROKER__PREFIX": topology.prefix})
    async with TcpProxy.to(rabbitmq_url) as proxy:
        with cli.running(*_worker(proxy.url_for(rabbitmq_url))) as run:
            await _until_ready(run)

            await proxy.refuse()
            proxy.cut()

            why = await _until_not_ready(run)
            assert "no consumer" in why["worker dedupe"]
            assert "127.0.0.1" in why["broker"]
            await proxy.accept()
            await _until_ready(run)
            assert 0 == await asyncio.to_thread(run.stop)


async def test_worker_has_no_consumer_while_the_server_gives_it_none(
    rabbitmq_url: str, topology: Topology, tmp_path: Path
) -> None:
    """The connections are there, but the queue is one that is not ours."""
    cli = CommandLine(tmp_path, {"PIPELINE_BROKER__PREFIX": topology.prefix})
    name = topology.queue_name(DEDUPE)
    with cli.running(*_worker(rabbitmq_url)) as run:
        await _until_ready(run)

        async with await aio_pika.connect(rabbitmq_url) as connection:
            channel = await (await connection.channel()).get_underlay_channel()
            # Of somebody who lets no other consume; the server cancels our consumer.
            await channel.queue_delete(name)
            await channel.queue_declare(name, exclusive=True)

            why = await _until_not_ready(run)
            assert "no consumer" in why["worker dedupe"]
            assert "ok" == why["broker"]

        await _until_ready(run)
        deadline = timedelta(seconds=10)
        async with open_broker(rabbitmq_url, deadline=deadline) as broker:
            await broker.declare(topology)
            await broker.publish(make_publication())

            async def is_taken() -> bool:
                return bool(run.events("delivery_settled"))

            await eventually(is_taken)


def _worker(url: str) -> tuple[str, ...]:
    return ("worker", "dedupe", "--set", "metrics.port=0", "--broker-url", url)


async def _readiness(run: Running) -> tuple[int, dict[str, Any]]:
    base = await asyncio.to_thread(run.address)
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{base}/readyz") as answer,
    ):
        return answer.status, json.loads(await answer.read())


async def _until_ready(run: Running) -> None:
    async def is_ready() -> bool:
        return (await _readiness(run))[0] == 200

    await eventually(is_ready, within=RECOVERY_SECONDS)


async def _until_not_ready(run: Running) -> dict[str, Any]:
    """Wait until it is not ready for want of a consumer; gives what is wrong."""
    found: dict[str, Any] = {}

    async def has_none() -> bool:
        status, ready = await _readiness(run)
        found.update(ready["checks"])
        return status == 503 and found["worker dedupe"] != "ok"

    await eventually(has_none, within=RECOVERY_SECONDS)
    return found
