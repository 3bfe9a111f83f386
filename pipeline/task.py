"""The provider's tasks as we understand them: stages, tracks, files, updates.

Pure values and functions, shared by the normaliser, the ledger and the workers.
Everything that arrives is turned into a ``TaskUpdate``; what a task looks like
after any number of updates does not depend on the order they came in.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NewType
from urllib.parse import urlsplit

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

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


@dataclass(frozen=True, slots=True, kw_only=True)
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


@dataclass(frozen=True, slots=True, kw_only=True)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetKey:
    """Names one file of a track."""

    task_id: TaskId
    track_id: str
    kind: str


def event_id(update: TaskUpdate) -> EventId:
    """Name the occurrence: equal for repeats, also with freshly signed links.

    A hash of task, operation, stage and a digest of the contents in which links
    have lost their query strings. 32 hexadecimal digits.
    """
    content = asdict(update)
    for track in content["tracks"]:
        track["links"] = {k: bare_link(v) for k, v in track["links"].items()}
        track["stream_url"] = bare_link(track["stream_url"])
    canonical = orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
    return EventId(hashlib.sha256(canonical).hexdigest()[:32])


def derived_id(*parts: str) -> EventId:
    """Name an occurrence that follows from others; the same parts, the same id."""
    canonical = orjson.dumps(parts)
    return EventId(hashlib.sha256(canonical).hexdigest()[:32])


def bare_link(url: str) -> str:
    """Leave out the query and the fragment, which change when a link is renewed."""
    if "?" not in url and "#" not in url:
        return url
    try:
        return urlsplit(url)._replace(query="", fragment="").geturl()
    except ValueError:
        return url.split("?", 1)[0]


def merge_tracks(
    known: Iterable[Track], *, known_rank: int, update: TaskUpdate
) -> tuple[Track, ...]:
    """Merge an update's tracks into those already known, by track id.

    A value that is there replaces an empty one, never the other way round. Where
    both are there, the one of the higher stage stays.
    """
    merged = {track.track_id: track for track in known}
    newer_wins = update.stage.rank >= known_rank
    for track in update.tracks:
        old = merged.get(track.track_id)
        if old is None:
            merged[track.track_id] = track
        else:
            first, second = (track, old) if newer_wins else (old, track)
            merged[track.track_id] = _filled(first, second)
    return tuple(merged[key] for key in sorted(merged))


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
