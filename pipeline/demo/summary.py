"""What a demo ends with: the figures, and whether anything was lost. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from pipeline.demo.options import ARCHIVE, STUDIO, STUDIO_EVENT
from pipeline.events.catalogue import DEFAULT_SOURCE, TASK_TYPES
from pipeline.events.publications import asset_settled, assets_ready
from pipeline.task import AssetState, StageReady
from pipeline.topology import notify_queue

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from pipeline.demo.evidence import Dead, Recorded
    from pipeline.task import AssetKey

#: Makes no difference to the ids of events, which are all that is asked for here.
_ANY_TIME: Final = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """What the simulated provider was told was accepted."""

    callbacks_sent: int
    callbacks_accepted: int
    #: The tasks that accepted callbacks are about.
    task_ids: frozenset[str]
    #: Different things said by accepted callbacks: one event each is expected.
    events: int
    #: Final files that accepted callbacks told of, dead links included.
    files: int
    #: Tasks that must have ended; 0: only what was accepted counts.
    ends: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The figures of a demo."""

    #: Plays the same again.
    seed: int
    callbacks_sent: int
    callbacks_accepted: int
    duplicates_dropped: int
    tasks: int
    events_published: int
    #: Events that a subscriber got again under the same id; harmless.
    events_repeated: int
    assets_stored: int
    assets_expired: int
    notifications_delivered: int
    dead_lettered: int
    replayed: int
    #: Dead letters that are left at the end.
    dead_letters_left: int
    #: Accepted, and neither done nor in a dead-letter queue.
    lost: int
    #: What is lost, in words.
    losses: Sequence[str]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Give the figures, for JSON."""
        return asdict(self)


def find_losses(
    *,
    accepted: Accepted,
    recorded: Recorded,
    dead: Dead,
    archive: AbstractSet[str],
    studio: AbstractSet[str],
) -> dict[str, int]:
    """Compare what was accepted with what came of it, event by event.

    Outside stands the provider's own count, which knows nothing of the pipeline.
    Inside, the ledger says which events there must have been, by their ids; each of
    them has reached its subscriber, or is a dead letter, or is lost.

    Args:
        accepted: the provider's own count.
        recorded: what the ledger holds of the tasks concerned.
        dead: the dead letters that are left.
        archive: ids of the events that the first subscriber has got.
        studio: ids of the events that the second one has got.

    Returns:
        For each thing that is missing: what, and how many.
    """
    missing = _missing_inside(accepted, recorded, dead) | {
        f"{what} that the subscriber {name} did not get": len(events)
        for (what, name), events in _unheard(recorded, dead, archive, studio).items()
    }
    return {what: count for what, count in missing.items() if count > 0}


def _missing_inside(
    accepted: Accepted, recorded: Recorded, dead: Dead
) -> dict[str, int]:
    """Count what the ledger has not, or has and is not done with."""
    pending = {
        key
        for key, asset in recorded.assets.items()
        if asset.state is AssetState.PENDING
    }
    ends = sum(stage.is_final for stage in recorded.updates.values())
    return {
        "tasks of which no end is known": accepted.ends - ends,
        "callbacks accepted, not in the ledger": accepted.events
        - len(recorded.updates.keys() | dead.callbacks),
        "files told of, not in the ledger": accepted.files
        - len(recorded.assets.keys() | dead.files),
        "files told of, neither stored nor expired": len(pending - dead.files),
    }


def _unheard(
    recorded: Recorded,
    dead: Dead,
    archive: AbstractSet[str],
    studio: AbstractSet[str],
) -> dict[tuple[str, str], AbstractSet[str]]:
    """Give the events that a subscriber ought to have: by what they are, and whose."""
    got = archive | dead.of(notify_queue(ARCHIVE))
    got_by_studio = studio | dead.of(notify_queue(STUDIO))
    # A dead callback or download publishes its events when it is replayed.
    updates = recorded.updates.keys() - dead.callbacks
    for_studio = {
        event
        for event in updates
        if TASK_TYPES[recorded.updates[event]] == STUDIO_EVENT
    }
    files = _unexcused(_file_events(recorded), dead)
    ready = _unexcused(_ready_events(recorded), dead)
    return {
        ("task events", ARCHIVE): updates - got,
        ("file events", ARCHIVE): files - got,
        ("finished stages", ARCHIVE): ready - got,
        ("finished tasks", STUDIO): for_studio - got_by_studio,
    }


def _file_events(recorded: Recorded) -> dict[str, frozenset[AssetKey]]:
    """Give the event of each settled file in its final state, and whose it is."""
    return {
        asset_settled(
            asset, source=DEFAULT_SOURCE, at=_ANY_TIME
        ).envelope.message_id: frozenset({key})
        for key, asset in recorded.assets.items()
        if asset.state is not AssetState.PENDING
    }


def _ready_events(recorded: Recorded) -> dict[str, frozenset[AssetKey]]:
    """Give the event of each stage whose files are all settled, and whose it is."""
    events: dict[str, frozenset[AssetKey]] = {}
    for (task_id, stage), keys in recorded.stage_files.items():
        order = sorted(keys, key=lambda key: (key.track_id, key.kind))
        # What is not in the ledger is missed elsewhere.
        assets = tuple(recorded.assets[key] for key in order if key in recorded.assets)
        if not assets or any(a.state is AssetState.PENDING for a in assets):
            continue
        ready = StageReady(
            task_id=task_id, operation=assets[0].operation, stage=stage, assets=assets
        )
        publication = assets_ready(ready, source=DEFAULT_SOURCE, at=_ANY_TIME)
        events[publication.envelope.message_id] = keys
    return events


def _unexcused(events: Mapping[str, frozenset[AssetKey]], dead: Dead) -> set[str]:
    return {event for event, keys in events.items() if not keys & dead.files}
