"""How long it takes until the pipeline works again after a fault.

It works when every process says that it is ready, and a callback that was sent
after the fault has had all its effects: its file is stored and every subscriber
that wants to has heard of it.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from pipeline.simulator.load import LoadCallback
from pipeline.simulator.payloads import encode
from pipeline.simulator.plan import SemanticId
from pipeline.task import Stage
from tests.soak.history import Said, expected
from tests.soak.servers import digest_of

if TYPE_CHECKING:
    from tests.soak.traffic import Traffic
    from tests.soak.world import World

PROBE_EVERY_SECONDS: Final = 1.0
LOOK_EVERY_SECONDS: Final = 0.1
#: After so long nobody waits any more; far above what is promised.
PATIENCE_SECONDS: Final = 90.0
READY_SECONDS: Final = 2.0


class Prober:
    """Sends callbacks of its own and waits for what comes of them."""

    def __init__(self, world: World, traffic: Traffic, *, seed: int) -> None:
        self._world = world
        self._traffic = traffic
        self._seed = seed
        self._numbers = count(1)
        self._sending: set[asyncio.Task[bool]] = set()

    async def recover(self) -> float | None:
        """Wait until it works again; ``None``: it does not, and nobody waits more."""
        started = time.monotonic()
        probes: list[LoadCallback] = []
        due = started
        is_ready = False
        while (now := time.monotonic()) - started < PATIENCE_SECONDS:
            if now >= due:
                due = now + PROBE_EVERY_SECONDS
                probes.append(self._send())
                is_ready = is_ready or await self._are_ready()
            if is_ready and any(map(self._is_heard, probes)):
                return time.monotonic() - started
            await asyncio.sleep(LOOK_EVERY_SECONDS)
        return None

    async def close(self) -> None:
        """Wait until every probe was accepted or given up."""
        if self._sending:
            await asyncio.wait(self._sending)

    def _send(self) -> LoadCallback:
        number = next(self._numbers)
        task_id = f"probe-{self._seed}-{number}"
        name = f"probe-{self._seed}-{number}.mp3"
        link = f"{self._world.files_url}/files/{name}?n=0"
        track: dict[str, Any] = {"id": f"{task_id}-1", "audio_url": link}
        data = {"callbackType": "complete", "task_id": task_id, "data": [track]}
        callback = LoadCallback(
            task_id=task_id,
            stage=Stage.COMPLETE,
            semantic_id=SemanticId(f"{task_id}.complete"),
            body=encode({"code": 200, "msg": "success", "data": data}),
        )
        self._traffic.journal.files[task_id] = digest_of(name)
        task = asyncio.create_task(self._traffic.deliver(callback))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)
        return callback

    def _is_heard(self, callback: LoadCallback) -> bool:
        said = Said(callback.task_id, str(callback.stage))
        return all(
            effect in endpoint.seen
            for effect in expected(said, has_file=True)
            for endpoint in self._world.surroundings.endpoints.values()
            if endpoint.hearing.wants(effect)
        )

    async def _are_ready(self) -> bool:
        async with aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=READY_SECONDS)
        ) as session:
            ports = [member.port for member in self._world.fleet.members]
            answers = await asyncio.gather(*(_is_ready(session, p) for p in ports))
        return all(answers)


async def _is_ready(session: aiohttp.ClientSession, port: int) -> bool:
    with suppress(aiohttp.ClientError, OSError):
        async with session.get(f"http://127.0.0.1:{port}/readyz") as answer:
            return answer.status == 200
    return False
