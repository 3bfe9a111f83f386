"""The provider's tasks as we understand them: stages, tracks, files, updates.

Pure values and functions, shared by the normaliser, the ledger and the workers.
Everything that arrives is turned into a ``TaskUpdate``; what a task looks like
after any number of updates does not depend on the order they came in.
"""

from __future__ import annotations

import hashlib
from dataclasses import field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NewType

import orjson

from pipeline.values import key, value

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from pipeline.failure import FailureClass

#: The provider's name of a task.
TaskId = NewType("TaskId", str)
#: Names one occurrence: a task, a stage and what was said. Also the CloudEvents id.
EventId = NewType("EventId", str)

#: Longer identifiers are refused: they would not fit into headers and indexes.
ID_LIMIT: Final = 128


class Stage(StrEnum):
    """How far a task is, as the provider says it."""

    #: Something we do not know yet; kept, and never moves a task.
    UNKNOWN = "unknown"
    #: The lyrics are ready.
    TEXT = "text"
    #: The first track is ready.
    FIRST = "first"
    #: The task has failed.
    FAILED = "failed"
    #: Everything is ready.
    COMPLETE = "complete"

    @property
    def rank(self) -> int:
        """Order of stages; a task's stage is the highest it was ever told.

        ``complete`` outranks ``failed``: music that exists cannot be unmade, and
        the maximum does not depend on the order of arrival.
        """
        return _RANKS[self]

    @property
    def is_final(self) -> bool:
        """Whether the provider has nothing more to say."""
        return self in (Stage.FAILED, Stage.COMPLETE)


_RANKS: Final = {stage: rank for rank, stage in enumerate(Stage)}


@value
class Track:
    """One audio result in a task."""

    #: The provider's id, or one made from the position where it sent none.
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
    created_at: datetime | None = None
    #: Final files by kind (``audio``, ``image``, ...); only links that are there.
    links: Mapping[str, str] = field(default_factory=dict)
    #: Why this one has failed, where others of its task have not.
    error: str = ""


@value
class Notes:
    """What is known of the notes in a body, which alone has them."""

    instruments: int
    #: Of all instruments.
    notes: int
    #: The same for the same notes; 32 hexadecimal digits.
    digest: str


@value
class TaskUpdate:
    """What one callback, or one answer of the details endpoint, says."""

    task_id: TaskId
    operation: str
    stage: Stage
    #: The body's ``code``; ``None`` where there was none.
    code: int | None = None
    #: Free text of the provider: to be shown, never to be branched on.
    message: str = ""
    tracks: tuple[Track, ...] = ()
    #: Why the stage is unknown, for a person.
    unknown_reason: str = ""
    #: What a failure means for another attempt; ``None`` unless it is ``failed``.
    failure: FailureClass | None = None
    #: Of MIDI; ``None``: the body has no list of instruments.
    notes: Notes | None = None


@key
class AssetKey:
    """Names one file of a track."""

    task_id: TaskId
    track_id: str
    kind: str


class AssetState(StrEnum):
    """What became of a file."""

    PENDING = "pending"
    STORED = "stored"
    #: The link is dead and no fresh one is known.
    EXPIRED = "expired"


@key
class StoredAsset:
    """What the asset store says about a file it has taken."""

    sha256: str
    size_bytes: int
    content_type: str
    #: Address inside the store, such as ``sha256/ab/abcd….mp3``.
    location: str


@value
class Asset:
    """One file of a track and what became of it."""

    key: AssetKey
    operation: str
    #: The newest link we were told.
    url: str
    state: AssetState
    #: Set once stored: 64 hexadecimal digits, bytes, media type, address in the store.
    sha256: str | None = None
    size_bytes: int | None = None
    content_type: str | None = None
    location: str | None = None
    #: Why it expired.
    reason: str | None = None
    settled_at: datetime | None = None


@value
class StageReady:
    """Every file of a stage is settled: stored or expired."""

    task_id: TaskId
    operation: str
    stage: Stage
    #: Sorted by track and kind; at least one.
    assets: tuple[Asset, ...]


def event_id(update: TaskUpdate) -> EventId:
    """Name the occurrence: equal for repeats, also with freshly signed links.

    A hash of task, operation, stage and contents, in which links have lost their
    query strings. Left out are ``message``, which is free text, and ``created_at``,
    which callback and details endpoint write differently: the same news heard from
    both is one occurrence. 32 hexadecimal digits.
    """
    content = (
        update.task_id,
        update.operation,
        update.stage,
        update.code if update.stage is Stage.FAILED else None,
        update.unknown_reason,
        sorted(map(_essence, update.tracks)),
    )
    notes = update.notes
    return _digest(content if notes is None else (*content, notes.digest))


def _essence(track: Track) -> tuple[object, ...]:
    """Give what makes a track's news; unique by its first element in an update."""
    links = track.links
    essence = (
        track.track_id,
        track.title,
        track.tags,
        track.prompt,
        track.model_name,
        track.duration_seconds,
        bare_link(track.stream_url),
        [(kind, bare_link(links[kind])) for kind in sorted(links)],
    )
    return (*essence, track.error) if track.error else essence


def derived_id(*parts: str) -> EventId:
    """Name an occurrence that follows from others; the same parts, the same id."""
    return _digest(parts)


def _digest(content: tuple[object, ...]) -> EventId:
    return EventId(hashlib.sha256(orjson.dumps(content)).hexdigest()[:32])


def bare_link(url: str) -> str:
    """Leave out the query and the fragment, which change when a link is renewed."""
    return url.partition("#")[0].partition("?")[0]


def leads(update: TaskUpdate, other: TaskUpdate) -> bool:
    """Tell whether a task's stage, code and message are those of ``update``.

    The higher stage leads. In the same stage the order is arbitrary but fixed, so
    that it does not matter which came first.
    """
    return _lead(update) > _lead(other)


def _lead(update: TaskUpdate) -> tuple[int, int, str, str]:
    code = -1 if update.code is None else update.code
    return update.stage.rank, code, update.message, update.operation


def merge_tracks(told: Iterable[tuple[Stage, Iterable[Track]]]) -> tuple[Track, ...]:
    """Merge what was told of a task's tracks, by track id; the order is irrelevant.

    A value that is there replaces an empty one, never the other way round. Where
    several are there, the one of the highest stage stays, and among those of one
    stage the greatest, because any other choice would depend on the order.
    """
    by_stage: dict[str, dict[Stage, Track]] = {}
    for stage, tracks in told:
        for track in tracks:
            known = by_stage.setdefault(track.track_id, {})
            old = known.get(stage)
            known[stage] = track if old is None else join_tracks(old, track)
    return tuple(_by_rank(by_stage[track_id]) for track_id in sorted(by_stage))


def _by_rank(known: Mapping[Stage, Track]) -> Track:
    ranked = sorted(known, key=lambda stage: stage.rank, reverse=True)
    merged = known[ranked[0]]
    for stage in ranked[1:]:
        merged = _filled(merged, known[stage])
    return merged


def join_tracks(one: Track, other: Track) -> Track:
    """Merge two accounts of a track in the same stage: the greater value stays."""
    links = dict(one.links)
    for kind, link in other.links.items():
        links[kind] = max(links.get(kind, ""), link)
    times = [t for t in (one.created_at, other.created_at) if t is not None]
    return replace(
        one,
        title=max(one.title, other.title),
        tags=max(one.tags, other.tags),
        prompt=max(one.prompt, other.prompt),
        model_name=max(one.model_name, other.model_name),
        stream_url=max(one.stream_url, other.stream_url),
        duration_seconds=max(one.duration_seconds, other.duration_seconds),
        created_at=max(times, default=None),
        links=links,
        # One that was made has not failed, whatever else was said of it.
        error=min(one.error, other.error),
    )


def _filled(first: Track, second: Track) -> Track:
    """Take ``first`` and fill its gaps from ``second``."""
    return replace(
        first,
        title=first.title or second.title,
        tags=first.tags or second.tags,
        prompt=first.prompt or second.prompt,
        model_name=first.model_name or second.model_name,
        stream_url=first.stream_url or second.stream_url,
        duration_seconds=first.duration_seconds or second.duration_seconds,
        created_at=first.created_at or second.created_at,
        links={**second.links, **first.links},
    )
