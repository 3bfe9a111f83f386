"""Ask for tasks that nothing final was heard of, and publish what is news.

The answer of the details endpoint goes the way of a callback: the same exchange, the
same worker, the same events. Whatever becomes of one question, the ledger knows when
to ask the next one: it was put off before the first byte was sent.
"""

from __future__ import annotations

import asyncio
import math
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from pipeline.errors import (
    BrokerError,
    LedgerUnavailable,
    ProviderError,
    ProviderUnavailable,
    TaskNotFound,
    Unreadable,
)
from pipeline.events.catalogue import DEFAULT_SOURCE
from pipeline.events.publications import task_given_up
from pipeline.failpoints import reach
from pipeline.logs import get_logger
from pipeline.message import (
    OPERATION,
    ORIGIN,
    STAGE,
    TASK_ID,
    Envelope,
    Publication,
    new_message_id,
)
from pipeline.metrics import (
    EXPECTATIONS,
    EXPECTATIONS_OVERDUE,
    GIVEN_UP,
    POLLER_LATE_SECONDS,
    QUESTIONS,
)
from pipeline.poller.behind import Behind
from pipeline.poller.rhythm import Outcome, pause_after, step
from pipeline.provider.callback import normalise
from pipeline.topology import CALLBACKS
from pipeline.values import value
from pipeline.workers.confirm import POLL

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from datetime import datetime

    from pipeline.ledger.expectations import Question
    from pipeline.ledger.port import Ledger
    from pipeline.ledger.turns import Window
    from pipeline.poller.rhythm import Rhythm, Step
    from pipeline.provider.client import ProviderClient
    from pipeline.provider.door import Door
    from pipeline.task import TaskUpdate

log = get_logger("poller")

#: The longest for which nobody looks whether a task is due: so long, or a tenth of
#: the interval.
TICK_SECONDS: Final = 1.0
TICKS: Final = 10
#: How soon is looked again where something is due, but nobody's turn.
IDLE_SECONDS: Final = 0.05
#: How often expectations are counted, and what is late for longer is overdue.
COUNT_SECONDS: Final = 15.0


@value
class Limits:
    """How much is asked at the same time, and how long it may take."""

    #: Questions in a second, of all pollers on the ledger together.
    rate_per_second: float
    #: Questions of this process at the same time.
    concurrency: int
    #: The longest for one question with all that follows; then another may ask it.
    lasts: timedelta
    #: A task that should have been asked for longer ago than this is overdue.
    overdue: timedelta
    #: How long questions may go on after a request to stop.
    drain: timedelta
    #: Holds for questions about one task, whoever asks them; ``None``: nothing does.
    of_task: Window | None = None


@value
class _Heard:
    """What the provider has said of a task."""

    update: TaskUpdate
    body: bytes


class Poller:
    """Asks for what is due, until it is told to stop.

    Args:
        ledger: an open handle; pollers that share one share the work.
        client: an open client.
        publish: returns when a publication is safe, or raises a ``BrokerError``.
        rhythm: how often is asked, and for how long.
        limits: how much at the same time.
        clock: gives the present time, aware.
        chance: gives numbers between 0 and 1.
        door: knows what a failure means; ``None``: what it means at every door.
    """

    def __init__(
        self,
        ledger: Ledger,
        client: ProviderClient,
        publish: Callable[[Publication], Awaitable[None]],
        *,
        rhythm: Rhythm,
        limits: Limits,
        clock: Callable[[], datetime],
        chance: Callable[[], float],
        door: Door | None = None,
        source: str = DEFAULT_SOURCE,
    ) -> None:
        self._ledger = ledger
        self._client = client
        self._publish = publish
        self._rhythm = rhythm
        self._limits = limits
        self._clock = clock
        self._chance = chance
        self._door = door
        self._source = source
        self._asking: set[asyncio.Task[None]] = set()
        self._pause_seconds = 1 / limits.rate_per_second
        interval_seconds = rhythm.interval.total_seconds()
        self._tick_seconds = min(TICK_SECONDS, interval_seconds / TICKS)
        #: So many are taken at a time; more would keep others waiting for their turn,
        #: and leave no room for those that are being answered.
        at_once = min(
            limits.rate_per_second * self._tick_seconds, limits.concurrency / 2
        )
        self._most = max(1, math.ceil(at_once))
        self._failures = 0
        self._resume_at = 0.0
        self._count_at = 0.0
        self._behind = Behind(rhythm, limits.rate_per_second)

    async def run(self, stopping: asyncio.Event) -> None:
        """Ask until ``stopping`` is set; then questions in progress may end."""
        async with asyncio.TaskGroup() as group:
            while not stopping.is_set():
                seconds = await self._look(group, stopping)
                await _wait(stopping, seconds)
            if self._asking:
                drain = self._limits.drain.total_seconds()
                await asyncio.wait(self._asking, timeout=drain)
            for task in self._asking:
                task.cancel()

    async def _look(self, group: asyncio.TaskGroup, stopping: asyncio.Event) -> float:
        """Take what is due, and say for how long there is nothing to be seen."""
        now = asyncio.get_running_loop().time()
        try:
            await self._count(now)
            left = await self._ledger.until_due()
            late_seconds = 0.0 if left is None else -left.total_seconds()
            POLLER_LATE_SECONDS.set(max(0.0, late_seconds))
            if left is None:
                return self._tick_seconds
            if (seconds := max(-late_seconds, self._resume_at - now)) > 0:
                return min(self._tick_seconds, seconds)
            questions = await self._take()
        except LedgerUnavailable as error:
            log.warning("poller_paused", error=str(error))
            return TICK_SECONDS
        for question in questions:
            task = group.create_task(self._ask(question, stopping))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)
        return self._until_next(questions)

    def _until_next(self, taken: Sequence[Question]) -> float:
        """Say when to look again: a little before the next turn that could be used."""
        if taken:
            return min(self._tick_seconds, taken[-1].wait.total_seconds())
        # The turns are others', or what is due was asked for just now.
        return min(self._tick_seconds, max(self._pause_seconds, IDLE_SECONDS))

    async def _take(self) -> Sequence[Question]:
        room = min(self._most, self._limits.concurrency - len(self._asking))
        if room < 1:
            return []
        return await self._ledger.take_due(
            most=room,
            lasts=self._limits.lasts,
            pause=timedelta(seconds=self._pause_seconds),
            window=self._limits.of_task,
        )

    async def _count(self, now: float) -> None:
        if now < self._count_at:
            return
        self._count_at = now + COUNT_SECONDS
        found = await self._ledger.count_open(overdue=self._limits.overdue)
        EXPECTATIONS.set(found.tasks)
        EXPECTATIONS_OVERDUE.set(found.overdue)
        if now < self._resume_at:
            return
        left = await self._ledger.until_due()
        late = timedelta(0) if left is None else -left
        self._behind.note(late, tasks=found.tasks)

    async def _ask(self, question: Question, stopping: asyncio.Event) -> None:
        """Ask one question in its turn, and see to what follows."""
        try:
            if await _wait(stopping, question.wait.total_seconds()):
                # Somebody else can have it at once.
                await self._ledger.note_answer(question, next_in=timedelta(0))
                return
            async with asyncio.timeout(self._limits.lasts.total_seconds()):
                heard = await self._hear(question)
                await self._follow(question, heard)
        except (BrokerError, LedgerUnavailable, TimeoutError) as error:
            # It is due again when its lease has run out.
            log.warning(
                "answer_not_noted",
                task_id=question.task_id,
                error_type=type(error).__name__,
                error=str(error),
            )

    async def _hear(self, question: Question) -> _Heard | ProviderError:
        task_id, operation = question.task_id, question.operation
        try:
            details = await self._client.details(task_id, operation, has_turn=True)
            update = normalise(details.body, operation, self._door)
        except ProviderError as error:
            return error
        except Unreadable as error:
            return ProviderUnavailable(f"expected the details of a task: {error}")
        if update.task_id != task_id:
            message = f"expected the task {task_id}, got {update.task_id}"
            return ProviderUnavailable(message)
        return _Heard(update=update, body=details.body)

    async def _follow(self, question: Question, heard: _Heard | ProviderError) -> None:
        answer = heard if isinstance(heard, ProviderError) else heard.update
        taken = step(question, answer, self._rhythm, chance=self._chance())
        operation = question.operation
        QUESTIONS.labels(operation, taken.outcome.value).inc()
        self._slow_down(answer)
        _tell(question, answer, taken)
        if taken.gives_up:
            await self._give_up(question, taken)
            return
        if taken.event is not None and isinstance(heard, _Heard):
            await reach("poller.before_publish")
            await self._publish(self._handed_on(question, heard))
        await reach("poller.before_note")
        await self._ledger.note_answer(
            question, next_in=taken.next_in, answered=taken.event
        )

    def _slow_down(self, answer: TaskUpdate | ProviderError) -> None:
        """Leave the provider alone while it does not answer, longer each time."""
        now = asyncio.get_running_loop().time()
        if not isinstance(answer, ProviderError) or isinstance(answer, TaskNotFound):
            self._failures = 0
        elif now >= self._resume_at:
            # Those that were under way at the same time count as one.
            self._failures += 1
            pause = pause_after(self._failures, answer, chance=self._chance())
            self._resume_at = now + pause.total_seconds()

    def _handed_on(self, question: Question, heard: _Heard) -> Publication:
        """Make an envelope like that of a callback, from an answer."""
        stage = heard.update.stage.value
        envelope = Envelope(
            body=heard.body,
            routing_key=f"callback.{question.operation}.{stage}",
            message_id=new_message_id(),
            headers={
                TASK_ID: question.task_id,
                OPERATION: question.operation,
                STAGE: stage,
                ORIGIN: POLL,
            },
            published_at=self._clock(),
        )
        return Publication(exchange=CALLBACKS, envelope=envelope)

    async def _give_up(self, question: Question, taken: Step) -> None:
        """Say that a task is not asked for any more, then do not."""
        await self._publish(
            task_given_up(
                question.task_id,
                question.operation,
                question.stage,
                reason=taken.outcome.value,
                questions=question.number,
                source=self._source,
                at=self._clock(),
            )
        )
        if await self._ledger.give_up(question):
            GIVEN_UP.labels(question.operation).inc()
            log.warning(
                "task_given_up",
                task_id=question.task_id,
                operation=question.operation,
                stage=question.stage.value,
                reason=taken.outcome.value,
                questions=question.number,
            )


def _tell(question: Question, answer: TaskUpdate | ProviderError, taken: Step) -> None:
    """Log the question; one without an answer as a warning."""
    fields = {
        "task_id": question.task_id,
        "operation": question.operation,
        "question": question.number,
        "outcome": taken.outcome.value,
    }
    if isinstance(answer, ProviderError):
        error = f"{type(answer).__name__}: {answer}"
        if taken.outcome is Outcome.NOT_FOUND:
            log.info("task_asked_for", **fields, error=error)
        else:
            log.warning("question_unanswered", **fields, error=error)
        return
    log.info(
        "task_asked_for",
        **fields,
        stage=answer.stage.value,
        reason=answer.unknown_reason,
    )


async def _wait(stopping: asyncio.Event, seconds: float) -> bool:
    """Wait, but no longer than until ``stopping`` is set; tell whether it is."""
    try:
        async with asyncio.timeout(seconds):
            await stopping.wait()
    except TimeoutError:
        return False
    return True
