"""One run: ingresses are attacked, then dedupe has to take what they took.

The first one asks for no proof of where callbacks come from; the others do.
"""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit
from urllib.request import urlopen

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
from tests.fuzz.forgeries import Forgeries
from tests.fuzz.guards import GUARDS, SECRETS
from tests.fuzz.memory import Memory

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.fuzz.guards import Guard

    #: Is told what is done, and how much of how much of it.
    Report = Callable[[str, int, int], None]

#: Below this a run is too short to say anything about memory.
JUDGED_FROM: Final = 50_000
#: With fewer, chance decides whether every kind of answer comes.
TOLD_FROM: Final = 1000
#: Name of the ingress that asks for no proof.
OPEN: Final = "open"
#: A machine that others keep busy is no fault of ours, neither when it is late with a
#: piece of a body nor with its disk. Who sends half a body leaves after a second.
_SETTINGS: Final = {
    "PIPELINE_INGRESS__BODY_TIMEOUT": "20s",
    "PIPELINE_INGRESS__PUBLISH_TIMEOUT": "30s",
}
#: What right and forged proofs are answered.
_TOLD: Final = (200, 401, 403)
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
            "as_expected": {str(k): n for k, n in sorted(accounts.as_expected.items())},
            **self.facts,
            "violations": accounts.violations,
            "more_violations": accounts.more_violations,
        }


def play(options: Options, folder: Path, report: Report) -> Verdict:
    """Play a run in an empty folder."""
    cli = CommandLine(folder)
    verdict = Verdict(options)
    queues = Queues(folder / "data" / "broker.db")
    for guard, requests in parts(options.requests):
        environ = _SETTINGS | (guard.environ if guard else {})
        with cli.running("ingress", "--port", "0", environ=environ) as ingress:
            _attack(verdict, guard, requests, ingress, report)
            _stop(verdict, ingress, "ingress")
    _look_into(verdict, queues)
    with cli.running("worker", "dedupe") as worker:
        _consume(verdict, queues, worker, report)
        _stop(verdict, worker, "worker")
    return verdict


def parts(requests: int) -> list[tuple[Guard | None, int]]:
    """Divide requests among ingresses: most are for the one that asks for no proof."""
    guarded = [(guard, int(requests * guard.share)) for guard in GUARDS]
    rest = requests - sum(count for _, count in guarded)
    return [(None, rest), *((guard, count) for guard, count in guarded if count)]


def _attack(
    verdict: Verdict,
    guard: Guard | None,
    requests: int,
    ingress: Running,
    report: Report,
) -> None:
    """Send so many, and watch the memory of the process meanwhile."""
    options, accounts = verdict.options, verdict.accounts
    address = urlsplit(ingress.address())
    memory = Memory(ingress.process.pid)
    before, began = accounts.sent, time.monotonic()
    callers = Callers(
        (str(address.hostname), int(address.port or 0)),
        Forgeries(options.seed, guard) if guard else Attacks(options.seed),
        accounts,
        total=before + requests,
        seed=options.seed,
        warms_up=requests >= JUDGED_FROM,
    )

    async def watch() -> None:
        while True:
            memory.sample(accounts.sent - before)
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
        memory.sample(accounts.sent - before)

    try:
        asyncio.run(main())
    except* OSError as group:
        accounts.violate(f"the ingress is gone: {group.exceptions}")
    name = guard.name if guard else OPEN
    verdict.facts.setdefault("ingresses", {})[name] = {
        "requests": accounts.sent - before,
        "seconds": round(time.monotonic() - began, 1),
        "refusals": _refusals(ingress),
        **_judge_memory(verdict, name, memory, requests),
    }


def _refusals(ingress: Running) -> dict[str, int]:
    """Ask an ingress how often it found which fault with a proof."""
    metric = re.compile(r'pipeline_refusals_total\{cause="(\w+)"\} ([0-9.]+)')
    try:
        with urlopen(f"{ingress.address()}/metrics", timeout=30) as answer:
            written = answer.read().decode()
    except OSError:
        return {}  # it has gone, which is known by now
    return {cause: int(float(count)) for cause, count in metric.findall(written)}


def _judge_memory(
    verdict: Verdict, name: str, memory: Memory, requests: int
) -> dict[str, Any]:
    early, late, growth = memory.growth()
    most = verdict.options.growth
    if requests >= JUDGED_FROM and growth > most:
        verdict.accounts.violate(
            f"memory of the ingress ({name}) grew by {growth:.1f} %,"
            f" expected at most {most:g} %"
        )
    return {
        "memory_early_mib": round(early, 1),
        "memory_late_mib": round(late, 1),
        "memory_growth_percent": round(growth, 1),
        "memory_course_mib": memory.course(),
        "memory_is_judged": requests >= JUDGED_FROM,
    }


def _look_into(verdict: Verdict, queues: Queues) -> None:
    """Hold the queue against the answers."""
    found = queues.callbacks()
    verdict.facts["queued"] = found.total()
    verdict.facts |= verdict.accounts.compare(found)
    expected = verdict.accounts.as_expected
    for status in _TOLD if verdict.options.requests >= TOLD_FROM else ():
        if not expected[status]:
            verdict.accounts.violate(f"nothing was to be answered {status}, and was")
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
    """Stop a process; it ends in order, and has logged no error and no secret."""
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
            if any(secret in line for secret in SECRETS):
                verdict.accounts.violate(f"a secret is in the log: {line[:500]}")
    counted = verdict.facts.get(f"{name}_log_lines", 0)
    verdict.facts[f"{name}_log_lines"] = counted + lines
