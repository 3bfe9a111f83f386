"""What a provider has sent and what came of it, to be held against the effects."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from pipeline.simulator.payloads import semantic_id, told_files

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from pipeline.simulator.plan import (
        CallbackPlan,
        Expiry,
        SemanticId,
        TaskPlan,
    )
    from pipeline.task import Stage


class Outcome(StrEnum):
    """What became of a callback in the end."""

    #: Some attempt was answered with 200 in time.
    ACCEPTED = "accepted"
    #: Every attempt failed.
    GAVE_UP = "gave_up"
    #: Never sent: the provider had given up on an earlier callback of the task.
    SUPPRESSED = "suppressed"
    #: Never came: it was lost on its way, and the provider does not know.
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class SentCallback:
    """One attempt to deliver a callback: one HTTP request."""

    task_id: str
    operation: str
    stage: Stage
    semantic_id: SemanticId
    #: 0 for the original, 1 and more for repeats of it.
    repeat: int
    #: 1 for the first attempt, 4 for the last.
    attempt: int
    #: The status of the answer; ``None``: no answer in time, see ``error``.
    status: int | None
    #: Why there was no answer.
    error: str
    body: bytes
    #: When the attempt ended, on the simulated clock.
    at: datetime

    @property
    def is_accepted(self) -> bool:
        """Whether the provider is content: exactly 200, in time."""
        return self.status == 200  # noqa: PLR2004 - documented: no other 2xx is


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedFile:
    """A final file that an accepted callback told of."""

    task_id: str
    track_id: str
    #: What it is to its track.
    kind: str
    #: Address under the provider's base address, without a query.
    path: str
    #: Set if the link was dead from the beginning.
    expiry: Expiry | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was sent, what was accepted, and what should have come of it."""

    #: Tasks that were submitted or planned.
    tasks: int
    #: Callbacks that were to be delivered, repeats included.
    callbacks_planned: int
    #: HTTP requests, retries included.
    callbacks_sent: int
    #: Callbacks, repeats included, that were answered with 200.
    callbacks_accepted: int
    gave_up: int
    suppressed: int
    lost: int
    #: Calls of the API that came too often.
    violations: int
    #: What the accepted callbacks say, each once: one event each is expected.
    events: frozenset[SemanticId]
    #: Sent but never accepted; a late answer may still have had an effect.
    uncertain_events: frozenset[SemanticId]
    #: The highest stage that was accepted, for each task.
    stages: Mapping[str, Stage]
    #: Files told of by accepted callbacks, for each task; each file once.
    files: Mapping[str, tuple[ExpectedFile, ...]]

    @property
    def duplicates_accepted(self) -> int:
        """How many accepted callbacks said what another one had said."""
        return self.callbacks_accepted - len(self.events)

    @property
    def is_settled(self) -> bool:
        """Whether every planned callback has an outcome."""
        settled = self.callbacks_accepted + self.gave_up + self.suppressed + self.lost
        return settled == self.callbacks_planned

    def as_dict(self) -> dict[str, Any]:
        """Give the figures, for JSON."""
        files = [file for files in self.files.values() for file in files]
        return {
            "tasks": self.tasks,
            "callbacks_planned": self.callbacks_planned,
            "callbacks_sent": self.callbacks_sent,
            "callbacks_accepted": self.callbacks_accepted,
            "duplicates_accepted": self.duplicates_accepted,
            "gave_up": self.gave_up,
            "suppressed": self.suppressed,
            "lost": self.lost,
            "violations": self.violations,
            "events": len(self.events),
            "files": sum(file.expiry is None for file in files),
            "expired_links": sum(file.expiry is not None for file in files),
        }


class Journal:
    """Collects attempts and outcomes while a provider runs."""

    def __init__(self) -> None:
        self.sent: list[SentCallback] = []
        self._tasks: set[str] = set()
        self._planned = 0
        self._outcomes: Counter[Outcome] = Counter()
        self._tried: set[SemanticId] = set()
        self._accepted: set[SemanticId] = set()
        self._stages: dict[str, Stage] = {}
        self._files: dict[str, dict[str, ExpectedFile]] = {}

    def plan(self, task: TaskPlan) -> None:
        """Note a task whose callbacks are going to be delivered."""
        self._tasks.add(task.task_id)
        self._planned += len(task.callbacks)

    def note_sent(self, sent: SentCallback) -> None:
        """Note an attempt."""
        self.sent.append(sent)
        self._tried.add(sent.semantic_id)

    def note_outcome(
        self, task: TaskPlan, callback: CallbackPlan, outcome: Outcome
    ) -> None:
        """Note what became of a callback."""
        self._outcomes[outcome] += 1
        if outcome is not Outcome.ACCEPTED:
            return
        self._accepted.add(semantic_id(task, callback))
        known = self._stages.get(task.task_id, callback.stage)
        self._stages[task.task_id] = max(known, callback.stage, key=_rank)
        told = told_files(task, callback)
        files = self._files.setdefault(task.task_id, {})
        for result in task.results:
            file = result.file
            if file in told:
                files[file.path] = ExpectedFile(
                    task_id=task.task_id,
                    track_id=result.track_id,
                    kind=result.name,
                    path=file.path,
                    expiry=file.expiry,
                )

    def report(self, *, violations: int) -> Report:
        """Sum up what has happened so far."""
        return Report(
            tasks=len(self._tasks),
            callbacks_planned=self._planned,
            callbacks_sent=len(self.sent),
            callbacks_accepted=self._outcomes[Outcome.ACCEPTED],
            gave_up=self._outcomes[Outcome.GAVE_UP],
            suppressed=self._outcomes[Outcome.SUPPRESSED],
            lost=self._outcomes[Outcome.LOST],
            violations=violations,
            events=frozenset(self._accepted),
            uncertain_events=frozenset(self._tried - self._accepted),
            stages=dict(self._stages),
            files={task: tuple(files.values()) for task, files in self._files.items()},
        )


def _rank(stage: Stage) -> int:
    return stage.rank
