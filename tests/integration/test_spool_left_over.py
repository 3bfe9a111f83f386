"""Callbacks that wait in the spool go out, whatever the settings have become."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from pipeline.broker.sqlite import SqliteBroker
from pipeline.ingress.app import make_ingress, serve
from pipeline.ledger import open_ledger
from pipeline.message import TASK_ID, Publication
from pipeline.settings import IngressSettings, SpoolSettings
from pipeline.spool.leftover import Leftover
from pipeline.spool.outlet import Outlet
from pipeline.spool.spool import Spool
from pipeline.topology import (
    Binding,
    Exchange,
    ExchangeKind,
    Queue,
    QueueKind,
    Topology,
    build_topology,
)
from tests.command_line import PATIENT, CommandLine, until
from tests.factories import make_envelope, make_publication, unique_prefix
from tests.ingress import Ingress
from tests.outage import body_of, names, published
from tests.rabbitmq_node import delete_topology
from tests.tcp_proxy import TcpProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.command_line import Running

#: Nothing listens there.
AWAY = "amqp://guest:guest@127.0.0.1:1/"
DEADLINE = timedelta(seconds=10)


@pytest.fixture
def cli(tmp_path: Path) -> CommandLine:
    """The command line in an empty folder, on whose disk there is room.

    Its spool waits for a disk that others keep busy.
    """
    environ = {"PIPELINE_SPOOL__MIN_FREE_BYTES": "0", "PIPELINE_SPOOL__TIMEOUT": "20s"}
    return CommandLine(tmp_path, environ)


async def test_spool_that_is_off_forwards_what_its_file_holds(
    cli: CommandLine, tmp_path: Path
) -> None:
    """RabbitMQ is away, and the ingress is started again with the embedded broker."""
    await _leave(cli, 5, "--broker-url", AWAY)

    code, found = await asyncio.to_thread(_doctor, cli)
    assert (1, "problem") == (code, found["level"])
    assert found["what"].startswith("5 callbacks wait, the oldest for ")
    assert "takes no others" in found["what"]

    with cli.running("ingress", "--port", "0", environ=PATIENT) as run:
        await asyncio.to_thread(_until_drained, run)
        (line,) = run.events("spool_left_over")
        assert (5, "warning") == (line["messages"], line["level"])
        assert 200 == await _post(run, "task-after")

    url = f"sqlite:///{tmp_path}/data/broker.db"
    assert [*names(5), "task-after"] == await published(url, build_topology(), 6)
    code, found = await asyncio.to_thread(_doctor, cli)
    assert (0, "ok") == (code, found["level"])
    assert "takes none, as the settings have it" in found["what"]


async def test_spool_that_is_off_makes_no_file(cli: CommandLine) -> None:
    with cli.running("ingress", "--port", "0") as run:
        _, ready = await asyncio.to_thread(_ready, run)

    assert "spool" not in ready
    assert not cli.folder.joinpath("data", "spool.db").exists()


@pytest.mark.rabbitmq
async def test_spool_that_is_off_takes_nothing_and_forwards_when_the_broker_is_back(
    rabbitmq_url: str, topology: Topology, cli: CommandLine
) -> None:
    """Until then the ingress is not ready, and says how many wait."""
    cli.environ["PIPELINE_BROKER__PREFIX"] = topology.prefix
    async with TcpProxy.to(rabbitmq_url) as proxy:
        await proxy.refuse()
        url = ("--broker-url", proxy.url_for(rabbitmq_url))
        await _leave(cli, 3, *url)
        off = ("--set", "spool.enabled=false")

        with cli.running("ingress", "--port", "0", *url, *off) as run:
            status, ready = await asyncio.to_thread(_ready, run)
            assert (503, "not ready") == (status, ready["status"])
            assert 3 == ready["spool"]["messages"]
            assert 503 == await _post(run, "task-refused")
            assert "pipeline_spool_messages 3.0" in await _metrics(run)

            await proxy.accept()
            await asyncio.to_thread(_until_drained, run)

        assert names(3) == await published(rabbitmq_url, topology, 3)


@pytest.mark.rabbitmq
async def test_another_prefix_gets_what_waits(
    rabbitmq_url: str, topology: Topology, cli: CommandLine
) -> None:
    """What was spooled under the first is published under the second."""
    await _leave(cli, 5, "--broker-url", AWAY, "--set", "broker.prefix=first")
    options = (
        "--broker-url",
        rabbitmq_url,
        "--set",
        f"broker.prefix={topology.prefix}",
    )

    with cli.running("ingress", "--port", "0", *options) as run:
        await asyncio.to_thread(_until_drained, run)

    assert names(5) == await published(rabbitmq_url, topology, 5)


async def test_older_files_are_drained_in_order_of_receipt(
    cli: CommandLine, tmp_path: Path
) -> None:
    """Once the broker's prefix was part of the names; some files have several."""
    path = tmp_path / "data" / "spool.db"
    await _store_as_before(path, "music", *names(300))
    await _store_as_before(path, "a.b", *names(300, start=300))
    async with _spool(path) as spool:
        assert 600 == spool.messages
        assert spool.filled.is_set()
        for name in names(300, start=600):
            await spool.store(_callback(name))

    enabled = ("--set", "spool.enabled=true", "--set", "broker.prefix=other")
    with cli.running("ingress", "--port", "0", *enabled) as run:
        await asyncio.to_thread(until, lambda: run.events("spool_drained"))
        assert [900] == [line["messages"] for line in run.events("spool_drained")]

    url = f"sqlite:///{tmp_path}/data/broker.db"
    assert names(900) == await published(url, build_topology(prefix="other"), 900)


async def test_while_callbacks_are_left_over_the_ingress_is_degraded(
    tmp_path: Path,
) -> None:
    """With a broker that is up, and nobody who forwards them."""
    async with (
        SqliteBroker(tmp_path / "broker.db", deadline=DEADLINE) as broker,
        _spool(tmp_path / "spool.db") as spool,
        aiohttp.ClientSession() as session,
    ):
        await broker.declare(build_topology())
        await spool.store(_callback("task"))
        leftover = Leftover(Outlet(broker, spool))
        routes = make_ingress(broker, IngressSettings(), leftover=leftover)
        async with serve(routes, host="127.0.0.1", port=0) as address:
            ingress = Ingress(address, broker, session)
            answer = await ingress.get("/readyz")
            assert 200 == (await ingress.post(data=body_of("direct"))).status

        assert 1 == spool.messages
    ready = json.loads(answer.body)
    assert (200, "degraded") == (answer.status, ready["status"])
    assert {"broker": "ok", "spool": "ok"} == ready["checks"]
    assert 1 == ready["spool"]["messages"]


async def test_file_that_cannot_be_read_is_told_of_though_the_spool_is_off(
    cli: CommandLine,
) -> None:
    """Nobody knows what it holds: the ingress takes callbacks and is degraded."""
    path = cli.folder / "data" / "spool.db"
    path.parent.mkdir()
    path.write_bytes(b"SQLite format 3\0" + b"\xff" * 4096)

    code, found = await asyncio.to_thread(_doctor, cli)
    with cli.running("ingress", "--port", "0", environ=PATIENT) as run:
        await asyncio.to_thread(run.ready)
        status, ready = await asyncio.to_thread(_ready, run)
        assert 200 == await _post(run, "task")
        assert run.events("spool_unavailable")

    assert (1, "problem") == (code, found["level"])
    assert (200, "degraded") == (status, ready["status"])
    assert "spool.db" in ready["checks"]["spool"]


async def test_file_of_another_kind_stops_the_start_though_the_spool_is_off(
    cli: CommandLine,
) -> None:
    """What is in the way at ``spool.path`` is said, and left as it is."""
    path = cli.folder / "data" / "spool.db"
    async with open_ledger(f"sqlite:///{path}") as ledger:
        await ledger.totals()

    done = await asyncio.to_thread(cli, "ingress", "--port", "0")

    assert 1 == done.returncode
    assert str(path) in done.stderr


@pytest.fixture
async def topology(rabbitmq_url: str) -> AsyncIterator[Topology]:
    """What the command line declares under a prefix of its own."""
    made = build_topology(prefix=unique_prefix())
    yield made
    await delete_topology(rabbitmq_url, made)


def _spool(path: Path) -> Spool:
    chosen = {"path": path, "min_free_bytes": 0, "timeout": "20s"}
    return Spool(SpoolSettings.model_validate(chosen))


def _callback(name: str) -> Publication:
    envelope = make_envelope(body=body_of(name), headers={TASK_ID: name})
    return make_publication(envelope)


async def _store_as_before(path: Path, prefix: str, *task_ids: str) -> None:
    """Store callbacks as a spool did whose names had the broker's prefix."""
    topology = Topology(
        prefix=prefix,
        exchanges=(Exchange(name="spool", kind=ExchangeKind.FANOUT),),
        queues=(Queue(name="spool", kind=QueueKind.UNROUTED),),
        bindings=(Binding(exchange="spool", queue="spool", key=""),),
    )
    async with SqliteBroker(path, deadline=DEADLINE, is_main=False) as broker:
        await broker.declare(topology)
        for name in task_ids:
            envelope = _callback(name).envelope
            await broker.publish(Publication(exchange="spool", envelope=envelope))


async def _leave(cli: CommandLine, count: int, *options: str) -> None:
    """Have callbacks answered 200 into the spool, and stop the ingress."""
    with cli.running("ingress", "--port", "0", *options) as run:
        await asyncio.to_thread(run.ready)
        for name in names(count):
            assert 200 == await _post(run, name)
        run.stop()


async def _post(run: Running, name: str) -> int:
    base = await asyncio.to_thread(run.address)
    url = f"{base}/callbacks/upload-extend"
    headers = {"Content-Type": "application/json"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=body_of(name), headers=headers) as answer,
    ):
        return answer.status


async def _metrics(run: Running) -> list[str]:
    base = await asyncio.to_thread(run.address)
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{base}/metrics") as answer,
    ):
        return (await answer.text()).splitlines()


def _ready(run: Running) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(f"{run.address()}/readyz", timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def _until_drained(run: Running) -> None:
    def is_drained() -> bool:
        _, ready = _ready(run)
        return ready["status"] == "ready" and not ready["spool"]["messages"]

    until(is_drained)


def _doctor(cli: CommandLine) -> tuple[int, dict[str, str]]:
    done = cli("doctor", "--json", "--only", "spool")
    (found,) = json.loads(done.stdout)["findings"]
    return done.returncode, found
