"""A whole pipeline in processes of its own, and everything around it.

A provider that calls until it is answered 200, a server of its files, a subscriber
that drops what it has heard, and the verdict: what was accepted has its effect once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import orjson

from pipeline.assets.local import INCOMING
from pipeline.broker import open_broker
from pipeline.failpoints import EXIT_CODE, VARIABLE
from pipeline.ledger import open_ledger
from pipeline.simulator.subscriber import SimulatedSubscriber
from pipeline.topology import Topology, build_topology
from tests.callbacks import make_body
from tests.command_line import CommandLine
from tests.factories import unique_prefix
from tests.file_server import PNG_HEAD, FileServer, answer, make_mp3
from tests.rabbitmq_node import delete_topology
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from pathlib import Path

    from pipeline.broker.port import Broker
    from pipeline.ledger.port import Ledger
    from tests.command_line import Running

#: The one subscriber.
STUDIO: Final = "studio"
#: What a subscriber to everything hears of one finished task with two files.
HEARD: Final = ("asset.stored", "asset.stored", "task.assets_ready", "task.complete")
#: Notifications that one death can cut off between the answer and our note of it.
IN_FLIGHT: Final = 4
#: The provider gives up a call that is not answered; ours is less patient.
CALL: Final = aiohttp.ClientTimeout(total=5)
#: Retries of these tests wait this long.
DELAY: Final = timedelta(milliseconds=100)
#: And there are so many.
RETRIES: Final = 5
#: More than a recovery may take.
WITHIN_SECONDS: Final = 45.0
#: Processes, one after the other, that it may take to finish.
RUNS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of the accepted callbacks."""

    #: Of a task and a type of event more, or fewer, than should be heard.
    wrong: dict[str, Sequence[str]]
    #: Requests to the subscriber with an id that it had accepted before.
    repeats: int
    #: Messages that are still in the spool or somewhere on the broker, by queue.
    left: dict[str, int]
    #: Files in the store, and halves of files.
    files: int
    halves: int


@dataclass(slots=True, kw_only=True)
class WholePipeline:
    """Settings, files and people around processes that come and go."""

    cli: CommandLine
    topology: Topology
    broker: Broker
    ledger: Ledger
    subscriber: SimulatedSubscriber
    files: FileServer
    session: aiohttp.ClientSession
    #: Where callbacks go now; empty: nobody listens.
    base: str = ""
    #: Tasks of which a callback was sent, answered or not.
    called: set[str] = field(default_factory=set)
    #: Tasks of which a callback was answered 200.
    accepted: set[str] = field(default_factory=set)

    @property
    def folder(self) -> Path:
        return self.cli.folder

    @asynccontextmanager
    async def running(
        self, *command: str, failpoints: str = ""
    ) -> AsyncIterator[Running]:
        """Run a process, with failpoints; at the end it is killed if it still runs.

        It may die before it listens, of the work that it has found.
        """
        with self._started(command or ("run",), failpoints) as run:
            before = self.base
            looking = asyncio.create_task(self._look(run))
            try:
                yield run
            finally:
                looking.cancel()
                self.base = before

    async def _look(self, run: Running) -> None:
        """Find out where a process listens."""
        while not (found := run.events("listening")):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        self.base = f"http://{found[0]['host']}:{found[0]['port']}"

    @contextmanager
    def _started(self, command: Sequence[str], failpoints: str) -> Iterator[Running]:
        # Several processes of one command may run at a time: each has its own logs.
        number = len([*self.folder.glob("process-*")])
        folder = self.folder / f"process-{number}"
        folder.mkdir()
        own = CommandLine(folder, {"PIPELINE_CONFIG": str(self.folder / "p.toml")})
        environ = {VARIABLE: failpoints} if failpoints else {}
        with own.running(*command, environ=environ) as run:
            yield run

    async def call(self, task_id: str) -> None:
        """Send the callback of a finished task until it is answered 200."""
        self.called.add(task_id)
        await eventually(lambda: self._is_taken(task_id), within=WITHIN_SECONDS)
        self.accepted.add(task_id)

    async def _is_taken(self, task_id: str) -> bool:
        if not self.base:
            return False
        url = f"{self.base}/callbacks/upload-extend"
        headers = {"Content-Type": "application/json"}
        body = self._body(task_id)
        try:
            async with self.session.post(url, data=body, headers=headers) as response:
                return response.status == 200
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False

    def _body(self, task_id: str) -> bytes:
        item: dict[str, Any] = {"id": f"{task_id}-1", "title": "Copper Lanterns"}
        item["audio_url"] = self.files.url(f"/{task_id}.mp3")
        item["image_url"] = self.files.url(f"/{task_id}.png")
        self.files.add(f"/{task_id}.mp3", answer(make_mp3(400_000) + task_id.encode()))
        self.files.add(f"/{task_id}.png", answer(PNG_HEAD + task_id.encode()))
        return make_body(items=[item], task_id=task_id)

    def heard(self) -> dict[str, list[str]]:
        """Give what the subscriber has accepted, each id once: types by task."""
        found: dict[str, list[str]] = {task_id: [] for task_id in self.accepted}
        for request in self.subscriber.effects(STUDIO):
            event = request.json()
            found.setdefault(event["subject"], []).append(event["type"])
        return {task_id: sorted(types) for task_id, types in found.items()}

    async def finish(self, tasks: int = 1) -> None:
        """Run a process until everything is done, and stop it; others have ended.

        Only then nobody holds anything that RabbitMQ does not tell of: a second copy
        of a callback, what follows from it. What one has left is there for the next.
        """
        for _ in range(RUNS):
            async with self.running() as run:
                # What dies before that knows of no order in which to stop.
                await asyncio.to_thread(run.address)
                done = await self.until_done(tasks)
                code = await asyncio.to_thread(run.stop)
            assert 0 == code, run.errors.read_text(encoding="utf-8")
            # What only another start would mend is no end.
            assert done, str(await self.verdict())
            if not await self._left():
                break

    async def until_done(self, tasks: int = 1) -> bool:
        """Wait until all tasks are told and noted, and the broker is empty.

        A process may still hold a message on RabbitMQ. Returns as well when it takes
        too long, with ``False``: the verdict says what is wrong.
        """
        try:
            await eventually(lambda: self._is_done(tasks), within=WITHIN_SECONDS)
        except TimeoutError:
            return False
        return True

    async def _is_done(self, tasks: int) -> bool:
        # A call that is still being repeated puts one more message on the broker.
        if self.called - self.accepted:
            return False
        heard = self.heard().values()
        if len(heard) < tasks or any(len(types) < len(HEARD) for types in heard):
            return False
        # A notification may wait for the lease of a process that has died, and
        # RabbitMQ does not say what consumers hold.
        totals = await self.ledger.totals()
        if totals.notifications_delivered < tasks * len(HEARD):
            return False
        return not await self._left()

    async def _left(self) -> dict[str, int]:
        found = {}
        for queue in self.topology.queues:
            depth = await self.broker.depth(queue.name)
            found[queue.name] = depth.ready + depth.unacked + depth.delayed
        found["spool"] = await asyncio.to_thread(self._count_spooled)
        return {name: count for name, count in found.items() if count}

    def _count_spooled(self) -> int:
        """Count what is in the spool, whoever holds it."""
        if not (path := self.folder / "spool.db").exists():
            return 0
        try:
            with contextlib.closing(sqlite3.connect(path)) as file:
                (count,) = file.execute("SELECT count(*) FROM messages").fetchone()
        except sqlite3.OperationalError:  # just being made: nobody has looked yet
            return 1
        return int(count)

    async def verdict(self) -> Verdict:
        """Say what became of everything that was accepted."""
        return Verdict(
            wrong={k: t for k, t in self.heard().items() if tuple(t) != HEARD},
            repeats=self.subscriber.repeats(STUDIO),
            left=await self._left(),
            files=len([*(self.folder / "assets" / "sha256").glob("*/*")]),
            halves=len(self.halves()),
        )

    def halves(self) -> list[Path]:
        """Give what downloads have begun and not finished."""
        return [*(self.folder / "assets" / INCOMING).glob("*")]

    def age_halves(self) -> None:
        """Make halves of files look as if nobody had touched them for a day."""
        for path in self.halves():
            os.utime(path, (0, 0))


def good(tasks: int, *, repeats: int = 0) -> Verdict:
    """Make the verdict that there should be."""
    return Verdict(wrong={}, repeats=repeats, left={}, files=2 * tasks, halves=0)


async def until_dead(run: Running) -> None:
    """Wait until a process has died at its failpoint."""
    code = await asyncio.to_thread(run.process.wait, WITHIN_SECONDS)
    said = run.errors.read_text(encoding="utf-8")
    assert EXIT_CODE == code, f"{code}: {said}"


@asynccontextmanager
async def whole_pipeline(
    broker_url: str, folder: Path, *, address: str = "", **settings: object
) -> AsyncIterator[WholePipeline]:
    """Prepare everything; processes are started by the test.

    ``address`` is where processes look for the broker: a proxy in front of it.
    Names of further settings have two underscores for the dot.
    """
    prefix = unique_prefix()
    topology = build_topology(
        prefix=prefix, subscriptions={STUDIO: ["#"]}, delays=(DELAY,)
    )
    async with (
        SimulatedSubscriber() as subscriber,
        FileServer() as files,
        aiohttp.ClientSession(timeout=CALL) as session,
        open_broker(broker_url, deadline=timedelta(seconds=10)) as broker,
        open_ledger(f"sqlite:///{folder}/ledger.db") as ledger,
    ):
        await broker.declare(topology)
        given = {name.replace("__", "."): value for name, value in settings.items()}
        _write_settings(folder, prefix, address or broker_url, given)
        write_subscriptions(folder, subscriber.url(STUDIO))
        try:
            yield WholePipeline(
                cli=CommandLine(folder),
                topology=topology,
                broker=broker,
                ledger=ledger,
                subscriber=subscriber,
                files=files,
                session=session,
            )
        finally:
            if broker_url.startswith("amqp"):
                await delete_topology(broker_url, topology)


def _write_settings(
    folder: Path, prefix: str, url: str, given: dict[str, object]
) -> None:
    settings: dict[str, object] = {
        "broker_url": url,
        "ledger_url": f"sqlite:///{folder}/ledger.db",
        "assets_url": str(folder / "assets"),
        "subscriptions_file": str(folder / "subscriptions.toml"),
        "broker.prefix": prefix,
        "ingress.port": 0,
        "spool.path": str(folder / "spool.db"),
        "spool.min_free_bytes": 0,
        "download.allow_private_addresses": True,
    }
    wait = f"{DELAY // timedelta(milliseconds=1)}ms"
    settings["broker.delays"] = [wait]
    for name in ("dedupe.waits", "download.waits", "notify.waits"):
        settings[name] = [wait] * RETRIES
    lines = [
        f"{key} = {orjson.dumps(value).decode()}"
        for key, value in (settings | given).items()
    ]
    (folder / "p.toml").write_text("\n".join(lines), encoding="utf-8")


def write_subscriptions(folder: Path, url: str) -> None:
    """Say where the subscriber is, for processes that are started from now on."""
    text = f'[[subscriptions]]\nname = "{STUDIO}"\nurl = "{url}"\nevents = ["#"]\n'
    (folder / "subscriptions.toml").write_text(text, encoding="utf-8")
