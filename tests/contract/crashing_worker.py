"""A worker that a message takes down, and somebody who starts it again each time.

Arguments: the broker's address, the prefix of the topology, and how many messages its
handler gets at once. The handler hands on what it gets; at ``poison`` it dies. A line
is printed for each death.
"""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import timedelta
from typing import TYPE_CHECKING

from pipeline.broker import open_broker
from pipeline.retry import RetryPolicy
from pipeline.topology import DEDUPE, DOWNLOAD, hand_to
from pipeline.worker import Worker
from tests.factories import make_topology

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.message import Envelope, Publication

POISON = b"poison"


async def handle(envelopes: Sequence[Envelope]) -> Sequence[Sequence[Publication]]:
    """Hand on, or die."""
    if any(envelope.body == POISON for envelope in envelopes):
        os._exit(1)
    return [[hand_to(DOWNLOAD, envelope)] for envelope in envelopes]


async def work(url: str, prefix: str, batch_size: int) -> None:
    """Work until death."""
    async with open_broker(url, deadline=timedelta(seconds=10)) as broker:
        await broker.declare(make_topology(prefix=prefix))
        worker = Worker(
            broker,
            DEDUPE,
            handle,
            deadline=timedelta(seconds=10),
            policy=RetryPolicy(),
            batch_size=batch_size,
            concurrency=2,
        )
        await worker.run(asyncio.Event())


def main(url: str, prefix: str, batch_size: str) -> None:
    """Start a worker whenever there is none; forked, because imports take long."""
    while True:
        child = os.fork()
        if not child:
            asyncio.run(work(url, prefix, int(batch_size)))
        os.waitpid(child, 0)
        print("died", flush=True)  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
