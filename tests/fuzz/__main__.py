"""Attack an ingress with hostile requests, and judge it: ``make fuzz``.

    python -m tests.fuzz                      200,000 requests
    python -m tests.fuzz --requests 5000      a short run
    python -m tests.fuzz --json               the verdict for programs

A real process on the embedded broker, on the loopback address. The same seed gives
the same requests. Exit code 1 if any promise was broken: an answer of 5xx or one that
the contract does not know, a process that ended, memory that grows, an accepted
callback that is not in the queue byte for byte, one there that was not accepted, one
that dedupe cannot handle.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.fuzz.play import JUDGED_FROM, Options, Verdict, play

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fuzz.play import Report

REQUESTS: Final = 200_000
#: More would fill a disk and an afternoon.
MOST_REQUESTS: Final = 2_000_000


def main() -> int:
    """Play a run and print the verdict; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--requests", type=int, default=REQUESTS, metavar="N")
    parser.add_argument("--connections", type=int, default=8, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    parser.add_argument(
        "--growth", type=float, default=10.0, help="of memory, in per cent"
    )
    parser.add_argument("--json", action="store_true", help="the verdict as JSON")
    given = parser.parse_args()
    if not 1 <= given.requests <= MOST_REQUESTS:
        parser.error(f"expected 1 to {MOST_REQUESTS:,} requests, got {given.requests}")
    if not 1 <= given.connections <= 100:
        parser.error(f"expected 1 to 100 connections, got {given.connections}")
    options = Options(
        requests=given.requests,
        connections=given.connections,
        seed=given.seed,
        growth=given.growth,
    )
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, progress() as report:
        verdict = play(options, Path(folder), report)
    show(verdict, as_json=given.json)
    return 0 if verdict.is_good else 1


@contextmanager
def progress() -> Iterator[Report]:
    """Show bars on a terminal, on standard error; elsewhere nothing."""
    if not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.console import Console  # noqa: PLC0415  not needed without a terminal
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(console=Console(stderr=True), transient=True) as bars:
        lines = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in lines:
                lines[what] = bars.add_task(what, total=total)
            bars.update(lines[what], completed=done, total=total)

        yield report


def show(verdict: Verdict, *, as_json: bool) -> None:
    """Print the verdict."""
    found = verdict.as_json()
    if as_json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return
    facts = {
        "sent": f"{found['sent']:,} (seed {found['seed']})",
        "accepted": f"{found['accepted']:,}",
        "sent again": f"{found['resent']:,}",
        "not answered": f"{found['unanswered']:,}",
        "in the queue": f"{found['queued']:,}",
        "missing there": f"{found['missing']:,}",
        "not accepted, but there": f"{found['surplus']:,}",
        "done by dedupe": f"{found['done']:,}",
        "dead letters": f"{found['dead_letters']:,}",
        "memory after warming up": f"{found['memory_early_mib']} MiB",
        "memory at the end": (
            f"{found['memory_late_mib']} MiB ({found['memory_growth_percent']:+} %"
            + (")" if found["sent"] >= JUDGED_FROM else ", too short a run to judge)")
        ),
        "time": f"{found['attack_seconds']} s + {found['dedupe_seconds']} s in dedupe",
    }
    width = max(map(len, facts))
    lines = [f"{name:<{width}}  {value}" for name, value in facts.items()]
    lines += ["", "answers"]
    lines += [f"  {count:>9,}  {name}" for name, count in found["answers"].items()]
    if found["violations"]:
        number = len(found["violations"]) + found["more_violations"]
        lines += ["", f"violations: {number}"]
        lines += [f"  {text}" for text in found["violations"]]
    lines += ["", "verdict: " + ("good" if found["ok"] else "BROKEN PROMISES")]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
