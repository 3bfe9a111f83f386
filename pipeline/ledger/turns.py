"""Whose turn it is to call the provider, over all processes that share the ledger.

A part of the ledger's port. The provider counts by account and by task, not by
process. So whoever calls takes a turn first, in a transaction of its own that is over
before the call is made. A turn that was taken and not used is gone. All times are
those of the database's clock.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from pipeline.values import value

if TYPE_CHECKING:
    from datetime import timedelta

    from pipeline.task import TaskId


@value
class Window:
    """No more than so many turns within any span of time."""

    most: int
    span: timedelta


@value
class Turn:
    """When to call, or when to ask again for a turn."""

    #: From now.
    wait: timedelta
    #: Whether it is ours; else there is none before ``wait`` has passed.
    is_taken: bool


class Turns(ABC):
    """The part of the ledger that knows who calls when."""

    @abstractmethod
    async def take_question(
        self, task_id: TaskId | None, *, pause: timedelta, window: Window
    ) -> Turn:
        """Take the next turn to ask something.

        It is ``pause`` after that of the last question, also of those that were taken
        with ``take_due``. Whoever takes one here is let in at the end of the queue,
        however long that is; ``take_due`` does not reach further than a little ahead.

        Args:
            task_id: which task is asked for; ``None``: it is no question about one.
            pause: until the turn after this one.
            window: holds for questions about the task. While it is full there is no
                turn, and none is kept from others.
        """

    @abstractmethod
    async def take_submission(self, window: Window) -> timedelta:
        """Take the next turn to submit something; give the wait until then.

        ``window`` holds for all submissions together.
        """
