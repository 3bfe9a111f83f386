"""Follow a task in the ledger until its files are there, or will not come."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeAlias

from pipeline.task import AssetKey, AssetState, Stage, TaskId
from pipeline.values import value

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pipeline.ledger.port import Ledger
    from pipeline.task import Asset

#: How often the ledger is looked at.
EVERY_SECONDS: Final = 0.5
#: How often dead letters are looked for: all of a queue are held while they are.
DEAD_LETTERS_EVERY_SECONDS: Final = 5.0

#: Gives the files of a task whose requests are dead letters.
DeadFiles: TypeAlias = Callable[[TaskId], Awaitable[frozenset[AssetKey]]]


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
    #: Files whose requests are dead letters: they come after a replay, if at all.
    dead: frozenset[AssetKey] = frozenset()

    def count(self, state: AssetState) -> int:
        """Count its files in a state."""
        return sum(asset.state is state for asset in self.assets)

    @property
    def stuck(self) -> tuple[Asset, ...]:
        """Files that nobody fetches until their dead letters are replayed."""
        return tuple(
            asset
            for asset in self.assets
            if asset.state is AssetState.PENDING and asset.key in self.dead
        )

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to be waited for."""
        if self.stage is Stage.FAILED or self.is_given_up:
            return True
        left = self.count(AssetState.PENDING) - len(self.stuck)
        return self.stage is Stage.COMPLETE and not left

    @property
    def is_good(self) -> bool:
        """Whether it is over and everything is there."""
        stored = self.count(AssetState.STORED)
        return self.stage is Stage.COMPLETE and stored == len(self.assets)


class Watch:
    """Looks at one task again and again.

    Args:
        ledger: an open handle.
        task_id: the task.
        dead_files: asked, now and then, for a task that has ended and still lacks
            files; ``None``: those of dead letters are waited for as well.
    """

    def __init__(
        self, ledger: Ledger, task_id: TaskId, dead_files: DeadFiles | None = None
    ) -> None:
        self._ledger = ledger
        self._task_id = task_id
        self._dead_files = dead_files
        self._dead: frozenset[AssetKey] = frozenset()
        self._ask_at = 0.0

    async def look(self) -> Followed:
        """Say how far the task is now.

        Raises:
            LedgerError: the ledger cannot be read.
        """
        found = await look(self._ledger, self._task_id)
        if found.stage is not Stage.COMPLETE or found.is_over:
            return found
        now = asyncio.get_running_loop().time()
        if self._dead_files is not None and now >= self._ask_at:
            self._dead = await self._dead_files(self._task_id)
            self._ask_at = now + DEAD_LETTERS_EVERY_SECONDS
        return replace(found, dead=self._dead)


async def look(ledger: Ledger, task_id: TaskId) -> Followed:
    """Say how far a task is now, by the ledger alone."""
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


async def follow(
    ledger: Ledger, task_id: TaskId, *, dead_files: DeadFiles | None = None
) -> AsyncIterator[Followed]:
    """Say how far a task is whenever that has changed, until it is over.

    Who does not want to wait for ever sets a deadline. ``dead_files``: as of ``Watch``.
    """
    watch = Watch(ledger, task_id, dead_files)
    last: Followed | None = None
    while True:
        found = await watch.look()
        if last is None or _essence(found) != _essence(last):
            yield found
        if found.is_over:
            return
        last = found
        await asyncio.sleep(EVERY_SECONDS)


def _essence(found: Followed) -> tuple[object, ...]:
    assets = [(asset.key, asset.state) for asset in found.assets]
    return found.stage, found.is_given_up, assets, found.dead
