"""How much memory a process has, over the course of a run."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
#: Parts of a run: what stands between them counts as warming up.
EARLY: Final = (0.25, 0.40)
LATE: Final = (0.90, 1.0)


@dataclass(slots=True)
class Memory:
    """Samples of the resident memory of one process, on Linux."""

    pid: int
    samples: list[tuple[int, int]] = field(default_factory=list)

    def sample(self, sent: int) -> None:
        """Measure, after so many requests."""
        fields = Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()
        self.samples.append((sent, int(fields[1]) * _PAGE_BYTES))

    def growth(self) -> tuple[float, float, float]:
        """Give MiB after warming up, MiB at the end, and the growth in per cent."""
        early, late = self._median(*EARLY), self._median(*LATE)
        return early / 2**20, late / 2**20, (late / early - 1) * 100

    def course(self, parts: int = 20) -> list[float]:
        """Give MiB in so many parts of the run."""
        return [
            round(self._median(part / parts, (part + 1) / parts) / 2**20, 1)
            for part in range(parts)
        ]

    def _median(self, start: float, end: float) -> float:
        total = self.samples[-1][0]
        found = [
            bytes_ for sent, bytes_ in self.samples if start <= sent / total <= end
        ]
        return median(found or [self.samples[-1][1]])
