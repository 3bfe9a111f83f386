"""What a simulated run may be asked to contain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pipeline.simulator.operations import OPERATIONS

if TYPE_CHECKING:
    from pipeline.simulator.audio import AudioFormat
    from pipeline.simulator.picture import PictureFormat

#: The highest value of each rate.
_RATES: Final = {
    "duplicate_rate": 0.9,
    "reorder": 1,
    "missing_rate": 1,
    "failure_rate": 1,
    "oddity_rate": 1,
    "expired_rate": 1,
    "renewable_rate": 1,
    "recoverable_rate": 1,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioOptions:
    """What a run shall contain. Rates are shares between 0 and 1.

    Raises:
        ValueError: an option is out of range; the message names every one.
    """

    #: How many tasks.
    tasks: int = 6
    seed: int = 1
    #: Operations of the tasks, in turn.
    operations: tuple[str, ...] = ("upload-extend",)
    #: Repeats among all callbacks that leave; below 1.
    duplicate_rate: float = 0.2
    #: Tasks whose callbacks leave in another order.
    reorder: float = 0.15
    #: Tasks that reach a stage which no callback ever tells of.
    missing_rate: float = 0.1
    #: Tasks that fail.
    failure_rate: float = 0.15
    #: Callbacks, and tracks, that differ from the documented shape.
    oddity_rate: float = 0.2
    #: Finished tasks with one link that is dead from the beginning.
    expired_rate: float = 0.15
    #: Dead links whose file is still there under a freshly signed link.
    renewable_rate: float = 0.0
    #: Files gone for good that come back if they are recovered.
    recoverable_rate: float = 0.0
    tracks_per_task: int = 2
    #: Show whatever has a rate above 0 at least once; needs three tasks.
    at_least_one: bool = True
    #: ``None``: mp3 with PyAV installed, else WAV.
    audio_format: AudioFormat | None = None
    #: ``None``: PNG, and JPEG for every second task with PyAV installed.
    picture_format: PictureFormat | None = None

    def __post_init__(self) -> None:
        """Check every option.

        Raises:
            ValueError: an option is out of range.
        """
        wrong = [
            f"{name}: expected a share from 0 to {limit}, got {value}"
            for name, limit in _RATES.items()
            if not 0 <= (value := getattr(self, name)) <= limit
        ]
        if self.tasks < 0:
            wrong.append(f"tasks: expected 0 or more, got {self.tasks}")
        if (count := self.tracks_per_task) < 1:
            wrong.append(f"tracks_per_task: expected 1 or more, got {count}")
        unknown = [name for name in self.operations if name not in OPERATIONS]
        if unknown or not self.operations:
            wrong.append(f"operations: expected some of {OPERATIONS}, got {unknown}")
        if wrong:
            raise ValueError("; ".join(wrong))


#: What the provider promises, and nothing else: for tests that need calm.
PLAIN: Final = ScenarioOptions(
    duplicate_rate=0,
    reorder=0,
    missing_rate=0,
    failure_rate=0,
    oddity_rate=0,
    expired_rate=0,
)
