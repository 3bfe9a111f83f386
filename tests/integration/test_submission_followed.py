"""What was submitted is followed until nothing more is to be waited for."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import pytest

from pipeline.ledger import open_ledger
from pipeline.submission import Watch, follow, look
from pipeline.task import AssetKey, Stage, StoredAsset, TaskId
from tests.callbacks import TASK, after, make_claim, make_update
from tests.given_up import expect_long_ago, give_up

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.submission import Followed


KEY: Final = AssetKey(task_id=TASK, track_id="8551-1", kind="audio")
LINKS: Final = {"audio": "https://files.example.com/1.mp3"}
STORED: Final = StoredAsset(
    sha256="ab" * 32, size_bytes=17, content_type="audio/mpeg", location="a.mp3"
)


async def test_task_that_is_given_up_is_followed_no_longer(tmp_path: Path) -> None:
    async with open_ledger(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        await expect_long_ago(ledger)
        seen: list[Followed] = []
        async with asyncio.timeout(10):
            async for followed in follow(ledger, TASK):
                if not seen:
                    await give_up(ledger)
                seen.append(followed)

    assert [False, True] == [one.is_given_up for one in seen]
    assert [False, True] == [one.is_over for one in seen]
    assert not any(one.is_good for one in seen)


async def test_news_of_a_task_that_was_given_up_make_it_good(tmp_path: Path) -> None:
    async with open_ledger(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        await expect_long_ago(ledger)
        await give_up(ledger)
        await ledger.record([make_claim(make_update(Stage.COMPLETE, links={}))])

        followed = await look(ledger, TASK)

    assert (False, True) == (followed.is_given_up, followed.is_good)


async def test_task_that_nobody_knows_may_come(tmp_path: Path) -> None:
    async with open_ledger(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        followed = await look(ledger, TaskId("nobody"))

    assert (False, None) == (followed.is_over, followed.stage)


async def test_task_whose_download_is_a_dead_letter_is_followed_no_longer(
    tmp_path: Path,
) -> None:
    """Its file does not come before somebody replays it."""
    asked: list[TaskId] = []

    async def dead_files(task_id: TaskId) -> frozenset[AssetKey]:
        asked.append(task_id)
        return frozenset({KEY})

    async with open_ledger(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        await ledger.record([make_claim(make_update(Stage.COMPLETE, links=LINKS))])
        async with asyncio.timeout(10):
            seen = [one async for one in follow(ledger, TASK, dead_files=dead_files)]

    (followed,) = seen
    assert (True, False) == (followed.is_over, followed.is_good)
    assert [KEY] == [asset.key for asset in followed.stuck]
    assert [TASK] == asked


async def test_task_is_waited_for_while_one_of_its_files_may_come(
    tmp_path: Path,
) -> None:
    """One is a dead letter, the other is stored a little later."""

    async def dead_files(_: TaskId) -> frozenset[AssetKey]:
        return frozenset({KEY})

    other = replace(KEY, kind="image")
    links = {**LINKS, "image": "https://files.example.com/1.png"}
    async with open_ledger(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        await ledger.record([make_claim(make_update(Stage.COMPLETE, links=links))])
        watch = Watch(ledger, TASK, dead_files)
        early = await watch.look()
        await ledger.settle_asset(other, STORED, at=after(9))
        late = await watch.look()

    assert [False, True] == [early.is_over, late.is_over]
    assert not late.is_good


@pytest.mark.parametrize(("result", "is_good"), [(STORED, True), ("gone", False)])
async def test_task_is_over_when_its_files_are_settled(
    tmp_path: Path, result: StoredAsset | str, *, is_good: bool
) -> None:
    async with open_ledger(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        await ledger.record([make_claim(make_update(Stage.COMPLETE, links=LINKS))])
        early = await look(ledger, TASK)
        await ledger.settle_asset(KEY, result, at=after(9))
        late = await look(ledger, TASK)

    assert [False, True] == [early.is_over, late.is_over]
    assert is_good == late.is_good
