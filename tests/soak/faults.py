"""What breaks: each fault is a context; entering breaks, leaving mends.

Everything that a fault decides comes from the chance it is given.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from tests.soak.world import PROCESSES, SUBSCRIBERS
from tests.tcp_proxy import Direction

if TYPE_CHECKING:
    from random import Random

    from tests.soak.fleet import Member
    from tests.soak.options import SoakOptions
    from tests.soak.traffic import Traffic
    from tests.soak.world import World
    from tests.tcp_proxy import TcpProxy

#: Breaks something of a world; gives what exactly.
Breaking: TypeAlias = Callable[["World", "Random"], AbstractAsyncContextManager[str]]

#: From here on the first process of each kind is spared, so that one can see whether
#: it grows.
SPARED_FROM: Final = 0.35
#: After every fault has come once, so many times two of them come together.
PAIRS: Final = 5
#: Some time after a link is mended the port may still be another one's for a moment.
ACCEPT_TRIES: Final = 20
BURST: Final = 50
BURSTING: Final = "burst of duplicates"
BROKER_LINKS: Final = ("broker of the ingress", "broker of the workers")
SUBSCRIBER_LINKS: Final = tuple(f"subscriber {name}" for name in SUBSCRIBERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that can be broken."""

    name: str
    breaking: Breaking
    #: Over as soon as it has happened.
    is_instant: bool = False
    #: The longest that it lasts in a long soak.
    longest_seconds: float = 20.0
    #: What it needs: ``rabbitmq``, ``postgres`` or nothing.
    needs: str = ""


def faults_for(options: SoakOptions, traffic: Traffic) -> list[Fault]:
    """List the faults that the options leave."""
    names = names_for(options)
    return [fault for fault in (*FAULTS, _bursting(traffic)) if fault.name in names]


def names_for(options: SoakOptions) -> frozenset[str]:
    """Name the faults that the options leave."""
    there = {"", options.broker, options.ledger}
    names = {fault.name for fault in FAULTS if fault.needs in there} | {BURSTING}
    if options.only:
        names = {name for name in names if any(word in name for word in options.only)}
    return frozenset(names)


def deal(faults: list[Fault], chance: Random) -> Iterator[Fault]:
    """Give faults for ever: every one comes before any comes again, then pairs."""
    while faults:
        yield from chance.sample(faults, len(faults))
        for _ in range(min(PAIRS, len(faults) // 2)):
            yield at_once(*chance.sample(faults, 2))


def at_once(*faults: Fault) -> Fault:
    """Make one fault of several."""

    @asynccontextmanager
    async def all_of_them(world: World, chance: Random) -> AsyncIterator[str]:
        async with AsyncExitStack() as stack:
            details = []
            for fault in faults:
                breaking = fault.breaking(world, chance)
                detail = await stack.enter_async_context(breaking)
                details.append(f"{fault.name}: {detail}")
            yield "; ".join(details)

    return Fault(
        name="two at once",
        breaking=all_of_them,
        is_instant=all(fault.is_instant for fault in faults),
    )


# -- processes -----------------------------------------------------------------------


def _killing(kind: str) -> Fault:
    @asynccontextmanager
    async def kill(world: World, chance: Random) -> AsyncIterator[str]:
        members = world.fleet.of(kind)
        if world.progress() >= SPARED_FROM:
            members = members[1:]
        members = _some(members, chance)
        for member in members:
            world.fleet.kill(member)
        yield _names(members)

    return Fault(name=f"kill {kind}", breaking=kill, is_instant=True)


def _freezing(kind: str) -> Fault:
    @asynccontextmanager
    async def freeze(world: World, chance: Random) -> AsyncIterator[str]:
        members = _some(world.fleet.of(kind), chance)
        for member in members:
            member.send(signal.SIGSTOP)
        try:
            yield _names(members)
        finally:
            for member in members:
                member.send(signal.SIGCONT)

    # So long that the broker gives to others what it has delivered to it.
    return Fault(name=f"freeze {kind}", breaking=freeze, longest_seconds=45.0)


def _some(members: list[Member], chance: Random) -> list[Member]:
    return chance.sample(members, chance.randint(1, len(members)))


def _names(members: list[Member]) -> str:
    return ", ".join(sorted(member.name for member in members))


# -- links ---------------------------------------------------------------------------


def _breaking_links(
    name: str,
    links: tuple[str, ...],
    breaking: Callable[[TcpProxy], AbstractAsyncContextManager[None]],
    *,
    needs: str = "",
) -> Fault:
    """Break one or several of some links."""

    @asynccontextmanager
    async def break_links(world: World, chance: Random) -> AsyncIterator[str]:
        chosen = chance.sample(links, chance.randint(1, len(links)))
        async with AsyncExitStack() as stack:
            for link in chosen:
                await stack.enter_async_context(breaking(world.links[link]))
            yield ", ".join(sorted(chosen))

    return Fault(name=name, breaking=break_links, needs=needs)


@asynccontextmanager
async def _cut(link: TcpProxy) -> AsyncIterator[None]:
    """Break open connections and refuse new ones."""
    await link.refuse()
    link.cut()
    try:
        yield
    finally:
        for tried in range(1, ACCEPT_TRIES + 1):
            try:
                await link.accept()
                break
            except OSError:
                if tried == ACCEPT_TRIES:
                    raise
                await asyncio.sleep(0.5)


@asynccontextmanager
async def _freeze(link: TcpProxy) -> AsyncIterator[None]:
    """Be a black hole; what was held passes afterwards."""
    link.hold()
    try:
        yield
    finally:
        link.resume()


@asynccontextmanager
async def _silence(link: TcpProxy) -> AsyncIterator[None]:
    """Lose all answers; the connections break in the end, as TCP would have it."""
    link.drop(Direction.TO_CLIENT)
    try:
        yield
    finally:
        link.cut()
        link.resume()


# -- servers -------------------------------------------------------------------------


@asynccontextmanager
async def _restart_broker(world: World, chance: Random) -> AsyncIterator[str]:
    assert world.node is not None
    await asyncio.to_thread(world.node.stop)
    try:
        yield "in order"
    finally:
        await asyncio.to_thread(world.node.start)


@asynccontextmanager
async def _kill_broker(world: World, chance: Random) -> AsyncIterator[str]:
    assert world.node is not None
    await asyncio.to_thread(world.node.kill)
    try:
        yield "killed"
    finally:
        await asyncio.to_thread(world.node.start)


@asynccontextmanager
async def _raise_disk_alarm(world: World, chance: Random) -> AsyncIterator[str]:
    """Let the broker find that its disk is nearly full."""
    assert world.node is not None
    control = world.node.control
    await asyncio.to_thread(control, "set_disk_free_limit", "1000000GB")
    try:
        yield "broker"
    finally:
        await asyncio.to_thread(control, "set_disk_free_limit", "50MB")


@asynccontextmanager
async def _restart_database(world: World, chance: Random) -> AsyncIterator[str]:
    assert world.postgres is not None
    await asyncio.to_thread(world.postgres.stop)
    try:
        yield "in order"
    finally:
        await asyncio.to_thread(world.postgres.start)


@asynccontextmanager
async def _kill_database(world: World, chance: Random) -> AsyncIterator[str]:
    assert world.postgres is not None
    await asyncio.to_thread(world.postgres.kill)
    try:
        yield "killed"
    finally:
        await asyncio.to_thread(world.postgres.start)


# -- subscribers and the provider ----------------------------------------------------


@asynccontextmanager
async def _slow_subscriber(world: World, chance: Random) -> AsyncIterator[str]:
    """Answer late: in time, or only when nobody waits for it any more."""
    name, delay_seconds = chance.choice(list(SUBSCRIBERS)), chance.choice((1.0, 7.0))
    endpoint = world.surroundings.endpoints[name]
    endpoint.delay_seconds = delay_seconds
    try:
        yield f"{name}, {delay_seconds:g} s"
    finally:
        endpoint.delay_seconds = 0.0


@asynccontextmanager
async def _failing_subscriber(world: World, chance: Random) -> AsyncIterator[str]:
    name, status = chance.choice(list(SUBSCRIBERS)), chance.choice((404, 500, 503))
    endpoint = world.surroundings.endpoints[name]
    endpoint.status = status
    try:
        yield f"{name}, {status}"
    finally:
        endpoint.status = 200


def _bursting(traffic: Traffic) -> Fault:
    @asynccontextmanager
    async def burst(world: World, chance: Random) -> AsyncIterator[str]:
        recent = list(traffic.recent)
        chosen = chance.sample(recent, min(len(recent), 4))
        await asyncio.gather(
            *(traffic.deliver(one) for one in chosen for _ in range(BURST))
        )
        yield f"{len(chosen)} callbacks, {BURST} times each"

    return Fault(name=BURSTING, breaking=burst, is_instant=True)


FAULTS: Final = (
    *map(_killing, PROCESSES),
    *map(_freezing, PROCESSES),
    _breaking_links("cut broker link", BROKER_LINKS, _cut, needs="rabbitmq"),
    _breaking_links("freeze broker link", BROKER_LINKS, _freeze, needs="rabbitmq"),
    _breaking_links("silence broker link", BROKER_LINKS, _silence, needs="rabbitmq"),
    _breaking_links("cut ledger link", ("ledger",), _cut, needs="postgres"),
    _breaking_links("freeze ledger link", ("ledger",), _freeze, needs="postgres"),
    _breaking_links("silence ledger link", ("ledger",), _silence, needs="postgres"),
    _breaking_links("cut files link", ("files",), _cut),
    _breaking_links("freeze files link", ("files",), _freeze),
    _breaking_links("cut subscriber link", SUBSCRIBER_LINKS, _cut),
    _breaking_links("freeze subscriber link", SUBSCRIBER_LINKS, _freeze),
    Fault(name="restart broker", breaking=_restart_broker, needs="rabbitmq"),
    Fault(name="kill broker", breaking=_kill_broker, needs="rabbitmq"),
    Fault(name="disk alarm", breaking=_raise_disk_alarm, needs="rabbitmq"),
    Fault(name="restart database", breaking=_restart_database, needs="postgres"),
    Fault(name="kill database", breaking=_kill_database, needs="postgres"),
    Fault(name="slow subscriber", breaking=_slow_subscriber),
    Fault(
        name="failing subscriber", breaking=_failing_subscriber, longest_seconds=30.0
    ),
)
