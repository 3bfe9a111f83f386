"""How long it takes until the pipeline works again after a fault.

It works when every process says that it is ready, a callback that was sent after
the fault is in the ledger and its file in the store, and every subscriber hears
something new again. That may be what has waited: until the new callback has had its
turn there as well, the pipeline catches up, which depends on how much has waited.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import count, pairwise
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from pipeline.errors import LedgerUnavailable
from pipeline.simulator.load import LoadCallback
from pipeline.simulator.payloads import encode
from pipeline.simulator.plan import SemanticId
from pipeline.task import AssetState, Stage, TaskId
from tests.soak.history import Said, expected
from tests.soak.servers import digest_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.soak.options import SoakOptions
    from tests.soak.servers import Endpoint
    from tests.soak.traffic import Traffic
    from tests.soak.world import World

PROBE_EVERY_SECONDS: Final = 1.0
LOOK_EVERY_SECONDS: Final = 0.1
#: After so long nobody waits any more; far above what is promised.
PATIENCE_SECONDS: Final = 90.0
READY_SECONDS: Final = 2.0
#: A subscriber hears again that has heard something new between so many looks.
LOOKS: Final = 3


@dataclass(slots=True)
class Recovered:
    """How long what took, counted from the end of a fault; ``None``: too long."""

    #: Until every process had said that it is ready.
    ready_seconds: float | None = None
    #: Until a callback was in the ledger.
    recorded_seconds: float | None = None
    #: Until its file was stored.
    stored_seconds: float | None = None
    #: Until every subscriber heard something new, second after second.
    told_seconds: float | None = None
    #: Until a callback had had all its effects.
    caught_up_seconds: float | None = None

    @property
    def seconds(self) -> float | None:
        """How long it took until everything worked again."""
        worst = 0.0
        for seconds in (
            self.ready_seconds,
            self.recorded_seconds,
            self.stored_seconds,
            self.told_seconds,
        ):
            if seconds is None:
                return None
            worst = max(worst, seconds)
        return worst

    def __str__(self) -> str:
        """Say it in a few words."""
        seconds = self.seconds
        if seconds is None:
            steps = (
                f"{name} {_shown(getattr(self, f'{name}_seconds'))}"
                for name in ("ready", "recorded", "stored", "told")
            )
            return f"does NOT work again: {', '.join(steps)}"
        return f"works {_shown(seconds)}, caught up {_shown(self.caught_up_seconds)}"


def _shown(seconds: float | None) -> str:
    return "not in time" if seconds is None else f"after {seconds:.1f} s"


class Moving:
    """Sees which subscribers hear something new, look after look."""

    def __init__(self, endpoints: Mapping[str, Endpoint]) -> None:
        self._endpoints = endpoints
        self._counts: dict[str, list[int]] = {name: [] for name in endpoints}
        #: All of them.
        self.names = frozenset(endpoints)
        #: Those that heard something between each of the last looks.
        self.found: set[str] = set()

    def look(self) -> None:
        """Count what they have heard so far."""
        for name, counts in self._counts.items():
            counts.append(len(self._endpoints[name].seen))
            last = counts[-LOOKS:]
            if len(last) == LOOKS and all(a < b for a, b in pairwise(last)):
                self.found.add(name)


class Prober:
    """Sends callbacks of its own and waits for what comes of them.

    In a short soak the next fault does not wait long for what is left of the last.
    """

    def __init__(self, world: World, traffic: Traffic, options: SoakOptions) -> None:
        self._world = world
        self._traffic = traffic
        self._seed = options.seed
        self._catch_up_seconds = 5.0 if options.is_short else PATIENCE_SECONDS
        self._numbers = count(1)
        self._sending: set[asyncio.Task[bool]] = set()

    async def recover(self) -> Recovered:
        """Wait until it works again and has caught up, or nobody waits any more."""
        found = Recovered()
        started = time.monotonic()
        probes: list[LoadCallback] = []
        moving = Moving(self._world.surroundings.endpoints)
        due = started
        while (now := time.monotonic()) - started < PATIENCE_SECONDS:
            if now >= due:
                due = now + PROBE_EVERY_SECONDS
                moving.look()
                probes.append(self._send())
                await self._look_inside(found, probes, started)
            heard = {n for n in moving.names if any(self._hears(n, p) for p in probes)}
            if found.told_seconds is None and moving.names <= heard | moving.found:
                found.told_seconds = time.monotonic() - started
            if found.caught_up_seconds is None and any(map(self._is_heard, probes)):
                found.caught_up_seconds = time.monotonic() - started
            if self._is_enough(found, now - started):
                break
            await asyncio.sleep(LOOK_EVERY_SECONDS)
        return found

    def _is_enough(self, found: Recovered, passed_seconds: float) -> bool:
        """Tell whether to go on: it works, and has had time to catch up."""
        if found.seconds is None:
            return False
        is_late = passed_seconds - found.seconds >= self._catch_up_seconds
        return found.caught_up_seconds is not None or is_late

    async def _look_inside(
        self, found: Recovered, probes: Sequence[LoadCallback], started: float
    ) -> None:
        """Ask the processes, the ledger and the store."""
        if found.ready_seconds is None and await self._are_ready():
            found.ready_seconds = time.monotonic() - started
        with suppress(LedgerUnavailable):
            for probe in probes:
                if found.stored_seconds is not None:
                    return
                task_id = TaskId(probe.task_id)
                if found.recorded_seconds is None:
                    if await self._world.ledger.find_task(task_id) is None:
                        continue
                    found.recorded_seconds = time.monotonic() - started
                assets = await self._world.ledger.list_assets(task_id)
                if any(asset.state is AssetState.STORED for asset in assets):
                    found.stored_seconds = time.monotonic() - started

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
        names = self._world.surroundings.endpoints
        return all(self._hears(name, callback) for name in names)

    def _hears(self, name: str, callback: LoadCallback) -> bool:
        """Tell whether a subscriber has heard all that comes of a callback."""
        endpoint = self._world.surroundings.endpoints[name]
        said = Said(callback.task_id, str(callback.stage))
        return all(
            effect in endpoint.seen
            for effect in expected(said, has_file=True)
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
