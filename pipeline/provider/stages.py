"""Which stage a body tells of: ``code`` first, then its type, then its status.

The tables follow the provider's documentation of callbacks and of the details
endpoint, and what live traffic has shown beside it. Nothing here raises.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pipeline.provider.fields import fold, is_failed, read_code, read_mapping, read_text
from pipeline.task import Stage

if TYPE_CHECKING:
    from collections.abc import Mapping

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
}
#: Where ``data`` says how far the task is, in the order in which they count.
_STATUS_NAMES: Final = ("status", "state", "successFlag")
#: ``successFlag`` where it is a number.
_FLAGS: Final = {1: Stage.COMPLETE, 3: Stage.FAILED}
#: What else it means for one operation: a cover image with 2 is being made.
_FLAGS_OF: Final[Mapping[str | None, Mapping[int, Stage]]] = {"midi": {2: Stage.FAILED}}
#: Words for one of several results that is there.
_DONE: Final = frozenset({"succeeded", "success", "complete", "completed"})
#: A word for one that can be played while it is being made.
STREAMING: Final = "streaming"
#: No list of results is longer than this.
_ITEMS_LIMIT: Final = 100
#: Results of sibling operations whose callbacks name neither type nor status.
_RESULTS: Final = (
    "audioWavUrl",
    "audio_wav_url",
    "vocal_removal_info",
    "vocal_separation_info",
    "origin_data",
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
            return _by_status(content, data, operation)
    stage = _CALLBACK_TYPES.get(kind) if type(kind) is str else None
    if stage is None:
        stage = _CALLBACK_TYPES.get(fold(kind))
        if stage is None:
            return Stage.UNKNOWN, f"unknown callback type {_quoted(kind)}"
    if _is_failed_by_status(data, operation):
        return Stage.FAILED, ""
    return stage, ""


def _is_failed_by_status(data: dict[str, JSONValue], operation: str | None) -> bool:
    """Tell of a failure inside of what calls itself complete, as voices do."""
    for name in _STATUS_NAMES:
        if name in data and data[name] is not None:
            return _of_status(data[name], operation)[0] is Stage.FAILED
    return False


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
    content: dict[str, JSONValue], data: dict[str, JSONValue], operation: str | None
) -> tuple[Stage, str]:
    for name in _STATUS_NAMES:
        status = data.get(name)
        if status is not None:
            return _of_status(status, operation)
    result = content.get("data")
    if type(result) is list and result:
        return _of_results(result)
    response = read_mapping(data.get("response"))
    if any(data.get(name) or response.get(name) for name in _RESULTS):
        return Stage.COMPLETE, ""
    return Stage.UNKNOWN, "neither a callback type, a status nor a result"


def _of_status(status: JSONValue, operation: str | None) -> tuple[Stage, str]:
    folded = fold(status)
    stage = _STATUSES.get(folded)
    if stage is None and is_failed(folded):
        stage = Stage.FAILED
    if stage is None and type(status) is not bool:
        flag = read_code(status)
        if flag is not None:
            stage = _FLAGS.get(flag) or _FLAGS_OF.get(operation, {}).get(flag)
    if stage is None:
        return Stage.UNKNOWN, f"status {_quoted(status)}"
    return stage, ""


def _of_results(results: list[JSONValue]) -> tuple[Stage, str]:
    """Judge a task by each of its results: of a recovery, or of one of the cousins."""
    words = {
        fold(item.get("state") or item.get("status"))
        for item in results[:_ITEMS_LIMIT]
        if type(item) is dict
    } - {""}
    unfinished = {word for word in words - _DONE if not is_failed(word)}
    if unfinished:
        if words & _DONE:
            return Stage.FIRST, ""
        if STREAMING in unfinished:
            return Stage.TEXT, ""
        return Stage.UNKNOWN, f"status {_quoted(min(unfinished))}"
    if words and not words & _DONE:
        return Stage.FAILED, ""
    return Stage.COMPLETE, ""


def is_callback_exception(data: dict[str, JSONValue]) -> bool:
    """Tell whether the status says no more than that a callback got lost."""
    return reported_status(data) == CALLBACK_EXCEPTION


def reported_status(data: dict[str, JSONValue]) -> str:
    """Give the word that says how far the task is, in lower case; or nothing."""
    for name in _STATUS_NAMES:
        if name in data and (word := fold(data[name])):
            return word
    return ""


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


def _quoted(value: JSONValue) -> str:
    return repr(value[:_QUOTED_CHARACTERS] if type(value) is str else type(value))
