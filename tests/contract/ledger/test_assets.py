"""Files: asked for once, with the newest link, until every one is settled."""

from __future__ import annotations

import asyncio
from itertools import permutations
from typing import TYPE_CHECKING

import pytest

from pipeline.events.publications import assets_ready
from pipeline.ledger.port import AssetState, StoredAsset, Verdict
from pipeline.task import AssetKey, Stage, TaskId
from tests.callbacks import (
    START,
    TASK,
    after,
    make_claim,
    make_track,
    make_update,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.ledger.port import Claim, Ledger, Recorded, StageReady
    from tests.contract.ledger.conftest import OpenAgain

STORED = StoredAsset(
    sha256="ab" * 32,
    size_bytes=17,
    content_type="audio/mpeg",
    location="sha256/ab/abab.mp3",
)
AUDIO = AssetKey(task_id=TASK, track_id="8551-1", kind="audio")
IMAGE = AssetKey(task_id=TASK, track_id="8551-1", kind="image")
OLD, NEW = "https://a.example/1.mp3?sig=1", "https://a.example/1.mp3?sig=2"


def make_link_claim(
    link: str,
    *,
    stage: Stage = Stage.COMPLETE,
    seconds: float = 0,
    owner: str | None = None,
) -> Claim:
    """Make a claim on one audio file."""
    update = make_update(stage, links={"audio": link})
    return make_claim(update, received_at=after(seconds), owner=owner)


async def record_one(ledger: Ledger, claim: Claim) -> Recorded:
    (recorded,) = await ledger.record([claim])
    return recorded


def stages(ready: Sequence[StageReady]) -> list[Stage]:
    return [one.stage for one in ready]


async def test_every_file_of_a_finished_stage_is_requested(ledger: Ledger) -> None:
    recorded = await record_one(ledger, make_claim())

    assert [AUDIO, IMAGE] == [asset.key for asset in recorded.requested]
    (audio, _) = recorded.requested
    assert audio.state is AssetState.PENDING
    assert audio.url == make_track().links["audio"]
    assert audio == await ledger.find_asset(AUDIO)
    assert recorded.ready is None


@pytest.mark.parametrize("stage", [Stage.UNKNOWN, Stage.TEXT, Stage.FAILED])
async def test_other_stages_request_nothing(ledger: Ledger, stage: Stage) -> None:
    update = make_update(stage, tracks=[make_track()])

    recorded = await record_one(ledger, make_claim(update))

    assert recorded.requested == ()
    assert await ledger.list_assets(TASK) == []


async def test_what_first_has_requested_is_not_requested_by_complete(
    ledger: Ledger,
) -> None:
    await ledger.record([make_claim(make_update(Stage.FIRST))])
    both = make_update(tracks=[make_track(), make_track("8551-2")])

    recorded = await record_one(ledger, make_claim(both))

    assert ["8551-2", "8551-2"] == [a.key.track_id for a in recorded.requested]


async def test_a_late_first_can_still_request_what_nobody_has(ledger: Ledger) -> None:
    await ledger.record([make_link_claim(OLD)])

    recorded = await record_one(ledger, make_claim(make_update(Stage.FIRST)))

    assert recorded.verdict is Verdict.LATE
    assert [IMAGE] == [asset.key for asset in recorded.requested]


async def test_a_duplicate_refreshes_a_pending_file_and_requests_nothing(
    ledger: Ledger,
) -> None:
    await ledger.record([make_link_claim(OLD)])

    recorded = await record_one(ledger, make_link_claim(NEW, seconds=1))

    assert recorded.verdict is Verdict.DUPLICATE
    assert recorded.requested == ()
    asset = await ledger.find_asset(AUDIO)
    assert asset is not None
    assert (NEW, AssetState.PENDING) == (asset.url, asset.state)


async def test_the_link_received_last_stays_whatever_the_order(ledger: Ledger) -> None:
    times = [(OLD, 1), (NEW, 2), (OLD, 3), (NEW, 3)]
    for number, order in enumerate(permutations(times)):
        track_id = f"track-{number}"
        for link, seconds in order:
            update = make_update(tracks=[make_track(track_id, links={"audio": link})])
            await ledger.record([make_claim(update, received_at=after(seconds))])

        asset = await ledger.find_asset(
            AssetKey(task_id=TASK, track_id=track_id, kind="audio")
        )
        assert asset is not None
        assert asset.url == NEW


async def test_an_expired_file_with_a_new_link_is_requested_anew(
    ledger: Ledger,
) -> None:
    await ledger.record([make_link_claim(OLD, owner="m1")])
    await ledger.settle_asset(AUDIO, "410 Gone", at=after(1))
    fresh = make_link_claim(NEW, seconds=2, owner="m2")

    recorded = await record_one(ledger, fresh)

    assert recorded.verdict is Verdict.DUPLICATE
    (asset,) = recorded.requested
    assert (NEW, AssetState.PENDING) == (asset.url, asset.state)
    assert (asset.reason, asset.settled_at) == (None, None)
    assert recorded == await record_one(ledger, fresh)


async def test_an_expired_file_with_the_same_link_stays_expired(
    ledger: Ledger,
) -> None:
    await ledger.record([make_link_claim(OLD)])
    await ledger.settle_asset(AUDIO, "410 Gone", at=after(1))

    recorded = await record_one(ledger, make_link_claim(OLD, seconds=2))

    assert recorded.requested == ()
    asset = await ledger.find_asset(AUDIO)
    assert asset is not None
    assert (AssetState.EXPIRED, "410 Gone") == (asset.state, asset.reason)


async def test_an_older_link_does_not_revive_an_expired_file(ledger: Ledger) -> None:
    await ledger.record([make_link_claim(NEW, seconds=5)])
    await ledger.settle_asset(AUDIO, "410 Gone", at=after(6))

    recorded = await record_one(ledger, make_link_claim(OLD, seconds=1))

    assert recorded.requested == ()


async def test_a_stored_file_is_not_requested_and_keeps_its_link(
    ledger: Ledger,
) -> None:
    await ledger.record([make_link_claim(OLD)])
    await ledger.settle_asset(AUDIO, STORED, at=after(1))

    recorded = await record_one(ledger, make_link_claim(NEW, seconds=2))

    assert recorded.requested == ()
    asset = await ledger.find_asset(AUDIO)
    assert asset is not None
    assert (OLD, AssetState.STORED) == (asset.url, asset.state)


async def test_a_stored_file_knows_where_it_is(ledger: Ledger) -> None:
    await ledger.record([make_link_claim(OLD)])

    await ledger.settle_asset(AUDIO, STORED, at=after(1))

    asset = await ledger.find_asset(AUDIO)
    assert asset is not None
    assert (asset.sha256, asset.size_bytes) == ("ab" * 32, 17)
    assert (asset.content_type, asset.location) == ("audio/mpeg", STORED.location)
    assert (asset.settled_at, asset.reason) == (after(1), None)


async def test_a_stage_is_ready_with_its_last_file(ledger: Ledger) -> None:
    await ledger.record([make_claim()])

    early = await ledger.settle_asset(AUDIO, STORED, at=after(1))
    (ready,) = await ledger.settle_asset(IMAGE, "404 Not Found", at=after(2))

    assert early == []
    assert (ready.task_id, ready.operation) == (TASK, "upload-extend")
    assert ready.stage is Stage.COMPLETE
    assert [("audio", AssetState.STORED), ("image", AssetState.EXPIRED)] == [
        (asset.key.kind, asset.state) for asset in ready.assets
    ]
    assert list(ready.assets) == list(await ledger.list_assets(TASK))


async def test_settling_again_gives_the_same_answer(ledger: Ledger) -> None:
    await ledger.record([make_link_claim(OLD)])
    first = await ledger.settle_asset(AUDIO, STORED, at=after(1))

    again = await ledger.settle_asset(AUDIO, STORED, at=after(2))

    assert stages(first) == [Stage.COMPLETE]
    assert first == again


async def test_a_stored_file_cannot_expire_but_an_expired_one_can_be_stored(
    ledger: Ledger,
) -> None:
    await ledger.record([make_claim()])
    await ledger.settle_asset(AUDIO, STORED, at=after(1))
    await ledger.settle_asset(IMAGE, "410 Gone", at=after(1))

    await ledger.settle_asset(AUDIO, "410 Gone", at=after(2))
    await ledger.settle_asset(IMAGE, STORED, at=after(2))

    found = [await ledger.find_asset(key) for key in (AUDIO, IMAGE)]
    assert [(AssetState.STORED, None)] * 2 == [
        (asset.state, asset.reason) for asset in found if asset
    ]


async def test_a_file_belongs_to_every_stage_that_named_it(ledger: Ledger) -> None:
    first = make_update(Stage.FIRST, tracks=[make_track("8551-1")])
    both = make_update(tracks=[make_track("8551-1"), make_track("8551-2")])
    await ledger.record([make_claim(first), make_claim(both)])
    keys = [asset.key for asset in await ledger.list_assets(TASK)]

    ready = [stages(await ledger.settle_asset(k, STORED, at=after(1))) for k in keys]

    assert [[], [Stage.FIRST], [], [Stage.COMPLETE]] == ready


async def test_complete_with_nothing_but_settled_files_is_ready_at_once(
    ledger: Ledger,
) -> None:
    await ledger.record([make_link_claim(OLD, stage=Stage.FIRST)])
    await ledger.settle_asset(AUDIO, STORED, at=after(1))
    complete = make_link_claim(OLD, seconds=2)

    recorded = await record_one(ledger, complete)

    assert recorded.requested == ()
    assert recorded.ready is not None
    assert recorded.ready.stage is Stage.COMPLETE
    assert recorded == await record_one(ledger, complete)
    duplicate = await record_one(ledger, make_link_claim(OLD, seconds=3))
    assert duplicate.ready is None


async def test_a_stage_without_files_is_never_ready(ledger: Ledger) -> None:
    recorded = await record_one(ledger, make_claim(make_update(tracks=[])))

    assert recorded.ready is None


async def test_files_are_settled_at_once_by_two_workers(
    ledger: Ledger, open_again: OpenAgain
) -> None:
    """At least one hears that the stage is ready; if both do, they say the same."""
    other = await open_again()
    for number in range(30):
        track = make_track(f"track-{number}")
        await ledger.record(
            [make_claim(make_update(task_id=str(number), tracks=[track]))]
        )
        task_id = make_update(task_id=str(number)).task_id
        audio, image = [a.key for a in await ledger.list_assets(task_id)]

        answers = await asyncio.gather(
            ledger.settle_asset(audio, STORED, at=after(1)),
            other.settle_asset(image, STORED, at=after(1)),
        )

        ready = [one for answer in answers for one in answer]
        assert ready
        assert len({ready_id(one) for one in ready}) == 1


def ready_id(ready: StageReady) -> str:
    return assets_ready(ready, source="/pipeline", at=START).envelope.message_id


async def test_a_file_that_is_not_known_changes_nothing(ledger: Ledger) -> None:
    assert await ledger.settle_asset(AUDIO, STORED, at=after(1)) == []
    assert await ledger.find_asset(AUDIO) is None


async def test_several_files_are_settled_in_one_go(ledger: Ledger) -> None:
    """An answer for each, in order; a stored one stays, an unknown one is told."""
    await ledger.record([make_claim(make_update(tracks=[make_track("8551-1")]))])
    await ledger.record([make_claim(make_update(task_id="b", tracks=[make_track()]))])
    others = [asset.key for asset in await ledger.list_assets(TaskId("b"))]
    unknown = AssetKey(task_id=TASK, track_id="8551-1", kind="video")
    await ledger.settle_asset(AUDIO, STORED, at=after(1))
    keys = [AUDIO, unknown, others[0], IMAGE]

    for at in (after(2), after(3)):
        settled = await ledger.settle_assets(keys, "given up", at=at)

        states = [one.asset and (one.asset.key, one.asset.state) for one in settled]
        assert [
            (AUDIO, AssetState.STORED),
            None,
            (others[0], AssetState.EXPIRED),
            (IMAGE, AssetState.EXPIRED),
        ] == states
        assert settled[1].ready == settled[2].ready == ()
        assert [Stage.COMPLETE] == stages(settled[3].ready)
        assert [one.asset for one in settled if one.asset] == [
            await ledger.find_asset(key) for key in keys if key != unknown
        ]
    assert [] == await ledger.settle_assets([], "given up", at=after(4))


async def test_files_are_counted_by_what_became_of_them(ledger: Ledger) -> None:
    tracks = [make_track(), make_track("8551-2")]
    await ledger.record([make_claim(make_update(tracks=tracks))])
    await ledger.settle_asset(AUDIO, STORED, at=after(1))
    await ledger.settle_asset(IMAGE, "410 Gone", at=after(1))

    totals = await ledger.totals()

    assert (2, 1, 1) == (
        totals.assets_pending,
        totals.assets_stored,
        totals.assets_expired,
    )
