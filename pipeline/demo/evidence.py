"""What a demo can see afterwards: in the ledger and in the dead letters."""

from __future__ import annotations

from collections import defaultdict
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pipeline.dead_letters import Selection, browse
from pipeline.errors import Reject, Unreadable
from pipeline.events.catalogue import AssetRequested, parse_event
from pipeline.provider.callback import normalise
from pipeline.task import AssetKey, EventId, Stage, TaskId, event_id
from pipeline.topology import DEDUPE, DOWNLOAD
from pipeline.workers.dedupe import operation_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from collections.abc import Set as AbstractSet

    from pipeline.bootstrap import Parts
    from pipeline.dead_letters import DeadLetter
    from pipeline.ledger.port import Ledger, SeenUpdate
    from pipeline.message import Envelope
    from pipeline.task import Asset, TaskUpdate

_FILE_STAGES: Final = (Stage.FIRST, Stage.COMPLETE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What the ledger holds of the tasks of a demo."""

    updates: Mapping[EventId, Stage]
    assets: Mapping[AssetKey, Asset]
    #: The files that each stage of a task has told of; stages without are left out.
    stage_files: Mapping[tuple[TaskId, Stage], frozenset[AssetKey]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dead:
    """What the dead letters are about."""

    #: Callbacks, by the event that each would give; unreadable ones by message id.
    callbacks: frozenset[str] = frozenset()
    #: Files that dead requests or callbacks are about.
    files: frozenset[AssetKey] = frozenset()
    #: Message ids by queue, which for notifications are the ids of events.
    messages: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def of(self, queue: str) -> frozenset[str]:
        """Give the message ids of the dead letters of a work queue."""
        return self.messages.get(queue, frozenset())


async def read_ledger(ledger: Ledger, task_ids: Iterable[str]) -> Recorded:
    """Read what the ledger holds of these tasks.

    Raises:
        LedgerUnavailable: it does not answer.
    """
    updates: dict[EventId, Stage] = {}
    assets: dict[AssetKey, Asset] = {}
    stage_files: dict[tuple[TaskId, Stage], frozenset[AssetKey]] = {}
    for task_id in map(TaskId, task_ids):
        seen = await ledger.list_updates(task_id)
        updates |= {one.event_id: one.stage for one in seen}
        files = await ledger.list_assets(task_id)
        assets |= {asset.key: asset for asset in files}
        if files:
            told = await _files_by_stage(ledger, task_id, files[0].operation, seen)
            stage_files |= {(task_id, stage): keys for stage, keys in told.items()}
    return Recorded(updates=updates, assets=assets, stage_files=stage_files)


async def _files_by_stage(
    ledger: Ledger, task_id: TaskId, operation: str, seen: Iterable[SeenUpdate]
) -> Mapping[Stage, frozenset[AssetKey]]:
    """Read again which files each stage told of, from the bodies that were kept."""
    told: defaultdict[Stage, set[AssetKey]] = defaultdict(set)
    for one in seen:
        body = None
        if one.stage in _FILE_STAGES:
            body = await ledger.find_body(task_id, one.event_id)
        if body is None:
            continue
        told[one.stage] |= _files_of(normalise(body, operation))
    return {stage: frozenset(keys) for stage, keys in told.items() if keys}


async def read_dead_letters(parts: Parts, task_ids: AbstractSet[str]) -> Dead:
    """Look at the dead letters of these tasks, and leave them where they are.

    Raises:
        BrokerUnavailable: the broker does not answer.
    """
    queues = parts.topology.work_queues
    async with aclosing(browse(parts.broker, queues, Selection())) as found:
        letters = [
            letter
            async for letter in found
            if letter.task_id is None or letter.task_id in task_ids
        ]
    return sort_dead_letters(letters)


def sort_dead_letters(letters: Iterable[DeadLetter]) -> Dead:
    """Tell what dead letters are about."""
    callbacks: set[str] = set()
    files: set[AssetKey] = set()
    messages: defaultdict[str, set[str]] = defaultdict(set)
    for letter in letters:
        messages[letter.queue].add(letter.envelope.message_id)
        if letter.queue == DEDUPE:
            event, told = _callback(letter.envelope)
            callbacks.add(event)
            files |= told
        elif letter.queue == DOWNLOAD:
            files |= _requested(letter.envelope)
    return Dead(
        callbacks=frozenset(callbacks),
        files=frozenset(files),
        messages={queue: frozenset(ids) for queue, ids in messages.items()},
    )


def _callback(envelope: Envelope) -> tuple[str, set[AssetKey]]:
    """Give the event that a callback would give, and the files it tells of."""
    try:
        update = normalise(envelope.body, operation_of(envelope))
    except Unreadable:
        return envelope.message_id, set()
    return event_id(update), _files_of(update)


def _requested(envelope: Envelope) -> set[AssetKey]:
    try:
        event = parse_event(envelope.body)
    except Reject:
        return set()
    return {event.data.key} if isinstance(event, AssetRequested) else set()


def _files_of(update: TaskUpdate) -> set[AssetKey]:
    if update.stage not in _FILE_STAGES:
        return set()
    return {
        AssetKey(task_id=update.task_id, track_id=track.track_id, kind=kind)
        for track in update.tracks
        for kind in track.links
    }
