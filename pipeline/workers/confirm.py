"""Believe the provider, not the body: ask before anything comes of a callback.

A token or a signature proves that a callback was sent by somebody who knows a
secret, not that what it says is true. So the provider is asked for the task, and
what it answers takes the place of the body: stage, tracks, links, failure. A callback
is then no more than a hint that it is time to ask.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from pipeline.errors import (
    LedgerError,
    NotConfirmed,
    ProviderError,
    ProviderUnavailable,
    Reject,
    Retry,
    Settlement,
    TaskNotFound,
    Unreadable,
)
from pipeline.ledger.port import Claim
from pipeline.metrics import CONFIRMATIONS
from pipeline.provider.callback import OPERATIONS, normalise
from pipeline.task import event_id
from pipeline.values import value

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from pipeline.provider.client import ProviderClient
    from pipeline.provider.door import Door
    from pipeline.settings import ProviderSettings
    from pipeline.task import Stage, TaskId, TaskUpdate

#: The origin of what somebody has asked the provider for.
POLL: Final = "poll"


@value
class _Told:
    """What the provider says of a task."""

    update: TaskUpdate
    body: bytes


class Confirmation:
    """Asks the provider about every callback of a batch.

    Nothing is kept from one batch to the next: what a task looks like changes. In
    one batch each task is asked for once, after all its callbacks have come.

    Args:
        client: an open client.
        within: the longest for all questions of a batch, waiting included.
        door: knows what a failure means; ``None``: what it means at every door.
    """

    def __init__(
        self, client: ProviderClient, *, within: timedelta, door: Door | None = None
    ) -> None:
        self._client = client
        self._seconds = within.total_seconds()
        self._door = door

    async def confirm(
        self, read: Sequence[Claim | Settlement]
    ) -> Sequence[Claim | Settlement]:
        """Put the provider's word in the place of each claim's; in the same order.

        What was asked for by somebody else (``poll``) is the provider's word already.
        A callback that is not confirmed becomes ``Retry``: the provider may be behind.
        One of a task that it does not know becomes ``Reject``.

        Raises:
            LedgerUnavailable: whose turn it is to ask is not known.
        """
        questions = dict.fromkeys(
            (one.update.task_id, one.update.operation)
            for one in read
            if isinstance(one, Claim) and one.origin != POLL
        )
        async with asyncio.TaskGroup() as group:
            asked = {
                question: group.create_task(self._ask(*question))
                for question in questions
            }
        answers = {
            question: _or_raise(task.result()) for question, task in asked.items()
        }
        return [
            one
            if isinstance(one, Settlement) or one.origin == POLL
            else _judged(one, answers[one.update.task_id, one.update.operation])
            for one in read
        ]

    async def _ask(
        self, task_id: TaskId, operation: str
    ) -> _Told | ProviderError | LedgerError:
        try:
            async with asyncio.timeout(self._seconds):
                details = await self._client.details(task_id, operation)
            # Callbacks of operations that share an endpoint could name another one.
            known = details.operation if details.operation in OPERATIONS else operation
            update = normalise(details.body, known, self._door)
        except (ProviderError, LedgerError) as error:
            return error
        except Unreadable as error:
            return ProviderUnavailable(f"expected the details of a task: {error}")
        except TimeoutError:
            message = f"expected a turn and an answer within {self._seconds:g} s"
            return ProviderUnavailable(message)
        if update.task_id != task_id:
            message = f"expected the task {task_id}, got {update.task_id}"
            return ProviderUnavailable(message)
        return _Told(update=update, body=details.body)


def turns_within(
    within: timedelta,
    provider: ProviderSettings,
    *,
    rate_per_second: float,
    batches: int,
) -> int:
    """Say for how many tasks each of some batches at the same time can ask.

    Turns come in an eighth of the time there is. Half is for the answers, and in the
    rest other processes with this account have turns as well: a larger batch would
    cost those at its end an attempt, whatever the provider says, and would be no
    faster. And every answer may take as long as it is allowed to.
    """
    seconds = within.total_seconds()
    turns = seconds / 8 * rate_per_second
    rounds = max(1, int(seconds / provider.timeout.total_seconds()))
    return max(1, int(min(turns, rounds * provider.concurrency) / batches))


def is_confirmed(claimed: Stage, told: Stage) -> bool:
    """Tell whether what the provider says of a task bears a callback out.

    A task that is past the stage by now was there. But one that has ended otherwise
    than the callback says was never where it says.
    """
    if claimed.is_final and told.is_final:
        return claimed is told
    return told.rank >= claimed.rank


def _or_raise(answer: _Told | ProviderError | LedgerError) -> _Told | ProviderError:
    """Raise what says nothing of a callback, but stops the whole batch."""
    if isinstance(answer, LedgerError):
        raise answer
    return answer


def _judged(claim: Claim, answer: _Told | ProviderError) -> Claim | Settlement:
    if isinstance(answer, TaskNotFound):
        CONFIRMATIONS.labels("not_found").inc()
        return _because(Reject(f"TaskNotFound: {answer}"), answer)
    if isinstance(answer, ProviderError):
        CONFIRMATIONS.labels("no_answer").inc()
        text = f"{type(answer).__name__}: {answer}"
        return _because(Retry(text, after=answer.after), answer)
    claimed, told = claim.update.stage, answer.update.stage
    if not is_confirmed(claimed, told):
        CONFIRMATIONS.labels("not_confirmed").inc()
        reason = f" ({answer.update.unknown_reason})" if not told.rank else ""
        error = NotConfirmed(
            f"the callback says {claimed}, the provider says {told}{reason}"
        )
        return _because(Retry(f"NotConfirmed: {error}"), error)
    CONFIRMATIONS.labels("confirmed").inc()
    return replace(
        claim,
        update=answer.update,
        event_id=event_id(answer.update),
        body=answer.body,
    )


def _because(settlement: Settlement, cause: ProviderError) -> Settlement:
    """Name the cause, as ``raise … from …`` does: dead letters are found by it."""
    settlement.__cause__ = cause
    return settlement
