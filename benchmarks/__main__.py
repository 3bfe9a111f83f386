"""Run every benchmark, one after the other: ``make bench``.

python -m benchmarks [--rounds N] [--quick]
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Final

from benchmarks.broker import broker_for_benchmarks
from tests.rabbitmq_node import ServerMissing

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


def main() -> None:
    """Start one RabbitMQ for all of them; exit code 1 if one has failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, metavar="N", help="default: each its own")
    parser.add_argument("--quick", action="store_true", help="little load, few rounds")
    options = parser.parse_args()
    _check_tools()
    try:
        with broker_for_benchmarks() as url:
            failed = [
                name
                for name, arguments in _runs(url, options.rounds, quick=options.quick)
                if not _succeeds(name, arguments)
            ]
    except ServerMissing as error:
        sys.exit(f"benchmarks: {error} (Debian: rabbitmq-server)")
    if failed:
        sys.exit(f"benchmarks: failed: {', '.join(failed)}")


def _runs(
    url: str, rounds: int | None, *, quick: bool
) -> Sequence[tuple[str, Sequence[str]]]:
    """List the benchmarks, each with the arguments that it knows."""
    broker = ["--broker-url", url]
    repeat = [] if rounds is None else ["--rounds", str(rounds)]
    few = repeat or ["--rounds", "2"]
    if quick:
        messages = ["--messages", "5000"]
        return (
            ("ingress", [*broker, *few, "--seconds", "1"]),
            ("workers", [*broker, *few, "--callbacks", "5000"]),
            ("replay", messages),
            ("replay", [*broker, *messages]),
            ("download", few),
        )
    return (
        ("ingress", [*broker, *repeat]),
        ("workers", [*broker, *repeat]),
        ("replay", []),
        ("replay", broker),
        ("download", repeat),
    )


def _succeeds(name: str, arguments: Sequence[str]) -> bool:
    print(f"\n== {name}\n", flush=True)
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    return subprocess.run(command, check=False).returncode == 0


def _check_tools() -> None:
    if not shutil.which("wrk"):
        sys.exit("benchmarks: expected wrk, got none; install it (Debian: wrk)")
    for program, package, purpose in OPTIONAL:
        if not shutil.which(program, path=SEARCH_PATH):
            note = f"no {program} (Debian: {package}): without {purpose}"
            print(f"benchmarks: {note}", file=sys.stderr)


if __name__ == "__main__":
    main()
