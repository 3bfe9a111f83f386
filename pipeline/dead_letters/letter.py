"""What a dead letter is about, and which ones are meant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from pipeline.message import STAGE, TASK_ID
from pipeline.task import Stage

if TYPE_CHECKING:
    from datetime import datetime

    from pipeline.message import Envelope, JSONValue


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A message in a dead-letter queue."""

    #: The work queue it failed in, to which a replay returns it.
    queue: str
    envelope: Envelope

    @property
    def task_id(self) -> str | None:
        """The provider's task it is about, if that can be told."""
        return find_task_id(self.envelope)

    @property
    def stage(self) -> str | None:
        """The stage it is about, if it is about one."""
        return find_stage(self.envelope)

    @property
    def failed_at(self) -> datetime | None:
        """When it failed for the last time."""
        failure = self.envelope.failure
        return self.envelope.published_at if failure is None else failure.last_failed_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which dead letters; what is ``None`` is not asked for, all else must hold."""

    message_id: str | None = None
    task_id: str | None = None
    #: Such as ``complete``.
    stage: str | None = None
    #: Such as ``LinkExpired``.
    error_type: str | None = None
    #: Failed for the last time before this.
    before: datetime | None = None
    #: Failed for the last time at this time or after.
    since: datetime | None = None

    def matches(self, letter: DeadLetter) -> bool:
        """Tell whether a dead letter is one of those."""
        envelope = letter.envelope
        if self.message_id not in (None, envelope.message_id):
            return False
        failure = envelope.failure
        error_type = None if failure is None else failure.error_type
        if self.error_type not in (None, error_type):
            return False
        if self.stage is not None and self.stage != letter.stage:
            return False
        if self.before is not None or self.since is not None:
            at = letter.failed_at
            if at is None or not self._is_in_time(at):
                return False
        return self.task_id is None or self.task_id == letter.task_id

    def _is_in_time(self, at: datetime) -> bool:
        is_early = self.before is None or at < self.before
        return is_early and (self.since is None or at >= self.since)


def find_task_id(envelope: Envelope) -> str | None:
    """Tell which task a message is about: by its header, else by its body."""
    noted = envelope.headers.get(TASK_ID)
    if isinstance(noted, str):
        return noted
    body = _body(envelope)
    data = body.get("data")
    for place in (data if isinstance(data, dict) else {}, body):
        for name in ("task_id", "taskId"):
            if isinstance(task_id := place.get(name), str):
                return task_id
    return None


def find_stage(envelope: Envelope) -> str | None:
    """Tell which stage a message is about: by header, routing key or body."""
    noted = envelope.headers.get(STAGE)
    if isinstance(noted, str):
        return noted
    subject, _, word = envelope.routing_key.rpartition(".")
    if subject and word in set(Stage):
        return word
    data = _body(envelope).get("data")
    stage = data.get("stage") if isinstance(data, dict) else None
    return stage if isinstance(stage, str) else None


def _body(envelope: Envelope) -> dict[str, JSONValue]:
    try:
        body = orjson.loads(envelope.body)
    except orjson.JSONDecodeError:
        return {}
    return body if isinstance(body, dict) else {}
