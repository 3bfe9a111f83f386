"""What breaks: each fault is a context; entering breaks, leaving mends."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from random import Random

    from tests.soak.fleet import Member
    from tests.soak.options import SoakOptions
    from tests.soak.world import World

Breaking: TypeAlias = Callable[["World", "Random"], AbstractAsyncContextManager[str]]

#: From here on the first process of each kind is spared, so that one can see whether
#: it grows.
SPARED_FROM: Final = 0.35


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that can be broken."""

    name: str
    breaking: Breaking
    #: Mended as soon as it is broken: a kill.
    is_instant: bool = False
    #: What it needs: ``rabbitmq``, ``postgres`` or nothing.
    needs: str = ""


def _killing(kind: str) -> Fault:
    @asynccontextmanager
    async def kill(world: World, chance: Random) -> AsyncIterator[str]:
        members = _victims(world, kind, chance)
        for member in members:
            world.fleet.kill(member)
        yield ", ".join(member.name for member in members)

    return Fault(name=f"kill {kind}", breaking=kill, is_instant=True)


def _freezing(kind: str) -> Fault:
    @asynccontextmanager
    async def freeze(world: World, chance: Random) -> AsyncIterator[str]:
        members = world.fleet.of(kind)
        frozen = chance.sample(members, chance.randint(1, len(members)))
        for member in frozen:
            member.send(signal.SIGSTOP)
        try:
            yield ", ".join(member.name for member in frozen)
        finally:
            for member in frozen:
                member.send(signal.SIGCONT)

    return Fault(name=f"freeze {kind}", breaking=freeze)


def _victims(world: World, kind: str, chance: Random) -> list[Member]:
    members = world.fleet.of(kind)
    if world.progress() >= SPARED_FROM:
        members = members[1:]
    return chance.sample(members, chance.randint(1, len(members)))


KINDS: Final = ("ingress", "dedupe", "download", "notify")

FAULTS: Final = (
    *map(_killing, KINDS),
    *map(_freezing, KINDS),
)


def faults_for(options: SoakOptions) -> list[Fault]:
    """List the faults that the options leave."""
    there = {"", options.broker, options.ledger}
    return [
        fault
        for fault in FAULTS
        if fault.needs in there
        and (not options.only or any(word in fault.name for word in options.only))
    ]
