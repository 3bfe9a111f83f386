"""Links that get old are counted, and warned of while there is time."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from pipeline.assets.lifetime import Lifetimes
from pipeline.ledger import open_ledger
from pipeline.ledger.links import PAGE, Renewal
from pipeline.task import AssetKey, Stage
from pipeline.workers.link_watch import LinkWatch
from tests.callbacks import START, TASK, make_claim, make_update
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pipeline.ledger.port import Ledger

DAY: Final = timedelta(days=1)
LIFETIMES: Final = Lifetimes(files=10 * DAY)
LINK: Final = "https://files.example.com/1.mp3?sig=secret"
KEY: Final = AssetKey(task_id=TASK, track_id="8551-1", kind="audio")


class Days:
    """A clock that is put forward by hand."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> Any:
        return self.now

    def put(self, days: float) -> None:
        self.now = START + days * DAY


@pytest.fixture
def clock() -> Days:
    """The present time, on the day of the first callback."""
    return Days()


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    """A ledger with one file that is still to be fetched."""
    async with open_ledger(f"sqlite:///{tmp_path}/ledger.db") as opened:
        update = make_update(Stage.COMPLETE, links={"audio": LINK})
        await opened.record([make_claim(update)])
        yield opened


@pytest.fixture
def watch(ledger: Ledger, clock: Days) -> LinkWatch:
    """The watch under test."""
    return LinkWatch(ledger, LIFETIMES, clock=clock, every=timedelta(milliseconds=20))


def counted() -> dict[str, float | None]:
    name = "pipeline_unfetched_links"
    return {
        share: REGISTRY.get_sample_value(name, {"spent_percent": share})
        for share in ("50", "80", "100")
    }


async def warnings(watch: LinkWatch) -> list[tuple[int, int]]:
    """Look once; give what is warned of: the share and the days that are left."""
    with capture_logs() as lines:
        await watch.look()
    assert "secret" not in str(lines)
    return [
        (line["spent_percent"], round(line["left_seconds"] / DAY.total_seconds()))
        for line in lines
        if line["event"] == "link_expires"
    ]


async def test_a_young_link_is_nothing_to_speak_of(
    watch: LinkWatch, clock: Days
) -> None:
    clock.put(4.9)

    assert await warnings(watch) == []
    assert counted() == {"50": 0, "80": 0, "100": 0}


async def test_a_link_is_warned_of_at_half_of_its_life_and_when_little_is_left(
    watch: LinkWatch, clock: Days
) -> None:
    """Once each time."""
    clock.put(5.5)
    half = [await warnings(watch), await warnings(watch)]
    at_half = counted()
    clock.put(8)
    late = [await warnings(watch), await warnings(watch)]

    assert half == [[(50, 4)], []]
    assert at_half == {"50": 1, "80": 0, "100": 0}
    assert late == [[(80, 2)], []]
    assert counted() == {"50": 1, "80": 1, "100": 0}


async def test_a_link_that_nobody_saw_getting_old_is_warned_of_at_both(
    watch: LinkWatch, clock: Days
) -> None:
    """And counted as dead."""
    clock.put(11)

    assert await warnings(watch) == [(50, 0), (80, 0)]
    assert counted() == {"50": 1, "80": 1, "100": 1}


async def test_a_file_that_was_fetched_or_given_up_is_counted_no_more(
    watch: LinkWatch, clock: Days, ledger: Ledger
) -> None:
    clock.put(9)
    await watch.look()
    await ledger.settle_asset(KEY, "gone", at=clock.now)

    assert await warnings(watch) == []
    assert counted() == {"50": 0, "80": 0, "100": 0}


async def test_a_fresh_link_is_young_again(
    watch: LinkWatch, clock: Days, ledger: Ledger
) -> None:
    """A minted one gets old within minutes."""
    clock.put(9)
    await watch.look()
    begun = await ledger.begin_asset(KEY, owner="w", lasts=timedelta(minutes=1))
    assert begun is not None
    assert begun.lease is not None
    renewal = Renewal(
        key=KEY,
        old_url=LINK,
        new_url=f"{LINK}2",
        source="minted",
        renewed_at=clock.now,
        until=clock.now + timedelta(minutes=20),
    )
    await ledger.renew_link(renewal, lease=begun.lease)
    young = await warnings(watch)
    clock.now += timedelta(minutes=11)

    assert young == []
    assert await warnings(watch) == [(50, 0)]


async def test_two_processes_warn_once(
    watch: LinkWatch, clock: Days, ledger: Ledger
) -> None:
    other = LinkWatch(ledger, LIFETIMES, clock=clock, every=DAY)
    clock.put(6)

    assert await warnings(watch) == [(50, 4)]
    assert await warnings(other) == []


async def test_the_watch_goes_on_until_it_is_stopped(
    watch: LinkWatch, clock: Days, ledger: Ledger
) -> None:
    """Also when the ledger was away meanwhile."""
    stopping = asyncio.Event()
    running = asyncio.create_task(watch.run(stopping))
    clock.put(6)

    async def is_counted() -> bool:
        return counted()["50"] == 1

    with capture_logs() as lines:
        await eventually(is_counted)
        await ledger.__aexit__(None, None, None)

        async def has_missed() -> bool:
            return any(line["event"] == "links_not_watched" for line in lines)

        await eventually(has_missed)
        stopping.set()
        await running


async def test_every_link_is_looked_at_however_many_there_are(
    ledger: Ledger, watch: LinkWatch, clock: Days
) -> None:
    """Also where the oldest alone are more than one page."""
    await ledger.record(
        [
            make_claim(
                make_update(
                    Stage.COMPLETE, task_id=f"task-{number}", links={"audio": LINK}
                )
            )
            for number in range(2 * PAGE + 500)
        ]
    )
    clock.put(6)

    with capture_logs() as lines:
        await watch.look()
        await watch.look()

    assert 2 * PAGE + 501 == len({line["asset"] for line in lines}) == len(lines)
    assert counted()["50"] == 2 * PAGE + 501
