"""How memory is judged: medians of parts of the time, so that a peak is no growth."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.soak.memory import Growth, Sample, measure_growth

MIB = 1024 * 1024


def make_samples(kind: str, *sizes: int) -> list[Sample]:
    """Spread sizes evenly over the run."""
    return [
        Sample(kind=kind, at=number / (len(sizes) - 1), rss_bytes=size * MIB)
        for number, size in enumerate(sizes)
    ]


def test_growth_is_that_of_the_second_half() -> None:
    warm = [*range(40, 60)]
    flat = [60] * 20
    samples = make_samples("notify", *warm, *flat, 63, 63, 63, 63)

    (growth,) = measure_growth(samples)

    assert 40 * MIB <= growth.start_bytes <= 42 * MIB
    assert 60 * MIB == growth.middle_bytes
    assert 63 * MIB == growth.end_bytes
    assert pytest.approx(0.05) == growth.second_half


def test_a_short_peak_is_no_growth() -> None:
    samples = make_samples("dedupe", *[50] * 38, 90, 50)

    (growth,) = measure_growth(samples)

    assert 0 == growth.second_half


def test_kinds_are_measured_apart() -> None:
    samples = [*make_samples("b", *[50] * 20), *make_samples("a", *[60] * 20)]

    found = measure_growth(samples)

    assert ["a", "b"] == [growth.kind for growth in found]
    assert all(one.start_bytes > two.start_bytes for one, two in pairwise(found))


def test_without_a_middle_nothing_is_known_to_grow() -> None:
    growth = Growth(kind="notify", start_bytes=MIB, middle_bytes=0, end_bytes=MIB)

    assert 0 == growth.second_half
