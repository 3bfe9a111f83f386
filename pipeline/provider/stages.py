"""Which stage a body tells of: ``code`` first, then its type, then its status.

The tables follow the provider's documentation of callbacks and of the details
endpoint, and what live traffic has shown beside it. Nothing here raises.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pipeline.provider.fields import read_code, read_text
from pipeline.task import Stage

if TYPE_CHECKING:
    from pipeline.message import JSONValue

#: The only code of success, but for music videos, whose schema also says 0.
SUCCESS: Final = 200
#: The recovery endpoint says so while it is still at work.
RUNNING: Final = 201
MUSIC_VIDEO: Final = "music-video"
#: Delivery of a callback has failed; the music itself may be there.
CALLBACK_EXCEPTION: Final = "callback_exception"

_CALLBACK_TYPES: Final = {
    "text": Stage.TEXT,
    "first": Stage.FIRST,
    "complete": Stage.COMPLETE,
    "error": Stage.FAILED,
    "failed": Stage.FAILED,
}
_STATUSES: Final = {
    "text_success": Stage.TEXT,
    "first_success": Stage.FIRST,
    "success": Stage.COMPLETE,
    "complete": Stage.COMPLETE,
    CALLBACK_EXCEPTION: Stage.COMPLETE,
    "sensitive_word_error": Stage.FAILED,
    "failed": Stage.FAILED,
    "fail": Stage.FAILED,
    "error": Stage.FAILED,
}
#: ``successFlag`` where it is a number; what 2 means depends on the operation.
_FLAGS: Final = {0: Stage.UNKNOWN, 1: Stage.COMPLETE, 3: Stage.FAILED}
#: Results of sibling operations whose callbacks name neither type nor status.
_RESULTS: Final = (
    "audioWavUrl",
    "audio_wav_url",
    "vocal_removal_info",
    "vocal_separation_info",
    "video_url",
    "videoUrl",
    "images",
    "voiceId",
    "validateInfo",
    "instruments",
)
#: Names of a failure's own text in ``data``.
_FAILURE_TEXTS: Final = ("errorMessage", "error_message", "error")
_QUOTED_CHARACTERS: Final = 60


def read_stage(
    content: dict[str, JSONValue],
    data: dict[str, JSONValue],
    operation: str | None,
) -> tuple[Stage, str]:
    """Read the stage, and the reason where it is unknown.

    Args:
        content: the whole body.
        data: its ``data`` if that is an object, else an empty one.
        operation: ``None`` if not known: then the shape decides about code 0.
    """
    code = content.get("code")
    if code != SUCCESS:
        found = _by_code(read_code(code), content, data, operation)
        if found is not None:
            return found
    if "errorCode" in data and read_code(data["errorCode"]) not in (None, 0, SUCCESS):
        return Stage.FAILED, ""
    kind = data.get("callbackType")
    if kind is None:
        kind = data.get("callback_type")
        if kind is None:
            return _by_status(content, data)
    stage = _CALLBACK_TYPES.get(kind) if type(kind) is str else None
    if stage is None:
        stage = _CALLBACK_TYPES.get(_folded(kind))
        if stage is None:
            return Stage.UNKNOWN, f"unknown callback type {_quoted(kind)}"
    return stage, ""


def _by_code(
    code: int | None,
    content: dict[str, JSONValue],
    data: dict[str, JSONValue],
    operation: str | None,
) -> tuple[Stage, str] | None:
    """Judge a code that is not plainly 200; ``None``: it says nothing."""
    if code is None or code == SUCCESS:
        return None
    is_video = operation == MUSIC_VIDEO or (operation is None and "video_url" in data)
    if code == 0 and is_video:
        return None
    if code == RUNNING and not content.get("data"):
        return Stage.UNKNOWN, "still running"
    return Stage.FAILED, ""


def _by_status(
    content: dict[str, JSONValue], data: dict[str, JSONValue]
) -> tuple[Stage, str]:
    for name in ("status", "state", "successFlag"):
        status = data.get(name)
        if status is not None:
            return _of_status(status)
    result = content.get("data")
    if (type(result) is list and result) or any(data.get(name) for name in _RESULTS):
        return Stage.COMPLETE, ""
    return Stage.UNKNOWN, "neither a callback type, a status nor a result"


def _of_status(status: JSONValue) -> tuple[Stage, str]:
    folded = _folded(status)
    stage = _STATUSES.get(folded)
    if stage is None and folded.endswith("_failed"):
        stage = Stage.FAILED
    if stage is None and type(status) is int:
        stage = _FLAGS.get(status)
    if stage is None or stage is Stage.UNKNOWN:
        return Stage.UNKNOWN, f"status {_quoted(status)}"
    return stage, ""


def is_callback_exception(data: dict[str, JSONValue]) -> bool:
    """Tell whether the status says no more than that a callback got lost."""
    return _folded(data.get("status")) == CALLBACK_EXCEPTION


def reported_code(
    content: dict[str, JSONValue], data: dict[str, JSONValue]
) -> int | None:
    """Give the code that counts: of the failure, where a details answer has one."""
    code = read_code(content.get("code"))
    if code == SUCCESS or code is None:
        return read_code(data.get("errorCode")) or code
    return code


def reported_message(content: dict[str, JSONValue], data: dict[str, JSONValue]) -> str:
    """Give the most telling text: a failure's own, else the envelope's."""
    for name in _FAILURE_TEXTS:
        if name in data and (text := read_text(data[name])):
            return text
    return read_text(content.get("msg")) or read_text(content.get("message"))


def _folded(value: JSONValue) -> str:
    return value.strip().lower() if type(value) is str else ""


def _quoted(value: JSONValue) -> str:
    return repr(value[:_QUOTED_CHARACTERS] if type(value) is str else type(value))
