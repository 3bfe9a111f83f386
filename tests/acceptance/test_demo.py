"""The whole pipeline as its users start it, against the simulated provider."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.broker import open_broker
from pipeline.demo import Demo, DemoOptions
from pipeline.demo.timeline import Timeline
from pipeline.topology import build_topology
from tests.command_line import WITHIN_SECONDS, until
from tests.factories import unique_prefix
from tests.tcp_proxy import TcpProxy

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.command_line import CommandLine

#: How many callbacks the load has; `make load` sends 10,000.
LOAD = int(os.environ.get("PIPELINE_TEST_LOAD", "2000"))


@pytest.fixture(params=["sqlite", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def broker_options(request: pytest.FixtureRequest) -> Sequence[str]:
    """What makes the demo use the one broker or the other."""
    if request.param == "sqlite":
        return ()
    return ("--broker-url", request.getfixturevalue("rabbitmq_url"))


def test_demo_loses_nothing_and_replays_what_failed(
    broker_options: Sequence[str],
) -> None:
    """Duplicates are dropped, dead links settled, dead letters replayed."""
    figures = play("--tasks", "6", "--seed", "1", *broker_options)

    assert 0 == figures["lost"]
    assert [] == figures["losses"]
    assert 6 == figures["tasks"]
    assert figures["callbacks_sent"] >= figures["callbacks_accepted"] > 15
    assert figures["duplicates_dropped"] > 0
    assert figures["assets_stored"] > 10
    assert figures["assets_expired"] > 0
    assert figures["dead_lettered"] == figures["replayed"] > 0
    assert 0 == figures["dead_letters_left"]


def test_demo_finds_everything_out_by_asking() -> None:
    """No callback comes at all, as behind an address that is not public."""
    figures = play("--tasks", "6", "--seed", "1", "--no-callbacks")

    assert [] == figures["losses"]
    assert (0, 0) == (figures["callbacks_sent"], figures["callbacks_accepted"])
    assert 6 == figures["tasks"]
    assert figures["events_published"] > 6
    assert figures["assets_stored"] > 10
    assert figures["dead_lettered"] == figures["replayed"] > 0


@pytest.mark.slow
@pytest.mark.timeout(300 + LOAD // 20)
def test_load_in_random_order_publishes_each_event_once(
    broker_options: Sequence[str],
) -> None:
    """One callback in five is a repeat, and no two tasks take turns."""
    figures = play("--load", str(LOAD), "--seed", "7", *broker_options)

    distinct = LOAD - LOAD // 5
    assert 0 == figures["lost"]
    assert LOAD == figures["callbacks_accepted"]
    # One whose confirm took too long was stored as well, and has come twice.
    assert LOAD // 5 <= figures["duplicates_dropped"]
    assert distinct == figures["events_published"]
    assert 0 == figures["events_repeated"]
    assert distinct == figures["notifications_delivered"]
    assert 0 == figures["dead_lettered"]


def test_same_seed_plays_the_same_tasks() -> None:
    """A run that went wrong can be repeated."""
    first, second = (play("--tasks", "3", "--seed", "5") for _ in range(2))

    for name in ("callbacks_accepted", "assets_stored", "tasks"):
        assert first[name] == second[name]
    # So many are played; what waited too long for its confirm comes twice as well.
    assert min(played["duplicates_dropped"] for played in (first, second)) >= 2


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
async def test_a_demo_that_is_stopped_leaves_nothing_behind(
    cli: CommandLine, broker_url: str, number: signal.Signals, code: int
) -> None:
    """Neither queues on somebody else's broker, nor its temporary folder.

    ``timeout`` sends its signal twice: the second one stops no clean-up.
    """
    temporary = cli.folder / "temporary"
    temporary.mkdir()
    arguments = ("demo", "--tasks", "40", "--broker-url", broker_url)
    with cli.running(*arguments, environ={"TMPDIR": str(temporary)}) as running:
        await asyncio.to_thread(until, lambda: b" 200" in running.log.read_bytes())
        (folder,) = temporary.iterdir()
        before = await queues_under(folder.name, broker_url)
        running.process.send_signal(number)
        if number is signal.SIGTERM:
            running.process.send_signal(number)
        ended = await asyncio.to_thread(running.process.wait, WITHIN_SECONDS)

    assert code == ended, running.errors.read_text(encoding="utf-8")
    assert [] == list(temporary.iterdir())
    assert before
    assert [] == await queues_under(folder.name, broker_url)
    assert "" == running.errors.read_text(encoding="utf-8")


async def queues_under(prefix: str, broker_url: str) -> list[str]:
    """Give the work queues of a demo that there are."""
    topology = build_topology(prefix=prefix.lower())
    async with open_broker(broker_url, deadline=timedelta(seconds=5)) as broker:
        found = await broker.find_queues(topology, topology.work_queues)
    return [queue.name for queue in found]


@pytest.mark.rabbitmq
async def test_demo_waits_for_a_broker_that_is_away(
    rabbitmq_url: str, tmp_path: Path
) -> None:
    """Its verdict is what shows whether an outage has cost anything."""
    sent, waiting = asyncio.Event(), asyncio.Event()

    def heard(line: str, _: str) -> None:
        if "callback" in line:
            sent.set()
        if "waiting:" in line:
            waiting.set()

    async def break_off(proxy: TcpProxy) -> None:
        await sent.wait()
        await proxy.refuse()
        proxy.cut()
        await waiting.wait()
        await proxy.accept()

    folder = tmp_path / unique_prefix()
    folder.mkdir()
    async with TcpProxy.to(rabbitmq_url) as proxy, asyncio.TaskGroup() as group:
        address = proxy.url_for(rabbitmq_url)
        options = DemoOptions(tasks=3)
        async with Demo(folder, options, Timeline(heard), broker_url=address) as demo:
            group.create_task(break_off(proxy))
            summary = await demo.run()

    assert waiting.is_set()
    assert [] == summary.losses
    assert 0 == summary.dead_letters_left


def play(*options: str) -> dict[str, Any]:
    """Run ``pipeline demo --json`` and give its figures."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("PIPELINE_")}
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "demo", "--json", *options],
        capture_output=True,
        check=False,
        env=environ,
        text=True,
    )
    assert 0 == done.returncode, done.stderr + done.stdout
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures
