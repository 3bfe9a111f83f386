"""How much memory processes take over time. Pure, but for reading ``/proc``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: Parts of the time over which a figure is the median, against short peaks.
WINDOW: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one process took at one moment."""

    kind: str
    #: Part of the run that has passed, 0 to 1.
    at: float
    rss_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """What the processes of one kind took."""

    kind: str
    start_bytes: int
    middle_bytes: int
    end_bytes: int

    @property
    def second_half(self) -> float:
        """Growth from the middle to the end, as a share of the middle."""
        if not self.middle_bytes:
            return 0.0
        return (self.end_bytes - self.middle_bytes) / self.middle_bytes


def read_rss_bytes(pid: int) -> int | None:
    """Read what a process takes now; ``None``: it has ended."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    except (OSError, IndexError):
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def measure_growth(samples: Sequence[Sample]) -> list[Growth]:
    """Sum up the samples of each kind, in the order of their names."""
    kinds = sorted({sample.kind for sample in samples})
    return [_growth(kind, [s for s in samples if s.kind == kind]) for kind in kinds]


def _growth(kind: str, samples: Sequence[Sample]) -> Growth:
    half = WINDOW / 2
    first = samples[0].at
    return Growth(
        kind=kind,
        start_bytes=_median(s for s in samples if s.at <= first + half),
        middle_bytes=_median(s for s in samples if abs(s.at - 0.5) <= half),
        end_bytes=_median(s for s in samples if s.at >= 1 - WINDOW),
    )


def _median(samples: Iterable[Sample]) -> int:
    sizes = [sample.rss_bytes for sample in samples]
    return int(median(sizes)) if sizes else 0
