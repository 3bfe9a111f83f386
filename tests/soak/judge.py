"""What does not hold: of what is promised, and of the soak itself.

A run in which nothing was sent, broken, heard or measured proves nothing. So it
fails as well, and does not pass because there was nothing to find. Pure: it reads
values only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.soak.traffic import HEADROOM, LEAST_RATE
from tests.soak.world import PROCESSES, SUBSCRIBERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.soak.report import Result

#: What is promised.
RECOVERY_SECONDS: Final = 30.0
GROWTH: Final = 0.10
#: In less time than this a process that has just started may still grow.
LEAST_SECONDS: Final = 120.0
#: Memory is measured every second; after so many there is a figure of each kind.
MEASURED_SECONDS: Final = 10.0
#: What a right callback may be answered beside 200: nothing, that its body came too
#: slowly, and that it could not be stored.
EXCUSED: Final = frozenset({0, 408, 503})
#: Share of callbacks that the provider may give up while something is broken.
GIVEN_UP: Final = 0.01
#: The longest from one fault to the next: rest, fault, repair and recovery.
FAULT_SECONDS: Final = 240.0
#: Where time was up, not all was sent: of what the slowest pace brings, this share.
LEAST_SHARE: Final = 0.5


def failures_of(result: Result) -> Iterator[str]:
    """Give what does not hold, in words; nothing: all is well."""
    yield from _of_history(result)
    yield from _of_what_is_left(result)
    yield from _of_sending(result)
    yield from _of_answers(result)
    yield from (f"{name} ended {how}" for name, how in result.ends.items())
    yield from _of_faults(result)
    yield from _of_memory(result)
    for name, count in result.errors.items():
        yield f"{count} times {name} in the logs"


def _of_history(result: Result) -> Iterator[str]:
    verdict = result.verdict
    if verdict.lost_count:
        yield f"{verdict.lost_count} lost"
    if verdict.twice:
        yield f"{verdict.twice} effects seen twice"
    if verdict.invented:
        yield f"{verdict.invented} effects of what was never sent"
    if not verdict.is_balanced:
        yield "published is not acked + delayed + dead"
    for name in SUBSCRIBERS:
        if not verdict.effects.get(name):
            yield f"{name} was told of nothing"
    if not verdict.files_stored:
        yield "no file was stored"


def _of_what_is_left(result: Result) -> Iterator[str]:
    """Judge what has not come to its end, although nothing is broken any more.

    A dead letter excuses what is missing, so none may be left.
    """
    verdict = result.verdict
    dead_lettered = sum(result.dead_lettered.values())
    if result.replayed < dead_lettered:
        yield f"{result.replayed} of {dead_lettered} dead letters replayed"
    if left := sum(verdict.dead.values()):
        yield f"{left} dead letters left after the replay"
    waiting = sum(one.ready for one in verdict.balances) + verdict.delayed
    if waiting:
        yield f"{waiting} messages still on their way"


def _of_sending(result: Result) -> Iterator[str]:
    """Judge whether as much was accepted as the options ask for."""
    options, sending = result.options, result.sending_seconds
    least = options.callbacks
    if sending >= options.minutes * 60:
        pace = min(options.rate, LEAST_RATE) * HEADROOM * LEAST_SHARE
        least = min(least, max(1, int(pace * sending)))
    accepted = min(result.delivered, result.verdict.accepted)
    if accepted < least - result.given_up or not accepted:
        yield f"{accepted} callbacks accepted, expected at least {least}"


def _of_answers(result: Result) -> Iterator[str]:
    for status, count in sorted(result.refused.items()):
        if status not in EXCUSED:
            yield f"{count} answers of {status}"
    if result.given_up_in_calm:
        yield f"{result.given_up_in_calm} given up while nothing was broken"
    if result.given_up > GIVEN_UP * result.dispatched:
        share = f"expected at most {GIVEN_UP:.0%} of {result.dispatched}"
        yield f"{result.given_up} given up, {share}"


def _of_faults(result: Result) -> Iterator[str]:
    found = len(result.recoveries)
    least = max(1, int(result.sending_seconds / FAULT_SECONDS))
    if found < least:
        yield f"{found} faults, expected at least {least}"
    for kind, worst in result.worst_recoveries().items():
        if worst is None or worst > RECOVERY_SECONDS:
            took = "never" if worst is None else f"after {worst:.1f} s"
            yield f"{kind}: works again {took}"


def _of_memory(result: Result) -> Iterator[str]:
    if result.sending_seconds < MEASURED_SECONDS:
        return
    measured = {growth.kind: growth for growth in result.memory}
    is_long = result.sending_seconds >= LEAST_SECONDS
    for kind in PROCESSES:
        growth = measured.get(kind)
        if growth is None:
            yield f"memory of {kind} was not measured"
        elif not is_long:
            continue
        elif not (growth.middle_bytes and growth.end_bytes):
            yield f"memory of {kind} was not measured to the end"
        elif growth.second_half > GROWTH:
            yield f"memory of {kind} grew by {growth.second_half:.0%}"
