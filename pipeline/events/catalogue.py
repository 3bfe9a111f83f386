"""Every event there is: CloudEvents 1.0 in structured mode, one JSON object each.

The models are the contract: what is published validates against them, and they
give consumers their types. Names of types are plain words, ``<subject>.<what
happened>``, and are routing keys at the same time:

=====================  ==========================================================
``task.text``          the lyrics are ready
``task.first``         the first track is ready
``task.complete``      everything is ready
``task.failed``        the provider has failed, or refused
``task.unknown``       the provider said something that we cannot place
``asset.requested``    internal: a file has to be fetched
``asset.stored``       a file is in the asset store
``asset.expired``      a file is gone, and no link to it is known that works
``task.assets_ready``  every file of a stage is stored or expired
``task.given_up``      nobody asks the provider for it any more
``task.recovered``     asking has brought a stage that no callback has told of
=====================  ==========================================================

``id`` is the same for repeats, ``subject`` is the task id, ``time`` is when it
happened: for ``task.<stage>``, when the callback came in. Fields may be added to
``data`` at any time; consumers ignore those they do not know.
https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)

from pipeline.errors import Reject
from pipeline.failure import FailureClass  # noqa: TC001  pydantic reads it
from pipeline.task import AssetKey, AssetState, EventId, Stage, TaskId

#: Media type of an event's body.
CONTENT_TYPE: Final = "application/cloudevents+json"
#: What ``source`` says unless the settings name another one.
DEFAULT_SOURCE: Final = "/pipeline"

ASSET_REQUESTED: Final = "asset.requested"
ASSET_STORED: Final = "asset.stored"
ASSET_EXPIRED: Final = "asset.expired"
ASSETS_READY: Final = "task.assets_ready"
GIVEN_UP: Final = "task.given_up"
RECOVERED: Final = "task.recovered"

#: Type of the event for each stage.
TASK_TYPES: Final = {stage: f"task.{stage}" for stage in Stage}
#: Types that are published to the ``events`` exchange, for subscriptions.
PUBLIC_TYPES: Final = (
    *TASK_TYPES.values(),
    ASSET_STORED,
    ASSET_EXPIRED,
    ASSETS_READY,
    GIVEN_UP,
    RECOVERED,
)


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class TrackData(_Model):
    """One audio result, as the provider told it."""

    track_id: str
    title: str = ""
    tags: str = ""
    #: Lyrics or description.
    prompt: str = ""
    model_name: str = ""
    #: Playable while the track is being made; never the final file.
    stream_url: str = ""
    #: 0 while unknown.
    duration_seconds: float = 0.0
    created_at: AwareDatetime | None = None
    #: The provider's links to final files, by kind. They expire.
    links: dict[str, str] = {}
    #: Why this one has failed, where others of its task have not.
    error: str = ""


class NotesData(_Model):
    """How much music there is in notes; the notes are in the raw body alone."""

    instruments: int
    #: Of all instruments.
    notes: int


class TaskData(_Model):
    """What the provider said of a task."""

    task_id: TaskId
    operation: str
    stage: Stage
    #: The task was past this stage already when it was told.
    late: bool = False
    #: The provider's code: 200, or what failed.
    code: int | None = None
    #: The provider's words, for people.
    message: str = ""
    #: Why the stage is ``unknown``.
    unknown_reason: str = ""
    #: What a failure means for another attempt; ``None`` unless it is ``failed``.
    failure: FailureClass | None = None
    #: What to do about the failure, for people.
    advice: str = ""
    #: ``callback`` or ``poll``.
    origin: str = "callback"
    #: Of MIDI only.
    notes: NotesData | None = None
    tracks: tuple[TrackData, ...] = ()


class _AssetData(_Model):
    task_id: TaskId
    track_id: str
    #: ``audio``, ``image``, ``video``, or the name of a stem.
    kind: str
    operation: str

    @property
    def key(self) -> AssetKey:
        """Name the file as the ledger does."""
        return AssetKey(task_id=self.task_id, track_id=self.track_id, kind=self.kind)


class AssetRequestedData(_AssetData):
    """A file to be fetched."""

    #: The link as it was told; the ledger may know a newer one.
    url: str


class AssetStoredData(_AssetData):
    """A file in the asset store."""

    sha256: str
    size_bytes: int
    content_type: str
    #: Address inside the store.
    location: str


class AssetExpiredData(_AssetData):
    """A file that cannot be had any more."""

    reason: str


class SettledAssetData(_Model):
    """One file of a stage: where it is, or why it is not."""

    track_id: str
    kind: str
    state: Literal[AssetState.STORED, AssetState.EXPIRED]
    sha256: str | None = None
    size_bytes: int | None = None
    content_type: str | None = None
    location: str | None = None
    reason: str | None = None


class AssetsReadyData(_Model):
    """Every file of a stage."""

    task_id: TaskId
    operation: str
    stage: Stage
    #: Sorted by track and kind; at least one.
    assets: tuple[SettledAssetData, ...]


class TaskGivenUpData(_Model):
    """A task that has not ended, and is not asked for any more."""

    task_id: TaskId
    operation: str
    #: What was heard of it; ``unknown``: nothing.
    stage: Stage
    #: What the last question brought: ``nothing_new``, ``not_found``, ``no_answer``
    #: or ``refused``.
    reason: str
    #: How often the provider was asked.
    questions: int


class TaskRecoveredData(_Model):
    """A stage that no callback has told of, though one should have."""

    task_id: TaskId
    operation: str
    #: What asking has brought.
    stage: Stage
    #: The id of the event ``task.<stage>``, which says the rest.
    event_id: EventId


class _Event(_Model):
    specversion: Literal["1.0"] = "1.0"
    #: The same for repeats; with ``source`` it names the occurrence.
    id: str
    source: str = DEFAULT_SOURCE
    #: The task id.
    subject: str
    time: AwareDatetime
    datacontenttype: Literal["application/json"] = "application/json"


class TaskEvent(_Event):
    """The provider has said something about a task."""

    type: Literal[
        "task.text", "task.first", "task.complete", "task.failed", "task.unknown"
    ]
    data: TaskData


class AssetRequested(_Event):
    """A file has to be fetched; goes to the download queue only."""

    type: Literal["asset.requested"]
    data: AssetRequestedData


class AssetStored(_Event):
    """A file is in the asset store."""

    type: Literal["asset.stored"]
    data: AssetStoredData


class AssetExpired(_Event):
    """A file is gone for good."""

    type: Literal["asset.expired"]
    data: AssetExpiredData


class AssetsReady(_Event):
    """Every file of a stage is settled; comes again if one of them changes."""

    type: Literal["task.assets_ready"]
    data: AssetsReadyData


class TaskGivenUp(_Event):
    """A task is not asked for any more, unless the provider tells of it again."""

    type: Literal["task.given_up"]
    data: TaskGivenUpData


class TaskRecovered(_Event):
    """Asking the provider has brought what a callback should have told."""

    type: Literal["task.recovered"]
    data: TaskRecoveredData


Event: TypeAlias = (
    TaskEvent
    | AssetRequested
    | AssetStored
    | AssetExpired
    | AssetsReady
    | TaskGivenUp
    | TaskRecovered
)

#: Validates any event, and gives the JSON Schema of all.
EVENTS_ADAPTER: Final[TypeAdapter[Event]] = TypeAdapter(
    Annotated[Event, Field(discriminator="type")]
)


def parse_event(body: bytes) -> Event:
    """Read an event that this package has published.

    Raises:
        Reject: it is none, or of a type that this version does not know.
    """
    try:
        return EVENTS_ADAPTER.validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the body"
        message = f"expected one of our events, but {where}: {first['msg']}"
        raise Reject(message) from error
