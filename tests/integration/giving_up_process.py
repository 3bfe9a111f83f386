"""A process that gives files up and is killed before it removes their dead letters.

Arguments: the broker's address, the prefix of the topology, the ledger's address.
Prints the ids of the events that it did not get to publish.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from pipeline.broker import open_broker
from pipeline.dead_letters import GivingUp, Selection, discard
from pipeline.ledger import open_ledger
from pipeline.topology import DOWNLOAD
from tests.factories import make_topology

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.message import Envelope, Publication


async def main(url: str, prefix: str, ledger_url: str) -> None:
    """Settle, and die."""
    async with (
        open_broker(url, deadline=timedelta(seconds=10)) as broker,
        open_ledger(ledger_url) as ledger,
    ):
        await broker.declare(make_topology(prefix=prefix, patterns=("asset.#",)))
        giving_up = GivingUp(ledger, clock=lambda: datetime.now(UTC))

        async def settle(
            queue: str, envelopes: Sequence[Envelope]
        ) -> Sequence[Publication]:
            for publication in await giving_up(queue, envelopes):
                print("event", publication.envelope.message_id, flush=True)  # noqa: T201
            os.kill(os.getpid(), signal.SIGKILL)
            return ()

        await discard(broker, [DOWNLOAD], Selection(), settle=settle)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
