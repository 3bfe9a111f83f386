"""What a soak ends with: the verdict for people, and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tests.soak.judge import LEAST_SECONDS, failures_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tests.soak.history import Verdict
    from tests.soak.memory import Growth
    from tests.soak.options import SoakOptions

_MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """One fault, and how long it took until everything worked again."""

    fault: str
    #: Which processes, how.
    detail: str
    #: How long it lasted.
    lasted_seconds: float
    #: ``None``: longer than anybody waited.
    seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """All that a soak has found."""

    options: SoakOptions
    seconds: float
    #: How long callbacks were sent.
    sending_seconds: float
    verdict: Verdict
    recoveries: Sequence[Recovery]
    memory: Sequence[Growth]
    #: Callbacks of the plan that were sent, and those of them that were accepted.
    dispatched: int
    delivered: int
    #: Requests that got no 200, by status; 0: there was no answer.
    refused: Mapping[int, int]
    #: Callbacks that never got one, those of faults and probes included; and how many
    #: of them while nothing was broken.
    given_up: int
    given_up_in_calm: int
    slowest_seconds: float
    #: Dead letters before the replay, by queue and reason, and how many replayed.
    dead_lettered: Mapping[tuple[str, str], int] = field(default_factory=dict)
    replayed: int = 0
    #: Processes that ended by themselves, or not in order when asked to.
    ends: Mapping[str, str] = field(default_factory=dict)
    #: Programs that wanted a processor at the same time, for each that there is, on
    #: average; and how late the soak itself was at the most.
    load: float = 0.0
    latest_seconds: float = 0.0
    #: Errors in the program, as its log names them.
    errors: Mapping[str, int] = field(default_factory=dict)

    @property
    def failures(self) -> list[str]:
        """What does not hold of what was promised; empty: all is well."""
        return list(failures_of(self))

    def worst_recoveries(self) -> dict[str, float | None]:
        """Give the longest recovery of each kind of fault."""
        worst: dict[str, float | None] = {}
        for one in self.recoveries:
            known = worst.get(one.fault, 0.0)
            missing = known is None or one.seconds is None
            worst[one.fault] = None if missing else max(known or 0, one.seconds or 0)
        return dict(sorted(worst.items()))

    def as_dict(self) -> dict[str, Any]:
        """Give everything, for JSON."""
        found = asdict(self)
        verdict = self.verdict
        for place, counts in (
            (found["verdict"], verdict.dead),
            (found, self.dead_lettered),
        ):
            name = "dead" if place is not found else "dead_lettered"
            place[name] = [
                {"queue": queue, "reason": reason, "count": count}
                for (queue, reason), count in counts.items()
            ]
        found["refused"] = {str(k): v for k, v in self.refused.items()}
        found["verdict"]["lost_count"] = verdict.lost_count
        found["worst_recoveries"] = self.worst_recoveries()
        found["failures"] = self.failures
        return found


def render(result: Result) -> str:
    """Write the verdict for people."""
    return "\n".join(_lines(result)) + "\n"


def _lines(result: Result) -> Iterator[str]:
    verdict, options = result.verdict, result.options
    yield (
        f"soak: {options.broker} and {options.ledger}, seed {options.seed},"
        f" {result.seconds / 60:.1f} min, {len(result.recoveries)} faults"
    )
    yield (
        f"this machine: {result.load:.1f} programs for each processor, the soak late by"
        f" {result.latest_seconds:.1f} s at the most"
    )
    yield ""
    yield f"sent and accepted     {result.dispatched}, {result.delivered}"
    yield f"accepted (200)        {verdict.accepted}, {verdict.distinct} different"
    yield f"other answers         {_refused(result)}, given up {result.given_up}"
    yield f"slowest 200           {result.slowest_seconds:.2f} s"
    for name, count in verdict.effects.items():
        repeats = verdict.repeats[name]
        yield f"effects at {name:<10} {count}, raw repeats {repeats}"
    yield f"files stored          {verdict.files_stored}"
    yield f"lost                  {verdict.lost_count}"
    yield f"seen twice            {verdict.twice}"
    yield f"never sent            {verdict.invented}"
    yield from _dead(result)
    yield from _balances(verdict)
    yield from _recoveries(result)
    yield from _memory(result)
    if result.ends:
        yield ""
        yield from (f"ended: {name}: {how}" for name, how in result.ends.items())
    yield ""
    yield from (f"  {example}" for example in verdict.examples)
    failures = result.failures
    yield f"FAILED: {'; '.join(failures)}" if failures else "passed"


def _refused(result: Result) -> str:
    found = (
        f"{count} {'none' if status == 0 else status}"
        for status, count in sorted(result.refused.items())
    )
    return ", ".join(found) or "0"


def _dead(result: Result) -> Iterator[str]:
    count = sum(result.dead_lettered.values())
    left = sum(result.verdict.dead.values())
    yield f"dead-lettered         {count}, replayed {result.replayed}, left {left}"
    for (queue, reason), number in result.dead_lettered.items():
        yield f"  {queue}: {reason}: {number}"


def _balances(verdict: Verdict) -> Iterator[str]:
    yield ""
    yield f"{'queue':<18}{'published':>10}{'acked':>10}{'dead':>8}{'ready':>8}"
    for one in verdict.balances:
        figures = f"{one.published:>10}{one.acked:>10}{one.dead:>8}{one.ready:>8}"
        yield f"{one.queue:<18}{figures}"
    right = "adds up" if verdict.is_balanced else "does NOT add up"
    yield f"delayed {verdict.delayed}: {right}"


def _recoveries(result: Result) -> Iterator[str]:
    yield ""
    yield f"{'fault':<36}{'times':>6}{'longest recovery':>18}"
    for kind, worst in result.worst_recoveries().items():
        times = sum(one.fault == kind for one in result.recoveries)
        took = "never" if worst is None else f"{worst:.1f} s"
        yield f"{kind:<36}{times:>6}{took:>18}"


def _memory(result: Result) -> Iterator[str]:
    yield ""
    yield f"{'memory (MiB)':<14}{'start':>8}{'middle':>8}{'end':>8}{'second half':>13}"
    for one in result.memory:
        sizes = "".join(
            f"{size / _MIB:>8.1f}"
            for size in (one.start_bytes, one.middle_bytes, one.end_bytes)
        )
        yield f"{one.kind:<14}{sizes}{one.second_half:>+13.1%}"
    if result.sending_seconds < LEAST_SECONDS:
        yield "(too short to tell whether it grows)"
