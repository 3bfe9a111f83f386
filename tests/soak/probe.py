"""How long it takes until the pipeline works again after a fault.

It works when every process says that it is ready, and a callback that was sent
after the fault has had all its effects: its file is stored and every subscriber
that wants to has heard of it.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
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


@dataclass(slots=True)
class Recovered:
    """How long what took, counted from the end of a fault; ``None``: too long."""

    #: Until every process had said once that it is ready.
    ready_seconds: float | None = None
    #: Until a callback had had all its effects.
    heard_seconds: float | None = None

    @property
    def seconds(self) -> float | None:
        """How long it took until everything worked again."""
        if self.ready_seconds is None or self.heard_seconds is None:
            return None
        return max(self.ready_seconds, self.heard_seconds)

    def __str__(self) -> str:
        """Say it in a few words."""
        return (
            f"ready {_shown(self.ready_seconds)}, a callback's effects"
            f" {_shown(self.heard_seconds)}"
        )


def _shown(seconds: float | None) -> str:
    return "NOT in time" if seconds is None else f"after {seconds:.1f} s"


class Prober:
    """Sends callbacks of its own and waits for what comes of them."""

    def __init__(self, world: World, traffic: Traffic, *, seed: int) -> None:
        self._world = world
        self._traffic = traffic
        self._seed = seed
        self._numbers = count(1)
        self._sending: set[asyncio.Task[bool]] = set()

    async def recover(self) -> Recovered:
        """Wait until it works again, or until nobody waits any more."""
        found = Recovered()
        started = time.monotonic()
        probes: list[LoadCallback] = []
        due = started
        while (now := time.monotonic()) - started < PATIENCE_SECONDS:
            if now >= due:
                due = now + PROBE_EVERY_SECONDS
                probes.append(self._send())
                if found.ready_seconds is None and await self._are_ready():
                    found.ready_seconds = time.monotonic() - started
            if found.heard_seconds is None and any(map(self._is_heard, probes)):
                found.heard_seconds = time.monotonic() - started
            if found.seconds is not None:
                return found
            await asyncio.sleep(LOOK_EVERY_SECONDS)
        return found

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
