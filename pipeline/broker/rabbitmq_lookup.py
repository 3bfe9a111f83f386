"""Whether exchanges and queues are there: asked passively, so that nothing is made.

RabbitMQ asks for no permission where something is only looked for (its page on access
control): what a user without the right to declare can know of the topology.
Arguments and bindings cannot be seen so.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import aiormq

from pipeline.broker.found import Difference, FoundQueue
from pipeline.errors import TopologyMissing
from pipeline.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterable

    import aio_pika

    from pipeline.topology import Topology

log = get_logger("broker")


async def open_channel(
    stack: AsyncExitStack, connection: aio_pika.abc.AbstractConnection
) -> aiormq.abc.AbstractChannel:
    """Open a channel that is closed when ``stack`` is."""
    channel = connection.channel(publisher_confirms=False)
    await channel.initialize()
    stack.push_async_callback(channel.close)
    return await channel.get_underlay_channel()


async def find_queues(
    connection: aio_pika.abc.AbstractConnection,
    topology: Topology,
    names: Iterable[str],
) -> list[FoundQueue]:
    """Give those of the queues that are there."""
    found: list[FoundQueue] = []
    async with AsyncExitStack() as stack:
        raw = await open_channel(stack, connection)
        for name in names:
            try:
                queue = await raw.queue_declare(topology.queue_name(name), passive=True)
            except aiormq.exceptions.ChannelNotFoundEntity:
                raw = await open_channel(stack, connection)
                continue
            found.append(
                FoundQueue(
                    name=name,
                    messages=queue.message_count or 0,
                    is_used=bool(queue.consumer_count),
                )
            )
    return found


async def count(
    connection: aio_pika.abc.AbstractConnection, names: Iterable[str]
) -> list[tuple[int, int]]:
    """Count the ready messages and the consumers of queues, by their full names.

    A consumer of a quorum queue that was cancelled is one for as long as it holds
    messages.
    """
    async with AsyncExitStack() as stack:
        raw = await open_channel(stack, connection)
        answers = [await raw.queue_declare(name, passive=True) for name in names]
    return [(one.message_count or 0, one.consumer_count or 0) for one in answers]


async def require_all(
    connection: aio_pika.abc.AbstractConnection, topology: Topology, reason: str
) -> Difference:
    """Look whether everything is there that this user may not declare.

    Args:
        connection: of a user who was refused.
        topology: what has to be there.
        reason: what the broker said when it refused.

    Returns:
        What could not be looked at.

    Raises:
        TopologyMissing: something is not there.
    """
    queues = [queue.name for queue in topology.queues]
    found = {one.name for one in await find_queues(connection, topology, queues)}
    missing = [
        *[
            f"exchange {name}"
            for name in await _missing_exchanges(connection, topology)
        ],
        *[f"queue {topology.queue_name(q)}" for q in queues if q not in found],
    ]
    if missing:
        raise TopologyMissing(
            f"this user may not declare the topology ({reason}), and some of it is"
            f" missing: {', '.join(missing)}. Run `pipeline topology apply` as a user"
            " who may"
        )
    log.info("topology_found", reason=reason)
    text = (
        f"this user may not declare the topology ({reason}): every exchange and queue"
        " is there, arguments and bindings were not looked at"
    )
    return Difference(text=text, is_tolerated=True, is_unseen=True)


async def _missing_exchanges(
    connection: aio_pika.abc.AbstractConnection, topology: Topology
) -> list[str]:
    missing: list[str] = []
    async with AsyncExitStack() as stack:
        raw = await open_channel(stack, connection)
        for exchange in topology.exchanges:
            name = topology.exchange_name(exchange.name)
            try:
                await raw.exchange_declare(name, passive=True)
            except aiormq.exceptions.ChannelNotFoundEntity:
                missing.append(name)
                # The refusal has closed the channel.
                raw = await open_channel(stack, connection)
    return missing
