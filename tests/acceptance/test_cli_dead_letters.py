"""Dead letters from the command line, on both brokers, with a kill in the middle."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from pipeline.broker import open_broker
from pipeline.dead_letters import Selection, browse
from pipeline.errors import LinkExpired, Reject
from pipeline.message import Envelope, failed
from pipeline.topology import (
    DEDUPE,
    DOWNLOAD,
    build_topology,
    dead_letter,
    dead_letter_queue,
)
from tests.command_line import until
from tests.factories import make_envelope, unique_prefix
from tests.rabbitmq_node import delete_topology
from tests.waiting import receive

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.topology import Topology
    from tests.command_line import CommandLine

DEADLINE = timedelta(seconds=10)


class Desk:
    """Fills and inspects the queues of one test, each time as another process."""

    def __init__(self, url: str, topology: Topology) -> None:
        self.url = url
        self.topology = topology

    def bury(self, *envelopes: Envelope, error: Exception, queue: str) -> None:
        """Put dead letters into the dead-letter queue of ``queue``."""
        now = datetime.now(UTC)
        letters = [
            dead_letter(queue, failed(envelope, queue=queue, error=error, at=now))
            for envelope in envelopes
        ]

        async def main() -> None:
            async with open_broker(self.url, deadline=DEADLINE) as broker:
                await broker.declare(self.topology)
                await broker.publish(*letters)

        asyncio.run(main())

    def ready(self, queue: str) -> int:
        """Count what waits in a queue."""

        async def main() -> int:
            async with open_broker(self.url, deadline=DEADLINE) as broker:
                await broker.declare(self.topology)
                return (await broker.depth(queue)).ready

        return asyncio.run(main())

    def take(self, queue: str, count: int) -> list[Envelope]:
        """Take messages off a queue."""

        async def main() -> list[Envelope]:
            async with open_broker(self.url, deadline=DEADLINE) as broker:
                await broker.declare(self.topology)
                async with broker.consume(queue, prefetch=count) as consumer:
                    deliveries = await receive(consumer, count)
                    await consumer.ack(deliveries)
                    return [delivery.envelope for delivery in deliveries]

        return asyncio.run(main())

    def dead_ids(self, queue: str) -> list[str]:
        """Look through the dead letters of a queue."""

        async def main() -> list[str]:
            async with open_broker(self.url, deadline=DEADLINE) as broker:
                await broker.declare(self.topology)
                letters = browse(broker, [queue], Selection())
                return [letter.envelope.message_id async for letter in letters]

        return asyncio.run(main())


@pytest.fixture(params=["sqlite", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def desk(request: pytest.FixtureRequest, cli: CommandLine) -> Iterator[Desk]:
    """A broker that the command line of the test uses too."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    prefix = unique_prefix()
    cli.environ["PIPELINE_BROKER_URL"] = url
    cli.environ["PIPELINE_BROKER__PREFIX"] = prefix
    topology = build_topology(prefix=prefix)
    yield Desk(url, topology)
    if request.param == "rabbitmq":
        asyncio.run(delete_topology(url, topology))


def test_what_is_listed_can_be_shown_replayed_and_discarded(
    cli: CommandLine, desk: Desk
) -> None:
    """One walk through every command, as a person would do it."""
    body = '{"code": 200, "msg": "schön", "data": {"task_id": "t1"}}'.encode()
    first = make_envelope(body=body, message_id="first", attempt=7)
    second = make_envelope(message_id="second", headers={"task-id": "t2"})
    third = make_envelope(body=b"\xff\x00", message_id="third")
    desk.bury(first, error=Reject("no \x1b[31mcolours\nhere"), queue=DEDUPE)
    desk.bury(second, third, error=LinkExpired("answered 410"), queue=DOWNLOAD)

    listed = cli.json("dead-letters", "list")
    some = cli.json("dead-letters", "list", "--error-type", "LinkExpired", "--limit=1")
    table = cli("dead-letters", "list", "--task", "t1")
    shown = cli.json("dead-letters", "show", "first")
    raw = cli("dead-letters", "show", "first", "--body")
    text = cli("dead-letters", "show", "third")

    assert [x["message_id"] for x in listed] == ["first", "second", "third"]
    assert listed[0]["task_id"] == "t1"
    assert listed[0]["stage"] == "complete"
    assert listed[0]["attempt"] == 7
    assert [x["message_id"] for x in some] == ["second"]
    assert table.stdout.count("\n") == 2
    assert "no  [31mcolours here" in table.stdout
    assert "\x1b" not in table.stdout
    assert table.stderr == "1 dead letter\n"
    assert shown["body"] == body.decode()
    assert raw.stdout == body.decode()
    assert "b'\\xff\\x00'" in text.stdout

    counted = cli("dead-letters", "replay", "--dry-run", "--stage", "complete")
    replayed = cli("dead-letters", "replay", "first")
    refused = cli("dead-letters", "discard", "-q", "dead.download")
    discarded = cli("dead-letters", "discard", "-q", "download", "--yes", "--json")
    nobody = cli("dead-letters", "replay", "first")

    assert counted.stdout.startswith("3 dead letters would be replayed (1 of dedupe")
    assert replayed.stdout == "1 dead letter replayed (1 of dedupe)\n"
    assert refused.returncode == 2
    assert "2 dead letters would be discarded" in refused.stdout
    assert "--yes" in refused.stderr
    assert json.loads(discarded.stdout) == {
        "discarded": 2,
        "matched": 2,
        "seen": 2,
        "total": 2,
        "held": 0,
        "queues": {"download": 2},
        "dry_run": False,
    }
    assert nobody.returncode == 1
    assert "no dead letter has the message id first" in nobody.stderr
    (again,) = desk.take(DEDUPE, 1)
    assert (again.message_id, again.attempt, again.replays) == ("first", 1, 1)
    assert cli.json("dead-letters", "list") == []


def test_a_replay_that_is_killed_loses_nothing(cli: CommandLine, desk: Desk) -> None:
    """Kill it at some point; what was not replayed is still a dead letter."""
    count = 400
    envelopes = [make_envelope(message_id=f"m{n}") for n in range(count)]
    desk.bury(*envelopes, error=Reject("poison"), queue=DOWNLOAD)

    # Slow enough to be far from its end, however long a look takes.
    with cli.running("dead-letters", "replay", "--rate", "20") as replay:
        until(lambda: desk.ready(DOWNLOAD) >= 10)
        assert replay.process.poll() is None
        replay.stop(signal.SIGKILL)

    dead_queue = dead_letter_queue(DOWNLOAD)
    until(lambda: desk.ready(DOWNLOAD) + desk.ready(dead_queue) >= count)
    replayed = desk.take(DOWNLOAD, desk.ready(DOWNLOAD))
    dead = desk.dead_ids(DOWNLOAD)

    ids = Counter([*(e.message_id for e in replayed), *dead])
    assert set(ids) == {f"m{n}" for n in range(count)}
    # The batch in between may have been stored and not acknowledged.
    assert ids.total() - count <= 2
    assert dead
    finished = cli("dead-letters", "replay")
    assert f"{len(dead):,} dead letters replayed" in finished.stdout


def test_what_a_reader_holds_is_said_to_be_missed_until_it_is_stopped(
    cli: CommandLine, desk: Desk
) -> None:
    """A list in a pager holds what it shows; SIGTERM gives it back at once."""
    count = 700
    envelopes = [make_envelope(message_id=f"m{n}") for n in range(count)]
    desk.bury(*envelopes, error=Reject("long " * 100), queue=DOWNLOAD)
    dead_queue = dead_letter_queue(DOWNLOAD)
    reading, writing = os.pipe()
    # With the lease that users have: nothing comes back by itself meanwhile.
    cli.environ["PIPELINE_BROKER_URL"] = desk.url.partition("?lease_seconds")[0]

    with cli.running("dead-letters", "list", output=writing) as pager:
        os.close(writing)
        until(lambda: desk.ready(dead_queue) < count)
        held = [
            cli("dead-letters", "list", "--json"),
            cli("dead-letters", "show", "m0"),
            cli("dead-letters", "replay", "m0"),
            cli("dead-letters", "discard"),
        ]
        enough = cli("dead-letters", "list", "--limit", "1")
        some = cli("dead-letters", "replay", "--json")
        assert pager.process.poll() is None
        pager.process.send_signal(signal.SIGTERM)
        assert pager.process.wait(20) not in {0, -signal.SIGTERM}
    os.close(reading)

    for done in (*held, some):
        assert done.returncode == 1, done
        assert "could not be looked at" in done.stderr
    for done in held[1:3]:
        assert "no dead letter that could be looked at has" in done.stderr
    assert enough.returncode == 0, enough
    answer = json.loads(some.stdout)
    assert 0 < answer["replayed"] == answer["total"] < count
    assert answer["held"] in {None, count - answer["total"]}
    until(lambda: desk.ready(dead_queue) == count - answer["replayed"], within=20)
    rest = cli.json("dead-letters", "replay")
    assert (count - answer["replayed"], 0) == (rest["replayed"], rest["held"])
