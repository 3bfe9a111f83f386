"""One run: an ingress process is attacked, then dedupe has to take what it took."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from tests.command_line import CommandLine, Running
from tests.fuzz.accounts import (
    DEAD_QUEUE,
    DEDUPE_QUEUE,
    UNROUTED_QUEUE,
    Accounts,
    Queues,
)
from tests.fuzz.attacks import Attacks
from tests.fuzz.callers import Callers
from tests.fuzz.memory import Memory

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    #: Is told what is done, and how much of how much of it.
    Report = Callable[[str, int, int], None]

#: Below this a run is too short to say anything about memory.
JUDGED_FROM: Final = 50_000
#: Half a body is given up soon, and a disk that others keep busy is no fault of ours.
_SETTINGS: Final = {
    "PIPELINE_INGRESS__BODY_TIMEOUT": "2s",
    "PIPELINE_INGRESS__PUBLISH_TIMEOUT": "30s",
}
_SAMPLE_SECONDS: Final = 0.25
#: The longest that dedupe may stand still.
_STILL_SECONDS: Final = 60.0
#: Dead letters of these errors say what was wrong with a body.
_REASONS: Final = ("Reject: ", "Unreadable: ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is to be played."""

    requests: int
    connections: int
    seed: int
    #: Growth of memory that is still allowed, in per cent.
    growth: float


@dataclass(slots=True)
class Verdict:
    """What was found; without violations all is well."""

    options: Options
    accounts: Accounts = field(default_factory=Accounts)
    #: What was measured and counted, by name.
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def is_good(self) -> bool:
        """Whether every promise was kept."""
        return not self.accounts.violations

    def as_json(self) -> dict[str, Any]:
        """Give everything, for programs."""
        accounts = self.accounts
        return {
            "ok": self.is_good,
            "seed": self.options.seed,
            "sent": accounts.sent,
            "resent": accounts.resent,
            "accepted": accounts.accepted.total(),
            "unanswered": accounts.unanswered.total(),
            "answers": dict(accounts.answers.most_common()),
            "accepted_by_kind": dict(accounts.kinds.most_common()),
            **self.facts,
            "violations": accounts.violations,
            "more_violations": accounts.more_violations,
        }


def play(options: Options, folder: Path, report: Report) -> Verdict:
    """Play a run in an empty folder."""
    cli = CommandLine(folder)
    verdict = Verdict(options)
    queues = Queues(folder / "data" / "broker.db")
    with cli.running("ingress", "--port", "0", environ=_SETTINGS) as ingress:
        _attack(verdict, ingress, report)
        _look_into(verdict, queues)
        _stop(verdict, ingress, "ingress")
    quiet = {"PIPELINE_LOG__LEVEL": "WARNING"}
    with cli.running("worker", "dedupe", environ=quiet) as worker:
        _consume(verdict, queues, worker, report)
        _stop(verdict, worker, "worker")
    return verdict


def _attack(verdict: Verdict, ingress: Running, report: Report) -> None:
    """Send everything, and watch the memory of the process meanwhile."""
    options, accounts = verdict.options, verdict.accounts
    parts = urlsplit(ingress.address())
    memory = Memory(ingress.process.pid)
    callers = Callers(
        (str(parts.hostname), int(parts.port or 0)),
        Attacks(options.seed),
        accounts,
        total=options.requests,
        seed=options.seed,
        warms_up=options.requests >= JUDGED_FROM,
    )

    async def watch() -> None:
        while True:
            memory.sample(accounts.sent)
            await asyncio.sleep(_SAMPLE_SECONDS)

    async def main() -> None:
        watching = asyncio.create_task(watch())
        try:
            await callers.run(
                options.connections,
                lambda sent: report("requests", sent, options.requests),
            )
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
        memory.sample(accounts.sent)

    began = time.monotonic()
    try:
        asyncio.run(main())
    except* OSError as group:
        accounts.violate(f"the ingress is gone: {group.exceptions}")
    verdict.facts["attack_seconds"] = round(time.monotonic() - began, 1)
    _judge_memory(verdict, memory)


def _judge_memory(verdict: Verdict, memory: Memory) -> None:
    early, late, growth = memory.growth()
    verdict.facts["memory_early_mib"] = round(early, 1)
    verdict.facts["memory_late_mib"] = round(late, 1)
    verdict.facts["memory_growth_percent"] = round(growth, 1)
    verdict.facts["memory_course_mib"] = memory.course()
    options = verdict.options
    if options.requests >= JUDGED_FROM and growth > options.growth:
        verdict.accounts.violate(
            f"memory grew by {growth:.1f} %, expected at most {options.growth:g} %"
        )


def _look_into(verdict: Verdict, queues: Queues) -> None:
    """Hold the queue against the answers."""
    found = queues.callbacks()
    verdict.facts["queued"] = found.total()
    verdict.facts |= verdict.accounts.compare(found)
    if stray := queues.count(UNROUTED_QUEUE):
        verdict.accounts.violate(f"{stray} callbacks were not routed")


def _consume(verdict: Verdict, queues: Queues, worker: Running, report: Report) -> None:
    """Wait until dedupe has taken everything, and look at what it gave up."""
    accounts, facts = verdict.accounts, verdict.facts
    total, began = facts["queued"], time.monotonic()
    left, changed_at = total, began
    while left:
        now = queues.count(DEDUPE_QUEUE)
        if now != left:
            left, changed_at = now, time.monotonic()
        report("callbacks in dedupe", total - left, total)
        if worker.process.poll() is not None:
            accounts.violate(f"the worker has ended: {worker.process.returncode}")
            break
        if time.monotonic() - changed_at > _STILL_SECONDS:
            accounts.violate(f"dedupe stands still at {left} callbacks")
            break
        time.sleep(_SAMPLE_SECONDS)
    facts["dedupe_seconds"] = round(time.monotonic() - began, 1)
    facts["left"] = left
    facts["dead_letters"] = dead = queues.count(DEAD_QUEUE)
    facts["done"] = total - left - dead
    facts["retried"] = queues.delayed()
    if facts["retried"]:
        accounts.violate(f"{facts['retried']} callbacks could not be handled")
    facts["reasons"] = reasons = dict(queues.reasons())
    for reason in reasons:
        if not reason.startswith(_REASONS):
            accounts.violate(f"dead letters for no good reason: {reason!r}")


def _stop(verdict: Verdict, running: Running, name: str) -> None:
    """Stop a process; it ends in order, and has logged no error of its own."""
    code = running.stop()
    if code != 0:
        errors = running.errors.read_text(encoding="utf-8")[-500:]
        verdict.accounts.violate(f"the {name} ended with {code}: {errors}")
    lines = 0
    with running.log.open(encoding="utf-8") as log:
        for line in log:
            lines += 1
            if '"level":"error"' in line or '"level": "error"' in line:
                verdict.accounts.violate(f"the {name} has logged: {line[:500]}")
    verdict.facts[f"{name}_log_lines"] = lines
