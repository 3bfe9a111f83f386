"""Collect the history: from the journal, the subscribers, the queues and the disk."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp
import orjson

from pipeline.dead_letters import Selection, browse
from pipeline.topology import UNROUTED
from tests.soak.history import NOTIFY, Dead, History
from tests.soak.servers import effect_of

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.bootstrap import Parts
    from pipeline.dead_letters import DeadLetter
    from tests.soak.traffic import Journal
    from tests.soak.world import World


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """What is still on its way."""

    ready: dict[str, int]
    delayed: int
    spooled: int

    @property
    def is_nothing(self) -> bool:
        """All queues and spools are empty."""
        return not (any(self.ready.values()) or self.delayed or self.spooled)


async def count_waiting(world: World) -> Waiting:
    """Ask the broker and every ingress."""
    broker, queues = world.parts.broker, world.parts.topology.work_queues
    depths = {queue: await broker.depth(queue) for queue in queues}
    return Waiting(
        ready={queue: depth.ready for queue, depth in depths.items()},
        delayed=max(depth.delayed for depth in depths.values()),
        spooled=await _count_spooled(world),
    )


async def collect(world: World, journal: Journal) -> History:
    """Look at everything, and leave it where it is."""
    waiting = await count_waiting(world)
    dead = await _read_dead_letters(world.parts)
    unrouted = (await world.parts.broker.depth(UNROUTED)).ready
    totals = await world.ledger.totals()
    return History(
        sent=journal.sent,
        accepted=journal.accepted,
        files=journal.files,
        hearings=world.hearings,
        stored=await asyncio.to_thread(read_store, world.folder / "assets"),
        dead=dead,
        recorded=totals.updates + totals.duplicates,
        ready=waiting.ready,
        delayed=waiting.delayed,
        spooled=waiting.spooled,
        unrouted=unrouted,
    )


def read_store(folder: Path) -> frozenset[str]:
    """Compute the hash of every file in an asset store, whatever its name says."""
    return frozenset(
        hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.glob("sha256/*/*")
    )


async def _read_dead_letters(parts: Parts) -> list[Dead]:
    queues = parts.topology.work_queues
    async with aclosing(browse(parts.broker, queues, Selection())) as found:
        return [_dead(letter) async for letter in found]


def _dead(letter: DeadLetter) -> Dead:
    envelope = letter.envelope
    failure = envelope.failure
    effect = None
    if letter.queue.startswith(NOTIFY):
        effect = effect_of(orjson.loads(envelope.body))
    return Dead(
        queue=letter.queue,
        reason="unknown" if failure is None else failure.error_type,
        task_id=letter.task_id or "",
        effect=effect,
    )


async def _count_spooled(world: World) -> int:
    """Ask each ingress how much is in its spool."""
    found = 0
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        for member in world.fleet.of("ingress"):
            found += await _spooled(session, member.port)
    return found


async def _spooled(session: aiohttp.ClientSession, port: int) -> int:
    with suppress(aiohttp.ClientError, OSError):
        async with session.get(f"http://127.0.0.1:{port}/metrics") as answer:
            for line in (await answer.text()).splitlines():
                if line.startswith("pipeline_spool_messages "):
                    return int(float(line.split()[1]))
        return 0
    return 1  # nobody knows: it counts as something
