"""What is left of a removed subscription, and what no queue wanted: on both brokers."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import aio_pika
import pytest

from pipeline.broker import open_broker
from pipeline.broker.rabbitmq_topology import Arguments, server_version
from pipeline.errors import NotificationFailed, Reject
from pipeline.events.publications import asset_requested
from pipeline.ledger import open_ledger
from pipeline.message import Publication, failed, new_message_id
from pipeline.task import Asset, AssetKey, AssetState, Stage, TaskId
from pipeline.topology import (
    DOWNLOAD,
    UNROUTED,
    build_topology,
    dead_letter,
    dead_letter_queue,
    notify_queue,
)
from tests.factories import make_envelope, unique_prefix
from tests.rabbitmq_node import delete_topology

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pipeline.topology import Topology
    from tests.command_line import CommandLine

DEADLINE = timedelta(seconds=10)
GONE = notify_queue("gone")


class Past:
    """Makes what earlier settings have left on the broker."""

    def __init__(self, url: str, topology: Topology) -> None:
        self.url = url
        self.topology = topology

    def publish(self, *publications: Publication) -> None:
        """Declare the topology of the past, and publish."""

        async def main() -> None:
            async with open_broker(self.url, deadline=DEADLINE) as broker:
                await broker.declare(self.topology)
                await broker.publish(*publications)

        asyncio.run(main())


@pytest.fixture(params=["sqlite", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def past(request: pytest.FixtureRequest, cli: CommandLine) -> Iterator[Past]:
    """A broker on which a subscription was declared that no setting names now."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    prefix = unique_prefix()
    cli.environ["PIPELINE_BROKER_URL"] = url
    cli.environ["PIPELINE_BROKER__PREFIX"] = prefix
    topology = build_topology(prefix=prefix, subscriptions={"gone": ["task.#"]})
    yield Past(url, topology)
    if request.param == "rabbitmq":
        asyncio.run(delete_topology(url, topology))


def _letter(message_id: str) -> Publication:
    error = NotificationFailed("answered 500")
    envelope = make_envelope(message_id=message_id, routing_key="task.complete")
    noted = failed(envelope, queue=GONE, error=error, at=datetime.now(UTC))
    return dead_letter(GONE, noted)


def test_dead_letters_of_a_removed_subscription_can_be_seen_and_discarded(
    cli: CommandLine, past: Past
) -> None:
    """They cannot be replayed, because nobody would take them."""
    past.publish(_letter("one"), _letter("two"))

    listed = cli.json("dead-letters", "list", "--queue", GONE)
    shown = cli.json("dead-letters", "show", "one", "--queue", f"dead.{GONE}")
    replayed = cli("dead-letters", "replay", "--queue", GONE)
    discarded = cli("dead-letters", "discard", "two", "--queue", GONE, "--yes")
    unknown = cli("dead-letters", "list", "--queue", "notify.never")

    assert ["one", "two"] == [letter["message_id"] for letter in listed]
    assert (GONE, "one") == (shown["queue"], shown["message_id"])
    assert replayed.returncode == 1
    assert f"got {GONE}, which no setting names: put the subscription" in (
        replayed.stderr
    )
    assert discarded.stdout == f"1 dead letter discarded (1 of {GONE})\n"
    assert unknown.returncode == 2
    assert "notify.never" in unknown.stderr
    assert ["one"] == [
        letter["message_id"]
        for letter in cli.json("dead-letters", "list", "--queue", GONE)
    ]


def test_queues_of_a_removed_subscription_are_named_and_can_be_removed(
    cli: CommandLine, past: Past
) -> None:
    """Not while something is in them, unless that is asked for."""
    past.publish(_letter("one"))
    check = ("topology", "check", "--subscription", "gone")
    remove = ("topology", "delete", "--queue", GONE, "--queue", f"dead.{GONE}")

    checked = cli(*check)
    asked = cli(*remove)
    refused = cli(*remove, "--yes")
    removed = cli(*remove, "--yes", "--with-messages")
    again = cli(*remove, "--yes")

    assert checked.returncode == 1
    assert f"{GONE}: expected none, found one with 0 messages" in checked.stderr
    assert f"dead.{GONE}: expected none, found one with 1 message" in checked.stderr
    assert asked.returncode == 2
    assert "add --yes" in asked.stderr
    assert refused.returncode == 1
    assert f"dead.{GONE}: expected it to be empty, found 1 message" in refused.stderr
    assert removed.returncode == 0
    assert removed.stdout == (
        f"queue {GONE} with 0 messages, queue dead.{GONE} with 1 message deleted\n"
    )
    assert again.returncode == 1
    assert f"expected a queue that is there, got {GONE}" in again.stderr
    assert cli(*check).stdout == "the broker has the whole topology\n"


def test_what_no_queue_wanted_can_be_seen_and_sent_on_its_way_again(
    cli: CommandLine, past: Past
) -> None:
    """Once the binding is there, a replay leads to the queue it should have reached."""
    strange = make_envelope(message_id="strange", routing_key="no.binding")
    usual = make_envelope(message_id="usual", routing_key="callback.generate.complete")
    past.publish(
        Publication(exchange=UNROUTED, envelope=strange),
        Publication(exchange=UNROUTED, envelope=usual),
    )
    where = ("--queue", UNROUTED)

    listed = cli.json("dead-letters", "list", *where)
    replayed = cli("dead-letters", "replay", "usual", *where)
    discarded = cli("dead-letters", "discard", "strange", *where, "--yes")

    assert ["strange", "usual"] == [letter["message_id"] for letter in listed]
    assert replayed.stdout == "1 dead letter replayed (1 of unrouted)\n"
    assert discarded.stdout == "1 dead letter discarded (1 of unrouted)\n"
    assert cli.json("dead-letters", "list", *where) == []
    deleted = cli("topology", "delete", "--queue", "dedupe")
    assert "queue dedupe with 1 message" in deleted.stderr


@pytest.mark.rabbitmq
def test_who_looks_at_queues_of_rabbitmq_3_is_warned(
    cli: CommandLine, rabbitmq_url: str
) -> None:
    """From RabbitMQ 4 on, because there looking too often removes what is there."""
    topology = build_topology(prefix=unique_prefix())
    cli.environ["PIPELINE_BROKER_URL"] = rabbitmq_url
    cli.environ["PIPELINE_BROKER__PREFIX"] = topology.prefix
    name = topology.queue_name(dead_letter_queue(DOWNLOAD))

    async def make() -> int:
        arguments: Arguments = {
            "x-queue-type": "quorum",
            "x-overflow": "reject-publish",
        }
        async with await aio_pika.connect(rabbitmq_url) as connection:
            channel = await (await connection.channel()).get_underlay_channel()
            await channel.queue_declare(name, durable=True, arguments=arguments)
            return server_version(connection)[0]

    version = asyncio.run(make())
    try:
        listed = cli("dead-letters", "list")
        checked = cli("topology", "check", "--json")
    finally:
        asyncio.run(delete_topology(rabbitmq_url, topology))

    is_warned = f"warning: queue {name}: expected x-delivery-limit" in listed.stderr
    assert (version >= 4) == is_warned
    assert listed.returncode == checked.returncode == 0
    assert (version >= 4) == len(json.loads(checked.stdout)["warnings"])


async def _make_ledger(url: str) -> None:
    async with open_ledger(url):
        pass


@pytest.mark.parametrize(
    "command",
    [
        ("dead-letters", "list"),
        ("dead-letters", "show", "one"),
        ("dead-letters", "replay"),
        ("dead-letters", "discard", "--yes"),
        ("topology", "check"),
        ("topology", "delete", "--yes"),
        ("topology", "delete", "--yes", "--queue", GONE),
    ],
    ids=" ".join,
)
def test_who_looks_in_the_wrong_place_is_told_and_makes_no_broker(
    cli: CommandLine, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """An empty broker made there would say that all is well."""
    path = tmp_path / "nowhere.db"
    cli.environ["PIPELINE_BROKER_URL"] = f"sqlite:///{path}"

    done = cli(*command)

    assert 1 == done.returncode
    assert f"expected a broker that exists, found no file {path}" in done.stderr
    assert not path.exists()


def test_discarding_downloads_makes_no_ledger_and_wants_the_right_one(
    cli: CommandLine, sqlite_url: str, tmp_path: Path
) -> None:
    """What is discarded has to be given up in the ledger of the workers."""
    topology = build_topology(prefix=unique_prefix())
    cli.environ["PIPELINE_BROKER_URL"] = sqlite_url
    cli.environ["PIPELINE_BROKER__PREFIX"] = topology.prefix
    path = tmp_path / "no-ledger.db"
    cli.environ["PIPELINE_LEDGER_URL"] = f"sqlite:///{path}"
    key = AssetKey(task_id=TaskId("t1"), track_id="1", kind="audio")
    asset = Asset(
        key=key,
        operation="generate",
        url="https://a.example/1.mp3",
        state=AssetState.PENDING,
    )
    now = datetime.now(UTC)
    request = asset_requested(
        asset,
        owner=new_message_id(),
        stage=Stage.COMPLETE,
        source="/pipeline",
        at=now,
    )
    noted = failed(request.envelope, queue=DOWNLOAD, error=Reject("no"), at=now)
    Past(sqlite_url, topology).publish(dead_letter(DOWNLOAD, noted))

    done = cli("dead-letters", "discard", "--yes")

    assert 1 == done.returncode
    assert f"expected a ledger that exists, found no file {path}" in done.stderr
    assert not path.exists()

    asyncio.run(_make_ledger(f"sqlite:///{path}"))
    refused = cli("dead-letters", "discard", "--yes")
    left = cli.json("dead-letters", "list")
    forced = cli("dead-letters", "discard", "--yes", "--with-unknown-tasks")

    assert 1 == refused.returncode
    assert "expected the ledger that knows task t1" in refused.stderr
    assert "0 of 1 dead letters were discarded" in refused.stderr
    assert 1 == len(left)
    assert forced.stdout == "1 dead letter discarded (1 of download)\n"
