"""An ingress that dies with callbacks in its spool, and records that were torn."""

from __future__ import annotations

import asyncio
import shutil
import signal
from datetime import timedelta
from typing import TYPE_CHECKING

import aiohttp
import pytest

from pipeline.broker import open_broker
from pipeline.settings import SpoolSettings
from pipeline.spool.spool import Spool
from pipeline.topology import Topology, build_topology
from tests.command_line import CommandLine
from tests.factories import make_envelope, make_publication, unique_prefix
from tests.outage import body_of, names, published
from tests.rabbitmq_node import delete_topology
from tests.tcp_proxy import TcpProxy
from tests.waiting import receive

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

TASKS = 60


@pytest.fixture
async def topology(rabbitmq_url: str) -> AsyncIterator[Topology]:
    """What the command line declares under a prefix of its own."""
    made = build_topology(prefix=unique_prefix())
    async with open_broker(rabbitmq_url, deadline=timedelta(seconds=10)) as broker:
        await broker.declare(made)
    yield made
    await delete_topology(rabbitmq_url, made)


@pytest.mark.rabbitmq
async def test_dies_with_records_in_the_spool(
    rabbitmq_url: str, topology: Topology, tmp_path: Path
) -> None:
    """kill -9, twice: once in an outage, once in the middle of draining."""
    environ = {
        "PIPELINE_BROKER__PREFIX": topology.prefix,
        # For a disk that others keep busy.
        "PIPELINE_SPOOL__TIMEOUT": "20s",
    }
    cli = CommandLine(tmp_path, environ)
    async with TcpProxy.to(rabbitmq_url) as proxy:
        await proxy.refuse()
        options = ("--port", "0", "--broker-url", proxy.url_for(rabbitmq_url))
        await asyncio.to_thread(_post_and_kill, cli, options)
        await proxy.accept()
        proxy.hold()
        # It holds what it is about to forward when it is killed.
        await asyncio.to_thread(_start_and_kill, cli, options)
        proxy.resume()

        with cli.running("ingress", *options) as run:
            await asyncio.to_thread(run.address)
            # The lease of the dead one is waited for first.
            found = await asyncio.wait_for(
                published(rabbitmq_url, topology, TASKS), timeout=60
            )

    assert names(TASKS) == found


async def test_torn_last_record_is_harmless(tmp_path: Path) -> None:
    """What was half written when the power went is gone; all before it is there."""
    async with _spool(tmp_path / "spool.db") as spool:
        for number in range(3):
            body = str(number).encode() * 3000
            await spool.store(make_publication(make_envelope(body=body)))
        for name in ("spool.db", "spool.db-wal"):
            shutil.copy(tmp_path / name, tmp_path / f"torn-{name}")
    log = tmp_path / "torn-spool.db-wal"
    with log.open("r+b") as file:
        file.truncate(log.stat().st_size - 100)

    async with _spool(tmp_path / "torn-spool.db") as torn:
        assert 2 == torn.messages
        await torn.store(make_publication(make_envelope(body=b"after")))
        async with torn.consume(10) as consumer:
            bodies = [d.envelope.body[:1] for d in await receive(consumer, 3)]

    assert [b"0", b"1", b"a"] == bodies


def _spool(path: Path) -> Spool:
    chosen = {"path": path, "min_free_bytes": 0, "timeout": "20s"}
    return Spool(SpoolSettings.model_validate(chosen))


def _post_and_kill(cli: CommandLine, options: tuple[str, ...]) -> None:
    with cli.running("ingress", *options) as run:
        asyncio.run(_post(run.address()))
        run.stop(signal.SIGKILL)


def _start_and_kill(cli: CommandLine, options: tuple[str, ...]) -> None:
    with cli.running("ingress", *options) as run:
        run.address()
        run.stop(signal.SIGKILL)


async def _post(base: str) -> None:
    async with aiohttp.ClientSession() as session:
        for name in names(TASKS):
            url = f"{base}/callbacks/upload-extend"
            headers = {"Content-Type": "application/json"}
            async with session.post(url, data=body_of(name), headers=headers) as answer:
                assert 200 == answer.status
