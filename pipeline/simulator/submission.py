"""Check what clients submit, by the rules of the provider's pages. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from pipeline.simulator.doors import DOORS
from pipeline.simulator.operations import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pipeline.simulator.doors import Door

#: The model's names are not a closed list: new ones arrive, ``V3_5`` is gone.
_MODEL: Final = re.compile(r"V(?!3)\d+(_[A-Z0-9]+)*", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a request is refused, as the body of the answer says it."""

    code: int
    message: str


def find_fault(
    operation: str, body: Mapping[str, Any], *, door: Door
) -> Refusal | None:
    """Give the first thing that is wrong with a submitted body, if there is one."""
    rules = DOORS[door]
    for message in _faults(operation, body):
        return Refusal(code=rules.bad_request, message=message)
    for message in _lengths(body):
        return Refusal(code=rules.too_long, message=message)
    return None


def _faults(operation: str, body: Mapping[str, Any]) -> Iterator[str]:
    known = BY_NAME[operation]
    required = {**known.required, "callBackUrl": str}
    if known.needs_model:
        required["model"] = str
    for name, kind in required.items():
        if not isinstance(body.get(name), kind) or not (body[name] or kind is bool):
            yield f"{name} is required and must be {_word(kind)}"
    yield from (
        f"{name} must be {rule}"
        for name, (is_right, rule) in _RULES.items()
        if name in body and not is_right(body[name])
    )
    if operation == "upload-extend":
        yield from _custom_mode(body)


def _custom_mode(body: Mapping[str, Any]) -> Iterator[str]:
    if body["defaultParamFlag"] is not True:
        return
    needed = ["style", "title", "continueAt"]
    if body.get("instrumental") is not True:
        needed.append("prompt")
    for name in needed:
        if body.get(name) in (None, ""):
            yield f"{name} is required when defaultParamFlag is true"


def _lengths(body: Mapping[str, Any]) -> Iterator[str]:
    model = body.get("model")
    limits = {
        "prompt": 3000 if model == "V4" else 5000,
        "style": 200 if model == "V4" else 1000,
        "title": 80 if model in ("V4", "V4_5ALL") else 100,
    }
    for name, limit in limits.items():
        if len(str(body.get(name, ""))) > limit:
            yield f"{name} must not be longer than {limit} characters"


def _word(kind: type) -> str:
    return {str: "text", bool: "true or false", list: "a list"}[kind]


def _is_address(value: object) -> bool:
    try:
        parts = urlsplit(str(value))
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _is_share(value: object) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and 0 <= float(str(value)) <= 1


def _is_above_zero(value: object) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and float(str(value)) > 0


def _is_model(value: object) -> bool:
    return _MODEL.fullmatch(str(value)) is not None


_ADDRESS: Final = (_is_address, "a valid http or https address")
_SHARE: Final = (_is_share, "a number from 0 to 1")
#: What is asked of a field if it is there.
_RULES: Final = {
    "uploadUrl": _ADDRESS,
    "callBackUrl": _ADDRESS,
    "model": (_is_model, "a model that is supported"),
    "vocalGender": (("m", "f").__contains__, "m or f"),
    "styleWeight": _SHARE,
    "weirdnessConstraint": _SHARE,
    "audioWeight": _SHARE,
    "continueAt": (_is_above_zero, "a number of seconds above 0"),
}
