"""How often our account calls: the door's limits, kept on our side of the line.

One process keeps to them by itself. Several that share a ledger take their turns from
there as well, because the provider counts by account and by task, not by process.
"""

from __future__ import annotations

import asyncio
import itertools
from contextlib import asynccontextmanager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from pipeline.errors import LedgerError, ProviderUnavailable
from pipeline.ledger.turns import Window
from pipeline.provider.pace import SLACK_SECONDS, EvenPace, PaceOfEach, WindowPace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pipeline.ledger.turns import Turns
    from pipeline.settings.door import DoorLimits
    from pipeline.task import TaskId

#: A turn that begins later than this is not used: others have theirs by then.
LATE_SECONDS: Final = SLACK_SECONDS / 2
#: So many are given up for that, one after the other. Where the ledger is always so
#: slow the next one is used all the same: else nothing would ever be asked.
MOST_GIVEN_UP: Final = 5
_SLACK: Final = timedelta(seconds=SLACK_SECONDS)


class AccountPace:
    """Lets calls through as often as the account may make them.

    Args:
        limits: the door's.
        rate_per_second: the most questions in a second.
        turns: where all processes with this account take their turns; ``None``: this
            is the only one.
    """

    def __init__(
        self, limits: DoorLimits, rate_per_second: float, turns: Turns | None
    ) -> None:
        self._turns = turns
        self._pause = timedelta(seconds=1 / rate_per_second)
        self._of_task = window_of_task(limits)
        self._of_submissions = Window(
            most=limits.submits, span=limits.submit_window + _SLACK
        )
        self._questions = EvenPace(rate_per_second)
        most = self._of_task.most
        self._questions_of_task = PaceOfEach(most, self._of_task.span - _SLACK)
        self._submissions = WindowPace(limits.submits, limits.submit_window)

    @asynccontextmanager
    async def question(
        self, task_id: TaskId | None, *, has_turn: bool = False
    ) -> AsyncIterator[None]:
        """Wait until something may be asked; the question ends with the context.

        Args:
            task_id: which task is asked for; ``None``: it is no question about one.
            has_turn: this question has had its turn from the ledger.

        Raises:
            LedgerUnavailable: the turns are not known.
        """
        await self._questions.turn()
        # The last of the turns, or those of one task could come together.
        own = (
            nullcontext() if task_id is None else self._questions_of_task.turn(task_id)
        )
        async with own:
            if not has_turn and self._turns is not None:
                await self._take_question(self._turns, task_id)
            yield

    @asynccontextmanager
    async def submission(self) -> AsyncIterator[None]:
        """Wait until something may be submitted; that ends with the context.

        Raises:
            ProviderUnavailable: the turns are not known; nothing was sent.
        """
        async with self._submissions.turn():
            if self._turns is not None:
                await self._take_submission(self._turns)
            yield

    async def _take_question(self, turns: Turns, task_id: TaskId | None) -> None:
        given_up = 0
        while True:
            asked_at = asyncio.get_running_loop().time()
            turn = await turns.take_question(
                task_id, pause=self._pause, window=self._of_task
            )
            is_punctual = await _is_punctual(turn.wait, asked_at)
            if turn.is_taken and (is_punctual or given_up == MOST_GIVEN_UP):
                return
            given_up += turn.is_taken

    async def _take_submission(self, turns: Turns) -> None:
        for given_up in itertools.count():
            asked_at = asyncio.get_running_loop().time()
            try:
                wait = await turns.take_submission(self._of_submissions)
            except LedgerError as error:
                message = f"expected a turn to submit something, got none: {error}"
                raise ProviderUnavailable(message) from error
            if await _is_punctual(wait, asked_at) or given_up == MOST_GIVEN_UP:
                return


def window_of_task(limits: DoorLimits) -> Window:
    """Write the rate of questions about one task as turns within a span.

    Below one a second the span is longer. What is between us and the provider takes
    its time, so the span is longer than the provider's by that.
    """
    most = max(1, int(limits.details_per_second))
    span = timedelta(seconds=most / limits.details_per_second)
    return Window(most=most, span=span + _SLACK)


async def _is_punctual(wait: timedelta, asked_at: float) -> bool:
    """Wait for a turn, and tell whether it begins in time.

    The wait counts from some moment between the question for the turn and its answer.
    So the whole of it is waited out from now, and what the answer took is late.
    """
    loop = asyncio.get_running_loop()
    await asyncio.sleep(wait.total_seconds())
    return loop.time() - asked_at - wait.total_seconds() <= LATE_SECONDS
