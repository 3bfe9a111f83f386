"""The course of a soak: traffic and faults, quiet, replay, quiet, verdict."""

from __future__ import annotations

import asyncio
import sys
import time
from statistics import fmean
from typing import TYPE_CHECKING, Final

import orjson

from pipeline.dead_letters import Selection, replay
from pipeline.errors import BrokerError
from pipeline.simulator.chance import seeded
from tests.soak.evidence import collect, count_waiting
from tests.soak.faults import deal, faults_for
from tests.soak.history import check, count_missing
from tests.soak.memory import measure_growth
from tests.soak.probe import Prober
from tests.soak.report import Recovery, Result
from tests.soak.traffic import Journal, Traffic, plan
from tests.soak.world import World

if TYPE_CHECKING:
    from random import Random

    from tests.soak.faults import Fault
    from tests.soak.history import History
    from tests.soak.options import SoakOptions

LOOK_EVERY_SECONDS: Final = 1.0
#: Nothing has moved for so long, and not all is there: it never will be. Longer
#: than any wait between attempts, and than the lease of an embedded broker.
STUCK_SECONDS: Final = 60.0
#: Log events that name errors in the program.
PROGRAM_ERRORS: Final = (
    b'"background_task_failed"',
    b'"background_step_failed"',
    b'"request_failed"',
)


class DoesNotWork(Exception):
    """The pipeline does not work although nothing has been broken yet."""


class Soak:
    """One soak."""

    def __init__(self, options: SoakOptions) -> None:
        self._options = options
        self._journal = Journal()
        self._recoveries: list[Recovery] = []
        self._started = self._traffic_started = time.monotonic()
        self._traffic_ended: float | None = None
        self._traffic: Traffic | None = None
        self._doing = "starting"

    async def run(self) -> Result:
        """Do it all; takes minutes to hours."""
        async with World(self._options, self.progress) as world:
            self._say(f"data and logs in {world.folder}")
            showing = asyncio.create_task(self._show(world))
            try:
                return await self._run(world)
            finally:
                showing.cancel()
                if not self._options.keep:
                    world.remove_folder = True

    def progress(self) -> float:
        """Give the part of the traffic that is over, 0 to 1."""
        traffic = self._traffic
        if traffic is None or self._traffic_ended is not None:
            return 0.0 if traffic is None else 2.0
        passed = time.monotonic() - self._traffic_started
        by_time = passed / (self._options.minutes * 60)
        return min(1.0, max(by_time, traffic.dispatched / self._options.callbacks))

    async def _run(self, world: World) -> Result:
        options = self._options
        waiting = await asyncio.to_thread(
            plan, options.callbacks, options.seed, world.files_url, self._journal
        )
        traffic = self._traffic = Traffic(
            waiting,
            world.doors,
            self._journal,
            backlog=lambda: self._backlog(world),
            most=options.rate,
        )
        prober = Prober(world, traffic, options)
        self._doing = "waiting until it works"
        # Nothing listens yet: what is given up now is no wonder.
        traffic.is_calm = False
        works = await prober.recover()
        traffic.is_calm = True
        if works.seconds is None:
            raise DoesNotWork(f"the pipeline does not work, before any fault: {works}")
        self._say(f"the pipeline works: {works}")
        self._traffic_started = time.monotonic()
        await self._send_and_break(world, traffic, prober)
        await traffic.close()
        await self._settle(world)
        dead_lettered = check(await collect(world, self._journal)).dead
        replayed = 0
        if dead_lettered:
            self._doing = "replaying"
            replayed = await _replay(world)
            await self._settle(world)
        history = await collect(world, self._journal)
        await world.fleet.stop()
        return self._result(world, traffic, history, dict(dead_lettered), replayed)

    async def _send_and_break(
        self, world: World, traffic: Traffic, prober: Prober
    ) -> None:
        """Send everything, or as much as there is time for, and break things."""
        stopping = asyncio.Event()
        asyncio.get_running_loop().call_later(self._options.minutes * 60, stopping.set)
        breaking = asyncio.create_task(self._break_things(world, traffic, prober))
        sending = asyncio.create_task(traffic.run(stopping))
        await asyncio.wait({sending, breaking}, return_when=asyncio.FIRST_COMPLETED)
        if breaking.done():
            breaking.result()  # only an error ends it
        await sending
        self._traffic_ended = time.monotonic()
        await breaking
        await prober.close()

    async def _break_things(
        self, world: World, traffic: Traffic, prober: Prober
    ) -> None:
        chance = seeded("faults", self._options.seed)
        for fault in deal(faults_for(self._options, traffic), chance):
            self._doing = "calm"
            traffic.is_calm = True
            await asyncio.sleep(chance.uniform(*self._rest()))
            if self._traffic_ended is not None:
                return
            traffic.is_calm = False
            await self._break(world, traffic, prober, fault, chance)

    async def _break(
        self,
        world: World,
        traffic: Traffic,
        prober: Prober,
        fault: Fault,
        chance: Random,
    ) -> None:
        lasts = 0.0 if fault.is_instant else chance.uniform(*self._lengths(fault))
        self._doing = fault.name
        started = time.monotonic()
        async with fault.breaking(world, chance) as detail:
            await asyncio.sleep(lasts)
        lasted = time.monotonic() - started
        self._doing = f"recovering from {fault.name}"
        found = await prober.recover()
        if found.caught_up_seconds is not None:
            traffic.caught_up()
        self._say(f"{fault.name} ({detail}) for {lasted:.1f} s: {found}")
        self._recoveries.append(
            Recovery(
                fault=fault.name,
                detail=f"{detail}: {found}",
                lasted_seconds=lasted,
                seconds=found.seconds,
            )
        )

    async def _settle(self, world: World) -> None:
        """Wait until all is there and nothing is left to do, or nothing moves."""
        self._doing = "waiting until all is done"
        seen: object = None
        moved = time.monotonic()
        while time.monotonic() - moved < STUCK_SECONDS:
            heard = {name: h.accepted for name, h in world.hearings.items()}
            try:
                waiting = await count_waiting(world)
            except BrokerError as error:
                self._say(f"cannot look: {error}")
                continue
            present = (heard, waiting)
            if present != seen:
                seen, moved = present, time.monotonic()
            elif waiting.is_nothing and not await self._count_missing(world):
                return
            await asyncio.sleep(LOOK_EVERY_SECONDS)

    async def _count_missing(self, world: World) -> int:
        return count_missing(await collect(world, self._journal))

    def _result(
        self,
        world: World,
        traffic: Traffic,
        history: History,
        dead_lettered: dict[tuple[str, str], int],
        replayed: int,
    ) -> Result:
        refused = {s: n for s, n in self._journal.statuses.items() if s != 200}
        return Result(
            options=self._options,
            seconds=time.monotonic() - self._started,
            sending_seconds=(self._traffic_ended or 0.0) - self._traffic_started,
            verdict=check(history),
            recoveries=self._recoveries,
            memory=measure_growth(world.fleet.samples),
            refused=refused,
            dispatched=traffic.dispatched,
            delivered=traffic.delivered,
            given_up=self._journal.given_up,
            given_up_in_calm=self._journal.given_up_in_calm,
            slowest_seconds=self._journal.slowest_seconds,
            dead_lettered=dead_lettered,
            replayed=replayed,
            ends=_ends(world),
            load=fmean(world.fleet.loads),
            latest_seconds=world.fleet.latest_seconds,
            errors=_program_errors(world),
        )

    def _backlog(self, world: World) -> int:
        """Count what was accepted and is not told yet."""
        told = len(world.surroundings.endpoints["archive"].told)
        return len(self._journal.accepted) - told

    def _rest(self) -> tuple[float, float]:
        return (0.5, 1.0) if self._options.is_short else (3.0, 10.0)

    def _lengths(self, fault: Fault) -> tuple[float, float]:
        """Say how long a fault may last at the least and at the most."""
        if self._options.is_short:
            return 2.0, 4.0
        return 3.0, fault.longest_seconds

    async def _show(self, world: World) -> None:
        """Keep one line up to date on a terminal."""
        while sys.stderr.isatty():
            traffic = self._traffic
            rate = 0.0 if traffic is None else traffic.rate
            accepted = sum(self._journal.accepted.values())
            text = (
                f"{self._clock()}  accepted {accepted}/{self._options.callbacks}"
                f"  on their way {self._backlog(world)}  {rate:.0f}/s  {self._doing}"
            )
            sys.stderr.write(f"\r\x1b[K{text[:110]}")
            sys.stderr.flush()
            await asyncio.sleep(0.5)

    def _say(self, text: str) -> None:
        clear = "\r\x1b[K" if sys.stderr.isatty() else ""
        sys.stderr.write(f"{clear}{self._clock()}  {text}\n")
        sys.stderr.flush()

    def _clock(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
        return f"{minutes:3}:{seconds:02}"


async def _replay(world: World) -> int:
    parts = world.parts
    return (await replay(parts.broker, parts.topology.work_queues, Selection())).matched


def _ends(world: World) -> dict[str, str]:
    ends = {
        member.name: f"by itself, with {member.own_ends}"
        for member in world.fleet.members
        if member.own_ends
    }
    for name, code in world.fleet.bad_stops.items():
        ends[name] = f"{ends.get(name, '')} when asked to, with {code}".strip()
    return ends


def _program_errors(world: World) -> dict[str, int]:
    """Count what the program itself calls an error of its own."""
    found: dict[str, int] = {}
    for log in sorted(world.folder.glob("*.log")):
        for line in log.read_bytes().splitlines():
            if any(name in line for name in PROGRAM_ERRORS):
                event = str(orjson.loads(line)["event"])
                found[event] = found.get(event, 0) + 1
    for errors in sorted(world.folder.glob("*.err")):
        if b"Traceback" in errors.read_bytes():
            found[f"a traceback in {errors.name}"] = 1
    return found
