"""Hear the pipeline's events from another service, over a queue of its own.

This needs aio-pika and a pipeline on RabbitMQ, and nothing of this package: the
exchange, the routing keys and the bodies are a public contract (docs/contract.md).
Run it with

    python examples/subscribe_with_aio_pika.py amqp://guest:guest@localhost/

and start a pipeline on the same broker. It ends on Ctrl-C, or after --count events.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import aio_pika

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Events remembered to drop repeats. A real service remembers ids in its database,
#: in the transaction that also holds the effect of the event.
REMEMBERED = 10_000


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Print the pipeline's events.")
    parser.add_argument("url", help="amqp://user:password@host:port/vhost")
    parser.add_argument("--prefix", default="pipeline", help="its broker.prefix")
    parser.add_argument("--queue", default="shop.music", help="name of your queue")
    parser.add_argument("--pattern", action="append", help="such as task.* (default)")
    parser.add_argument("--count", type=int, default=0, help="end after so many")
    return parser.parse_args()


async def subscribe(
    connection: aio_pika.abc.AbstractConnection,
    *,
    exchange: str,
    queue: str,
    patterns: Sequence[str],
) -> aio_pika.abc.AbstractQueue:
    """Bind a durable queue of ours to the pipeline's exchange."""
    channel = await connection.channel()
    await channel.set_qos(prefetch_count=20)
    # Passively: the exchange belongs to the pipeline, and has to be there already.
    events = await channel.get_exchange(exchange)
    own = await channel.declare_queue(
        queue, durable=True, arguments={"x-queue-type": "quorum"}
    )
    for pattern in patterns:
        await own.bind(events, pattern)
    return own


def handle(event: dict[str, Any]) -> None:
    """Do something with an event; it may come more than once over the years."""
    data = event["data"]
    what = data.get("location") or data.get("message") or data.get("reason") or ""
    print(f"{event['type']} {event['subject']} {what}".rstrip(), flush=True)


async def main() -> None:
    """Print events until enough of them have come."""
    options = read_options()
    connection = await aio_pika.connect_robust(options.url)
    seen: OrderedDict[str, None] = OrderedDict()
    async with connection:
        queue = await subscribe(
            connection,
            exchange=f"{options.prefix}.events",
            queue=options.queue,
            patterns=options.pattern or ["task.*"],
        )
        print(f"listening on {options.queue}", flush=True)
        async with queue.iterator() as messages:
            async for message in messages:
                # Leaving this block acknowledges; an error gives the message back.
                async with message.process(requeue=True):
                    event = json.loads(message.body)
                    # Not the AMQP property message_id: it differs for every copy.
                    if event["id"] in seen:
                        continue
                    handle(event)
                    seen[event["id"]] = None
                    if len(seen) > REMEMBERED:
                        seen.popitem(last=False)
                if len(seen) == options.count:
                    return


if __name__ == "__main__":
    asyncio.run(main())
