"""Metrics of one loop say what the library's would."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from pipeline import loop_metrics
from pipeline.loop_metrics import LoopCounter, LoopHistogram

if TYPE_CHECKING:
    from collections.abc import Sequence

BUCKETS = (0.001, 0.5, 1, 10)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> CollectorRegistry:
    """Where ours are registered, instead of where all are."""
    made = CollectorRegistry()
    monkeypatch.setattr(loop_metrics, "REGISTRY", made)
    return made


def told(registry: CollectorRegistry) -> list[str]:
    """What Prometheus gets to see, but for when counting began."""
    lines = generate_latest(registry).decode().splitlines()
    return sorted(line for line in lines if "_created" not in line)


@pytest.mark.parametrize(
    "counted",
    [
        [],
        [("wav", "200")],
        [("wav", "200"), ("midi", "200"), ("wav", "401"), ("wav", "200")],
        [('odd "quoted" \\ name', "200\n")],
    ],
)
def test_counter_says_what_the_librarys_says(
    registry: CollectorRegistry, counted: Sequence[tuple[str, str]]
) -> None:
    """The same lines for the same counts."""
    other = CollectorRegistry()
    theirs = Counter("a_total", "What it is.", ("kind", "status"), registry=other)
    ours = LoopCounter("a_total", "What it is.", ("kind", "status"))

    for labels in counted:
        theirs.labels(*labels).inc()
        ours.inc(*labels)

    assert told(other) == told(registry)


def test_counter_shows_what_is_still_zero(registry: CollectorRegistry) -> None:
    """A rate over labels that appear with their first count misses that count."""
    ours = LoopCounter("a_total", "What it is.", ("kind",))
    ours.show("wav")
    ours.inc("midi")
    ours.show("midi")

    lines = told(registry)

    assert 'a_total{kind="wav"} 0.0' in lines
    assert 'a_total{kind="midi"} 1.0' in lines


@pytest.mark.parametrize(
    "amounts",
    [[], [0.001], [0.0010001], [10, 10.5, 0, 0.7, 0.7, 3600]],
    ids=["nothing", "at a bound", "over a bound", "many"],
)
def test_histogram_says_what_the_librarys_says(
    registry: CollectorRegistry, amounts: Sequence[float]
) -> None:
    """Bounds belong to the bucket below them, and the last one has none."""
    other = CollectorRegistry()
    theirs = Histogram("a_seconds", "What it is.", buckets=BUCKETS, registry=other)
    ours = LoopHistogram("a_seconds", "What it is.", BUCKETS)

    for amount in amounts:
        theirs.observe(amount)
        ours.observe(amount)

    assert told(other) == told(registry)
