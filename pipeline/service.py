"""Run roles in one process until a signal, and stop them in order.

A role is anything with ``run(stopping)``: the ingress, a worker, the health
service. They share one event loop; if one of them fails, all are stopped and the
process ends, for whatever supervises it to start it again.

Shutdown on SIGTERM or SIGINT: (1) stop taking callbacks and deliveries, (2) finish
what is in progress, at most the drain time, (3) close, which gives back what is not
settled. A second signal goes straight to (3).
"""

from __future__ import annotations

import asyncio
import gc
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, Protocol

from pipeline.errors import BrokerUnavailable
from pipeline.ingress.app import serve
from pipeline.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import (
        AsyncIterator,
        Awaitable,
        Callable,
        Sequence,
    )

    from pipeline.broker.port import Broker
    from pipeline.ingress.app import Routes
    from pipeline.ingress.peers import Peers
    from pipeline.ingress.tls import Certificate
    from pipeline.poller.poller import Poller
    from pipeline.topology import Topology
    from pipeline.worker import Worker

log = get_logger("service")

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
#: Objects made before the collector looks for cycles among them; Python's 700 is
#: meant for programs that are short of memory.
YOUNG_OBJECTS: Final = 20_000
#: Pause between attempts to declare the topology while the broker is away.
DECLARE_PAUSE_SECONDS: Final = 1.0
#: The longest that listening is put off until what is behind it is ready.
PREPARE_SECONDS: Final = 1.0


class StoppedAtOnce(Exception):
    """A second signal came: what was in progress has been given back."""


class Role(Protocol):
    """A part of the process that works until it is told to stop."""

    @property
    def name(self) -> str:
        """How logs and ``/readyz`` call it."""

    @property
    def problem(self) -> str | None:
        """Why it cannot work now; ``None``: it can."""

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until ``stopping`` is set, then finish what is in progress."""


class IdleRole:
    """Stands for a worker that has nothing to do yet, so that its process stays."""

    problem = None

    def __init__(self, name: str) -> None:
        self.name = name

    async def run(self, stopping: asyncio.Event) -> None:
        """Wait until ``stopping`` is set."""
        await stopping.wait()


class WorkerRole:
    """A worker, from the topology it needs to the end of its drain."""

    def __init__(self, worker: Worker, broker: Broker, topology: Topology) -> None:
        self.name = f"worker {worker.queue}"
        self._worker = worker
        self._broker = broker
        self._topology = topology

    @property
    def problem(self) -> str | None:
        """Why nothing is consumed now."""
        return self._worker.problem

    async def run(self, stopping: asyncio.Event) -> None:
        """Consume until ``stopping`` is set, then drain."""
        if await declare_when_up(self._broker, self._topology, stopping):
            await self._worker.run(stopping)


class PollerRole:
    """The poller, from the topology it needs to the end of its drain."""

    name = "poller"
    #: What it cannot do now, such as ask a provider that is away, mends itself, and
    #: is no reason to take callbacks elsewhere.
    problem = None

    def __init__(self, poller: Poller, broker: Broker, topology: Topology) -> None:
        self._poller = poller
        self._broker = broker
        self._topology = topology

    async def run(self, stopping: asyncio.Event) -> None:
        """Ask until ``stopping`` is set."""
        if await declare_when_up(self._broker, self._topology, stopping):
            await self._poller.run(stopping)


class HttpRole:
    """An HTTP service that answers at once, whatever is missing behind it.

    ``prepare`` is given ``stopping``; what it does goes on while requests come if it
    takes long.
    """

    def __init__(
        self,
        name: str,
        routes: Routes,
        *,
        host: str,
        port: int,
        max_body_bytes: int = 0,
        peers: Peers | None = None,
        certificate: Certificate | None = None,
        prepare: Callable[[asyncio.Event], Awaitable[object]] | None = None,
    ) -> None:
        self.name = name
        #: Where it listens; set before ``started``.
        self.address: tuple[str, int] | None = None
        self.started = asyncio.Event()
        self._routes = routes
        self._max_body_bytes = max_body_bytes
        self._peers = peers
        self._certificate = certificate
        self._host = host
        self._port = port
        self._prepare = prepare

    @property
    def problem(self) -> str | None:
        """Why nobody can connect now."""
        return None if self.address else "not listening"

    async def run(self, stopping: asyncio.Event) -> None:
        """Listen until ``stopping`` is set; then requests in progress finish."""
        async with asyncio.TaskGroup() as group:
            preparing = group.create_task(_call(self._prepare, stopping))
            # A broker that is there is ready at once, one that is not may take long.
            await asyncio.wait({preparing}, timeout=PREPARE_SECONDS)
            async with serve(
                self._routes,
                host=self._host,
                port=self._port,
                max_body_bytes=self._max_body_bytes,
                peers=self._peers,
                certificate=self._certificate,
            ) as self.address:
                host, port = self.address
                log.info("listening", role=self.name, host=host, port=port)
                self.started.set()
                await stopping.wait()
            preparing.cancel()
        self.address = None


async def run_roles(roles: Sequence[Role], stopping: asyncio.Event) -> None:
    """Run ``roles`` together until ``stopping`` is set and all have finished.

    Raises:
        ExceptionGroup: one of them failed; the others were cancelled.
    """
    _spare_the_collector()
    async with asyncio.TaskGroup() as group:
        for role in roles:
            group.create_task(role.run(stopping), name=role.name)
        log.info("roles_started", roles=[role.name for role in roles])
    log.info("roles_stopped")


def _spare_the_collector() -> None:
    """Leave modules and start-up objects out of every garbage collection.

    They live as long as the process; looking through them again and again cost
    the ingress a few per cent of its time. Young objects are collected less often
    for the same reason: nearly all of ours die without the collector's help.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 20, 50)


@asynccontextmanager
async def stopping_on_signals(
    on_first: Callable[[], None] | None = None,
) -> AsyncIterator[asyncio.Event]:
    """Give an event that the first signal sets; the second cancels this task.

    Args:
        on_first: called at the first signal; it must be quick.

    Raises:
        StoppedAtOnce: a second signal came.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  there is one in every coroutine
    stopping = asyncio.Event()
    hurried = False

    def heard(number: signal.Signals) -> None:
        nonlocal hurried
        hurried = stopping.is_set()
        stopping.set()
        if hurried:
            task.cancel()
        elif on_first is not None:
            on_first()
        # Last, so that the signal is heard whatever becomes of the line.
        log.info("stop_requested", signal=number.name, at_once=hurried)

    for number in SIGNALS:
        loop.add_signal_handler(number, heard, number)
    try:
        yield stopping
    except asyncio.CancelledError:
        if hurried:
            raise StoppedAtOnce from None
        raise
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)


async def declare_when_up(
    broker: Broker, topology: Topology, stopping: asyncio.Event
) -> bool:
    """Declare the topology, waiting for a broker that is away.

    Returns whether it is declared; if not, ``stopping`` was set before.

    Raises:
        TopologyMismatch: something exists with other arguments.
    """
    while not stopping.is_set():
        try:
            await broker.declare(topology)
        except BrokerUnavailable as error:
            log.warning("broker_unavailable", error=str(error))
            await _wait(stopping, DECLARE_PAUSE_SECONDS)
        else:
            return True
    return False


async def _call(
    prepare: Callable[[asyncio.Event], Awaitable[object]] | None,
    stopping: asyncio.Event,
) -> None:
    if prepare is not None:
        await prepare(stopping)


async def _wait(stopping: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stopping.wait()
    except TimeoutError:
        return
