"""Every event is a CloudEvent that our own models, and others, can read."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from pipeline.errors import Reject
from pipeline.events.catalogue import (
    CONTENT_TYPE,
    EVENTS_ADAPTER,
    PUBLIC_TYPES,
    TASK_TYPES,
    AssetExpired,
    AssetRequested,
    AssetsReady,
    AssetStored,
    TaskEvent,
    TaskRecovered,
    parse_event,
)
from pipeline.events.publications import (
    asset_requested,
    asset_settled,
    assets_ready,
    task_event,
    task_given_up,
    task_recovered,
)
from pipeline.message import MessageId
from pipeline.task import (
    Asset,
    AssetKey,
    AssetState,
    Notes,
    Stage,
    StageReady,
    TaskUpdate,
    event_id,
)
from tests.callbacks import START, TASK, after, make_track, make_update

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.message import Publication

SOURCE = "/studio"
OWNER = MessageId("m1")


def make_asset(
    kind: str = "audio", state: AssetState = AssetState.STORED, **changes: Any
) -> Asset:
    key = AssetKey(task_id=TASK, track_id="t1", kind=kind)
    values: dict[str, Any] = {"url": "https://a.example/1.mp3?sig=1"}
    if state is AssetState.STORED:
        values |= {
            "sha256": "ab" * 32,
            "size_bytes": 17,
            "content_type": "audio/mpeg",
            "location": "sha256/ab/abab.mp3",
            "settled_at": after(5),
        }
    elif state is AssetState.EXPIRED:
        values |= {"reason": "410 Gone", "settled_at": after(6)}
    values |= changes
    return Asset(key=key, operation="upload-extend", state=state, **values)


def make_ready(*assets: Asset) -> StageReady:
    return StageReady(
        task_id=TASK,
        operation="upload-extend",
        stage=Stage.COMPLETE,
        assets=assets or (make_asset(), make_asset("image", AssetState.EXPIRED)),
    )


def say(update: TaskUpdate, *, late: bool = False) -> Publication:
    return task_event(
        update,
        event_id(update),
        late=late,
        origin="callback",
        received_at=START,
        source=SOURCE,
        at=after(1),
    )


def every_publication() -> Iterator[Publication]:
    for stage in Stage:
        yield say(make_update(stage))
    yield asset_requested(
        make_asset(), owner=OWNER, stage=Stage.COMPLETE, source=SOURCE, at=START
    )
    yield asset_settled(make_asset(), source=SOURCE, at=START)
    yield asset_settled(make_asset(state=AssetState.EXPIRED), source=SOURCE, at=START)
    yield assets_ready(make_ready(), source=SOURCE, at=START)
    yield task_given_up(
        TASK,
        "upload-extend",
        Stage.TEXT,
        reason="nothing_new",
        questions=50,
        source=SOURCE,
        at=START,
    )
    update = make_update(Stage.FIRST)
    yield task_recovered(
        update, event_id(update), received_at=START, source=SOURCE, at=after(1)
    )


@pytest.mark.parametrize("publication", list(every_publication()))
def test_every_event_is_a_cloud_event_that_its_headers_describe(
    publication: Publication,
) -> None:
    envelope = publication.envelope
    content = orjson.loads(envelope.body)

    event = parse_event(envelope.body)

    assert envelope.content_type == CONTENT_TYPE == "application/cloudevents+json"
    assert {
        "specversion": "1.0",
        "id": envelope.message_id,
        "source": SOURCE,
        "type": envelope.routing_key,
        "subject": TASK,
        "datacontenttype": "application/json",
    }.items() <= content.items()
    assert content["time"].endswith("Z")
    assert {
        "event-type": envelope.routing_key,
        "task-id": TASK,
        "operation": "upload-extend",
    }.items() <= envelope.headers.items()
    assert event.data.task_id == TASK


@pytest.mark.parametrize("publication", list(every_publication()))
def test_every_event_says_just_what_its_model_knows(publication: Publication) -> None:
    """So that the models are the whole contract, and nothing is left out of it."""
    content = orjson.loads(publication.envelope.body)

    event = parse_event(publication.envelope.body)

    assert content == orjson.loads(event.model_dump_json())


@pytest.mark.parametrize("stage", list(Stage))
def test_the_event_of_a_stage_holds_what_the_provider_said(stage: Stage) -> None:
    update = make_update(stage, tracks=[make_track(created_at=START)], message="Fine.")

    publication = say(update, late=True)

    event = parse_event(publication.envelope.body)
    assert isinstance(event, TaskEvent)
    assert (publication.exchange, publication.wire_key) == ("events", f"task.{stage}")
    assert publication.envelope.headers["stage"] == stage
    assert (event.time, event.data.stage) == (START, stage)
    assert (event.data.late, event.data.message) == (True, "Fine.")
    (track,) = event.data.tracks
    assert track.links == make_track().links
    assert track.created_at == START


def test_the_event_of_notes_counts_them_and_leaves_them_out() -> None:
    notes = Notes(instruments=2, notes=5001, digest="0" * 32)

    publication = say(replace(make_update(), operation="midi", notes=notes))

    content = orjson.loads(publication.envelope.body)
    assert {"instruments": 2, "notes": 5001} == content["data"]["notes"]
    event = parse_event(publication.envelope.body)
    assert content == orjson.loads(event.model_dump_json())


def test_a_requested_file_goes_to_the_download_queue_alone() -> None:
    asset = make_asset(state=AssetState.PENDING)

    publication = asset_requested(
        asset, owner=OWNER, stage=Stage.COMPLETE, source=SOURCE, at=START
    )

    event = parse_event(publication.envelope.body)
    assert isinstance(event, AssetRequested)
    assert (publication.exchange, publication.wire_key) == ("work", "download")
    assert publication.envelope.routing_key == "asset.requested"
    assert publication.envelope.headers["stage"] == "complete"
    assert (event.data.key, event.data.url) == (asset.key, asset.url)


def test_the_same_owner_asks_with_the_same_id_and_another_with_another() -> None:
    def ask(owner: str) -> MessageId:
        asset = make_asset(state=AssetState.PENDING)
        publication = asset_requested(
            asset, owner=MessageId(owner), stage=Stage.FIRST, source=SOURCE, at=START
        )
        return publication.envelope.message_id

    assert ask("m1") == ask("m1")
    assert ask("m1") != ask("m2")


def test_a_stored_file_says_where_it_is() -> None:
    event = parse_event(
        asset_settled(make_asset(), source=SOURCE, at=START).envelope.body
    )

    assert isinstance(event, AssetStored)
    assert (event.time, event.data.sha256) == (after(5), "ab" * 32)
    assert event.data.location == "sha256/ab/abab.mp3"


def test_an_expired_file_says_why() -> None:
    asset = make_asset(state=AssetState.EXPIRED)

    event = parse_event(asset_settled(asset, source=SOURCE, at=START).envelope.body)

    assert isinstance(event, AssetExpired)
    assert event.data.reason == "410 Gone"


def test_a_pending_file_is_no_news() -> None:
    asset = make_asset(state=AssetState.PENDING)

    with pytest.raises(ValueError, match="expected a file that is stored or expired"):
        asset_settled(asset, source=SOURCE, at=START)


def test_a_ready_stage_lists_every_file() -> None:
    event = parse_event(
        assets_ready(make_ready(), source=SOURCE, at=START).envelope.body
    )

    assert isinstance(event, AssetsReady)
    assert event.time == after(6)
    assert [("audio", "stored"), ("image", "expired")] == [
        (asset.kind, asset.state) for asset in event.data.assets
    ]


def test_a_stage_that_is_ready_again_is_news_only_if_a_file_has_changed() -> None:
    def id_of(*assets: Asset, hours: int = 0) -> MessageId:
        at = after(3600 * hours)
        ready = make_ready(*assets)
        return assets_ready(ready, source=SOURCE, at=at).envelope.message_id

    gone = make_asset("image", AssetState.EXPIRED)

    assert id_of(make_asset(), gone) == id_of(make_asset(), gone, hours=1)
    assert id_of(make_asset(), gone) != id_of(make_asset(), make_asset("image"))


def test_a_stage_that_was_recovered_is_told_once_and_names_its_event() -> None:
    """Whatever it says: what comes after it in the same stage is no news."""

    def tell(update: TaskUpdate) -> TaskRecovered:
        publication = task_recovered(
            update, event_id(update), received_at=START, source=SOURCE, at=after(1)
        )
        assert ("events", "task.recovered") == (
            publication.exchange,
            publication.wire_key,
        )
        event = parse_event(publication.envelope.body)
        assert isinstance(event, TaskRecovered)
        return event

    one = make_update(Stage.FIRST)
    other = make_update(Stage.FIRST, tracks=[make_track(title="Other")])

    assert tell(one).id == tell(other).id
    assert tell(one).id != tell(make_update(Stage.COMPLETE)).id
    assert (event_id(one), Stage.FIRST) == (
        tell(one).data.event_id,
        tell(one).data.stage,
    )


def test_public_types_are_the_routing_keys_of_subscriptions() -> None:
    assert PUBLIC_TYPES == (
        "task.unknown",
        "task.text",
        "task.first",
        "task.failed",
        "task.complete",
        "asset.stored",
        "asset.expired",
        "task.assets_ready",
        "task.given_up",
        "task.recovered",
    )
    assert set(TASK_TYPES) == set(Stage)


def test_fields_and_attributes_of_newer_versions_are_ignored() -> None:
    content = orjson.loads(say(make_update()).envelope.body)
    content["traceparent"] = "00-x"
    content["data"]["mood"] = "happy"

    event = parse_event(orjson.dumps(content))

    assert event.type == "task.complete"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "the body"),
        (b"[]", "the body"),
        (b"{}", "type"),
        (b'{"type": "song.completed"}', "song.completed"),
        (b'{"type": "task.text", "id": "1"}', "task.text"),
    ],
)
def test_what_is_none_of_our_events_is_rejected(body: bytes, reason: str) -> None:
    with pytest.raises(Reject, match="expected one of our events") as caught:
        parse_event(body)

    assert reason in str(caught.value)


def test_the_models_give_one_schema_for_all_events() -> None:
    schema = EVENTS_ADAPTER.json_schema()

    assert set(schema["discriminator"]["mapping"]) == {*PUBLIC_TYPES, "asset.requested"}
