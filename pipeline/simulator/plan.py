"""What a simulated run consists of: values only, decided before it starts.

``scenario.py`` makes these from a seed, ``payloads.py`` writes them as the
provider would, ``poster.py`` sends them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, NewType, TypeAlias

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from pipeline.simulator.audio import AudioFormat
    from pipeline.simulator.failures import Failure
    from pipeline.simulator.picture import PictureFormat
    from pipeline.simulator.video import VideoFormat
    from pipeline.task import Stage

#: Names what a callback says: a task, a stage and its contents. Repeats share it.
SemanticId = NewType("SemanticId", str)

FileKind: TypeAlias = Literal["audio", "image", "video"]


class Oddity(StrEnum):
    """How a callback may differ from the documented shape.

    All were seen in live traffic or stand in one of the provider's several
    documentations and contradict another.
    """

    #: The text stage brings tracks, without final audio.
    TEXT_WITH_TRACKS = "text_with_tracks"
    #: The text stage brings ``null`` instead of an empty list.
    TEXT_WITH_NULL = "text_with_null"
    #: The first stage brings every track; only one has its ``audio_url``.
    FIRST_WITH_ALL_TRACKS = "first_with_all_tracks"
    #: ``data.taskId`` instead of ``data.task_id``.
    CAMEL_TASK_ID = "camel_task_id"
    #: The task's id stands at the top level only.
    TOP_LEVEL_TASK_ID = "top_level_task_id"
    #: ``code`` is text, such as ``"200"``.
    CODE_AS_TEXT = "code_as_text"
    #: ``callbackType`` in capitals.
    UPPER_CASE_TYPE = "upper_case_type"
    #: ``createTime`` in milliseconds since 1970 instead of text.
    CREATE_TIME_IN_MILLISECONDS = "create_time_in_milliseconds"
    #: Every field of a track in camelCase.
    CAMEL_CASE_TRACKS = "camel_case_tracks"
    #: The body has the shape of an answer of the details endpoint.
    RECORD_INFO_SHAPE = "record_info_shape"
    #: Fields that nobody has documented yet.
    NEW_FIELDS = "new_fields"
    #: Optional fields of a track are missing or ``null``.
    SPARSE_TRACKS = "sparse_tracks"
    #: An additional callback of a stage that is documented nowhere.
    UNKNOWN_STAGE = "unknown_stage"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expiry:
    """A link that is dead from the beginning."""

    #: What it answers: 403, 404, 410 or 441.
    status: int
    #: Whether a freshly signed link of the same file works.
    renewable: bool = False
    #: Whether the file comes back, under another address, if it is recovered.
    recoverable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePlan:
    """One file that the provider offers."""

    #: Address under the provider's base address; may hold spaces.
    path: str
    kind: FileKind
    file_format: AudioFormat | PictureFormat | VideoFormat
    #: Chooses the music or the picture.
    seed: int
    title: str
    #: Written into the file, so that every file differs.
    comment: str
    #: What the server says it is; not always the truth.
    content_type: str
    expiry: Expiry | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackPlan:
    """One audio result of a task."""

    audio_id: str
    title: str
    tags: str
    prompt: str
    model_name: str
    duration_seconds: float
    created_at: datetime
    audio: FilePlan
    image: FilePlan
    #: Playable while the track is made; answers 200 without any bytes.
    stream_path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultPlan:
    """A final file of a task, as receivers name it."""

    #: The track it belongs to.
    track_id: str
    #: What it is to that track, such as ``audio`` or ``vocal``.
    name: str
    file: FilePlan


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackPlan:
    """One callback that the provider sets out to deliver."""

    stage: Stage
    #: After the start of the run, on the simulated clock.
    at: timedelta
    oddity: Oddity | None = None
    #: 0 for the original, 1 and more for repeats of it.
    repeat: int = 0
    #: A repeat whose links are signed anew; else it is the same byte for byte.
    fresh_links: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPlan:
    """Everything that will happen to one task."""

    task_id: str
    operation: str
    #: The model as submitted, such as ``V5``.
    model: str
    #: When it is submitted, after the start of the run.
    starts_at: timedelta
    tracks: tuple[TrackPlan, ...]
    #: When each stage is reached, whether a callback says so or not.
    milestones: tuple[tuple[Stage, timedelta], ...]
    #: In the order in which they leave.
    callbacks: tuple[CallbackPlan, ...]
    failure: Failure | None = None
    #: The final files of an operation other than audio; ``None``: those of the tracks.
    own_results: tuple[ResultPlan, ...] | None = None

    @property
    def results(self) -> tuple[ResultPlan, ...]:
        """Every final file of the task, with its name."""
        if self.own_results is not None:
            return self.own_results
        return tuple(
            ResultPlan(track_id=track.audio_id, name=file.kind, file=file)
            for track in self.tracks
            for file in (track.audio, track.image)
        )

    @property
    def files(self) -> tuple[FilePlan, ...]:
        """Every final file of the task."""
        return tuple(result.file for result in self.results)

    @property
    def has_missing_stage(self) -> bool:
        """Whether a stage is reached that no callback tells of."""
        told = {callback.stage for callback in self.callbacks}
        return any(stage not in told for stage, _ in self.milestones)


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A task that was submitted."""

    plan: TaskPlan
    #: The moment from which the plan's times count.
    origin_at: datetime

    def stage(self, now: datetime) -> Stage | None:
        """Say how far the task is."""
        reached = [s for s, at in self.plan.milestones if self.origin_at + at <= now]
        return reached[-1] if reached else None
