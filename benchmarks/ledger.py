"""The dedupe worker on a ledger in PostgreSQL, by how much there is in it already.

    python -m benchmarks.ledger --rows 10000000

The same worker and callbacks as in ``benchmarks.workers``, once on a ledger with
10,000 rows and once on one with as many as are asked for, in the same server; rounds
are interleaved. The warm-up is five times as long as a round: until every page of the
indexes has been written once, the server logs whole pages. To fill the large one takes
minutes, and some 500 bytes a row.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from contextlib import ExitStack
from statistics import median
from typing import Final

import uvloop

from benchmarks.broker import broker_for_benchmarks
from benchmarks.postgres import make_ledger, postgres_for_benchmarks
from benchmarks.results import (
    Results,
    Target,
    add_json_option,
    compare,
    finish,
    interleave,
    medians_of,
    number,
    table,
)
from benchmarks.workers import ROUND_SECONDS, Round, dedupe, logs_to_nowhere
from tests.postgres_node import drop_schema

FEW_ROWS: Final = 10_000
WARM_UP_ROUNDS: Final = 5
SMALL: Final = "small"
LARGE: Final = "large"
#: Whatever is asked for is found by an index, so size should hardly matter.
WANTED: Final = (
    (SMALL, "rate", "callbacks/s", Target(at_least=0.9)),
    (SMALL, "cpu_per_1000", "CPU s per 1000", None),
)


def main() -> None:
    """Fill, measure both and print the tables."""
    options = _options()
    results = Results()
    with ExitStack() as stack:
        stack.enter_context(logs_to_nowhere())
        url = options.broker_url or stack.enter_context(broker_for_benchmarks())
        postgres = stack.enter_context(postgres_for_benchmarks())
        places = {
            SMALL: asyncio.run(make_ledger(postgres, FEW_ROWS)),
            LARGE: asyncio.run(make_ledger(postgres, options.rows)),
        }
        for place in places.values():
            stack.callback(_drop, place)

        def measure(name: str, number_of_round: int) -> Round:
            case = dedupe(
                url,
                options.callbacks * (1 if number_of_round else WARM_UP_ROUNDS),
                ledger_url=places[name],
                # New tasks in every round: what is known already costs less.
                seed=time.time_ns(),
            )
            seconds = ROUND_SECONDS * WARM_UP_ROUNDS
            return uvloop.run(asyncio.wait_for(case, seconds))

        rounds = interleave(
            list(places),
            options.rounds,
            measure,
            failed=results.failed,
            describe=lambda found: f"{found.rate:.0f}/s",
        )
    results.cases = {
        name: medians_of(found, ("rate", "cpu_per_1000"))
        for name, found in rounds.items()
    }
    results.comparisons += compare(
        "ledger, PostgreSQL", LARGE, WANTED, results.cases, failed=results.failed
    )
    finish(results, [_table(rounds, options)], options.json)


def _drop(place: str) -> None:
    asyncio.run(drop_schema(place))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--broker-url", help="default: a private RabbitMQ")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--callbacks", type=int, default=20_000)
    parser.add_argument("--rows", type=int, default=10_000_000)
    add_json_option(parser)
    return parser.parse_args()


def _table(rounds: dict[str, list[Round]], options: argparse.Namespace) -> str:
    rows = [
        [
            name,
            f"{count:,}",
            number(median(found.rate for found in rounds[name])),
            "-".join(f"{end(r.rate for r in rounds[name]):.0f}" for end in (min, max)),
            number(median(found.cpu_per_1000 for found in rounds[name])),
        ]
        for name, count in ((SMALL, FEW_ROWS), (LARGE, options.rows))
        if rounds.get(name)
    ]
    title = (
        f"Ledger in PostgreSQL: {options.callbacks:,} callbacks from a quorum queue,"
        f" rounds: {options.rounds}. Each round adds its own to what there is.\n\n"
    )
    header = ["case", "rows before", "callbacks/s", "min-max", "CPU s/1000"]
    return title + table(header, rows)


if __name__ == "__main__":
    main()
