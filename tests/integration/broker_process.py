"""A process that works on an embedded broker beside others.

Arguments: address, prefix, ``publish`` or ``consume``, and how many messages.
A consumer prints the bodies that it acknowledged.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta

from pipeline.broker import open_broker
from pipeline.topology import DEDUPE
from tests.factories import make_publications, make_topology


async def main(url: str, prefix: str, what: str, count: str) -> None:
    """Publish or consume."""
    async with open_broker(url, deadline=timedelta(seconds=20)) as broker:
        await broker.declare(make_topology(prefix=prefix))
        if what == "publish":
            for publication in make_publications(int(count)):
                await broker.publish(publication)
            return
        async with broker.consume(DEDUPE, prefetch=20) as consumer:
            while True:
                deliveries = await consumer.receive(10)
                await consumer.ack(deliveries)
                for delivery in deliveries:
                    print(delivery.envelope.body.decode(), flush=True)  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
