"""Many callbacks at once: ten thousand in random order, with repeats.

The simulated provider keeps the provider's times; this keeps none. It sends as
fast as the receiver answers, and knows what should have come of it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from pipeline.simulator.chance import seeded
from pipeline.simulator.payloads import encode
from pipeline.simulator.plan import SemanticId
from pipeline.task import Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_STAGES: Final = (Stage.TEXT, Stage.FIRST, Stage.COMPLETE)
#: ``complete`` without any link would say that the task is not complete.
_STAGES_WITHOUT_LINKS: Final = (Stage.TEXT, Stage.FIRST, Stage.FAILED)
_FAILURE_CODE: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """What to send.

    Raises:
        ValueError: there are too few tasks for so many different callbacks.
    """

    #: How many callbacks, repeats included.
    callbacks: int = 10_000
    #: Repeats among them: a share between 0 and 0.9.
    duplicate_rate: float = 0.2
    #: How many tasks they belong to; ``None``: as few as possible, three each.
    tasks: int | None = None
    seed: int = 1
    #: Audio links of the tracks, in turn. Empty: nothing to download, and tasks
    #: end as failed, since without a file they could not be complete.
    links: tuple[str, ...] = ()
    #: Connections, each with one request at a time.
    connections: int = 32
    #: How long one request may take.
    timeout_seconds: float = 15.0
    #: How often a callback that was not accepted is sent in all.
    attempts: int = 3

    def __post_init__(self) -> None:
        """Check that the figures fit together.

        Raises:
            ValueError: they do not.
        """
        if not 0 <= self.duplicate_rate <= 0.9:  # noqa: PLR2004 - as in a scenario
            message = f"duplicate_rate: expected 0 to 0.9, got {self.duplicate_rate}"
            raise ValueError(message)
        if self.tasks is not None and self.tasks * len(_STAGES) < self.distinct:
            message = (
                f"tasks: expected at least {-(-self.distinct // len(_STAGES))} for "
                f"{self.distinct} different callbacks, got {self.tasks}"
            )
            raise ValueError(message)

    @property
    def distinct(self) -> int:
        """How many of the callbacks differ from each other."""
        repeats = round(self.callbacks * self.duplicate_rate)
        return self.callbacks - min(repeats, max(0, self.callbacks - 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadCallback:
    """One callback to be sent."""

    task_id: str
    stage: Stage
    semantic_id: SemanticId
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadResult:
    """What came of it."""

    #: HTTP requests, repeated attempts included.
    sent: int
    #: Callbacks that were answered with 200.
    accepted: int
    #: Callbacks that never were.
    refused: int
    #: What the accepted ones say, each once: one event each is expected.
    events: frozenset[SemanticId]
    #: The tasks of the accepted ones.
    task_ids: frozenset[str]
    #: In real seconds, from the first request to the last answer.
    elapsed_seconds: float

    @property
    def duplicates_accepted(self) -> int:
        """How many accepted callbacks said what another one had said."""
        return self.accepted - len(self.events)


def plan_load(options: LoadOptions) -> list[LoadCallback]:
    """Write every callback, in the order in which they are to be sent.

    The same options give the same bodies. Repeats have other query strings in
    their links, and may come before what they repeat.
    """
    chance = seeded("load", options.seed)
    distinct = options.distinct
    count = options.tasks or -(-distinct // len(_STAGES))
    # Every task gets its first callback before any gets a second one.
    events = [(number % count, number // count) for number in range(distinct)]
    repeats = options.callbacks - distinct
    events += chance.choices(events, k=repeats) if events else []
    chance.shuffle(events)
    ids = [f"{chance.getrandbits(128):032x}" for _ in range(count)]
    stages = _STAGES if options.links else _STAGES_WITHOUT_LINKS
    turns = [chance.sample(stages, len(stages)) for _ in range(count)]
    return [
        _write(options, ids[task], turns[task][turn], task, sent)
        for sent, (task, turn) in enumerate(events)
    ]


async def run_load(
    callback_url: str,
    options: LoadOptions | None = None,
    *,
    on_answer: Callable[[bool], None] | None = None,
) -> LoadResult:
    """Send everything over ``options.connections`` connections, as fast as it goes.

    Callbacks that were not accepted are sent again at the end, after all others.
    ``on_answer`` is called after every request with whether it was accepted.
    Cancelling stops at once.
    """
    options = options or LoadOptions()
    callbacks = await asyncio.to_thread(plan_load, options)
    sending = _Sending(callbacks, options.attempts, on_answer)
    started = time.monotonic()
    async with _session(options) as session, asyncio.TaskGroup() as group:
        for _ in range(options.connections):
            group.create_task(sending.send_all(session, callback_url))
    accepted = sending.accepted
    return LoadResult(
        sent=sending.sent,
        accepted=len(accepted),
        refused=len(callbacks) - len(accepted),
        events=frozenset(callback.semantic_id for callback in accepted),
        task_ids=frozenset(callback.task_id for callback in accepted),
        elapsed_seconds=time.monotonic() - started,
    )


class _Sending:
    """What is still to be sent, and what was accepted: common to all connections."""

    def __init__(
        self,
        callbacks: Sequence[LoadCallback],
        attempts: int,
        on_answer: Callable[[bool], None] | None,
    ) -> None:
        self._waiting = deque((callback, 1) for callback in callbacks)
        self._attempts = attempts
        self._on_answer = on_answer
        self.accepted: list[LoadCallback] = []
        self.sent = 0

    async def send_all(self, session: aiohttp.ClientSession, url: str) -> None:
        """Send one after the other until none is left."""
        while self._waiting:
            callback, attempt = self._waiting.popleft()
            is_accepted = await _post(session, url, callback.body)
            self.sent += 1
            if is_accepted:
                self.accepted.append(callback)
            elif attempt < self._attempts:
                self._waiting.append((callback, attempt + 1))
            if self._on_answer is not None:
                self._on_answer(is_accepted)


def _write(
    options: LoadOptions, task_id: str, stage: Stage, task: int, sent: int
) -> LoadCallback:
    track: dict[str, Any] = {"id": f"{task_id}-1", "title": f"Song {task}"}
    if options.links:
        link = options.links[task % len(options.links)]
        mark = "&" if "?" in link else "?"
        track["audio_url"] = f"{link}{mark}n={sent}"
    is_failure = stage is Stage.FAILED
    body = {
        "code": _FAILURE_CODE if is_failure else 200,
        "msg": "Audio generation failed." if is_failure else "success",
        "data": {
            "callbackType": "error" if is_failure else str(stage),
            "task_id": task_id,
            "data": [track] if stage in (Stage.FIRST, Stage.COMPLETE) else [],
        },
    }
    return LoadCallback(
        task_id=task_id,
        stage=stage,
        semantic_id=SemanticId(f"{task_id}.{stage}"),
        body=encode(body),
    )


def _session(options: LoadOptions) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=options.connections),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Content-Type": "application/json"},
        timeout=aiohttp.ClientTimeout(total=options.timeout_seconds),
    )


async def _post(session: aiohttp.ClientSession, address: str, body: bytes) -> bool:
    try:
        async with session.post(address, data=body, allow_redirects=False) as response:
            await response.read()
            return response.status == HTTPStatus.OK
    except (aiohttp.ClientError, OSError):
        # A timeout is an OSError too: the outcome is unknown, so it is sent again.
        return False
