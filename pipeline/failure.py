"""What a failure at the provider means for whoever submitted the task.

The provider says why a task failed in codes whose meaning differs from door to door;
what is to be done about it comes down to a few answers, and these are they.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping


class FailureClass(StrEnum):
    """Whether another attempt is worth it, and what has to change before."""

    #: The same may succeed later.
    TRANSIENT = "transient"
    #: The provider could not fetch the source audio.
    SOURCE = "source"
    #: The same will fail again.
    PERMANENT = "permanent"
    #: Key, credits, a limit of the account: a person has to act.
    OPERATOR = "operator"
    #: It was made before.
    EXISTS = "exists"
    #: A code that means nothing to us.
    UNKNOWN = "unknown"

    @property
    def advice(self) -> str:
        """What a caller should do, as a sentence for people."""
        return _ADVICE[self]


_ADVICE: Final[Mapping[FailureClass, str]] = MappingProxyType(
    {
        FailureClass.TRANSIENT: "Submit it again later.",
        FailureClass.SOURCE: (
            "Check or renew the link of the source audio, then submit it again."
        ),
        FailureClass.PERMANENT: (
            "Change the input: the same would be refused every time."
        ),
        FailureClass.OPERATOR: (
            "Look at the provider's account (key, credits, limits), then submit it"
            " again."
        ),
        FailureClass.EXISTS: (
            "It is there already: ask for the details of the earlier task."
        ),
        FailureClass.UNKNOWN: (
            "Submit it once more; if that fails too, have a person look at it."
        ),
    }
)
