"""Links that expire: what took whose place, what is old, what is being recovered."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import pytest

from pipeline.errors import LeaseLost
from pipeline.ledger.links import Renewal, UnfetchedLink
from pipeline.ledger.port import StoredAsset
from pipeline.task import AssetKey, Stage, TaskId
from tests.callbacks import TASK, after, make_claim, make_track, make_update

if TYPE_CHECKING:
    from pipeline.ledger.lease import Lease
    from pipeline.ledger.port import Ledger
    from tests.contract.ledger.conftest import OpenAgain

KEY: Final = AssetKey(task_id=TASK, track_id="8551-1", kind="audio")
OLD: Final = "https://files.example.com/1.mp3?sig=1"
NEW: Final = "https://files.example.com/1.mp3?sig=2"
LONG: Final = timedelta(minutes=1)
DAY: Final = timedelta(days=1)
STORED: Final = StoredAsset(
    sha256="ab" * 32,
    size_bytes=17,
    content_type="audio/mpeg",
    location="sha256/ab/abab.mp3",
)


def make_renewal(**changes: object) -> Renewal:
    renewal = Renewal(
        key=KEY, old_url=OLD, new_url=NEW, source="details", renewed_at=after(30)
    )
    return replace(renewal, **changes)  # type: ignore[arg-type]


async def request(ledger: Ledger, *, seconds: float = 0, **links: str) -> None:
    """Record a task with one track, with its audio at ``OLD`` unless said otherwise."""
    update = make_update(Stage.COMPLETE, links=links or {"audio": OLD})
    await ledger.record([make_claim(update, received_at=after(seconds))])


async def begin(ledger: Ledger, owner: str = "worker") -> Lease:
    begun = await ledger.begin_asset(KEY, owner=owner, lasts=LONG)
    assert begun is not None
    assert begun.lease is not None
    return begun.lease


async def url_of(ledger: Ledger) -> str:
    asset = await ledger.find_asset(KEY)
    assert asset is not None
    return asset.url


async def test_a_renewed_link_is_the_file_s_and_both_are_remembered(
    ledger: Ledger, open_again: OpenAgain
) -> None:
    await request(ledger)
    lease = await begin(ledger)
    renewal = make_renewal(source="minted", until=after(1230))

    await ledger.renew_link(renewal, lease=lease)

    other = await open_again()
    assert NEW == await url_of(other)
    assert [renewal] == await other.list_renewals(TASK)
    assert [] == await other.list_renewals(TaskId("another"))


async def test_renewals_are_listed_in_the_order_of_time(ledger: Ledger) -> None:
    await request(ledger)
    lease = await begin(ledger)
    second = make_renewal(old_url=NEW, new_url=f"{NEW}3", renewed_at=after(31))
    first = make_renewal()

    await ledger.renew_link(second, lease=lease)
    await ledger.renew_link(first, lease=lease)

    assert [first, second] == await ledger.list_renewals(TASK)


async def test_the_same_renewal_again_is_one_renewal(ledger: Ledger) -> None:
    """Its times are those of the last one: a link that is made anew lives anew."""
    await request(ledger)
    lease = await begin(ledger)
    again = make_renewal(until=after(2000), renewed_at=after(40))

    for renewal in (make_renewal(until=after(1200)), again, again):
        await ledger.renew_link(renewal, lease=lease)

    assert [again] == await ledger.list_renewals(TASK)


async def test_a_link_may_be_as_long_as_links_are_let_in(ledger: Ledger) -> None:
    """Longer than any index of a database takes."""
    await request(ledger)
    long = f"{NEW}{'x' * (4096 - len(NEW))}"

    await ledger.renew_link(make_renewal(new_url=long), lease=await begin(ledger))

    assert long == await url_of(ledger)


async def test_who_has_lost_the_lease_renews_nothing(
    ledger: Ledger, open_again: OpenAgain
) -> None:
    await request(ledger)
    lost = await begin(ledger)
    await ledger.release(lost)
    await begin(await open_again(), "another")

    with pytest.raises(LeaseLost):
        await ledger.renew_link(make_renewal(), lease=lost)

    assert OLD == await url_of(ledger)
    assert [] == await ledger.list_renewals(TASK)


async def test_the_link_of_a_settled_file_is_not_renewed(ledger: Ledger) -> None:
    await request(ledger)
    lease = await begin(ledger)
    await ledger.settle_assets([KEY], STORED, at=after(1))

    with pytest.raises(LeaseLost):
        await ledger.renew_link(make_renewal(), lease=lease)


async def test_a_callback_that_came_later_has_the_better_link(ledger: Ledger) -> None:
    """One that came before the renewal has not."""
    await request(ledger)
    await ledger.renew_link(make_renewal(), lease=await begin(ledger))

    await request(ledger, seconds=29, audio=f"{OLD}-29")
    kept = await url_of(ledger)
    await request(ledger, seconds=31, audio=f"{OLD}-31")

    assert NEW == kept
    assert f"{OLD}-31" == await url_of(ledger)


async def test_a_renewal_and_callbacks_at_once_lose_neither(
    ledger: Ledger, open_again: OpenAgain
) -> None:
    """Whoever records a callback writes the file's row as a whole."""
    await request(ledger)
    lease = await begin(ledger)
    other = await open_again()

    await asyncio.gather(
        *(request(other, seconds=n / 10, image=f"{OLD}-{n}") for n in range(10)),
        ledger.renew_link(make_renewal(), lease=lease),
    )

    assert NEW == await url_of(ledger)
    assert len(await ledger.list_assets(TASK)) == 2


async def test_links_received_before_a_time_are_listed_the_oldest_first(
    ledger: Ledger,
) -> None:
    for number, seconds in ((1, 20), (2, 10), (3, 30)):
        track = make_track("t", links={"audio": f"{OLD}-{number}"})
        update = make_update(task_id=f"task-{number}", tracks=[track])
        await ledger.record([make_claim(update, received_at=after(seconds))])

    found = await ledger.list_unfetched(received_before=after(30))
    one = await ledger.list_unfetched(received_before=after(30), limit=1)

    assert [("task-2", after(10)), ("task-1", after(20))] == [
        (link.key.task_id, link.received_at) for link in found
    ]
    assert [f"{OLD}-2", f"{OLD}-1"] == [link.url for link in found]
    assert [link.until for link in found] == [None, None]
    assert one == found[:1]
    (last,) = one
    assert found[1:] == await ledger.list_unfetched(
        received_before=after(30), after=last
    )


async def test_links_of_the_same_moment_are_given_once_over_all_pages(
    ledger: Ledger,
) -> None:
    kinds = {kind: f"{OLD}-{kind}" for kind in ("audio", "image", "video")}
    for number in range(4):
        tracks = [make_track(f"t-{n}", links=kinds) for n in range(2)]
        update = make_update(task_id=f"task-{number}", tracks=tracks)
        await ledger.record([make_claim(update, received_at=after(number // 2))])
    whole = await ledger.list_unfetched(received_before=after(30))

    found: list[UnfetchedLink] = []
    while page := await ledger.list_unfetched(
        received_before=after(30), after=found[-1] if found else None, limit=5
    ):
        found += page

    assert 24 == len(whole)
    assert whole == found


async def test_links_with_a_time_of_their_own_are_listed_however_young(
    ledger: Ledger,
) -> None:
    await request(ledger)
    renewal = make_renewal(source="minted", until=after(1230))
    await ledger.renew_link(renewal, lease=await begin(ledger))

    (link,) = await ledger.list_unfetched(received_before=after(0))

    assert UnfetchedLink(
        key=KEY, url=NEW, received_at=after(30), until=after(1230)
    ) == (link)


async def test_files_that_are_settled_have_no_links_to_watch(ledger: Ledger) -> None:
    await request(ledger)
    await ledger.settle_assets([KEY], STORED, at=after(1))

    assert [] == await ledger.list_unfetched(received_before=after(100))


async def test_each_link_is_warned_of_once_at_each_share(
    ledger: Ledger, open_again: OpenAgain
) -> None:
    """By whichever process; a fresh link is another one."""
    other = await open_again()
    link = UnfetchedLink(key=KEY, url=OLD, received_at=after(0), until=None)

    first = await asyncio.gather(
        *(handle.note_warnings([(link, 50)]) for handle in (ledger, other) * 3)
    )
    fresh = (replace(link, url=NEW), 50)

    assert sorted(map(len, first)) == [0] * 5 + [1]
    assert [(link, 80), fresh] == await other.note_warnings(
        [(link, 50), (link, 80), fresh]
    )
    assert [] == await ledger.note_warnings([fresh])
    assert [] == await ledger.note_warnings([])


async def test_a_task_is_recovered_by_one(
    ledger: Ledger, open_again: OpenAgain
) -> None:
    other = await open_again()

    claims = await asyncio.gather(
        *(one.claim_recovery(TASK, again_after=DAY) for one in (ledger, other) * 3)
    )
    early = await other.find_recovery(TASK)
    await ledger.note_recovery(TASK, TaskId("r-1"))
    late = await other.find_recovery(TASK)

    assert sorted(claims) == [False] * 5 + [True]
    assert early is not None
    assert late is not None
    assert early.recovery_id is None
    assert late.recovery_id == "r-1"
    assert late.asked_at == early.asked_at
    assert await ledger.find_recovery(TaskId("another")) is None


async def test_a_task_may_be_recovered_again_after_a_time(ledger: Ledger) -> None:
    """What the earlier recovery was called is no name of this one."""
    await ledger.claim_recovery(TASK, again_after=DAY)
    await ledger.note_recovery(TASK, TaskId("r-1"))

    again = await ledger.claim_recovery(TASK, again_after=timedelta(0))

    known = await ledger.find_recovery(TASK)
    assert again
    assert known is not None
    assert known.recovery_id is None


async def test_a_recovery_that_was_not_taken_is_free_again(ledger: Ledger) -> None:
    await ledger.claim_recovery(TASK, again_after=DAY)

    await ledger.drop_recovery(TASK)

    assert await ledger.find_recovery(TASK) is None
    assert await ledger.claim_recovery(TASK, again_after=DAY)


async def test_a_forgotten_task_leaves_nothing_about_its_links(ledger: Ledger) -> None:
    await request(ledger)
    await ledger.renew_link(make_renewal(), lease=await begin(ledger))
    link = UnfetchedLink(key=KEY, url=NEW, received_at=after(0), until=None)
    await ledger.note_warnings([(link, 50)])
    await ledger.claim_recovery(TASK, again_after=DAY)
    await ledger.settle_assets([KEY], STORED, at=after(1))

    assert await ledger.prune(after(1000)) == 1

    assert [] == await ledger.list_renewals(TASK)
    assert await ledger.find_recovery(TASK) is None
    assert [(link, 50)] == await ledger.note_warnings([(link, 50)])
