"""What it means for us when the provider says no. Pure.

A question may be asked again, so of its refusal only matters whether somebody has to
act. What was submitted may have cost money: there it matters, too, whether the
provider itself has refused, or something in between that knows nothing of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, assert_never

from pipeline.errors import (
    AlreadyThere,
    OutcomeUnknown,
    ProviderError,
    ProviderRefused,
    ProviderUnavailable,
    SourceUnusable,
    SubmissionRefused,
)
from pipeline.failure import FailureClass
from pipeline.provider.fields import read_mapping
from pipeline.provider.stages import SUCCESS
from pipeline.task import ID_LIMIT, TaskId

if TYPE_CHECKING:
    from datetime import timedelta

    from pipeline.provider.door import Door
    from pipeline.provider.session import Answer

#: What gateways answer when what is behind them says nothing.
_OF_GATEWAYS: Final = frozenset({502, 503, 504})
#: Statuses of HTTP by which a key is refused.
_NO_ENTRY: Final = frozenset({401, 402, 403})
_TOO_OFTEN: Final = 429
#: What to do about something that was made before, if nobody says as which task.
_UNNAMED: Final = (
    " The answer does not name it: look for it with `pipeline tasks list`, or among the"
    " provider's records; to submit this again changes nothing."
)
#: What the doors say to those who call too often, where it does not mean something
#: else there.
_LIMITED: Final = frozenset({405, _TOO_OFTEN, 430})
_CLIENT_ERRORS: Final = range(400, 500)
_REDIRECTS: Final = range(300, 400)


def refusal_of_question(answer: Answer, door: Door) -> ProviderError:
    """Make the error of a question that was not answered well."""
    is_elsewhere = answer.status in _REDIRECTS
    if not is_elsewhere and _class_of(answer, door) is FailureClass.OPERATOR:
        message = f"expected our key to be taken, got {answer}"
        return _coded(ProviderRefused(message), answer)
    message = f"expected code 200 of the provider, got {answer}"
    return _coded(ProviderUnavailable(message, after=answer.after), answer)


def refusal_of_submission(answer: Answer, door: Door) -> ProviderError:
    """Make the error of a submission whose answer is not plainly good."""
    is_refusal = _is_refusal(answer)
    meaning = _class_of(answer, door)
    task_id = find_task_id(answer)
    is_earlier = is_refusal and meaning is FailureClass.EXISTS
    if not is_refusal or (task_id is not None and not is_earlier):
        message = f"expected to hear whether it was accepted, got {answer}"
        return _coded(OutcomeUnknown(message), answer)
    message = f"expected it to be accepted, got {answer}. {meaning.advice}"
    if is_earlier and task_id is None:
        message += _UNNAMED
    error: ProviderError
    match meaning:
        case FailureClass.TRANSIENT | FailureClass.UNKNOWN:
            error = ProviderUnavailable(message, after=_pause(answer, door))
        case FailureClass.SOURCE:
            error = SourceUnusable(message)
        case FailureClass.PERMANENT:
            error = SubmissionRefused(message)
        case FailureClass.OPERATOR:
            error = ProviderRefused(message)
        case FailureClass.EXISTS:
            error = AlreadyThere(message, task_id)
        case never:
            assert_never(never)
    return _coded(error, answer)


def find_task_id(answer: Answer) -> TaskId | None:
    """Find the task id of an answer, in either spelling."""
    data = read_mapping((answer.content or {}).get("data"))
    for found in (data.get("taskId"), data.get("task_id")):
        if type(found) is int:
            return TaskId(str(found))
        if type(found) is str and found.strip() and len(found) <= ID_LIMIT:
            return TaskId(found) if found.isprintable() else None
    return None


def _pause(answer: Answer, door: Door) -> timedelta | None:
    number = answer.status if answer.code is None else answer.code
    if answer.after is None and number in _LIMITED:
        return door.limits.retry_after
    return answer.after


def _is_refusal(answer: Answer) -> bool:
    """Tell whether the provider itself says no, so that nothing was accepted."""
    if answer.code is not None and answer.code != SUCCESS:
        return answer.code not in _OF_GATEWAYS
    return answer.status in _CLIENT_ERRORS or answer.status in _REDIRECTS


def _class_of(answer: Answer, door: Door) -> FailureClass:
    if answer.code is not None and answer.code != SUCCESS:
        return door.failure(answer.code)
    # Without a code it is HTTP that speaks, perhaps a gateway: 429 is no matter of
    # credits then, at no door.
    if answer.status in _NO_ENTRY or answer.status in _REDIRECTS:
        return FailureClass.OPERATOR
    if answer.status == _TOO_OFTEN or answer.status not in _CLIENT_ERRORS:
        return FailureClass.TRANSIENT
    return door.failure(answer.status)


def _coded(error: ProviderError, answer: Answer) -> ProviderError:
    error.code = answer.code if answer.code is not None else answer.status
    return error
