"""What a soak is asked for."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, cast

from tests.soak.faults import names_for

if TYPE_CHECKING:
    from collections.abc import Sequence

#: More than there is time for.
SHORT_CALLBACKS: Final = 30_000
SHORT_MINUTES: Final = 2.5
SHORT_SEED: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SoakOptions:
    """How long, with what, and which chance."""

    #: The most callbacks, repeats included.
    callbacks: int = 100_000
    #: The longest to send them, in real minutes.
    minutes: float = 240.0
    seed: int = 1
    broker: Literal["rabbitmq", "embedded"] = "rabbitmq"
    ledger: Literal["postgres", "sqlite"] = "postgres"
    #: The most callbacks in a second.
    rate: float = 200.0
    #: Only faults whose names have one of these words; empty: all there are.
    only: tuple[str, ...] = ()
    #: Shorter faults, one after the other without much rest.
    is_short: bool = False
    as_json: bool = False
    #: Keep the folder with logs and data.
    keep: bool = False


def parse(arguments: Sequence[str] | None = None) -> SoakOptions:
    """Read the command line; a wrong one ends the process with 2."""
    parser = _parser()
    given = parser.parse_args(arguments)
    callbacks, minutes, seed = given.callbacks, given.minutes, given.seed
    for name in ("callbacks", "minutes", "rate"):
        number = getattr(given, name)
        if number is not None and number <= 0:
            parser.error(f"--{name}: expected more than 0, got {number:g}")
    if given.short:
        callbacks = callbacks or SHORT_CALLBACKS
        minutes = minutes or SHORT_MINUTES
        seed = SHORT_SEED if seed is None else seed
    defaults = SoakOptions()
    options = SoakOptions(
        callbacks=callbacks or defaults.callbacks,
        minutes=minutes or defaults.minutes,
        seed=defaults.seed if seed is None else seed,
        broker=cast("Literal['rabbitmq', 'embedded']", given.broker),
        ledger=cast("Literal['postgres', 'sqlite']", given.ledger),
        rate=given.rate,
        only=tuple(given.only),
        is_short=given.short,
        as_json=given.json,
        keep=given.keep,
    )
    if not names_for(options):
        words = ", ".join(options.only)
        parser.error(f"--only: expected words of faults that there are, got {words}")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak",
        description="Random faults under simulated traffic, and what came of it.",
    )
    add = parser.add_argument
    add("--callbacks", type=int, help="the most callbacks to send [100000]")
    add("--minutes", type=float, help="the longest to send them [240]")
    add("--seed", type=int, help="chooses callbacks and faults [1]")
    add("--broker", choices=("rabbitmq", "embedded"), default="rabbitmq")
    add("--ledger", choices=("postgres", "sqlite"), default="postgres")
    add("--rate", type=float, default=200.0, help="callbacks in a second at most [200]")
    add("--only", nargs="+", default=[], metavar="WORD", help="only such faults")
    add("--short", action="store_true", help="about 3 minutes, a fixed seed")
    add("--json", action="store_true", help="print the verdict as JSON")
    add("--keep", action="store_true", help="keep the folder with logs and data")
    return parser
