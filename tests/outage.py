"""An ingress with an outage spool, in front of a broker that tests take away."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson

from pipeline.broker import open_broker
from pipeline.errors import BrokerUnavailable
from pipeline.ingress.app import make_ingress, serve
from pipeline.message import TASK_ID
from pipeline.service import declare_when_up
from pipeline.settings import IngressSettings, SpoolSettings
from pipeline.spool.forwarder import Forwarder
from pipeline.spool.outlet import Outlet
from pipeline.spool.spool import Spool
from tests.ingress import Ingress
from tests.waiting import eventually, receive

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pipeline.broker.port import Broker
    from pipeline.topology import Topology

#: What the ingress waits for a confirm: as long as it does by default.
CONFIRM = timedelta(seconds=2)
#: What it waits for its spool: far longer than usual, for a disk that others keep busy.
DISK = timedelta(seconds=20)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """A running ingress and what is behind it."""

    ingress: Ingress
    outlet: Outlet
    spool: Spool

    async def post(self, *task_ids: str) -> list[int]:
        """Send callbacks one after the other; gives the statuses."""
        return [
            (await self.ingress.post(data=body_of(task_id))).status
            for task_id in task_ids
        ]

    async def ready(self) -> tuple[int, dict[str, Any]]:
        """Ask whether it is ready."""
        answer = await self.ingress.get("/readyz")
        return answer.status, orjson.loads(answer.body)

    async def is_drained(self) -> bool:
        """Tell whether nothing waits in the spool."""
        return not self.spool.filled.is_set()


def body_of(task_id: str) -> bytes:
    """Make a callback of a task."""
    return orjson.dumps(
        {"code": 200, "data": {"callbackType": "complete", "task_id": task_id}}
    )


def names(count: int, start: int = 0) -> list[str]:
    """Make names of tasks that sort as they were made."""
    return [f"task-{number:05}" for number in range(start, start + count)]


async def published(url: str, topology: Topology, count: int) -> list[str]:
    """Take callbacks from the broker until ``count`` tasks came; in their order."""
    found: dict[str, None] = {}
    async with open_broker(url, deadline=timedelta(seconds=10)) as broker:
        await broker.declare(topology)
        async with broker.consume("dedupe", prefetch=500) as consumer:
            while len(found) < count:
                (delivery,) = await receive(consumer, 1)
                await delivery.ack()
                found[str(delivery.envelope.headers[TASK_ID])] = None
    return list(found)


@asynccontextmanager
async def running_outage(
    url: str,
    topology: Topology,
    folder: Path,
    *,
    forwards: bool = True,
    **settings: Any,
) -> AsyncIterator[Outage]:
    """Run an ingress; the broker at ``url`` may be away.

    Its spool waits for a disk that stands still, unless ``settings`` say otherwise.
    """
    chosen = SpoolSettings.model_validate(
        {"path": folder / "spool.db", "timeout": DISK, **settings}
    )
    stopping = asyncio.Event()
    async with (
        open_broker(url, deadline=CONFIRM) as broker,
        Spool(chosen) as spool,
    ):
        outlet = Outlet(broker, spool)
        routes = make_ingress(broker, IngressSettings(), outlet=outlet)
        async with (
            asyncio.TaskGroup() as group,
            serve(routes, host="127.0.0.1", port=0, max_body_bytes=1 << 20) as address,
            aiohttp.ClientSession() as session,
        ):
            group.create_task(_declare(broker, topology, stopping))
            if forwards:
                group.create_task(Forwarder(outlet).run(stopping))
            try:
                ingress = Ingress(address, broker, session)
                yield Outage(ingress=ingress, outlet=outlet, spool=spool)
            finally:
                stopping.set()


async def until_up(outage: Outage) -> None:
    """Wait until the broker takes callbacks."""

    async def is_up() -> bool:
        return outage.outlet.broker_problem is None

    await eventually(is_up, within=20)


async def until_drained(outage: Outage) -> None:
    """Wait until nothing is left in the spool: 30 s are promised."""
    await eventually(outage.is_drained, within=30)


async def _declare(broker: Broker, topology: Topology, stopping: asyncio.Event) -> None:
    declaring = asyncio.create_task(declare_when_up(broker, topology, stopping))
    stopped = asyncio.create_task(stopping.wait())
    await asyncio.wait({declaring, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    declaring.cancel()
    try:
        await declaring
    except (asyncio.CancelledError, BrokerUnavailable):
        return
