"""Work that shows outside is done by one at a time, and the late are fenced off.

Files and notifications alike: every test that can runs on both.
"""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Final, TypeAlias

import pytest

from pipeline.errors import LeaseHeld, LeaseLost
from pipeline.ledger.port import Notification, StoredAsset
from pipeline.task import AssetKey, AssetState, EventId, Stage, TaskId
from tests.callbacks import TASK, after, make_claim, make_update

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pipeline.ledger.lease import Lease
    from pipeline.ledger.port import Ledger
    from tests.contract.ledger.conftest import OpenAgain

    Begin: TypeAlias = Callable[..., Awaitable[Lease | None]]
    Record: TypeAlias = Callable[[Lease], Awaitable[None]]

LONG: Final = timedelta(minutes=1)
SHORT: Final = timedelta(milliseconds=80)
STORED: Final = StoredAsset(
    sha256="ab" * 32,
    size_bytes=17,
    content_type="audio/mpeg",
    location="sha256/ab/abab.mp3",
)
KEY: Final = AssetKey(task_id=TASK, track_id="8551-1", kind="audio")
#: What was delivered by whoever records it here.
DELIVERED: Final = Notification(
    subscription="shop",
    event_id=EventId("e1"),
    event_type="task.complete",
    task_id=TASK,
    attempts=1,
    delivered_at=after(5),
    status=200,
)


class Files:
    """Work on a file."""

    @staticmethod
    async def begin(ledger: Ledger, owner: str, lasts: timedelta = LONG) -> Lease:
        begun = await ledger.begin_asset(KEY, owner=owner, lasts=lasts)
        assert begun is not None
        assert begun.lease is not None
        assert begun.asset.key == KEY
        return begun.lease

    @staticmethod
    async def record(ledger: Ledger, lease: Lease) -> None:
        await ledger.settle_assets([KEY], STORED, at=after(5), lease=lease)

    @staticmethod
    async def is_done(ledger: Ledger) -> bool:
        begun = await ledger.begin_asset(KEY, owner="anybody", lasts=LONG)
        asset = await ledger.find_asset(KEY)
        assert begun is not None
        assert begun.asset == asset
        return begun.lease is None and begun.asset.state is AssetState.STORED


class Notifications:
    """Work on a notification."""

    @staticmethod
    async def begin(ledger: Ledger, owner: str, lasts: timedelta = LONG) -> Lease:
        begun = await ledger.begin_notification(DELIVERED, owner=owner, lasts=lasts)
        assert begun.lease is not None
        assert begun.attempts == 0
        return begun.lease

    @staticmethod
    async def record(ledger: Ledger, lease: Lease) -> None:
        await ledger.note_notification(DELIVERED, lease=lease)

    @staticmethod
    async def is_done(ledger: Ledger) -> bool:
        begun = await ledger.begin_notification(DELIVERED, owner="x", lasts=LONG)
        found = await ledger.list_notifications(TASK)
        return begun.lease is None and [DELIVERED] == list(found)


Kind: TypeAlias = type[Files] | type[Notifications]


@pytest.fixture(params=[Files, Notifications])
async def kind(request: pytest.FixtureRequest, ledger: Ledger) -> Kind:
    """A kind of work, that there is something of to do."""
    update = make_update(Stage.COMPLETE, links={"audio": "https://a.example/1.mp3"})
    await ledger.record([make_claim(update)])
    chosen: Kind = request.param
    return chosen


async def begin_soon(kind: Kind, ledger: Ledger, owner: str) -> Lease:
    """Begin, waiting as workers do."""
    async with asyncio.timeout(10):
        while True:
            try:
                return await kind.begin(ledger, owner)
            except LeaseHeld as held:
                await asyncio.sleep(held.left.total_seconds())


async def test_only_one_of_many_gets_the_lease(
    kind: Kind, ledger: Ledger, open_again: OpenAgain
) -> None:
    handles = [ledger, await open_again(), await open_again()]

    answers = await asyncio.gather(
        *(kind.begin(handles[n % 3], f"worker-{n}") for n in range(12)),
        return_exceptions=True,
    )

    held = [one for one in answers if isinstance(one, LeaseHeld)]
    assert 11 == len(held)
    for one in held:
        assert LONG / 2 < one.left <= LONG


async def test_what_was_recorded_under_a_lease_is_done(
    kind: Kind, ledger: Ledger
) -> None:
    lease = await kind.begin(ledger, "a")

    for _ in range(2):  # the answer to the first may have been lost
        await kind.record(ledger, lease)

    assert await kind.is_done(ledger)


async def test_the_same_owner_gets_its_lease_again_with_a_higher_token(
    kind: Kind, ledger: Ledger
) -> None:
    """It began, and never heard so; what it began before cannot be recorded."""
    first = await kind.begin(ledger, "a")

    again = await kind.begin(ledger, "a")

    assert again.token > first.token
    with pytest.raises(LeaseLost):
        await kind.record(ledger, first)
    await kind.record(ledger, again)


async def test_a_lease_that_ran_out_goes_to_another_with_a_higher_token(
    kind: Kind, ledger: Ledger
) -> None:
    started = time.monotonic()
    first = await kind.begin(ledger, "a", SHORT)

    second = await begin_soon(kind, ledger, "b")

    assert time.monotonic() - started >= SHORT.total_seconds() / 2
    assert second.token > first.token
    assert second.work == first.work


async def test_tokens_grow_whoever_takes_the_lease(kind: Kind, ledger: Ledger) -> None:
    tokens = []
    for owner in "abcabbca":
        lease = await kind.begin(ledger, owner)
        tokens.append(lease.token)
        await ledger.release(lease)

    assert tokens == sorted(set(tokens))


async def test_a_late_record_changes_nothing(kind: Kind, ledger: Ledger) -> None:
    """Its worker was frozen, and another one has taken over."""
    frozen = await kind.begin(ledger, "a", SHORT)
    second = await begin_soon(kind, ledger, "b")

    with pytest.raises(LeaseLost):
        await kind.record(ledger, frozen)

    with pytest.raises(LeaseHeld):
        await kind.begin(ledger, "c")
    await kind.record(ledger, second)
    with pytest.raises(LeaseLost):
        await kind.record(ledger, frozen)
    assert await kind.is_done(ledger)


async def test_a_late_record_is_good_while_nobody_has_taken_over(
    kind: Kind, ledger: Ledger
) -> None:
    lease = await kind.begin(ledger, "a", timedelta(0))

    await kind.record(ledger, lease)

    assert await kind.is_done(ledger)


async def test_a_renewed_lease_holds(kind: Kind, ledger: Ledger) -> None:
    lease = await kind.begin(ledger, "a", timedelta(0))

    await ledger.renew(lease, lasts=LONG)

    with pytest.raises(LeaseHeld):
        await kind.begin(ledger, "b")


async def test_a_lease_of_another_is_not_renewed(kind: Kind, ledger: Ledger) -> None:
    first = await kind.begin(ledger, "a", timedelta(0))
    second = await begin_soon(kind, ledger, "b")

    with pytest.raises(LeaseLost):
        await ledger.renew(first, lasts=LONG)
    with pytest.raises(LeaseLost):
        await ledger.release(first)

    with pytest.raises(LeaseHeld):
        await kind.begin(ledger, "c")
    await kind.record(ledger, second)


async def test_a_lease_that_was_given_back_is_free_at_once(
    kind: Kind, ledger: Ledger
) -> None:
    lease = await kind.begin(ledger, "a")

    await ledger.release(lease)

    assert (await kind.begin(ledger, "b")).token > lease.token


async def test_a_lease_taken_during_a_late_record_waits_for_its_end(
    kind: Kind, ledger: Ledger, open_again: OpenAgain
) -> None:
    """Either the record was first, or the lease: never both."""
    other = await open_again()
    lease = await kind.begin(ledger, "a", timedelta(0))

    async def take() -> Lease | None:
        try:
            return await kind.begin(other, "b")
        except AssertionError:  # done, so there is no lease
            return None

    record, taken = await asyncio.gather(
        kind.record(ledger, lease), take(), return_exceptions=True
    )

    assert not isinstance(taken, BaseException)
    assert (taken is None) == (record is None)
    assert isinstance(record, LeaseLost | None)


async def test_a_failed_notification_ends_its_lease(ledger: Ledger) -> None:
    """So its retry need not wait; and it knows how many there were."""
    failed = Notification(
        subscription="shop",
        event_id=EventId("e1"),
        event_type="task.complete",
        task_id=TASK,
        attempts=1,
        delivered_at=None,
        status=500,
    )
    begun = await ledger.begin_notification(failed, owner="a", lasts=LONG)
    assert begun.lease is not None
    await ledger.note_notification(failed, lease=begun.lease)

    again = await ledger.begin_notification(failed, owner="b", lasts=LONG)

    assert again.attempts == 1
    assert again.lease is not None
    assert again.lease.token > begun.lease.token


async def test_a_notification_that_has_only_begun_is_not_listed(
    ledger: Ledger,
) -> None:
    await Notifications.begin(ledger, "a")

    assert [] == list(await ledger.list_notifications(TASK))
    assert (await ledger.totals()).notifications_delivered == 0


async def test_a_file_that_nobody_knows_has_no_lease(ledger: Ledger) -> None:
    assert await ledger.begin_asset(KEY, owner="a", lasts=LONG) is None


async def test_a_file_that_was_asked_for_anew_goes_on_with_higher_tokens(
    ledger: Ledger,
) -> None:
    """It expired, and a fresh link came: an old lease must not be good again."""
    links = ["https://a.example/1.mp3?sig=1", "https://a.example/1.mp3?sig=2"]
    first, fresh = (
        make_claim(
            make_update(Stage.COMPLETE, links={"audio": link}), received_at=after(n)
        )
        for n, link in enumerate(links)
    )
    await ledger.record([first])
    lease = await Files.begin(ledger, "a")
    await ledger.settle_assets([KEY], "410 Gone", at=after(1), lease=lease)
    await ledger.record([fresh])

    again = await Files.begin(ledger, "b")

    assert again.token > lease.token
    with pytest.raises(LeaseLost):
        await ledger.settle_assets([KEY], "410 Gone", at=after(2), lease=lease)
    asset = await ledger.find_asset(KEY)
    assert asset is not None
    assert (AssetState.PENDING, links[1]) == (asset.state, asset.url)


async def test_giving_a_file_up_by_hand_asks_for_no_lease(ledger: Ledger) -> None:
    await ledger.record([make_claim()])
    lease = await Files.begin(ledger, "a")

    (settled,) = await ledger.settle_assets([KEY], "given up", at=after(1))

    assert settled.asset is not None
    assert settled.asset.state is AssetState.EXPIRED
    # What comes after all is taken all the same.
    await Files.record(ledger, lease)
    assert await Files.is_done(ledger)


async def test_recording_leaves_leases_alone(ledger: Ledger) -> None:
    """A duplicate of the callback comes while the file is fetched."""
    update = make_update(Stage.COMPLETE)
    await ledger.record([make_claim(update)])
    lease = await Files.begin(ledger, "a")

    await ledger.record([make_claim(update, received_at=after(3))])

    with pytest.raises(LeaseHeld):
        await Files.begin(ledger, "b")
    await Files.record(ledger, lease)


async def test_leases_of_a_forgotten_task_are_forgotten(ledger: Ledger) -> None:
    """Whoever still holds one is told so, and writes nothing."""
    await ledger.record([make_claim(make_update(Stage.TEXT))])
    lease = await Notifications.begin(ledger, "a")

    assert await ledger.prune(after(60)) == 1

    with pytest.raises(LeaseLost):
        await Notifications.record(ledger, lease)
    assert [] == list(await ledger.list_notifications(TaskId(TASK)))
    assert (await Notifications.begin(ledger, "b")).token == 1
