"""Dead letters of downloads are replayed after their links have died."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from pipeline.bootstrap import Plan, open_parts
from pipeline.dead_letters import Selection, replay
from pipeline.ledger import open_ledger
from pipeline.roles import open_roles
from pipeline.service import HttpRole, run_roles
from pipeline.settings import load_settings
from pipeline.simulator import ProviderOptions, SimulatedProvider
from pipeline.task import TaskId
from pipeline.topology import DOWNLOAD, dead_letter_queue
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pipeline.settings import Settings

FILES: Final = 4
WORKERS: Final = frozenset({"dedupe", "download"})


def make_settings(folder: Path, provider: SimulatedProvider) -> Settings:
    """Make settings under which a download is tried once."""
    flags = {
        "broker_url": f"sqlite:///{folder}/broker.db",
        "ledger_url": f"sqlite:///{folder}/ledger.db",
        "assets_url": f"{folder}/assets",
        "ingress.port": 0,
        "provider.door": "kie-ai",
        "provider.base_url": provider.url,
        "provider.api_key": "simulated-key",
        "provider.rate_per_second": 1000,
        "download.waits": [],
        "download.allow_private_addresses": True,
    }
    return load_settings(environ={}, flags=flags).settings


@asynccontextmanager
async def pipeline(settings: Settings) -> AsyncIterator[str]:
    """Run a pipeline; give the address for callbacks."""
    stopping = asyncio.Event()
    plan = Plan(ingress=True, workers=WORKERS)
    async with open_roles(settings, plan) as roles, asyncio.TaskGroup() as group:
        group.create_task(run_roles(roles, stopping))
        (ingress,) = (role for role in roles if isinstance(role, HttpRole))
        await ingress.started.wait()
        assert ingress.address is not None
        host, port = ingress.address
        yield f"http://{host}:{port}/callbacks/generate"
        stopping.set()


async def test_a_replay_asks_the_provider_for_fresh_links(tmp_path: Path) -> None:
    """Every host failed until the attempts were used up; then the links died."""
    options = ProviderOptions(time_scale=1000, door="K")
    async with SimulatedProvider(options) as provider:
        settings = make_settings(tmp_path, provider)
        async with (
            pipeline(settings) as address,
            open_parts(settings) as parts,
            open_ledger(settings.ledger_url) as ledger,
        ):
            task_id = TaskId(await provider.submit(address, operation="generate"))
            paths = [file.path for file in provider.plan_of(task_id).files]
            for path in paths:
                provider.files.fail_next(path, 503)

            async def is_dead() -> bool:
                depth = await parts.broker.depth(dead_letter_queue(DOWNLOAD))
                return depth.ready == FILES

            await eventually(is_dead)
            for path in paths:
                provider.expire(path)

            await replay(parts.broker, [DOWNLOAD], Selection())

            async def is_stored() -> bool:
                return (await ledger.totals()).assets_stored == FILES

            await eventually(is_stored)
            renewals = await ledger.list_renewals(task_id)

    assert FILES == len(renewals)
    assert {"details"} == {renewal.source for renewal in renewals}
