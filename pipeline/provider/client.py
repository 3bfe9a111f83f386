"""The provider's API as a client: submit, ask for details, credits, fresh links.

An answer counts only if both the HTTP status and the ``code`` in its body say so;
what any other code means is the door's to say. Limits of the provider are kept on our
side. Nothing that costs money is sent twice unless the provider has said no.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Self

from pipeline.errors import (
    OutcomeUnknown,
    ProviderUnavailable,
    SubmissionRefused,
    TaskNotFound,
)
from pipeline.failure import FailureClass
from pipeline.provider.account import AccountPace
from pipeline.provider.calls import AT_ONCE, RECOVERY
from pipeline.provider.door import generic_door
from pipeline.provider.fields import read_link, read_mapping, read_number, read_text
from pipeline.provider.meaning import (
    find_task_id,
    refusal_of_question,
    refusal_of_submission,
)
from pipeline.provider.session import ApiSession
from pipeline.provider.stages import RUNNING, SUCCESS
from pipeline.values import value

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from pydantic import SecretStr

    from pipeline.ledger.turns import Turns
    from pipeline.message import JSONValue
    from pipeline.provider.door import Door
    from pipeline.provider.session import Answer
    from pipeline.settings.door import DoorCall
    from pipeline.task import TaskId

#: Waits before a submission that was refused for the moment is sent again.
SUBMIT_WAITS: Final = tuple(timedelta(seconds=seconds) for seconds in (2, 10, 30))
#: Whoever submits does not wait for longer than this when the provider asks for it.
PATIENCE: Final = timedelta(minutes=1)
UNKNOWN: Final = FailureClass.UNKNOWN
#: What the doors say of a task that they do not know, as ``code`` with HTTP 200. With
#: another HTTP status it is the address that is wrong, not the task.
_NO_SUCH_TASK: Final = frozenset({400, 422})


@value
class Details:
    """An answer of the details endpoint."""

    #: As it came; to be read like a callback.
    body: bytes
    #: The task's operation as the provider has it, in our spelling; empty: not said.
    operation: str = ""


class ProviderClient:
    """The provider's API; an async context manager, for many tasks at once.

    Every call waits for its turn as long as that takes: the caller has a deadline.

    Args:
        base_url: where the API is, without the path of a call.
        api_key: the key of our account.
        door: what codes mean there, its paths and its limits; ``None``: of which only
            is known what all have in common.
        timeout: the longest for one question, from its turn to its answer.
        concurrency: the most questions at the same time.
        rate_per_second: the most questions in a second.
        submit_timeout: the longest for the answer to a submission.
        submit_waits: the waits before one that is refused for the moment is sent
            again.
        turns: where all processes with this account take their turns, such as an open
            ledger; ``None``: this is the only one.
    """

    def __init__(
        self,
        base_url: str,
        api_key: SecretStr,
        *,
        door: Door | None = None,
        timeout: timedelta = timedelta(seconds=10),
        concurrency: int = 8,
        rate_per_second: float = 10,
        submit_timeout: timedelta = timedelta(seconds=60),
        submit_waits: Sequence[timedelta] = SUBMIT_WAITS,
        turns: Turns | None = None,
    ) -> None:
        self._session = ApiSession(base_url, api_key)
        self._door = door = door or generic_door()
        self._seconds = timeout.total_seconds()
        self._room = asyncio.Semaphore(concurrency)
        self._pace = AccountPace(door.limits, rate_per_second, turns)
        self._submit_seconds = submit_timeout.total_seconds()
        self._submit_waits = submit_waits

    async def __aenter__(self) -> Self:
        """Open a session; nobody is asked yet."""
        await self._session.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close every connection."""
        await self._session.__aexit__(kind, error, trace)

    async def submit(
        self, operation: str, fields: Mapping[str, JSONValue], *, callback_url: str
    ) -> TaskId:
        """Submit a task, and give its id: it is accepted then, not finished.

        What the provider refuses for the moment is sent again after a wait, and what
        it refuses for a reason that is not known is sent once more. Nothing else is.

        Args:
            operation: one that the door takes.
            fields: in the provider's spelling, without the callback address.
            callback_url: where it shall post what comes of it.

        Raises:
            SubmissionRefused: it does not take this, and would not the next time.
            ProviderRefused: the key is wrong, or the account at its end.
            ProviderUnavailable: it takes nothing now; nothing was accepted.
            OutcomeUnknown: there is no answer that says whether it was accepted.
        """
        call = self._submit_call(operation)
        content = dict(fields)
        if operation == RECOVERY and "taskId" in content:
            content[call.spelled("task_id")] = content.pop("taskId")
        content[call.spelled("callback_url")] = callback_url
        return _task_id(await self._post_once(call.path, content, secret=callback_url))

    async def recover(self, task_id: TaskId, *, callback_url: str) -> TaskId:
        """Have the lost files of a task made again; give the id of that task.

        Raises:
            ProviderError: as ``submit``.
        """
        return await self.submit(
            RECOVERY, {"taskId": task_id}, callback_url=callback_url
        )

    async def at_once(
        self, name: str, fields: Mapping[str, JSONValue]
    ) -> dict[str, JSONValue]:
        """Call what is answered without a task, one of ``AT_ONCE``; give ``data``.

        Raises:
            ProviderError: as ``submit``.
        """
        answer = await self._post_once(AT_ONCE[name], fields)
        return read_mapping((answer.content or {}).get("data"))

    async def details(
        self, task_id: TaskId, operation: str, *, has_turn: bool = False
    ) -> Details:
        """Ask how far a task is and what it has brought.

        Args:
            task_id: the task.
            operation: what made it.
            has_turn: this question has had its turn from the ledger, as those of
                ``take_due`` have.

        Raises:
            TaskNotFound: the provider has no such task of this operation.
            ProviderRefused: the key is wrong, or the account at its end.
            ProviderUnavailable: there is no answer that can be used, this time.
            LedgerUnavailable: whose turn it is is not known; nothing was asked.
        """
        call = self._door.find_details(operation)
        if call is None:
            message = f"expected an operation that can be asked for, got {operation!r}"
            raise TaskNotFound(message)
        answer = await self._ask(
            call.path,
            {call.spelled("task_id"): task_id},
            task_id=task_id,
            has_turn=has_turn,
        )
        if answer.is_good and answer.code in _NO_SUCH_TASK:
            message = f"expected a task that the provider knows, got {answer}"
            raise TaskNotFound(message)
        self._check(answer, SUCCESS, RUNNING)
        data = read_mapping((answer.content or {}).get("data"))
        kind = read_text(data.get("operationType"))
        return Details(body=answer.body, operation=kind.lower().replace("_", "-"))

    async def credits(self) -> float:
        """Ask how many credits the account has left.

        Raises:
            ProviderRefused, ProviderUnavailable: as ``details``.
        """
        call = self._door.find_call("credits")
        if call is None:
            message = f"the door {self._door.name} has no call for credits"
            raise ProviderUnavailable(message)
        answer = await self._ask(call.path, {})
        self._check(answer, SUCCESS)
        left = read_number((answer.content or {}).get("data"))
        if left is None:
            message = "expected a number of credits, got something else"
            raise ProviderUnavailable(message)
        return left

    async def fresh_link(self, url: str) -> str:
        """Have a link made to one of the provider's files; it works for 20 minutes.

        Raises:
            TaskNotFound: it is none of its files, or this door makes no links.
            ProviderRefused, ProviderUnavailable: as ``details``.
        """
        call = self._door.find_call("fresh_link")
        if call is None:
            message = f"the door {self._door.name} makes no links to its files"
            raise TaskNotFound(message)
        async with self._room, self._pace.question(None):
            answer = await self._session.post(
                call.path, {call.spelled("url"): url}, seconds=self._seconds
            )
        if answer.status == 404 or answer.code in (404, *_NO_SUCH_TASK):  # noqa: PLR2004
            message = f"expected a file that the provider has, got {answer}"
            raise TaskNotFound(message)
        self._check(answer, SUCCESS)
        link = read_link((answer.content or {}).get("data"))
        if not link:
            message = "expected a link, got something else"
            raise ProviderUnavailable(message)
        return link

    async def _ask(
        self,
        path: str,
        query: Mapping[str, str],
        *,
        task_id: TaskId | None = None,
        has_turn: bool = False,
    ) -> Answer:
        async with self._room, self._pace.question(task_id, has_turn=has_turn):
            return await self._session.get(path, query, seconds=self._seconds)

    def _check(self, answer: Answer, *good: int) -> None:
        """Raise unless the answer to a question is good."""
        if not answer.is_good or answer.code not in good:
            raise refusal_of_question(answer, self._door)

    async def _post_once(
        self, path: str, content: Mapping[str, JSONValue], *, secret: str = ""
    ) -> Answer:
        """Post what costs money, again only after an answer that says no."""
        waits = [*self._submit_waits]
        while True:
            try:
                return await self._try_once(path, content, secret)
            except ProviderUnavailable as error:
                after = error.after or timedelta(0)
                if not waits or after > PATIENCE:
                    raise
                wait = max(waits.pop(0), after)
                if error.code and self._door.failure(error.code) is UNKNOWN:
                    # Once more, as nobody knows better, and then no more.
                    waits.clear()
            await asyncio.sleep(wait.total_seconds())

    async def _try_once(
        self, path: str, content: Mapping[str, JSONValue], secret: str
    ) -> Answer:
        async with self._pace.submission():
            answer = await self._session.post(
                path, content, seconds=self._submit_seconds, once=True, secret=secret
            )
        if answer.is_good and answer.code == SUCCESS:
            return answer
        raise refusal_of_submission(answer, self._door)

    def _submit_call(self, operation: str) -> DoorCall:
        door = self._door
        if operation == RECOVERY:
            call = door.find_call(RECOVERY)
        else:
            call = door.find_submit(operation)
        if call is None:
            known = ", ".join(sorted(door.settings.submit)) or "none"
            message = (
                f"expected an operation that the door {door.name} takes ({known}),"
                f" got {operation!r}"
            )
            raise SubmissionRefused(message)
        return call


def _task_id(answer: Answer) -> TaskId:
    """Give the id of the task that was accepted.

    Raises:
        OutcomeUnknown: there is none that could be used.
    """
    task_id = find_task_id(answer)
    if task_id is None:
        message = f"expected the id of the accepted task, got {answer} without one"
        raise OutcomeUnknown(message)
    return task_id
