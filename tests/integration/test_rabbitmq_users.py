"""Users with least rights: each can do what it must, and nothing else.

The users and their rights are those that ``configs/rabbitmq/definitions.sh`` writes,
on a real server; what is refused is tried past our adapter, as an intruder would.
"""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import pytest
from aiormq.exceptions import ChannelAccessRefused

from pipeline.dead_letters import Selection, replay
from pipeline.topology import DEAD, DEDUPE, DOWNLOAD, EVENTS, WORK, notify_queue
from tests.depth import until_ready
from tests.factories import SUBSCRIPTION, make_envelope, make_publication
from tests.rabbitmq_users import (
    OWNER,
    USERS,
    broker_of,
    raw_channel,
    write_definitions,
)
from tests.waiting import receive_one

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiormq.abc import AbstractChannel

    from pipeline.topology import Topology
    from tests.rabbitmq_node import RabbitNode

    Attempt = Callable[[AbstractChannel], Awaitable[object]]

pytestmark = pytest.mark.rabbitmq

NOTIFY: Final = notify_queue(SUBSCRIPTION)
WORKERS: Final = {"dedupe": DEDUPE, "download": DOWNLOAD, "notify": NOTIFY}
#: A queue that a subscriber makes for itself.
SONGS: Final = "subscriber.songs"


@pytest.fixture
async def topology(rabbitmq_node: RabbitNode, users_topology: Topology) -> Topology:
    """A topology that the user who may has declared."""
    async with broker_of(rabbitmq_node, OWNER) as broker:
        await broker.declare(users_topology)
    return users_topology


async def _is_refused(node: RabbitNode, user: str, attempt: Attempt) -> bool:
    """Tell whether the server says that this user may not."""
    async with raw_channel(node, user) as channel:
        try:
            await attempt(channel)
        except ChannelAccessRefused:
            return True
    return False


async def test_ingress_publishes_callbacks(
    rabbitmq_node: RabbitNode, topology: Topology
) -> None:
    """It looks for the topology instead of declaring it, and is ready."""
    async with broker_of(rabbitmq_node, "ingress") as broker:
        found = await broker.declare(topology)
        await broker.publish(make_publication())
        problem = broker.problem
        await until_ready(broker, DEDUPE, 1)

    assert problem is None
    assert [True] == [one.is_unseen for one in found]


@pytest.mark.parametrize("user", sorted(WORKERS))
async def test_worker_reads_its_queue_and_sets_aside_what_fails(
    rabbitmq_node: RabbitNode, topology: Topology, user: str
) -> None:
    """It is handed a delivery, retries it, and gives it up the second time."""
    queue = WORKERS[user]
    async with broker_of(rabbitmq_node, OWNER) as owner:
        await owner.declare(topology)
        await owner.publish(make_publication(exchange=WORK, key=queue))
        async with broker_of(rabbitmq_node, user) as broker:
            await broker.declare(topology)
            async with broker.consume(queue, prefetch=1) as consumer:
                first = await receive_one(consumer)
                await first.retry(
                    timedelta(milliseconds=50), ValueError("no"), at=datetime.now(UTC)
                )
                second = await receive_one(consumer)
                await second.dead_letter(ValueError("no"), at=datetime.now(UTC))
        progress = await replay(owner, [queue], Selection())

    assert 2 == second.envelope.attempt
    assert 1 == progress.matched


async def test_poller_publishes_answers_and_events(
    rabbitmq_node: RabbitNode, topology: Topology
) -> None:
    """And reads nothing."""
    event = make_envelope(routing_key="task.complete")
    async with broker_of(rabbitmq_node, "poller") as broker:
        await broker.declare(topology)
        await broker.publish(make_publication())
        await broker.publish(make_publication(event, exchange=EVENTS))
    async with broker_of(rabbitmq_node, OWNER) as owner:
        await owner.declare(topology)
        for counted in (DEDUPE, NOTIFY):
            await until_ready(owner, counted, 1)

    queue = topology.queue_name(DEDUPE)
    assert await _is_refused(rabbitmq_node, "poller", lambda c: c.basic_get(queue))


async def test_dedupe_and_download_publish_events(
    rabbitmq_node: RabbitNode, topology: Topology
) -> None:
    """And dedupe asks for files."""
    event = make_envelope(routing_key="task.complete")
    for user in ("dedupe", "download"):
        async with broker_of(rabbitmq_node, user) as broker:
            await broker.declare(topology)
            await broker.publish(make_publication(event, exchange=EVENTS))
            if user == "dedupe":
                asked = make_publication(exchange=WORK, key=DOWNLOAD)
                await broker.publish(asked)
    async with broker_of(rabbitmq_node, OWNER) as owner:
        await owner.declare(topology)
        await until_ready(owner, NOTIFY, 2)
        await until_ready(owner, DOWNLOAD, 1)


@pytest.mark.parametrize("user", ["ingress", "poller", *sorted(WORKERS), "subscriber"])
async def test_nobody_but_the_owner_changes_the_topology(
    rabbitmq_node: RabbitNode, topology: Topology, user: str
) -> None:
    """Neither makes, nor deletes, nor binds."""
    queue, events = topology.queue_name(DEDUPE), topology.exchange_name(EVENTS)
    attempts: dict[str, Attempt] = {
        "make a queue": lambda c: c.queue_declare(topology.queue_name("new")),
        "make an exchange": lambda c: c.exchange_declare(f"{topology.prefix}.new"),
        "delete a queue": lambda c: c.queue_delete(queue),
        "delete an exchange": lambda c: c.exchange_delete(exchange=events),
        "bind a queue": lambda c: c.queue_bind(queue, events, "#"),
        "unbind a queue": lambda c: c.queue_unbind(queue, events, "#"),
    }

    allowed = [
        what
        for what, attempt in attempts.items()
        if not await _is_refused(rabbitmq_node, user, attempt)
    ]

    assert [] == allowed


async def test_ingress_reads_nothing(
    rabbitmq_node: RabbitNode, topology: Topology
) -> None:
    """Who breaks into it learns no callback and no event, and can lose none."""
    allowed = await _readable(rabbitmq_node, "ingress", topology)

    assert set() == allowed


@pytest.mark.parametrize("user", sorted(WORKERS))
async def test_worker_reads_its_own_queue_alone(
    rabbitmq_node: RabbitNode, topology: Topology, user: str
) -> None:
    """Not those of others, and no dead letters."""
    allowed = await _readable(rabbitmq_node, user, topology)

    assert {WORKERS[user]} == allowed


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("ingress", {"callbacks"}),
        ("dedupe", {"events", "work", "dead", "delay.100ms", "delay.900ms"}),
        ("download", {"events", "dead", "delay.100ms", "delay.900ms"}),
        ("notify", {"dead", "delay.100ms", "delay.900ms"}),
        ("subscriber", set()),
    ],
)
async def test_each_publishes_only_where_it_has_to(
    rabbitmq_node: RabbitNode, topology: Topology, user: str, expected: set[str]
) -> None:
    """Not past the exchanges either, straight into a queue."""
    queue = topology.queue_name(DEDUPE)

    async def may_publish(exchange: str, key: str) -> bool:
        async def attempt(channel: AbstractChannel) -> None:
            await channel.basic_publish(b"{}", exchange=exchange, routing_key=key)

        return not await _is_refused(rabbitmq_node, user, attempt)

    allowed = {
        one.name
        for one in topology.exchanges
        if await may_publish(topology.exchange_name(one.name), "x")
    }
    goes_past = await may_publish("", queue)

    assert expected == allowed
    assert not goes_past


async def test_subscriber_hears_events_in_a_queue_of_its_own(
    rabbitmq_node: RabbitNode, topology: Topology
) -> None:
    """It makes the queue, binds it, and takes from it."""
    events = topology.exchange_name(EVENTS)
    event = make_envelope(routing_key="task.complete", body=b"heard")
    async with raw_channel(rabbitmq_node, "subscriber") as channel:
        await _make_songs(channel)
        await channel.queue_bind(SONGS, events, "task.*")
        async with broker_of(rabbitmq_node, "dedupe") as broker:
            await broker.declare(topology)
            await broker.publish(make_publication(event, exchange=EVENTS))
        message = await channel.basic_get(SONGS, no_ack=True)
        await channel.queue_delete(SONGS)

    assert b"heard" == message.body


async def test_subscriber_reaches_nothing_of_ours(
    rabbitmq_node: RabbitNode, topology: Topology
) -> None:
    """It neither reads nor empties our queues, nor hears callbacks."""
    callbacks = topology.exchange_name("callbacks")
    events = topology.exchange_name(EVENTS)

    async def bind(channel: AbstractChannel, exchange: str, key: str) -> None:
        await _make_songs(channel)
        await channel.queue_bind(SONGS, exchange, key)

    readable = await _readable(rabbitmq_node, "subscriber", topology)
    attempts: dict[str, Attempt] = {
        "hear callbacks": lambda c: bind(c, callbacks, "#"),
        "hear what it may not ask for": lambda c: bind(c, events, "#"),
        "make a queue of another": lambda c: c.queue_declare("shop.songs"),
    }
    allowed = [
        what
        for what, attempt in attempts.items()
        if not await _is_refused(rabbitmq_node, "subscriber", attempt)
    ]
    async with raw_channel(rabbitmq_node, "subscriber") as channel:
        await channel.queue_delete(SONGS)

    assert set() == readable
    assert [] == allowed


async def test_queue_of_a_subscriber_that_stays_away_is_bounded(
    rabbitmq_node: RabbitNode, topology: Topology
) -> None:
    """A policy drops its oldest events: it must not fill the broker's disk."""
    policies = json.loads(rabbitmq_node.control("list_policies", "--formatter=json"))

    (policy,) = [one for one in policies if one["name"] == "subscriber"]
    assert {"max-length": 100_000, "overflow": "drop-head"} == json.loads(
        policy["definition"]
    )
    assert topology.prefix not in policy["pattern"]


async def test_owner_does_everything_with_the_topology(
    rabbitmq_node: RabbitNode, topology: Topology
) -> None:
    """It compares and deletes; it is no administrator of the server."""
    async with broker_of(rabbitmq_node, OWNER) as broker:
        differences = await broker.check(topology)
        await broker.declare(topology)
        await broker.publish(make_publication(exchange=DEAD, key=DEDUPE))
        await broker.delete(topology)
    users = json.loads(rabbitmq_node.control("list_users", "--formatter=json"))

    tags = {one["user"]: one["tags"] for one in users if one["user"] in USERS}
    assert [] == differences
    assert ["monitoring", "policymaker"] == sorted(tags.pop(OWNER))
    assert [[]] * len(tags) == list(tags.values())


def test_user_without_a_password_is_not_made() -> None:
    """So the example of a subscriber is not there by itself."""
    written = json.loads(write_definitions({"INGRESS_PASSWORD": "secret"}))

    assert ["ingress"] == [one["name"] for one in written["users"]]
    assert ["ingress"] == [one["user"] for one in written["permissions"]]
    assert [] == written["policies"] == written["topic_permissions"]


def test_password_that_would_break_an_address_is_refused() -> None:
    """It would also break the definitions."""
    with pytest.raises(subprocess.CalledProcessError) as raised:
        write_definitions({"INGRESS_PASSWORD": 'quoted"'})

    assert "password of ingress: expected letters" in raised.value.stderr


async def _make_songs(channel: AbstractChannel) -> None:
    await channel.queue_declare(
        SONGS, durable=True, arguments={"x-queue-type": "quorum"}
    )


async def _readable(node: RabbitNode, user: str, topology: Topology) -> set[str]:
    """Give the queues that a user can take from, look into or empty."""
    found: set[str] = set()
    for queue in topology.queues:
        for attempt in _ways_to_read(topology.queue_name(queue.name)):
            if not await _is_refused(node, user, attempt):
                found.add(queue.name)
    return found


def _ways_to_read(name: str) -> tuple[Attempt, ...]:
    return (
        lambda c: c.basic_consume(name, _ignore),
        lambda c: c.basic_get(name),
        lambda c: c.queue_purge(name),
    )


async def _ignore(_: object) -> None:
    """Take a delivery and do nothing."""
