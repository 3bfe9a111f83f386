"""Run every benchmark, one after the other: ``make bench``."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.broker import broker_for_benchmarks


def main() -> None:
    """Start one RabbitMQ for all of them; pass further arguments to each by hand."""
    with broker_for_benchmarks() as url:
        on_broker = ["--broker-url", url]
        for name, arguments in (
            ("ingress", on_broker),
            ("workers", on_broker),
            ("replay", on_broker),
            ("download", []),
        ):
            print(f"\n== {name}\n", flush=True)
            command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
            subprocess.run(command, check=False)


if __name__ == "__main__":
    main()
