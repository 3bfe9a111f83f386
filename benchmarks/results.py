"""What benchmarks find, beside peers and targets, and how it is shown."""

from __future__ import annotations

import json
import statistics
import sys
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Mapping, Sequence

S = TypeVar("S")
NOTHING: Final[Mapping[str, str]] = MappingProxyType({})

HOW_TO_READ: Final = (
    "Figures are medians over the rounds; rounds of all cases are interleaved."
    " The ratio is\nours divided by the peer's, and the target is for the ratio;"
    " without a peer it is for the\nfigure itself. Ratios carry over to other"
    " machines, figures do not. A target that is\nmissed on a machine that is busy"
    " with other work says little: look at the spread."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is wanted of a ratio, or of a figure that has no peer."""

    at_least: float | None = None
    at_most: float | None = None

    def is_met(self, value: float) -> bool:
        """Tell whether a value is within both bounds."""
        return (self.at_least is None or value >= self.at_least) and (
            self.at_most is None or value <= self.at_most
        )

    def __str__(self) -> str:
        bounds = ((">=", self.at_least), ("<=", self.at_most))
        return ", ".join(f"{sign} {b:g}" for sign, b in bounds if b is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One figure of ours beside that of a peer."""

    benchmark: str
    figure: str
    ours: float | None
    peer: str = ""
    theirs: float | None = None
    target: Target | None = None
    #: Why there is no figure.
    problem: str = ""

    @property
    def value(self) -> float | None:
        """The ratio, or the figure itself where there is no peer."""
        if not self.peer or self.ours is None:
            return self.ours
        return self.ours / self.theirs if self.theirs else None

    @property
    def verdict(self) -> str:
        """``met``, ``MISSED``, ``failed``, ``left out``, or nothing without target."""
        if self.value is None:
            return self.problem.partition(":")[0] or "no figure"
        if self.target is None:
            return ""
        return "met" if self.target.is_met(self.value) else "MISSED"

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """Read what ``to_json`` gave."""
        names = ("benchmark", "figure", "ours", "peer", "theirs", "problem")
        target = document["target"] and Target(**document["target"])
        return cls(target=target, **{name: document[name] for name in names})

    def to_json(self) -> dict[str, Any]:
        """Give everything, for programs."""
        ratio = self.value if self.peer else None
        return asdict(self) | {"ratio": ratio, "verdict": self.verdict}


@dataclass(slots=True, kw_only=True)
class Results:
    """What one benchmark, or all of them, found."""

    comparisons: list[Comparison] = field(default_factory=list)
    #: What failed, with the reason; the other cases are not touched by it.
    failed: dict[str, str] = field(default_factory=dict)
    #: What cannot run on this machine, with the reason.
    left_out: dict[str, str] = field(default_factory=dict)
    #: Medians of every case, by benchmark and case.
    cases: dict[str, dict[str, float]] = field(default_factory=dict)

    def add(self, other: Results) -> None:
        """Take over what another benchmark found."""
        self.comparisons += other.comparisons
        self.failed |= other.failed
        self.left_out |= other.left_out
        self.cases |= other.cases

    def to_json(self) -> str:
        """Give everything, for programs."""
        document = {
            "comparisons": [c.to_json() for c in self.comparisons],
            "failed": self.failed,
            "left_out": self.left_out,
            "cases": self.cases,
        }
        return json.dumps(document, indent=2, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what ``to_json`` gave."""
        document = json.loads(text)
        comparisons = [Comparison.from_json(c) for c in document["comparisons"]]
        return cls(
            comparisons=comparisons,
            failed=document["failed"],
            left_out=document["left_out"],
            cases=document["cases"],
        )

    def summary(self) -> str:
        """Lay out the one table that says how ours stands."""
        header = ["benchmark", "figure", "ours", "peer", "peer's", "ratio", "target"]
        rows = [
            [
                c.benchmark,
                c.figure,
                number(c.ours),
                c.peer or "-",
                number(c.theirs),
                number(c.value if c.peer else None),
                str(c.target or "-"),
                c.verdict,
            ]
            for c in self.comparisons
        ]
        text = table([*header, "verdict"], rows)
        verdicts = [c.verdict for c in self.comparisons if c.target]
        met, missed = verdicts.count("met"), verdicts.count("MISSED")
        rest = len(verdicts) - met - missed
        lines = [text, "", f"Targets: {met} met, {missed} missed, {rest} not measured."]
        return "\n".join([*lines, *self.troubles(), "", HOW_TO_READ])

    def troubles(self) -> list[str]:
        """Say on a line each what has no figures, and why."""
        left_out = [f"Left out: {name}: {why}" for name, why in self.left_out.items()]
        return left_out + [
            f"FAILED: {name}: {why}" for name, why in self.failed.items()
        ]


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Let a benchmark be read by programs."""
    parser.add_argument(
        "--json",
        metavar="FILE",
        help="write the results there, as JSON; - is standard output, without tables",
    )


def finish(results: Results, tables: Sequence[str], json_to: str | None) -> None:
    """Show what one benchmark found; exit code 1 if a case has failed."""
    if json_to == "-":
        print(results.to_json())
    else:
        print("\n\n".join(tables), flush=True)
        if json_to:
            Path(json_to).write_text(results.to_json(), "utf-8")
        elif results.comparisons:
            print(f"\n{results.summary()}")
        else:
            print("\nNothing to compare: ours or every peer was not asked for.")
            print("\n".join(results.troubles()))
    if results.failed:
        sys.exit(1)


def interleave(
    names: Sequence[str],
    rounds: int,
    measure: Callable[[str, int], S],
    *,
    failed: dict[str, str],
    describe: Callable[[S], str],
) -> dict[str, list[S]]:
    """Measure each case in turn, round after round: A B C A B C.

    So a change in the machine's speed meets every case alike. Round 0 warms up and
    does not count. A case that fails is noted and left out from then on.
    """
    samples: dict[str, list[S]] = {name: [] for name in names}
    for number_of_round in range(rounds + 1):
        for name in [name for name in names if name not in failed]:
            try:
                sample = measure(name, number_of_round)
            except Exception as error:  # noqa: BLE001  the others go on, whatever it was
                traceback.print_exc()
                failed[name] = reason(error)
                del samples[name]
                continue
            if number_of_round:
                samples[name].append(sample)
            note = f"round {number_of_round} of {rounds}" if number_of_round else "warm"
            print(f"  {note:<14} {name:<20} {describe(sample)}", file=sys.stderr)
    return samples


def reason(error: BaseException) -> str:
    """Say on one line what went wrong."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def compare(
    benchmark: str,
    case: str,
    wanted: Iterable[tuple[str, str, str, Target | None]],
    medians: Mapping[str, Mapping[str, float]],
    *,
    failed: Mapping[str, str],
    left_out: Mapping[str, str] = NOTHING,
) -> list[Comparison]:
    """Set one case beside others: (peer, field, name of the figure, target) each.

    One that was neither measured, nor failed, nor was left out, was not asked for,
    and is not mentioned.
    """
    missing = {name: f"left out: {why}" for name, why in left_out.items()}
    missing |= {name: f"failed: {why}" for name, why in failed.items()}
    known = medians.keys() | missing.keys()
    found = []
    for peer, name, figure, target in wanted:
        if not {case, peer} <= known:
            continue
        problem = missing.get(case) or missing.get(peer) or ""
        found.append(
            Comparison(
                benchmark=benchmark,
                figure=figure,
                ours=medians.get(case, {}).get(name),
                peer=peer,
                theirs=medians.get(peer, {}).get(name),
                target=target,
                problem=problem,
            )
        )
    return found


def medians_of(samples: Iterable[object], names: Iterable[str]) -> dict[str, float]:
    """Give the median of each field over all rounds."""
    taken = list(samples)
    return {n: statistics.median(getattr(s, n) for s in taken) for n in names}


def number(value: float | None) -> str:
    """Write a figure with as many digits as mean something."""
    if value is None:
        return "-"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}" if abs(value) >= 0.1 else f"{value:.3g}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table for a terminal and for a note alike."""
    widths = [max(len(r[i]) for r in (header, *rows)) for i in range(len(header))]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
        for row in (header, ["-" * w for w in widths], *rows)
    ]
    return "\n".join(lines)
