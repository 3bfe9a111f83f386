"""Every example runs as its own docstring says, as a user would start it."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import aio_pika
import pytest

from pipeline.broker import open_broker
from pipeline.message import Publication
from pipeline.topology import EVENTS
from tests.factories import make_envelope, make_topology
from tests.rabbitmq_node import delete_topology

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator

ROOT: Final = Path(__file__).resolve().parents[2]
EXAMPLES: Final = ROOT / "examples"
SECONDS: Final = 40

#: Examples that need nothing, and the line that each of them has to print.
ALONE: Final = {
    "publish_and_handle.py": "measured: fine, busy, broken",
    "simulate_in_your_tests.py": "repeats that must have no effect:",
}
SUBSCRIBER: Final = "subscribe_with_aio_pika.py"


def event(event_id: str, *, kind: str = "task.complete") -> Publication:
    """Make an event as the contract has it, as short as can be."""
    body = (
        f'{{"specversion": "1.0", "id": "{event_id}", "type": "{kind}",'
        ' "subject": "t-1", "data": {"message": "ready"}}'
    )
    envelope = make_envelope(
        body=body.encode(), routing_key=kind, message_id=f"{event_id}-message"
    )
    return Publication(exchange=EVENTS, envelope=envelope)


@asynccontextmanager
async def example(name: str, *arguments: str) -> AsyncIterator[Process]:
    """Start an example from the root of the repository; end it in any case."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(EXAMPLES / name), *arguments),
        stdout=PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=ROOT,
    )
    try:
        async with asyncio.timeout(SECONDS):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def lines_until_the_end(process: Process) -> list[str]:
    """Read what is left of an example's output."""
    output, _ = await process.communicate()
    return output.decode().splitlines()


def test_every_example_is_run_by_a_test() -> None:
    """An example that nobody runs is soon wrong."""
    expected = {*ALONE, SUBSCRIBER}

    assert expected == {path.name for path in EXAMPLES.glob("*.py")}


@pytest.mark.parametrize("name", sorted(ALONE))
async def test_example_runs_without_any_server(name: str) -> None:
    """It ends with exit code 0 and says what came of it."""
    async with example(name) as process:
        lines = await lines_until_the_end(process)

    assert process.returncode == 0, lines
    assert any(line.startswith(ALONE[name]) for line in lines), lines


@pytest.mark.rabbitmq
async def test_subscriber_with_a_queue_of_its_own_hears_each_event_once(
    rabbitmq_url: str,
) -> None:
    """It gets what its pattern asks for, and drops what came twice."""
    topology = make_topology()
    queue = f"{topology.prefix}-shop"
    arguments = (rabbitmq_url, "--prefix", topology.prefix, "--queue", queue)
    patterns = ("--pattern", "task.*", "--count", "2")
    published = [event("e-1"), event("e-1"), event("a-1", kind="asset.stored")]
    try:
        async with open_broker(rabbitmq_url, deadline=timedelta(seconds=10)) as broker:
            await broker.declare(topology)
            async with example(SUBSCRIBER, *arguments, *patterns) as process:
                assert process.stdout is not None
                assert f"listening on {queue}\n".encode() == (
                    await process.stdout.readline()
                )

                await broker.publish(*published, event("e-2"))
                lines = await lines_until_the_end(process)

        assert process.returncode == 0, lines
        assert ["task.complete t-1 ready"] * 2 == lines
    finally:
        await delete_topology(rabbitmq_url, topology)
        async with await aio_pika.connect(rabbitmq_url) as connection:
            channel = await connection.channel()
            await channel.queue_delete(queue, if_unused=False, if_empty=False)
