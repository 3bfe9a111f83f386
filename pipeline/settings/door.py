"""One of the doors that the provider's product is sold through, as a table.

The built-in ones are in ``doors.toml``, in the form in which a configuration file
says ``[doors.NAME]``: adding one takes no code.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal, TypeAlias

from pydantic import BeforeValidator, Field

from pipeline.failure import FailureClass  # noqa: TC001  pydantic reads it
from pipeline.settings.section import Section
from pipeline.settings.values import (  # noqa: TC001  pydantic reads them
    HostPattern,
    ProviderUrl,
    Timeout,
)

#: The key of what holds for every model that is not named.
DEFAULT_MODEL = "default"
#: What the doors call things where their pages do not say otherwise.
_SPELLING = {"task_id": "taskId", "callback_url": "callBackUrl"}

_Count = Annotated[int, Field(ge=1, le=1_000_000)]


def _parse_call(value: object) -> object:
    """Read a call from its path alone."""
    return {"path": value} if isinstance(value, str) else value


class DoorCall(Section):
    """A call of the provider's API, without what stands in front of its path."""

    #: Starts with a slash.
    path: Annotated[str, Field(pattern=r"^/[\w./-]*$", max_length=200)]
    #: What the door calls a field, by our word for it.
    spelling: dict[str, str] = Field(default_factory=dict)

    def spelled(self, word: str) -> str:
        """Give the door's name of a field: ``task_id``, ``callback_url``, ``url``."""
        return self.spelling.get(word) or _SPELLING.get(word, word)


Call: TypeAlias = Annotated[DoorCall, BeforeValidator(_parse_call)]


class DoorLimits(Section):
    """What a door takes: by model, where ``default`` is every other one."""

    #: Longest source audio; empty: not known.
    upload: dict[str, Timeout] = Field(default_factory=dict)
    #: Characters of the text fields; empty: not known.
    prompt: dict[str, _Count] = Field(default_factory=dict)
    style: dict[str, _Count] = Field(default_factory=dict)
    title: dict[str, _Count] = Field(default_factory=dict)
    #: The most tasks that an account may submit within ``submit_window``.
    submits: _Count = 20
    submit_window: Timeout = timedelta(seconds=10)
    #: The most questions in a second, whatever they are about. No page limits them.
    questions_per_second: Annotated[float, Field(gt=0, le=10_000)] = 10
    #: The most questions about one task in a second.
    details_per_second: Annotated[float, Field(gt=0, le=1000)] = 3
    #: How long to wait after a refusal as too many that names no time.
    retry_after: Timeout = timedelta(seconds=10)


class DoorLifetimes(Section):
    """How long what a door hands out can be had."""

    #: Generated files.
    files: Timeout = timedelta(days=14)
    #: Links that were made on demand.
    minted_links: Timeout = timedelta(minutes=20)
    #: Links to where the door has its files from. No page says how long.
    upstream_links: Timeout = timedelta(days=1)
    #: The hosts of such links: names, or ``*.`` and the end of names.
    upstream_hosts: tuple[HostPattern, ...] = ("*.suno.ai",)


class DoorSettings(Section):
    """What is known of a door."""

    #: The door that says what this one does not; empty: none.
    like: str = "generic"
    #: Where its API is, without the path of a call.
    base_url: ProviderUrl | None = None
    #: How its callbacks are signed.
    signature: Literal["task-and-time", "time-and-body", "body", "none"] = "none"
    #: What its codes mean: those of callbacks, of answers, and HTTP statuses alike.
    codes: dict[int, FailureClass] = Field(default_factory=dict)
    #: What its status words mean; they say more than a code.
    statuses: dict[str, FailureClass] = Field(default_factory=dict)
    limits: DoorLimits = DoorLimits()
    lifetimes: DoorLifetimes = DoorLifetimes()
    #: Where tasks are submitted, by operation.
    submit: dict[str, Call] = Field(default_factory=dict)
    #: Where tasks are asked for, by operation.
    details: dict[str, Call] = Field(default_factory=dict)
    #: Further calls: ``credits``, ``fresh_link``, ``recovery``; it may lack some.
    calls: dict[str, Call] = Field(default_factory=dict)
