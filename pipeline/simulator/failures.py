"""The ways in which the provider says that a task has failed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class FailureData(StrEnum):
    """What stands in ``data.data`` of a failure."""

    NULL = "null"
    EMPTY = "empty"
    ABSENT = "absent"
    #: Absent, and the reason is in ``data.error``.
    REASON = "reason"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One of the ways in which the provider says that a task has failed."""

    #: ``error``, ``failed``, or ``complete`` with another code than 200.
    callback_type: str
    code: int
    message: str
    data: FailureData
    #: What the details endpoint says.
    status: str


#: Both spellings first: they show in every run with two failures.
FAILURES: Final = (
    Failure(
        callback_type="error",
        code=500,
        message="Audio generation failed.",
        data=FailureData.NULL,
        status="GENERATE_AUDIO_FAILED",
    ),
    Failure(
        callback_type="failed",
        code=400,
        message="Music generation failed",
        data=FailureData.EMPTY,
        status="CREATE_TASK_FAILED",
    ),
    Failure(
        callback_type="complete",
        code=400,
        message="Song lyrics contain copyrighted material.",
        data=FailureData.NULL,
        status="SENSITIVE_WORD_ERROR",
    ),
    Failure(
        callback_type="error",
        code=501,
        message="Audio extension failed",
        data=FailureData.ABSENT,
        status="GENERATE_AUDIO_FAILED",
    ),
    Failure(
        callback_type="failed",
        code=451,
        message="Source file could not be downloaded.",
        data=FailureData.ABSENT,
        status="CREATE_TASK_FAILED",
    ),
    Failure(
        callback_type="error",
        code=531,
        message="Generation failed, credits were given back.",
        data=FailureData.REASON,
        status="GENERATE_AUDIO_FAILED",
    ),
)
