"""Follow a task in the ledger until its files are there."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from pipeline.task import AssetState, Stage
from pipeline.values import value

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pipeline.ledger.port import Ledger
    from pipeline.task import Asset, TaskId

#: How often the ledger is looked at.
EVERY_SECONDS: Final = 0.5


@value
class Followed:
    """How far a task is."""

    task_id: TaskId
    #: ``None``: nothing has been heard of it.
    stage: Stage | None
    #: What the provider said.
    message: str
    #: Its files, in whatever state.
    assets: tuple[Asset, ...]
    #: Whether nobody asks the provider for it any more, though it has not ended.
    is_given_up: bool = False

    def count(self, state: AssetState) -> int:
        """Count its files in a state."""
        return sum(asset.state is state for asset in self.assets)

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to be waited for."""
        if self.stage is Stage.FAILED or self.is_given_up:
            return True
        return self.stage is Stage.COMPLETE and not self.count(AssetState.PENDING)

    @property
    def is_good(self) -> bool:
        """Whether it is over and everything is there."""
        expired = self.count(AssetState.EXPIRED)
        return self.is_over and self.stage is Stage.COMPLETE and not expired


async def look(ledger: Ledger, task_id: TaskId) -> Followed:
    """Say how far a task is now."""
    # In this order: files are noted together with the stage that brings them, and
    # news of a task that was given up makes it expected again.
    task = await ledger.find_task(task_id)
    assets = await ledger.list_assets(task_id)
    expected = await ledger.find_expected(task_id)
    return Followed(
        task_id=task_id,
        stage=None if task is None else task.stage,
        message="" if task is None else task.message,
        assets=tuple(assets),
        is_given_up=expected is not None and expected.given_up_at is not None,
    )


async def follow(ledger: Ledger, task_id: TaskId) -> AsyncIterator[Followed]:
    """Say how far a task is whenever that has changed, until it is over.

    Who does not want to wait for ever sets a deadline.
    """
    last: Followed | None = None
    while True:
        found = await look(ledger, task_id)
        if last is None or _essence(found) != _essence(last):
            yield found
        if found.is_over:
            return
        last = found
        await asyncio.sleep(EVERY_SECONDS)


def _essence(found: Followed) -> tuple[object, ...]:
    assets = [(asset.key, asset.state) for asset in found.assets]
    return found.stage, found.is_given_up, assets
