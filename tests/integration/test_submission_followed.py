"""What was submitted is followed until nothing more is to be waited for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pipeline.ledger import open_ledger
from pipeline.submission import follow, look
from pipeline.task import Stage, TaskId
from tests.callbacks import TASK, make_claim, make_update
from tests.given_up import expect_long_ago, give_up

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.submission import Followed


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
