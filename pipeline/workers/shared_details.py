"""One question about a task for all of its files that want to know the same.

Links of one task die together. Whoever asks first asks for all: those who wait
meanwhile, and those who come a little later, have the same answer. But each file has
it once: one that asks again has found that this answer does not help.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Final, TypeAlias

from pipeline.errors import ProviderError
from pipeline.values import value

if TYPE_CHECKING:
    from pipeline.provider.client import Details, ProviderClient
    from pipeline.task import AssetKey, TaskId

#: For how long an answer serves files that come later.
KEPT_FOR: Final = timedelta(seconds=30)
#: Answers that are kept before old ones are dropped; each may be as long as a callback.
MOST_ANSWERS: Final = 64

_Answer: TypeAlias = "Details | ProviderError"


@value
class Told:
    """What a file is told."""

    details: Details
    #: Whether somebody else had asked before this file wanted to know. It is told
    #: something newer when it asks again.
    is_kept: bool


@dataclass(slots=True)
class _Shared:
    """What all files of one task share."""

    asking: asyncio.Lock = field(default_factory=asyncio.Lock)
    #: How many questions have had an outcome.
    asked: int = 0
    answer: _Answer | None = None
    answered_at: float = 0.0
    #: Whoever has had this answer.
    served: set[AssetKey] = field(default_factory=set)
    #: Those who want one at this moment.
    users: int = 0


class SharedDetails:
    """Asks for details on behalf of files, each task once where that will do.

    Args:
        client: an open client of the provider.
        kept_for: for how long an answer serves files that come later.
    """

    def __init__(
        self, client: ProviderClient, *, kept_for: timedelta = KEPT_FOR
    ) -> None:
        self._client = client
        self._kept_seconds = kept_for.total_seconds()
        self._shared: dict[tuple[TaskId, str], _Shared] = {}

    async def details(self, task_id: TaskId, operation: str, key: AssetKey) -> Told:
        """Give the details of a task for one of its files.

        Who waits while another asks shares what comes of it, an error as well. An
        answer is kept for those who come later, an error is not.

        Raises:
            ProviderError, LedgerUnavailable: as ``ProviderClient.details``.
        """
        self._forget()
        shared = self._shared.setdefault((task_id, operation), _Shared())
        asked_before = shared.asked
        shared.users += 1
        try:
            async with shared.asking:
                answer = self._known(shared, key, asked_before)
                is_kept = answer is not None and shared.asked == asked_before
                if answer is None:
                    answer = await self._ask(shared, task_id, operation)
                shared.served.add(key)
        finally:
            shared.users -= 1
        if isinstance(answer, ProviderError):
            raise answer
        return Told(details=answer, is_kept=is_kept)

    def _known(
        self, shared: _Shared, key: AssetKey, asked_before: int
    ) -> _Answer | None:
        """Find what this file may be told without asking."""
        if shared.asked > asked_before:
            return shared.answer
        if key in shared.served or isinstance(shared.answer, ProviderError):
            return None
        return None if self._is_old(shared) else shared.answer

    async def _ask(self, shared: _Shared, task_id: TaskId, operation: str) -> _Answer:
        answer: _Answer
        try:
            answer = await self._client.details(task_id, operation)
        except ProviderError as error:
            answer = error
        shared.answer = answer
        shared.asked += 1
        shared.answered_at = asyncio.get_running_loop().time()
        shared.served = set()
        return answer

    def _is_old(self, shared: _Shared) -> bool:
        now = asyncio.get_running_loop().time()
        return now - shared.answered_at > self._kept_seconds

    def _forget(self) -> None:
        """Drop what serves nobody any more."""
        if len(self._shared) < MOST_ANSWERS:
            return
        self._shared = {
            name: one
            for name, one in self._shared.items()
            if one.users or not self._is_old(one)
        }
        for name in [name for name, one in self._shared.items() if not one.users]:
            if len(self._shared) < MOST_ANSWERS:
                break
            del self._shared[name]
