"""The whole pipeline under ``provider.trust = "verify"``, on both brokers."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import orjson
import pytest

from pipeline.bootstrap import Plan, ledger_of, open_parts
from pipeline.dead_letters import Selection, browse
from pipeline.roles import open_roles
from pipeline.service import HttpRole, run_roles
from pipeline.settings import load_settings
from pipeline.simulator import (
    PLAIN,
    PostingRules,
    ProviderOptions,
    ScenarioOptions,
    SimulatedProvider,
    plan_scenario,
)
from pipeline.task import AssetState, Stage, TaskId
from pipeline.topology import DEDUPE
from tests.callbacks import make_body, make_item
from tests.factories import unique_prefix
from tests.file_server import FileServer, answer, make_mp3
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pipeline.dead_letters import DeadLetter
    from pipeline.ledger.port import Ledger
    from pipeline.settings import Settings

WEBHOOK_KEY: Final = "a-key-of-the-provider"
OPTIONS: Final = ProviderOptions(
    time_scale=600, posting=PostingRules(webhook_key=WEBHOOK_KEY)
)
#: A task with everything that is documented, seconds long on the fast clock.
TASKS: Final = replace(PLAIN, tasks=2, seed=3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """A running pipeline, seen from outside."""

    settings: Settings
    url: str
    ledger: Ledger

    async def post(self, body: bytes) -> int:
        """Post a callback as somebody who knows the address."""
        headers = {"Content-Type": "application/json"}
        address = f"{self.url}/callbacks/upload-extend"
        async with (
            aiohttp.ClientSession() as session,
            session.post(address, data=body, headers=headers) as response,
        ):
            return response.status

    async def is_ready(self) -> bool:
        """Tell whether every part can do its work."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self.url}/readyz") as response,
        ):
            return response.status == 200

    async def dead(self) -> list[DeadLetter]:
        """Give the dead letters of dedupe."""
        async with open_parts(self.settings) as parts:
            return [
                letter async for letter in browse(parts.broker, [DEDUPE], Selection())
            ]

    async def is_stored(self, *task_ids: str) -> bool:
        """Tell whether tasks are complete and their files stored."""
        for task_id in map(TaskId, task_ids):
            task = await self.ledger.find_task(task_id)
            assets = await self.ledger.list_assets(task_id)
            if task is None or task.stage is not Stage.COMPLETE or not assets:
                return False
            if {AssetState.STORED} != {asset.state for asset in assets}:
                return False
        return True


@pytest.fixture(params=["sqlite", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def broker_url(request: pytest.FixtureRequest) -> str:
    """Address of a broker of each kind."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@asynccontextmanager
async def running_pipeline(
    broker_url: str, folder: Path, base_url: str, **changes: Any
) -> AsyncIterator[Pipeline]:
    """Run everything but notifications, with short delays; leaves nothing behind."""
    flags = {
        "broker_url": broker_url,
        "broker.prefix": unique_prefix(),
        "broker.delays": "100ms",
        "ledger_url": f"sqlite:///{folder}/ledger.db",
        "assets_url": str(folder / "assets"),
        "ingress.port": 0,
        "spool.enabled": False,
        "provider.base_url": base_url,
        "provider.api_key": "simulated-key",
        "provider.trust": "verify",
        "provider.rate_per_second": 200,
        "dedupe.waits": "100ms,100ms",
        "download.waits": "100ms,100ms",
        "download.allow_private_addresses": True,
        **changes,
    }
    settings = load_settings(environ={}, flags=flags).settings
    plan = Plan(ingress=True, workers=frozenset({"dedupe", "download"}))
    stopping = asyncio.Event()
    async with (
        ledger_of(settings) as ledger,
        open_roles(settings, plan) as roles,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(run_roles(roles, stopping))
        (ingress,) = (role for role in roles if isinstance(role, HttpRole))
        await ingress.started.wait()
        assert ingress.address is not None
        host, port = ingress.address
        running = Pipeline(
            settings=settings, url=f"http://{host}:{port}", ledger=ledger
        )
        # It listens before its queues are made, where that takes long.
        await eventually(running.is_ready, within=30)
        yield running
        stopping.set()
    async with open_parts(settings) as parts:
        await parts.broker.delete(parts.topology)


async def test_genuine_callbacks_pass_and_their_files_come(
    broker_url: str, tmp_path: Path
) -> None:
    async with (
        SimulatedProvider(OPTIONS) as provider,
        running_pipeline(broker_url, tmp_path, provider.url) as pipeline,
    ):
        address = f"{pipeline.url}/callbacks/{{operation}}"
        scenario = plan_scenario(TASKS)

        report = await provider.run(scenario, callback_url=address)

        async def are_stored() -> bool:
            return await pipeline.is_stored(*report.stages)

        await eventually(are_stored, within=30)
        assert [] == await pipeline.dead()
        stored = {
            asset.sha256
            for task_id in report.stages
            for asset in await pipeline.ledger.list_assets(TaskId(task_id))
        }
        expected = {
            (await provider.content(file.path)).sha256
            for files in report.files.values()
            for file in files
        }
        assert expected == stored


async def test_every_oddity_of_the_provider_passes_in_the_end(
    tmp_path: Path, sqlite_url: str
) -> None:
    """Repeats, another order, failures, missing stages: nothing is given up."""
    odd = ScenarioOptions(tasks=8, seed=5, expired_rate=0)
    async with (
        SimulatedProvider(OPTIONS) as provider,
        running_pipeline(sqlite_url, tmp_path, provider.url) as pipeline,
    ):
        address = f"{pipeline.url}/callbacks/{{operation}}"

        report = await provider.run(plan_scenario(odd), callback_url=address)

        async def are_final() -> bool:
            tasks = [await pipeline.ledger.find_task(TaskId(t)) for t in report.stages]
            return all(task is not None and task.stage.is_final for task in tasks)

        await eventually(are_final, within=30)
        assert [] == await pipeline.dead()


async def test_forged_links_are_not_fetched_and_those_of_the_provider_are(
    broker_url: str, tmp_path: Path
) -> None:
    async with (
        FileServer() as evil,
        SimulatedProvider(OPTIONS) as provider,
        running_pipeline(broker_url, tmp_path, provider.url) as pipeline,
    ):
        task_id = await provider.submit("http://127.0.0.1:1/nobody-there")
        forged = evil.add("/1.mp3", answer(make_mp3()))
        body = make_body(task_id=task_id, items=[make_item(1, audio_url=forged)])

        async def is_told() -> bool:
            details = provider.details(task_id)
            return details is not None and details["data"]["status"] == "SUCCESS"

        await eventually(is_told)
        assert 200 == await pipeline.post(body)

        async def is_stored() -> bool:
            return await pipeline.is_stored(task_id)

        await eventually(is_stored, within=30)
        assert [] == evil.requests
        assert {"127.0.0.1"} == {
            asset.url.split("/")[2].split(":")[0]
            for asset in await pipeline.ledger.list_assets(TaskId(task_id))
        }
        assert sum(provider.files.requests.values()) >= 4


async def test_forged_task_is_refused(broker_url: str, tmp_path: Path) -> None:
    async with (
        FileServer() as evil,
        SimulatedProvider(OPTIONS) as provider,
        running_pipeline(broker_url, tmp_path, provider.url) as pipeline,
    ):
        forged = evil.add("/1.mp3", answer(make_mp3()))
        body = make_body(task_id="made-up", items=[make_item(1, audio_url=forged)])

        assert 200 == await pipeline.post(body)

        async def is_dead() -> bool:
            return bool(await pipeline.dead())

        await eventually(is_dead)
        (letter,) = await pipeline.dead()
        assert letter.envelope.failure is not None
        assert "TaskNotFound" == letter.envelope.failure.error_type
        assert "does not exist" in letter.envelope.failure.error_text
        assert 0 == (await pipeline.ledger.totals()).tasks
        assert [] == evil.requests


async def test_callback_that_is_never_confirmed_ends_as_a_dead_letter_that_says_why(
    broker_url: str, tmp_path: Path
) -> None:
    async with SimulatedProvider(replace(OPTIONS, time_scale=0.001)) as provider:
        task_id = await provider.submit("http://127.0.0.1:1/nobody-there")
        async with running_pipeline(broker_url, tmp_path, provider.url) as pipeline:
            assert 200 == await pipeline.post(make_body(task_id=task_id))

            async def is_dead() -> bool:
                return bool(await pipeline.dead())

            await eventually(is_dead)
            (letter,) = await pipeline.dead()
            assert letter.envelope.failure is not None
            assert "NotConfirmed" == letter.envelope.failure.error_type
            assert "the callback says complete" in letter.envelope.failure.error_text
            assert 3 == letter.envelope.attempt


async def test_provider_that_is_down_is_asked_again_until_it_is_back(
    broker_url: str, tmp_path: Path
) -> None:
    waits = ",".join(["100ms"] * 50)
    record = orjson.loads(make_body(items=[make_item(1)]))
    async with FileServer() as api:
        path = "/api/v1/generate/record-info"
        api.add(path, answer(status=503))
        async with running_pipeline(
            broker_url, tmp_path, api.url(""), **{"dedupe.waits": waits}
        ) as pipeline:
            assert 200 == await pipeline.post(orjson.dumps(record))

            async def is_asked_often() -> bool:
                return len(api.requests) >= 3

            await eventually(is_asked_often)
            before = (await pipeline.ledger.totals()).tasks
            api.add(path, answer(orjson.dumps(record)))

            async def is_known() -> bool:
                return (await pipeline.ledger.totals()).tasks == 1

            await eventually(is_known)
            assert (0, []) == (before, await pipeline.dead())
