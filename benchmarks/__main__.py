"""Run every benchmark, one after the other: ``make bench``.

    python -m benchmarks                  everything
    python -m benchmarks --quick          little load, few rounds
    python -m benchmarks --json FILE      the results also as JSON; - for nothing else

Each prints a table of its own cases; at the end one table sets ours beside every
peer and every target. The exit code is 1 if a case has failed, whatever the others
did; a target that is missed is no failure.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.broker import broker_for_benchmarks
from benchmarks.results import Results, add_json_option
from tests.postgres_node import find_program
from tests.server_package import ServerMissing

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Programs, their Debian packages, and what is left out without them.
OPTIONAL: Final = (
    ("node", "nodejs", "the fastify peer of the ingress"),
    ("npm", "npm", "the fastify peer of the ingress"),
    ("nginx", "nginx-light", "nginx as the server of downloads; aiohttp serves"),
    ("curl", "curl", "the curl peer of downloads"),
)
#: Debian keeps servers where not everybody's PATH leads.
SEARCH_PATH: Final = f"{os.environ.get('PATH', '')}:/usr/sbin"
#: A benchmark is ended after so many times the time it is expected to take.
PATIENCE: Final = 4
#: How long one that is ended may take to stop its servers.
STOP_SECONDS: Final = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One benchmark with its arguments."""

    #: That of its module, and after a comma what it is run on.
    name: str
    arguments: tuple[str, ...]
    #: On a machine with two cores.
    expected_seconds: float

    @property
    def module(self) -> str:
        """Where it is."""
        return f"benchmarks.{self.name.partition(',')[0]}"


def main() -> None:
    """Start one RabbitMQ for all of them and print what they found."""
    options = _options()
    _check_tools()
    # Where standard output is for the JSON alone, all else is said beside it.
    output = sys.stderr if options.json == "-" else sys.stdout
    results = Results()
    started = time.monotonic()
    try:
        with ExitStack() as stack:
            url = stack.enter_context(broker_for_benchmarks())
            runs = _runs(url, options.rounds, quick=options.quick)
            total = sum(run.expected_seconds for run in runs)
            print(
                f"{len(runs)} benchmarks, about {_duration(total)} on two cores,"
                f" {_duration(total * PATIENCE)} at most.",
                file=output,
            )
            for number, run in enumerate(runs, 1):
                print(
                    f"\n== {number} of {len(runs)}: {run.name},"
                    f" about {_duration(run.expected_seconds)}\n",
                    file=output,
                    flush=True,
                )
                results.add(_found_by(run, output.fileno()))
    except ServerMissing as error:
        sys.exit(f"benchmarks: {error} (Debian: rabbitmq-server)")
    took = _duration(time.monotonic() - started)
    print(f"\n== Ours beside its peers ({took})\n", file=output)
    print(results.summary(), file=output, flush=True)
    if options.json == "-":
        print(results.to_json())
    elif options.json:
        Path(options.json).write_text(results.to_json(), "utf-8")
    if results.failed:
        sys.exit(1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="default: each its own")
    parser.add_argument("--quick", action="store_true", help="little load, few rounds")
    add_json_option(parser)
    options = parser.parse_args()
    if options.rounds is not None and options.rounds < 1:
        parser.error(f"expected at least one round, got {options.rounds}")
    return options


def _runs(url: str, rounds: int | None, *, quick: bool) -> Sequence[Run]:
    """List the benchmarks, each with arguments that it knows."""
    broker = ("--broker-url", url)
    repeat = rounds or (2 if quick else 5)
    again = ("--rounds", str(repeat))
    seconds, callbacks, letters = (1, 5_000, 5_000) if quick else (4, 20_000, 100_000)
    return (
        Run(
            name="ingress",
            arguments=(*broker, *again, "--seconds", str(seconds)),
            # Seven cases, a warm-up for each, npm.
            expected_seconds=25 + 7 * (2.5 + repeat * (seconds + 0.5)),
        ),
        Run(
            name="publish",
            arguments=(*broker, *again, "--messages", str(callbacks)),
            expected_seconds=5 + repeat * callbacks / 2500,
        ),
        Run(
            name="workers",
            arguments=(*broker, *again, "--callbacks", str(callbacks)),
            expected_seconds=20 + repeat * callbacks / 750,
        ),
        Run(
            name="normalise",
            arguments=(*again, "--bodies", str(callbacks)),
            expected_seconds=5 + (repeat + 1) * callbacks / 7000,
        ),
        *_on_postgres(broker, again, callbacks, repeat, quick=quick),
        Run(
            name="spool",
            arguments=(*again, "--seconds", str(seconds)),
            # A stop and a start of the broker in each round, and what has to drain.
            expected_seconds=25 + (repeat + 1) * (20 + 5 * seconds),
        ),
        *_replays(broker, letters),
        _poller(again, repeat, 5 * seconds),
        Run(
            name="download",
            arguments=again,
            expected_seconds=15 + (repeat + 1) * 12,
        ),
    )


def _poller(again: tuple[str, str], repeat: int, seconds: int) -> Run:
    """Give the poller on every ledger, after a hundred thousand tasks went in."""
    return Run(
        name="poller",
        arguments=(*again, "--seconds", str(seconds)),
        expected_seconds=40 + 2 * (repeat + 1) * (seconds + 5),
    )


def _replays(broker: tuple[str, str], letters: int) -> Sequence[Run]:
    """List the replays of so many dead letters, on both brokers."""
    many = ("--messages", str(letters))
    return (
        Run(
            name="replay, embedded",
            arguments=many,
            expected_seconds=15 + letters / 3000,
        ),
        Run(
            name="replay, RabbitMQ",
            arguments=(*broker, *many),
            expected_seconds=15 + letters / 1500,
        ),
    )


def _on_postgres(
    broker: tuple[str, str],
    again: tuple[str, str],
    callbacks: int,
    repeat: int,
    *,
    quick: bool,
) -> Sequence[Run]:
    """List what cannot be run without PostgreSQL, if there is one."""
    rows = 1_000_000 if quick else 10_000_000
    try:
        find_program("initdb")
    except ServerMissing:
        if "PIPELINE_TEST_POSTGRES_URL" not in os.environ:
            return ()
    run = Run(
        name="ledger",
        arguments=(*broker, *again, "--callbacks", str(callbacks), "--rows", str(rows)),
        expected_seconds=20 + rows / 25_000 + (repeat + 5) * callbacks / 1000,
    )
    return (run,)


def _found_by(run: Run, output: int) -> Results:
    """Run one benchmark in a process of its own; what becomes of it is a result."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        found = Path(folder) / "results.json"
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", run.module),
                *run.arguments,
                *("--json", str(found)),
            ],
            stdout=output,
        )
        try:
            code = process.wait(run.expected_seconds * PATIENCE)
        except subprocess.TimeoutExpired:
            _stop(process)
            limit = _duration(run.expected_seconds * PATIENCE)
            return Results(failed={run.name: f"was ended after {limit}"})
        except BaseException:
            _stop(process)
            raise
        if not found.exists():
            return Results(failed={run.name: f"ended with {code}, see above"})
        return _named(run.name, Results.from_json(found.read_text("utf-8")))


def _named(name: str, results: Results) -> Results:
    """Say of each case which benchmark it belongs to."""
    return Results(
        comparisons=results.comparisons,
        failed={f"{name}: {case}": why for case, why in results.failed.items()},
        left_out={f"{name}: {case}": why for case, why in results.left_out.items()},
        cases={f"{name}: {case}": found for case, found in results.cases.items()},
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a benchmark as Ctrl-C does, so that it stops its servers."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _check_tools() -> None:
    if not shutil.which("wrk"):
        sys.exit("benchmarks: expected wrk, got none; install it (Debian: wrk)")
    for program, package, purpose in OPTIONAL:
        if not shutil.which(program, path=SEARCH_PATH):
            note = f"no {program} (Debian: {package}): without {purpose}"
            print(f"benchmarks: {note}", file=sys.stderr)


if __name__ == "__main__":
    main()
