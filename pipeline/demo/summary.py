"""What a demo ends with: the figures, and whether anything was lost. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pipeline.demo.options import STUDIO_EVENT
from pipeline.events.catalogue import ASSET_EXPIRED, ASSET_STORED, TASK_TYPES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.ledger.port import Totals


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """What the simulated provider was told was accepted."""

    callbacks_sent: int
    callbacks_accepted: int
    tasks: int
    #: Different things said by accepted callbacks: one event each is expected.
    events: int
    #: Final files that accepted callbacks told of, dead links included.
    files: int


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


def events_by_type(event_types: Sequence[str]) -> Mapping[str, int]:
    """Count events by their type."""
    return Counter(event_types)


def find_losses(
    *,
    accepted: Accepted,
    totals: Totals,
    dead: Mapping[str, int],
    archive: Mapping[str, int],
    studio: int,
) -> dict[str, int]:
    """Compare what was accepted with what came of it.

    Args:
        accepted: the provider's own count, which knows nothing of the pipeline.
        totals: what the ledger has gained.
        dead: dead letters that are left, by work queue.
        archive: different events that the first subscriber has got, by type.
        studio: different events that the second one has got.

    Returns:
        For each thing that is missing: what, and how many.
    """
    told = sum(archive.get(kind, 0) for kind in TASK_TYPES.values())
    settled = totals.assets_stored + totals.assets_expired
    missing = {
        "callbacks accepted, not in the ledger": accepted.events
        - totals.updates
        - dead.get("dedupe", 0),
        "files told of, neither stored nor expired": accepted.files
        - settled
        - dead.get("download", 0),
        "task events that the subscriber archive did not get": totals.updates
        - told
        - dead.get("notify.archive", 0),
        "file events that the subscriber archive did not get": settled
        - archive.get(ASSET_STORED, 0)
        - archive.get(ASSET_EXPIRED, 0)
        - dead.get("notify.archive", 0),
        "finished tasks that the subscriber studio did not get": archive.get(
            STUDIO_EVENT, 0
        )
        - studio
        - dead.get("notify.studio", 0),
    }
    return {what: count for what, count in missing.items() if count > 0}
