"""Metrics that are counted in one loop only, for a third of what the library takes.

Shown by the library like all others: they are collectors of its registry.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class LoopCounter(Collector):
    """A counter for the thread of the loop, and for that alone.

    The library's counts from any thread, for which it takes a lock and four calls
    each time. The ingress counts every callback, and only ever in its loop.

    Args:
        name: of the metric.
        documentation: what it says.
        labels: names of what it is counted by.
    """

    def __init__(self, name: str, documentation: str, labels: Sequence[str]) -> None:
        self._name = name
        self._documentation = documentation
        #: Names of what it is counted by.
        self.labels = tuple(labels)
        self._counts: dict[tuple[str, ...], int] = {}
        REGISTRY.register(self)

    def show(self, *values: str) -> None:
        """Show these labels from now on, also while nothing is counted."""
        self._counts.setdefault(values, 0)

    def inc(self, *values: str) -> None:
        """Count one more of these labels."""
        counts = self._counts
        counts[values] = counts.get(values, 0) + 1

    def collect(self) -> Iterable[CounterMetricFamily]:
        """Give what was counted, as the library wants it."""
        family = CounterMetricFamily(
            self._name, self._documentation, labels=self.labels
        )
        for values, count in self._counts.items():
            family.add_metric(values, count)
        yield family


class LoopHistogram(Collector):
    """A histogram without labels for the thread of the loop, as ``LoopCounter``.

    The library's goes through the buckets one by one, too.

    Args:
        name: of the metric.
        documentation: what it says.
        buckets: upper bounds, rising; one without a bound follows.
    """

    labels: tuple[str, ...] = ()

    def __init__(self, name: str, documentation: str, buckets: Sequence[float]) -> None:
        self._name = name
        self._documentation = documentation
        self._bounds = tuple(map(float, buckets))
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0
        REGISTRY.register(self)

    def observe(self, amount: float) -> None:
        """Count an amount into its bucket."""
        self._counts[bisect_left(self._bounds, amount)] += 1
        self._sum += amount

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """Give what was counted, as the library wants it."""
        buckets, total = [], 0
        for bound, count in zip((*self._bounds, "+Inf"), self._counts, strict=True):
            total += count
            buckets.append((str(bound), total))
        family = HistogramMetricFamily(self._name, self._documentation)
        family.add_metric((), buckets=buckets, sum_value=self._sum)
        yield family
