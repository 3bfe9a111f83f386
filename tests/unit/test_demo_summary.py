"""What the verdict of a demo calls lost."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pipeline.dead_letters import DeadLetter
from pipeline.demo.evidence import Dead, Recorded, sort_dead_letters
from pipeline.demo.summary import Accepted, find_losses
from pipeline.events.publications import asset_requested, asset_settled, assets_ready
from pipeline.message import MessageId
from pipeline.task import (
    Asset,
    AssetKey,
    AssetState,
    EventId,
    Stage,
    StageReady,
    TaskId,
)
from tests.factories import make_envelope

if TYPE_CHECKING:
    from collections.abc import Sequence

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
TASK = TaskId("task-1")
TEXT = EventId("event-text")
COMPLETE = EventId("event-complete")

EXPIRED = Asset(
    key=AssetKey(task_id=TASK, track_id="track-1", kind="audio"),
    operation="upload-extend",
    url="https://files.example/1.mp3?sign=a",
    state=AssetState.EXPIRED,
    reason="404",
    settled_at=NOON,
)
STORED = replace(
    EXPIRED,
    state=AssetState.STORED,
    reason=None,
    sha256="ab" * 32,
    size_bytes=3,
    content_type="audio/mpeg",
    location="sha256/ab/ab.mp3",
)
PENDING = replace(EXPIRED, state=AssetState.PENDING, reason=None, settled_at=None)


def test_nothing_is_lost_when_every_event_has_arrived() -> None:
    losses = losses_of()

    assert {} == losses


def test_lost_file_event_is_not_hidden_by_the_expiry_before_it() -> None:
    """Two events came for one file, one of two was lost: the counts agree."""
    other = replace(STORED, key=replace(STORED.key, track_id="track-2"))
    archive = everything(STORED, other) - {settled(other)} | {settled(EXPIRED)}

    losses = losses_of(STORED, other, archive=archive)

    assert {"file events that the subscriber archive did not get": 1} == losses


def test_lost_news_of_a_stage_is_not_hidden_by_earlier_news_of_it() -> None:
    archive = everything(STORED) - {ready(STORED)} | {ready(EXPIRED)}

    losses = losses_of(STORED, archive=archive)

    assert {"finished stages that the subscriber archive did not get": 1} == losses


def test_lost_task_event_is_not_hidden_by_one_that_nobody_expected() -> None:
    archive = everything() - {TEXT} | {"of another task"}

    losses = losses_of(archive=archive)

    assert {"task events that the subscriber archive did not get": 1} == losses


def test_dead_letter_counts_for_its_own_event_alone() -> None:
    dead = Dead(messages={"notify.archive": frozenset({TEXT})})
    archive = everything() - {TEXT, COMPLETE}

    losses = losses_of(archive=archive, dead=dead)

    assert {"task events that the subscriber archive did not get": 1} == losses


def test_studio_has_to_hear_of_every_finished_task() -> None:
    dead = Dead(messages={"notify.studio": frozenset({TEXT})})

    missed = losses_of(studio=set(), dead=dead)
    kept = losses_of(
        studio=set(), dead=Dead(messages={"notify.studio": frozenset({COMPLETE})})
    )

    assert {"finished tasks that the subscriber studio did not get": 1} == missed
    assert {} == kept


def test_provider_counts_what_the_ledger_never_saw() -> None:
    losses = losses_of(STORED, events=4, files=3)

    assert {
        "callbacks accepted, not in the ledger": 2,
        "files told of, not in the ledger": 2,
    } == losses


def test_pending_file_is_lost_unless_its_request_is_a_dead_letter() -> None:
    publication = asset_requested(
        PENDING, owner=MessageId("m"), stage=Stage.COMPLETE, source="/", at=NOON
    )
    letter = DeadLetter(queue="download", envelope=publication.envelope)

    lost = losses_of(PENDING)
    kept = losses_of(PENDING, dead=sort_dead_letters([letter]))

    assert {"files told of, neither stored nor expired": 1} == lost
    assert {} == kept


def test_dead_callback_and_its_repeat_stand_for_one_event() -> None:
    body = b'{"code":200,"data":{"callbackType":"text","task_id":"t","data":[]}}'
    letters = [
        DeadLetter(queue="dedupe", envelope=make_envelope(body=body)) for _ in range(2)
    ]

    losses = losses_of(events=4, dead=sort_dead_letters(letters))

    assert {"callbacks accepted, not in the ledger": 1} == losses


def losses_of(
    *assets: Asset,
    events: int = 2,
    files: int | None = None,
    **changes: Any,
) -> dict[str, int]:
    """Find what is lost; without changes everything has arrived."""
    found: dict[str, Any] = {
        "dead": Dead(),
        "archive": everything(*assets),
        "studio": {COMPLETE},
        **changes,
    }
    keys = frozenset(asset.key for asset in assets)
    return find_losses(
        accepted=Accepted(
            callbacks_sent=events,
            callbacks_accepted=events,
            task_ids=frozenset({TASK}),
            events=events,
            files=len(assets) if files is None else files,
        ),
        recorded=Recorded(
            updates={TEXT: Stage.TEXT, COMPLETE: Stage.COMPLETE},
            assets={asset.key: asset for asset in assets},
            stage_files={(TASK, Stage.COMPLETE): keys} if keys else {},
        ),
        **found,
    )


def everything(*assets: Asset) -> set[str]:
    """Give the ids of all events of the task."""
    told: set[str] = {TEXT, COMPLETE}
    if any(asset.state is AssetState.PENDING for asset in assets):
        return told
    files = {settled(asset) for asset in assets}
    return told | files | ({ready(*assets)} if assets else set())


def settled(asset: Asset) -> str:
    return asset_settled(asset, source="/", at=NOON).envelope.message_id


def ready(*assets: Asset) -> str:
    stage = StageReady(
        task_id=TASK,
        operation="upload-extend",
        stage=Stage.COMPLETE,
        assets=in_order(assets),
    )
    return assets_ready(stage, source="/", at=NOON).envelope.message_id


def in_order(assets: Sequence[Asset]) -> tuple[Asset, ...]:
    return tuple(sorted(assets, key=lambda asset: asset.key.track_id))
