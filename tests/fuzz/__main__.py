"""Attack an ingress with hostile requests, and judge it: ``make fuzz``.

    python -m tests.fuzz                      200,000 requests
    python -m tests.fuzz --requests 5000      a short run
    python -m tests.fuzz --json               the verdict for programs

Real processes on the embedded broker, on the loopback address: one ingress that asks
for no proof of where callbacks come from, and others that ask for a token, a signature
of each kind, and a caller behind trusted proxies. The same seed gives the same
requests, but for the time they are signed at. Exit code 1 if any promise was broken:
an answer of 5xx or one that the contract does not know, a forged proof that is not
refused or a right one that is, a secret in the log, a process that ended, memory that
grows, an accepted callback that is not in the queue byte for byte, one there that was
not accepted, one that dedupe cannot handle.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.fuzz.play import Options, Verdict, play

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

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
        "time in dedupe": f"{found['dedupe_seconds']} s",
    }
    width = max(map(len, facts))
    lines = [f"{name:<{width}}  {value}" for name, value in facts.items()]
    lines += ["", *_ingresses(found["ingresses"])]
    proofs = ", ".join(f"{n:,} of {k}" for k, n in found["as_expected"].items())
    lines += ["", f"answers that had to be just that: {proofs or 'none'}"]
    lines += ["", "answers"]
    lines += [f"  {count:>9,}  {name}" for name, count in found["answers"].items()]
    if found["violations"]:
        number = len(found["violations"]) + found["more_violations"]
        lines += ["", f"violations: {number}"]
        lines += [f"  {text}" for text in found["violations"]]
    lines += ["", "verdict: " + ("good" if found["ok"] else "BROKEN PROMISES")]
    sys.stdout.write("\n".join(lines) + "\n")


def _ingresses(found: Mapping[str, Any]) -> Iterator[str]:
    head = f"{'ingress':<16}{'requests':>9}{'time':>8}"
    yield f"{head}  memory after warming up, at the end"
    for name, facts in found.items():
        early, late = facts["memory_early_mib"], facts["memory_late_mib"]
        growth = f"{facts['memory_growth_percent']:+} %"
        if not facts["memory_is_judged"]:
            growth += ", too few requests to judge"
        figures = f"{facts['requests']:>9,}{facts['seconds']:>6} s"
        yield f"{name:<16}{figures}  {early} MiB, {late} MiB ({growth})"


if __name__ == "__main__":
    sys.exit(main())
