"""Where the provider's doors differ: codes, limits and paths of the same product."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

#: One product is sold under several doors. "M" is a cousin with other callbacks.
Door: TypeAlias = Literal["S", "B", "K", "M"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorRules:
    """What one door answers, and where."""

    #: The code for parameters that are wrong.
    bad_request: int = 400
    #: The code for texts that are too long.
    too_long: int = 413
    #: The code for an account that is empty.
    no_credits: int = 429
    #: The codes for calls that come too often, in turn.
    too_often: tuple[int, ...] = (430, 405)
    #: The HTTP status for them.
    too_often_status: int = 200
    #: The code for what is there already; ``None``: not told from bad parameters.
    repeated: int | None = None
    credits_path: str = "/api/v1/generate/credit"
    #: Whether links are made on demand.
    mints_links: bool = False
    #: How the field of a recovery's callback address is written.
    recovery_fields: tuple[str, str] = ("sunoTaskId", "callBackUrl")


_S: Final = DoorRules()
#: The rules of each door.
DOORS: Final[Mapping[Door, DoorRules]] = MappingProxyType(
    {
        "S": _S,
        "B": _S,
        "M": _S,
        "K": DoorRules(
            bad_request=422,
            too_long=422,
            no_credits=402,
            too_often=(429,),
            too_often_status=429,
            repeated=409,
            credits_path="/api/v1/chat/credit",
            mints_links=True,
            recovery_fields=("task_id", "call_back_url"),
        ),
    }
)
