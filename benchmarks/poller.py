"""The poller with many open expectations: what it costs, and how late it asks.

    python -m benchmarks.poller [--rounds N] [--seconds S] [--tasks N]

A ledger with 100,000 tasks that are still to end. They get due one after the other, as
fast as the account may ask, and go on to do so: a task that was asked for is due again
when all others have been. A provider in a process of its own notes when it was asked
for which. Most tasks are where they were; one in five has ended, and is handed on to an
embedded broker. On SQLite, and on a private PostgreSQL where there is one. What it
costs is the processor time of the whole process from when the first task is due, with
that of SQLite and without that of PostgreSQL. A task that was not asked for is as late
as it is at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import apsw
import asyncpg
import orjson
import uvloop
from aiohttp import web
from pydantic import SecretStr

from benchmarks.postgres import postgres_for_benchmarks
from benchmarks.results import (
    Comparison,
    Results,
    Target,
    add_json_option,
    finish,
    interleave,
    medians_of,
    number,
    table,
)
from pipeline.broker import open_broker
from pipeline.ledger import open_ledger
from pipeline.ledger.expectations import Expectation
from pipeline.logs import configure_logs
from pipeline.poller.poller import Limits, Poller
from pipeline.poller.rhythm import Rhythm
from pipeline.provider.account import window_of_task
from pipeline.provider.client import ProviderClient
from pipeline.provider.door import generic_door
from pipeline.settings import PollerSettings
from pipeline.task import TaskId
from pipeline.topology import build_topology
from tests.postgres_node import find_program, make_schema
from tests.server_package import ServerMissing

SQLITE: Final = "sqlite"
POSTGRES: Final = "postgres"
FIELDS: Final = ("share", "questions", "median_late", "latest")
#: As much at a time as a batch of callbacks.
FILL: Final = 1000
#: Until the first task is due: time to open everything.
LEAD_SECONDS: Final = 3.0
#: One in so many answers is the end of its task.
ENDS: Final = 5
#: Of one core.
SHARE: Final = Target(at_most=0.05)
LATEST: Final = Target(at_most=2)
SETTINGS: Final = PollerSettings()
LIMITS: Final = generic_door().limits
#: Questions in a second.
RATE: Final = LIMITS.questions_per_second
PREFIX: Final = "open-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What one round of one case gave."""

    #: Of one core.
    share: float
    questions: float
    #: From when a task was due to when the provider was asked, in seconds.
    median_late: float
    latest: float


def main() -> None:
    """Measure and print the tables; ``--serve`` is the provider."""
    options = _options()
    if options.serve:
        web.run_app(_provider(), port=0, host="127.0.0.1", print=_say_where)
        return
    configure_logs(level="ERROR", form="text", stream=sys.stderr)
    results = Results()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        urls = {SQLITE: f"sqlite:///{folder}/ledger.db"}
        try:
            find_program("initdb")
            server = stack.enter_context(postgres_for_benchmarks())
            urls[POSTGRES] = asyncio.run(make_schema(server))
        except ServerMissing as error:
            results.left_out[POSTGRES] = str(error)
        print(f"expecting {options.tasks:,} tasks …", file=sys.stderr)
        for url in urls.values():
            asyncio.run(_fill(url, options.tasks))
        bench = Bench(folder, urls, options)
        samples = interleave(
            list(urls),
            options.rounds,
            bench.measure,
            failed=results.failed,
            describe=lambda found: f"{found.share:.1%}, {found.latest:.2f} s late",
        )
    results.cases = {name: medians_of(own, FIELDS) for name, own in samples.items()}
    results.comparisons = _comparisons(results, options.tasks)
    finish(results, [_table(results)], options.json)


class Bench:
    """A provider, and ledgers that are full."""

    def __init__(
        self, folder: Path, urls: dict[str, str], options: argparse.Namespace
    ) -> None:
        self._folder = folder
        self._urls = urls
        self._seconds: float = options.seconds
        self._tasks: int = options.tasks

    def measure(self, name: str, round_number: int) -> Found:
        """Poll one ledger for some seconds, with all of its tasks open."""
        log = self._folder / f"asked-{name}-{round_number}.txt"
        with (
            log.open("wb") as output,
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.poller", "--serve"], stdout=output
            ) as provider,
        ):
            try:
                address = _address(log)
                first_at = _open_all(self._urls[name])
                share = uvloop.run(self._poll(self._urls[name], address, first_at))
                ended_at = time.time()
            finally:
                provider.terminate()
        due = {
            f"{PREFIX}{n:06}": first_at + n / RATE
            for n in range(min(self._tasks, int(self._seconds * RATE)))
        }
        return _found(share, log, due, ended_at)

    async def _poll(self, url: str, address: str, first_at: float) -> float:
        async with (
            open_ledger(url) as ledger,
            open_broker(
                f"sqlite:///{self._folder}/broker.db", deadline=timedelta(seconds=5)
            ) as broker,
            ProviderClient(
                address, SecretStr("a-key"), rate_per_second=RATE, turns=ledger
            ) as client,
        ):
            await broker.declare(build_topology())
            poller = Poller(
                ledger,
                client,
                broker.publish,
                rhythm=Rhythm(
                    interval=timedelta(seconds=self._tasks / RATE),
                    give_up_after=timedelta(days=1),
                ),
                limits=Limits(
                    rate_per_second=RATE,
                    of_task=window_of_task(LIMITS),
                    concurrency=8,
                    lasts=timedelta(seconds=17),
                    overdue=SETTINGS.overdue_after,
                    drain=timedelta(seconds=5),
                ),
                clock=lambda: datetime.now(UTC),
                chance=lambda: 0.5,
            )
            stopping = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                group.create_task(poller.run(stopping))
                await asyncio.sleep(first_at - time.time())
                began, used = time.monotonic(), time.process_time()
                await asyncio.sleep(self._seconds)
                share = (time.process_time() - used) / (time.monotonic() - began)
                stopping.set()
            return share


async def _fill(url: str, tasks: int) -> None:
    """Expect so many tasks."""
    now = datetime.now(UTC)
    async with open_ledger(url) as ledger:
        for start in range(0, tasks, FILL):
            await ledger.expect(
                [
                    Expectation(
                        task_id=TaskId(f"{PREFIX}{n:06}"),
                        operation="generate",
                        submitted_at=now,
                        due_at=now + timedelta(days=1),
                    )
                    for n in range(start, min(start + FILL, tasks))
                ]
            )


def _open_all(url: str) -> float:
    """Let every task be due, one after the other; say when the first one is."""
    number = f"CAST(SUBSTR(task_id, {len(PREFIX) + 1}) AS BIGINT)"
    if url.startswith("sqlite"):
        connection = apsw.Connection(url.removeprefix("sqlite:///"))
        first_at = time.time() + LEAD_SECONDS
        connection.execute(_opening(first_at, number))
        connection.close()
        return first_at
    return asyncio.run(_open_all_in_postgres(url, number))


async def _open_all_in_postgres(url: str, number: str) -> float:
    connection = await asyncpg.connect(url)
    try:
        first_at = time.time() + LEAD_SECONDS
        await connection.execute(_opening(first_at, number))
        return first_at
    finally:
        await connection.close()


def _opening(first_at: float, number: str) -> str:
    return (
        f"UPDATE tasks SET due_at = {round(first_at * 1000)}"
        f" + {round(1000 / RATE)} * {number}, answered = NULL, given_up_at = NULL"
    )


def _provider() -> web.Application:
    """Make a provider that says when it was asked for which task."""

    async def details(request: web.Request) -> web.Response:
        task_id = request.query["taskId"]
        print(task_id, time.time(), flush=True)
        is_end = int(task_id.partition("-")[2]) % ENDS == 0
        data = {"taskId": task_id, "status": "CREATE_TASK_FAILED", "errorCode": 500}
        if not is_end:
            data = {"taskId": task_id, "status": "PENDING"}
        body = orjson.dumps({"code": 200, "msg": "success", "data": data})
        return web.Response(body=body, content_type="application/json")

    app = web.Application()
    app.router.add_get("/api/v1/generate/record-info", details)
    return app


def _say_where(text: str) -> None:
    print(text, flush=True)


def _address(log: Path) -> str:
    """Wait until the provider has said where it listens."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for word in log.read_text().split():
            if word.startswith("http://"):
                return word
        time.sleep(0.05)
    raise TimeoutError


def _found(share: float, log: Path, due: dict[str, float], ended_at: float) -> Found:
    asked: dict[str, float] = {}
    for line in log.read_text().splitlines():
        name, _, at = line.partition(" ")
        if name in due:
            asked.setdefault(name, float(at))
    if not asked:
        message = f"expected questions for {len(due)} tasks, got none"
        raise RuntimeError(message)
    lates = sorted(asked.get(name, ended_at) - at for name, at in due.items())
    return Found(
        share=share,
        questions=len(asked),
        median_late=lates[len(lates) // 2],
        latest=lates[-1],
    )


def _comparisons(results: Results, tasks: int) -> list[Comparison]:
    found = []
    for name, case in results.cases.items():
        what = f"{tasks:,} open on {name}"
        for figure, field, target in (
            (f"share of one core, {what}", "share", SHARE),
            (f"latest question in s, {what}", "latest", LATEST),
        ):
            found.append(
                Comparison(
                    benchmark="poller", figure=figure, ours=case[field], target=target
                )
            )
    return found


def _table(results: Results) -> str:
    header = ["ledger", "share of a core", "questions", "median late s", "latest s"]
    rows = [
        [name, *(number(case[field]) for field in FIELDS)]
        for name, case in results.cases.items()
    ]
    return table(header, rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    add_json_option(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
