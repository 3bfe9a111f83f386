"""Deliver callbacks as the provider does: 15 seconds, three retries, then never."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Self

import aiohttp

from pipeline.simulator.chance import seeded
from pipeline.simulator.cousin import cousin_body, event_name
from pipeline.simulator.journal import Outcome, SentCallback
from pipeline.simulator.payloads import callback_body, encode, semantic_id
from pipeline.simulator.signing import (
    EVENT_HEADER,
    ID_HEADER,
    body_headers,
    callback_headers,
    time_and_body_headers,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from types import TracebackType

    from pipeline.simulator.bodies import Link
    from pipeline.simulator.clock import SimulatedClock
    from pipeline.simulator.doors import Door
    from pipeline.simulator.journal import Journal
    from pipeline.simulator.plan import CallbackPlan, SemanticId, TaskPlan
    from pipeline.simulator.signing import SignedText

#: Given by the older of the provider's pages; the newer ones give only the number.
RETRY_WAITS: Final = (
    timedelta(minutes=1),
    timedelta(minutes=5),
    timedelta(minutes=15),
)
#: Answers are read so far, so that the connection can be used again.
_ANSWER_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class PostingRules:
    """How callbacks are delivered. Spans are on the simulated clock."""

    #: How long the receiver may take to answer.
    timeout: timedelta = timedelta(seconds=15)
    #: Waits before each retry.
    retry_waits: tuple[timedelta, ...] = RETRY_WAITS
    #: In real seconds: however fast the clock, a receiver gets this long.
    least_timeout_seconds: float = 5.0
    #: Requests at the same time.
    concurrency: int = 16
    #: Signs callbacks if given, as set on the provider's settings page.
    webhook_key: str | None = None
    #: What a signature covers; it depends on the door.
    signed: SignedText = "task-and-time"
    #: Callbacks that get lost on their way and that the provider believes delivered: a
    #: share between 0 and 1, drawn for each from the seed.
    loss_rate: float = 0.0
    #: Tasks whose callbacks reach nobody, however often they are tried, and of which
    #: the provider then says so: a share between 0 and 1, drawn likewise.
    unreachable_rate: float = 0.0
    #: Decides which get lost, and which reach nobody.
    loss_seed: int = 1


class Poster:
    """Sends callbacks, retries them and notes what came of it.

    To be used as an async context manager. Callers own the tasks in which
    ``deliver`` runs; cancelling one abandons its callback without an outcome.
    """

    def __init__(
        self,
        *,
        rules: PostingRules,
        clock: SimulatedClock,
        journal: Journal,
        link: Link,
        door: Door = "S",
        on_sent: Callable[[SentCallback], None] | None = None,
    ) -> None:
        self._rules = rules
        self._clock = clock
        self._journal = journal
        self._link = link
        self._write = cousin_body if door == "M" else callback_body
        self._is_named = door == "M"
        self._on_sent = on_sent
        self._turns = asyncio.Semaphore(rules.concurrency)
        self._bodies: dict[SemanticId, bytes] = {}
        self._given_up: set[str] = set()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Open the connections' pool."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._rules.concurrency),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": "simulated-provider"},
            timeout=aiohttp.ClientTimeout(total=None),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    def has_given_up(self, task_id: str) -> bool:
        """Whether a callback of the task has failed for good."""
        return task_id in self._given_up

    async def deliver(
        self, task: TaskPlan, callback: CallbackPlan, *, address: str, due_at: datetime
    ) -> Outcome:
        """Deliver one callback when it is due; returns once it has an outcome."""
        await self._clock.sleep_until(due_at)
        if self._is_lost(task, callback):
            self._journal.note_outcome(task, callback, Outcome.LOST)
            return Outcome.LOST
        outcome = await self._attempt_all(task, callback, address)
        if outcome is Outcome.GAVE_UP:
            self._given_up.add(task.task_id)
        self._journal.note_outcome(task, callback, outcome)
        return outcome

    async def _attempt_all(
        self, task: TaskPlan, callback: CallbackPlan, address: str
    ) -> Outcome:
        body: bytes | None = None
        for attempt, wait in enumerate((timedelta(0), *self._rules.retry_waits), 1):
            if wait:
                await self._clock.sleep(wait)
            async with self._turns:
                if self.has_given_up(task.task_id):
                    return Outcome.GAVE_UP if attempt > 1 else Outcome.SUPPRESSED
                body = body or self._body(task, callback)
                sent = await self._post(task, callback, address, body, attempt)
            self._journal.note_sent(sent)
            if self._on_sent is not None:
                self._on_sent(sent)
            if sent.is_accepted:
                return Outcome.ACCEPTED
        return Outcome.GAVE_UP

    def _body(self, task: TaskPlan, callback: CallbackPlan) -> bytes:
        """Write the body; a repeat without fresh links is the same byte for byte."""
        named = semantic_id(task, callback)
        if callback.fresh_links or named not in self._bodies:
            self._bodies[named] = encode(self._write(task, callback, self._link))
        return self._bodies[named]

    async def _post(
        self,
        task: TaskPlan,
        callback: CallbackPlan,
        address: str,
        body: bytes,
        attempt: int,
    ) -> SentCallback:
        if self._is_unreachable(task):
            status, error = None, "unreachable, as it was told to be"
        else:
            headers = self._headers(task, callback, body)
            status, error = await self._request(address, headers, body)
        return SentCallback(
            task_id=task.task_id,
            operation=task.operation,
            stage=callback.stage,
            semantic_id=semantic_id(task, callback),
            repeat=callback.repeat,
            attempt=attempt,
            status=status,
            error=error,
            body=body,
            at=self._clock.now(),
        )

    def _headers(
        self, task: TaskPlan, callback: CallbackPlan, body: bytes
    ) -> dict[str, str]:
        headers = {"Content-Type": "application/json"}
        if self._is_named:
            named = semantic_id(task, callback)
            headers |= {ID_HEADER: named, "Idempotency-Key": named}
            headers[EVENT_HEADER] = event_name(callback.stage)
        if (key := self._rules.webhook_key) is None:
            return headers
        now = int(time.time())
        match self._rules.signed:
            case "task-and-time":
                signed = callback_headers(task.task_id, key=key, timestamp=now)
            case "time-and-body":
                signed = time_and_body_headers(body, key=key, timestamp=now)
            case "body":
                signed = body_headers(body, key=key)
        return headers | signed

    def _is_lost(self, task: TaskPlan, callback: CallbackPlan) -> bool:
        rules = self._rules
        what = (task.task_id, callback.stage, callback.repeat)
        return seeded("loss", rules.loss_seed, *what).random() < rules.loss_rate

    def _is_unreachable(self, task: TaskPlan) -> bool:
        chance = seeded("unreachable", self._rules.loss_seed, task.task_id)
        return chance.random() < self._rules.unreachable_rate

    async def _request(
        self, address: str, headers: dict[str, str], body: bytes
    ) -> tuple[int | None, str]:
        if self._session is None:
            message = "the poster is not open: use it as an async context manager"
            raise RuntimeError(message)
        seconds = self._clock.real_seconds(self._rules.timeout)
        seconds = max(seconds, self._rules.least_timeout_seconds)
        try:
            async with (
                asyncio.timeout(seconds),
                self._session.post(
                    address, data=body, headers=headers, allow_redirects=False
                ) as response,
            ):
                await response.content.read(_ANSWER_BYTES)
                return response.status, ""
        except TimeoutError:
            return None, f"no answer within {seconds:g} s"
        except (aiohttp.ClientError, OSError) as error:
            return None, f"{type(error).__name__}: {error}"
