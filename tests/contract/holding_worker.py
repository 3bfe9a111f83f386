"""A worker process that takes one message and is killed before it settles it.

Arguments: the broker's address, the prefix of the topology, the queue.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta

from pipeline.broker import open_broker
from tests.factories import make_topology


async def main(url: str, prefix: str, queue: str) -> None:
    """Say what was received and then hold it."""
    async with open_broker(url, deadline=timedelta(seconds=10)) as broker:
        await broker.declare(make_topology(prefix=prefix))
        async with broker.consume(queue, prefetch=5) as consumer:
            for delivery in await consumer.receive():
                print("holding", delivery.envelope.message_id, flush=True)  # noqa: T201
            await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
