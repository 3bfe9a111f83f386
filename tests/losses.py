"""Lose callbacks at random, and see what asking the provider makes up for.

    python -m tests.losses --tasks 300 --loss 0.3 --seed 1 --scale 10

A provider on a fast clock, with tasks of every operation that can be submitted, of
whose callbacks a share never comes, and of whose links some are dead from the
beginning; a pipeline, and two pollers in processes of their own, whose times are as
short. In the end every task has to be where the provider has it, with all its files,
within the quiet time and a minute of the provider's own; and the provider must never
have been asked more often than it allows, by all processes together. The exit code is 1
if anything of that is not so. Times in the verdict are on the provider's clock.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson
from prometheus_client import REGISTRY

from pipeline.bootstrap import Plan, ledger_of
from pipeline.ledger.expectations import Expectation
from pipeline.logs import configure_logs
from pipeline.roles import open_roles
from pipeline.service import HttpRole, run_roles
from pipeline.settings import load_settings
from pipeline.simulator import (
    OPERATIONS,
    PostingRules,
    ProviderOptions,
    ScenarioOptions,
    SimulatedProvider,
    plan_scenario,
)
from pipeline.task import AssetState, Stage, TaskId
from tests.command_line import CommandLine
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from pipeline.ledger.port import Ledger
    from pipeline.settings import Settings
    from pipeline.simulator import AskedDetails, Scenario, TaskPlan
    from tests.command_line import Running

#: On the provider's clock, as are all times that follow.
QUIET: Final = timedelta(seconds=60)
INTERVAL: Final = timedelta(seconds=30)
#: What asking may take beyond the quiet time.
ALLOWED: Final = timedelta(seconds=60)
#: The provider's limits.
CALLS, WINDOW = 20, timedelta(seconds=10)
CALLS_FOR_ONE, WINDOW_FOR_ONE = 3, timedelta(seconds=1)
#: Fewer than allowed: between our clock and the provider's are two event loops. It
#: holds for everybody who asks, pollers and downloads.
QUESTIONS_PER_SECOND: Final = 1.6
POLLERS: Final = 2
#: Of finished tasks, those with a link that is dead from the beginning; another one is
#: good, for who asks.
DEAD_LINKS: Final = 0.25
#: What a client can submit; a recovery is asked for by the pipeline itself.
SUBMITTED: Final = tuple(name for name in OPERATIONS if name != "recovery")
#: The longest that it may go on after the provider has finished.
PATIENCE: Final = timedelta(minutes=30)
RECOVERED: Final = "pipeline_recovered"
#: What a poller logs for each question, and when it is ready to ask.
ASKED, STARTED = "task_asked_for", "roles_started"
CONFIG: Final = "pipeline.toml"
#: The longest for a poller to start.
STARTS_WITHIN_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """What came of it."""

    tasks: int
    #: How many kinds of tasks there are among them.
    operations: int
    callbacks_planned: int
    callbacks_lost: int
    #: Tasks of whose end no callback came.
    ends_lost: int
    #: Tasks whose end was found out by asking.
    recovered: int
    #: Links that were dead and got another one.
    renewed: int
    questions: int
    #: Those of each poller; the others are those of downloads.
    questions_of_pollers: Sequence[int]
    #: The most questions within ten seconds, and for one task within one.
    most_questions: int
    most_for_one: int
    #: Questions that the provider has refused because they came too often.
    violations: int
    #: Of tasks that are not where the provider has them: what is wrong.
    wrong: Sequence[str]
    #: From when the provider had everything to when we had.
    median_seconds: float
    longest_seconds: float
    allowed_seconds: float
    #: For how long threads of this process were ready to go on and had no processor.
    #: It excuses nothing, but on a busy machine it is why things came late.
    kept_waiting_seconds: float

    @property
    def is_good(self) -> bool:
        """Whether every promise was kept."""
        return (
            not self.wrong
            and not self.violations
            and self.longest_seconds <= self.allowed_seconds
            and self.most_questions <= CALLS
            and self.most_for_one <= CALLS_FOR_ONE
            and self.recovered >= self.ends_lost
        )

    def as_dict(self) -> dict[str, Any]:
        """Give everything, for JSON."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


async def lose(
    folder: Path,
    *,
    tasks: int,
    loss: float,
    seed: int,
    scale: float,
    stalls: timedelta = timedelta(0),
) -> Losses:
    """Run it once, in a folder of its own.

    ``stalls`` is for how long, on our own clock, this machine may stand still.
    """
    scenario = plan_scenario(
        ScenarioOptions(
            tasks=tasks,
            seed=seed,
            operations=SUBMITTED,
            expired_rate=DEAD_LINKS,
            renewable_rate=1,
            missing_rate=0,
        )
    )
    rules = PostingRules(loss_rate=loss, loss_seed=seed)
    options = ProviderOptions(time_scale=scale, posting=rules)
    recovered, waited_seconds = _recovered(), _kept_waiting_seconds()
    async with SimulatedProvider(options) as provider:
        settings = _settings(folder, provider.url, scale)
        async with (
            ledger_of(settings) as ledger,
            open_roles(settings, _PLAN) as roles,
            _pollers(folder) as pollers,
            asyncio.TaskGroup() as group,
        ):
            stopping = asyncio.Event()
            group.create_task(run_roles(roles, stopping))
            address = await _callback_url(roles)
            origin_at = datetime.now(UTC)
            await _expect(ledger, scenario, origin_at, scale)
            report = await provider.run(scenario, callback_url=address)
            await _until_done(ledger, scenario, PATIENCE / scale)
            stopping.set()
            lags, wrong = await _judge(ledger, scenario, origin_at, scale)
            renewed = await _count_renewals(ledger, scenario)
            waited_seconds = _kept_waiting_seconds() - waited_seconds
    return Losses(
        tasks=tasks,
        operations=len({task.operation for task in scenario.tasks}),
        callbacks_planned=report.callbacks_planned,
        callbacks_lost=report.lost,
        ends_lost=_ends_lost(scenario, report.stages),
        recovered=_recovered() - recovered,
        renewed=renewed,
        questions=len(provider.asked),
        questions_of_pollers=[len(poller.events(ASKED)) for poller in pollers],
        most_questions=most_within(provider.asked, WINDOW),
        most_for_one=max(
            (most_within(own, WINDOW_FOR_ONE) for own in _by_task(provider.asked)),
            default=0,
        ),
        violations=report.violations,
        wrong=wrong,
        median_seconds=round(sorted(lags)[len(lags) // 2], 1) if lags else 0.0,
        longest_seconds=round(max(lags, default=0.0), 1),
        allowed_seconds=(QUIET + ALLOWED + stalls * scale).total_seconds(),
        kept_waiting_seconds=round(waited_seconds * scale, 1),
    )


def most_within(asked: Sequence[AskedDetails], window: timedelta) -> int:
    """Count the most questions that came within any window of a length."""
    times = sorted(one.at for one in asked)
    most = first = 0
    for number, at in enumerate(times):
        while at - times[first] >= window:
            first += 1
        most = max(most, number - first + 1)
    return most


#: Pollers are processes of their own.
_PLAN: Final = Plan(ingress=True, workers=frozenset({"dedupe", "download"}))


@asynccontextmanager
async def _pollers(folder: Path) -> AsyncIterator[Sequence[Running]]:
    """Run pollers with the settings in a folder, until the context ends."""
    async with AsyncExitStack() as stack:
        running = []
        for number in range(POLLERS):
            own = folder / f"poller-{number}"
            await asyncio.to_thread(own.mkdir)
            cli = CommandLine(own, {"PIPELINE_CONFIG": str(folder / CONFIG)})
            running.append(stack.enter_context(cli.running("poller")))
        for poller in running:
            await eventually(
                lambda poller=poller: _has_started(poller),  # type: ignore[misc]
                within=STARTS_WITHIN_SECONDS,
            )
        yield running
        for poller in running:
            code = await asyncio.to_thread(poller.stop)
            said = poller.errors.read_text(encoding="utf-8")
            assert code == 0, f"a poller ended with {code}: {said}"


async def _has_started(poller: Running) -> bool:
    return bool(poller.events(STARTED))


def _settings(folder: Path, base_url: str, scale: float) -> Settings:
    """Write the settings of all processes into the folder, and read them."""

    def fast(span: timedelta) -> float:
        return span.total_seconds() / scale

    flags = {
        "broker_url": f"sqlite:///{folder}/broker.db",
        "broker.delays": "100ms,500ms",
        "ledger_url": f"sqlite:///{folder}/ledger.db",
        "assets_url": str(folder / "assets"),
        "ingress.port": 0,
        "provider.base_url": base_url,
        "provider.api_key": "simulated-key",
        "provider.rate_per_second": QUESTIONS_PER_SECOND * scale,
        "poller.quiet": fast(QUIET),
        "poller.interval": fast(INTERVAL),
        "poller.give_up_after": fast(PATIENCE),
        # A callback may come before the details are as far.
        "download.waits": ",".join(["100ms"] * 4 + ["500ms"] * 30),
        "download.allow_private_addresses": True,
    }
    lines = [f"{key} = {orjson.dumps(value).decode()}" for key, value in flags.items()]
    # Keys of no table come first.
    lines.sort(key=lambda line: "." in line.partition(" ")[0])
    (folder / CONFIG).write_text("\n".join(lines), encoding="utf-8")
    return load_settings(file=folder / CONFIG, environ={}).settings


async def _expect(
    ledger: Ledger, scenario: Scenario, origin_at: datetime, scale: float
) -> None:
    """Expect every task from when it is submitted."""
    await ledger.expect(
        [
            Expectation(
                task_id=TaskId(task.task_id),
                operation=task.operation,
                submitted_at=origin_at + task.starts_at / scale,
                due_at=origin_at + (task.starts_at + QUIET) / scale,
            )
            for task in scenario.tasks
        ]
    )


async def _callback_url(roles: Sequence[object]) -> str:
    (ingress,) = (role for role in roles if isinstance(role, HttpRole))
    await ingress.started.wait()
    assert ingress.address is not None
    host, port = ingress.address
    return f"http://{host}:{port}/callbacks/{{operation}}"


async def _until_done(ledger: Ledger, scenario: Scenario, within: timedelta) -> None:
    """Wait until every task has ended and its files are there, or patience ends."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within.total_seconds()
    waiting = list(scenario.tasks)
    while waiting and loop.time() < deadline:
        waiting = [task for task in waiting if await _missing(ledger, task)]
        await asyncio.sleep(0.1)


async def _missing(ledger: Ledger, task: TaskPlan) -> str:
    """Say what a task lacks; nothing if it is where the provider has it."""
    task_id = TaskId(task.task_id)
    wanted = Stage.COMPLETE if task.failure is None else Stage.FAILED
    found = await ledger.find_task(task_id)
    if found is None or found.stage is not wanted:
        return f"is {found.stage if found else 'not known'}, not {wanted}"
    assets = await ledger.list_assets(task_id)
    states = Counter(asset.state for asset in assets)
    stored = states.pop(AssetState.STORED, 0)
    if states or (task.failure is None and stored < len(task.files)):
        return f"has {stored} files, and {dict(states)}"
    return ""


async def _judge(
    ledger: Ledger, scenario: Scenario, origin_at: datetime, scale: float
) -> tuple[list[float], list[str]]:
    """Say how late everything came, and what did not come."""
    lags, wrong = [], []
    for task in scenario.tasks:
        if missing := await _missing(ledger, task):
            wrong.append(f"{task.task_id} {missing}")
            continue
        _, reached = task.milestones[-1]
        had_at = origin_at + reached / scale
        lags.append((await _done_at(ledger, task) - had_at).total_seconds() * scale)
    return lags, wrong


async def _done_at(ledger: Ledger, task: TaskPlan) -> datetime:
    """Say when the end of a task and its last file had come."""
    task_id = TaskId(task.task_id)
    updates = await ledger.list_updates(task_id)
    assets = await ledger.list_assets(task_id)
    times = [min(one.received_at for one in updates if one.stage.is_final)]
    return max([*times, *(a.settled_at for a in assets if a.settled_at is not None)])


def _ends_lost(scenario: Scenario, told: Any) -> int:
    """Count the tasks of whose end no callback was accepted."""
    ends = [told.get(task.task_id) for task in scenario.tasks]
    return sum(stage is None or not stage.is_final for stage in ends)


def _by_task(asked: Iterable[AskedDetails]) -> list[list[AskedDetails]]:
    found: dict[str, list[AskedDetails]] = {}
    for one in asked:
        found.setdefault(one.task_id, []).append(one)
    return list(found.values())


async def _count_renewals(ledger: Ledger, scenario: Scenario) -> int:
    """Count the files that have got another link."""
    found = [
        {renewal.key for renewal in await ledger.list_renewals(TaskId(task.task_id))}
        for task in scenario.tasks
    ]
    return sum(map(len, found))


def _recovered() -> int:
    """Count the ends that were found out by asking, of all operations."""
    return int(
        sum(
            sample.value
            for metric in REGISTRY.collect()
            if metric.name == RECOVERED
            for sample in metric.samples
            if sample.name.endswith("_total")
        )
    )


def _kept_waiting_seconds() -> float:
    """Say for how long the threads of this process have waited for a processor."""
    files = Path("/proc/self/task").glob("*/schedstat")
    return sum(int(file.read_text().split()[1]) for file in files) / 1e9


def main() -> int:
    """Run it as the command line says; give the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=300)
    parser.add_argument("--loss", type=float, default=0.3, metavar="SHARE")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scale", type=float, default=10.0, metavar="TIMES")
    options = parser.parse_args()
    configure_logs(level="ERROR", form="text", stream=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="losses-") as folder:
        found = asyncio.run(
            lose(
                Path(folder),
                tasks=options.tasks,
                loss=options.loss,
                seed=options.seed,
                scale=options.scale,
            )
        )
    shown = orjson.dumps(found.as_dict(), option=orjson.OPT_INDENT_2).decode()
    sys.stdout.write(f"{shown}\n{'kept' if found.is_good else 'broken'}\n")
    return 0 if found.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
