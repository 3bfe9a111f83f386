"""Our topology in RabbitMQ's arguments, declared and compared.

Every argument is frozen for the life of a topology version: RabbitMQ refuses to
change one on an existing queue. Reasons for each: ``docs/operations.md``.
"""

from __future__ import annotations

import re
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, assert_never

import aiormq

from pipeline.broker.found import Difference
from pipeline.broker.rabbitmq_connection import reason_of
from pipeline.broker.rabbitmq_lookup import find_queues, open_channel, require_all
from pipeline.errors import BrokerError, TopologyMismatch
from pipeline.logs import get_logger
from pipeline.topology import (
    DEAD,
    DELIVERY_LIMIT,
    WORK,
    Exchange,
    Queue,
    QueueKind,
    Topology,
)

if TYPE_CHECKING:
    import aio_pika

#: The first version whose quorum queues know a limit of -1, which means none.
UNLIMITED_SINCE: Final = (4, 0)

Arguments = dict[str, Any]

log = get_logger("broker")


def queue_arguments(
    topology: Topology, queue: Queue, version: tuple[int, ...]
) -> Arguments:
    """Give the arguments of a queue on a broker of that version."""
    arguments: Arguments = {"x-queue-type": "quorum", "x-overflow": "reject-publish"}
    match queue.kind:
        case QueueKind.WORK:
            arguments |= {
                "x-delivery-limit": DELIVERY_LIMIT,
                "x-dead-letter-strategy": "at-least-once",
                "x-dead-letter-exchange": topology.exchange_name(DEAD),
                "x-dead-letter-routing-key": queue.name,
            }
        case QueueKind.DELAY:
            delay = queue.delay or timedelta(0)
            # No routing key here: the message keeps its own, the work queue's name.
            arguments |= {
                "x-message-ttl": round(delay.total_seconds() * 1000),
                "x-dead-letter-strategy": "at-least-once",
                "x-dead-letter-exchange": topology.exchange_name(WORK),
            }
        case QueueKind.DEAD | QueueKind.UNROUTED:
            # Browsing counts as a delivery, so there must be no limit: up to
            # 3.13 there is none unless asked for, from 4.0 there is one of 20.
            if version >= UNLIMITED_SINCE:
                arguments["x-delivery-limit"] = -1
        case _:
            assert_never(queue.kind)
    return arguments


def older_arguments(
    topology: Topology, queue: Queue, version: tuple[int, ...]
) -> Arguments | None:
    """Give the arguments that the queue has if an older server made it.

    ``None``: the same as now. These we can live with; no others.
    """
    if version < UNLIMITED_SINCE or queue.kind not in (
        QueueKind.DEAD,
        QueueKind.UNROUTED,
    ):
        return None
    arguments = queue_arguments(topology, queue, version)
    del arguments["x-delivery-limit"]
    return arguments


def frame_max_of(connection: aio_pika.abc.AbstractConnection) -> int:
    """Give the largest frame agreed on, in bytes; 0 stands for no limit."""
    transport = connection.transport
    if transport is None:
        return 0
    return int(transport.connection.connection_tune.frame_max or 0)


def server_version(connection: aio_pika.abc.AbstractConnection) -> tuple[int, ...]:
    """Read the broker's version, such as ``(4, 0, 5)``."""
    transport = connection.transport
    properties = transport.connection.server_properties if transport else {}
    raw = properties.get("version", b"")
    text = raw.decode() if isinstance(raw, bytes) else str(raw)
    return tuple(int(part) for part in text.split(".")[:3] if part.isdigit())


async def declare(
    connection: aio_pika.abc.AbstractConnection, topology: Topology
) -> list[Difference]:
    """Declare everything over channels of its own; give what is tolerated.

    A user without the right to declare only looks whether all of it is there.

    Raises:
        TopologyMismatch: something exists with other arguments.
        TopologyMissing: something is missing, and this user may not declare it.
    """
    try:
        return await _declare(connection, topology)
    except aiormq.exceptions.ChannelAccessRefused as refusal:
        reason = reason_of(refusal)
    except aiormq.exceptions.ChannelPreconditionFailed as error:
        message = (
            "the broker has a part of the topology with other arguments:"
            f" {reason_of(error)}."
            " Choose another broker.prefix, or delete that part when it is empty"
        )
        raise TopologyMismatch(message) from error
    return [await require_all(connection, topology, reason)]


async def _declare(
    connection: aio_pika.abc.AbstractConnection, topology: Topology
) -> list[Difference]:
    """Declare everything; give what is tolerated.

    Raises:
        aiormq.exceptions.ChannelPreconditionFailed: something has other arguments.
        aiormq.exceptions.ChannelAccessRefused: this user may not declare something.
    """
    async with connection.channel(publisher_confirms=False) as channel:
        raw = await channel.get_underlay_channel()
        for exchange in topology.exchanges:
            await raw.exchange_declare(
                topology.exchange_name(exchange.name),
                **_exchange_options(topology, exchange),
            )
    tolerated = await _declare_queues(connection, topology)
    for difference in tolerated:
        log.warning("queue_tolerated", difference=difference.text)
    async with connection.channel(publisher_confirms=False) as channel:
        raw = await channel.get_underlay_channel()
        for binding in topology.bindings:
            await raw.queue_bind(
                topology.queue_name(binding.queue),
                topology.exchange_name(binding.exchange),
                binding.key,
            )
    return tolerated


async def _declare_queues(
    connection: aio_pika.abc.AbstractConnection, topology: Topology
) -> list[Difference]:
    """Declare the queues; say which of them an older server has made.

    Raises:
        aiormq.exceptions.ChannelPreconditionFailed: one has other arguments.
    """
    version = server_version(connection)
    tolerated: list[Difference] = []
    async with AsyncExitStack() as stack:
        raw = await open_channel(stack, connection)
        for queue in topology.queues:
            name = topology.queue_name(queue.name)
            arguments = queue_arguments(topology, queue, version)
            try:
                await raw.queue_declare(name, durable=True, arguments=arguments)
            except aiormq.exceptions.ChannelPreconditionFailed:
                older = older_arguments(topology, queue, version)
                if older is None:
                    raise
                # The refusal has closed the channel.
                raw = await open_channel(stack, connection)
                await raw.queue_declare(name, durable=True, arguments=older)
                tolerated.append(_without_limit(topology, name))
    return tolerated


def _without_limit(topology: Topology, name: str) -> Difference:
    """Say what the lack of the argument means, and what to do."""
    pattern = re.escape(topology.queue_name("")) + "(dead[.]|unrouted$)"
    text = (
        f"queue {name}: expected x-delivery-limit -1, found none, because RabbitMQ 3"
        " made it. It is used as it is; but RabbitMQ 4 removes what was looked at 20"
        " times, unless this policy is set: rabbitmqctl set_policy --apply-to queues"
        f" pipeline-keep '^{pattern}' '{{\"delivery-limit\": -1}}'"
    )
    return Difference(text=text, is_tolerated=True)


async def delete(
    connection: aio_pika.abc.AbstractConnection, topology: Topology
) -> None:
    """Delete everything, whatever is in it; what is not there is no error."""
    async with connection.channel(publisher_confirms=False) as channel:
        raw = await channel.get_underlay_channel()
        for queue in topology.queues:
            # With any condition, a quorum queue would close the connection.
            await raw.queue_delete(topology.queue_name(queue.name))
        for exchange in topology.exchanges:
            await raw.exchange_delete(exchange=topology.exchange_name(exchange.name))


async def delete_queue(
    connection: aio_pika.abc.AbstractConnection, topology: Topology, name: str
) -> None:
    """Delete one queue, whatever is in it; if it is not there it is no error."""
    async with connection.channel(publisher_confirms=False) as channel:
        raw = await channel.get_underlay_channel()
        await raw.queue_delete(topology.queue_name(name))


async def delete_if_idle(
    connection: aio_pika.abc.AbstractConnection, topology: Topology, name: str
) -> None:
    """Delete one queue if it is empty and nobody takes from it.

    A quorum queue does not know such a condition. So nothing can be published into
    it any more before we look; only the patterns of a subscription that no setting
    names are not known, and what comes by those in this moment is lost.

    Raises:
        BrokerError: it is not idle and is bound again; or messages were lost.
    """
    full = topology.queue_name(name)
    bindings = [
        (topology.exchange_name(one.exchange), one.key)
        for one in topology.bindings
        if one.queue == name
    ]
    if not bindings:  # of a subscription that was removed
        work = name.removeprefix("dead.")
        exchange = WORK if work == name else DEAD
        bindings.append((topology.exchange_name(exchange), work))
    if not await find_queues(connection, topology, [name]):
        return
    async with connection.channel(publisher_confirms=False) as channel:
        raw = await channel.get_underlay_channel()
        for exchange, key in bindings:
            await raw.queue_unbind(full, exchange, key)
        try:
            for found in await find_queues(connection, topology, [name]):
                found.require_idle()
        except BaseException:
            for exchange, key in bindings:
                await raw.queue_bind(full, exchange, key)
            raise
        deleted = await raw.queue_delete(full)
    if deleted.message_count:
        raise BrokerError(
            f"queue {name} was removed when it was empty, but"
            f" {deleted.message_count} messages came in that moment and are lost"
        )


async def differences(
    connection: aio_pika.abc.AbstractConnection, topology: Topology
) -> list[Difference]:
    """Name what is missing or has other arguments, and change nothing.

    Bindings cannot be read over AMQP 0-9-1; ``declare`` makes the missing ones.
    """
    version = server_version(connection)
    found: list[Difference] = []
    for exchange in topology.exchanges:
        name = topology.exchange_name(exchange.name)
        options = _exchange_options(topology, exchange)
        found += await _compare(connection, "exchange", name, options)
    for queue in topology.queues:
        name = topology.queue_name(queue.name)
        options = _queue_options(queue_arguments(topology, queue, version))
        differing = await _compare(connection, "queue", name, options)
        older = older_arguments(topology, queue, version)
        if differing and older is not None:
            still = await _compare(connection, "queue", name, _queue_options(older))
            if not still:
                differing = [_without_limit(topology, name)]
        found += differing
    return found


async def _compare(
    connection: aio_pika.abc.AbstractConnection,
    what: str,
    name: str,
    options: Arguments,
) -> list[Difference]:
    """Ask passively first, so that nothing is made; a refusal closes the channel."""
    channel = connection.channel(publisher_confirms=False)
    await channel.initialize()
    raw = await channel.get_underlay_channel()
    declare_it = raw.queue_declare if what == "queue" else raw.exchange_declare
    try:
        await declare_it(name, passive=True)
        await declare_it(name, **options)
    except aiormq.exceptions.ChannelNotFoundEntity:
        return [Difference(text=f"{what} {name}: expected to exist, is missing")]
    except aiormq.exceptions.ChannelPreconditionFailed as error:
        return [Difference(text=f"{what} {name}: {reason_of(error)}")]
    else:
        await channel.close()
        return []


def _queue_options(arguments: Arguments) -> Arguments:
    return {"durable": True, "arguments": arguments}


def _exchange_options(topology: Topology, exchange: Exchange) -> Arguments:
    arguments: Arguments = {}
    if exchange.alternate is not None:
        arguments["alternate-exchange"] = topology.exchange_name(exchange.alternate)
    return {
        "exchange_type": exchange.kind.value,
        "durable": True,
        "arguments": arguments,
    }
