"""What is wrong with a request, all of it at once, before it costs anything. Pure.

Types and bounds of single fields are the models' matter. Here are those, put into our
words, and the rules between fields: custom mode, lengths by model, and where in the
source to go on.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, Final, Literal

import orjson
from pydantic import ValidationError
from pydantic.alias_generators import to_camel

from pipeline.provider.fields import read_number
from pipeline.provider.requests import REQUESTS, UploadExtend
from pipeline.values import value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pydantic_core import ErrorDetails

    from pipeline.provider.door import Door
    from pipeline.provider.requests import Request

_SHOWN_CHARACTERS: Final = 60
_LIMITED: Final[tuple[Literal["prompt", "style", "title"], ...]] = (
    "prompt",
    "style",
    "title",
)
#: Whoever submits puts the address of callbacks in here.
CALLBACK_FIELD: Final = "callBackUrl"
#: Operations with a custom mode, and the flag for it.
_MODES: Final = {
    "upload-extend": "defaultParamFlag",
    "extend": "defaultParamFlag",
    "generate": "customMode",
    "upload-cover": "customMode",
    "mashup": "customMode",
}
_SPANS: Final = (("infillStartS", "infillEndS"), ("vocalStartS", "vocalEndS"))
#: pydantic's kinds of mistakes in our words; ``{name}`` is of its context.
_EXPECTED: Final = {
    "missing": "a value",
    "string_type": "text",
    "string_unicode": "text in UTF-8",
    "string_too_short": "text",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a number",
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "a number of {ge:g} or more",
    "less_than_equal": "a number of {le:g} or less",
    "literal_error": "{expected}",
    "tuple_type": "a list",
    "too_short": "{min_length} items",
    "too_long": "{max_length} items",
    "dict_type": "a JSON object",
}


@value
class Mistake:
    """One thing that is wrong with what is to be submitted."""

    #: In the provider's spelling.
    field: str
    #: What was expected, what came.
    text: str

    def __str__(self) -> str:
        """Give it in one line."""
        return f"{self.field}: {self.text}"


def read_request(
    operation: str, given: Mapping[str, Any], door: Door
) -> tuple[Request | None, list[Mistake]]:
    """Read a request; give all that is wrong with it, and it if nothing is.

    Args:
        operation: its name.
        given: fields in either spelling. What is empty counts as not given.
        door: knows the longest texts.
    """
    kind = REQUESTS.get(operation)
    if kind is None:
        expected = f"expected one of {', '.join(sorted(REQUESTS))}"
        text = f"{expected}; got {_quoted(operation)}"
        return None, [Mistake(field="operation", text=text)]
    fields = spelled(given)
    request = None
    mistakes: list[Mistake] = []
    try:
        request = kind.model_validate(fields)
    except ValidationError as error:
        mistakes += [
            _mistake(details, kind) for details in error.errors(include_url=False)
        ]
    if request is not None:
        mistakes += _hidden(request)
        mistakes += _unwritable(request)
    known = {mistake.field for mistake in mistakes}
    mistakes += [
        mistake
        for mistake in _between_fields(operation, fields, door)
        if mistake.field not in known
    ]
    return (None if mistakes else request), mistakes


def spelled(given: Mapping[str, Any]) -> dict[str, Any]:
    """Give fields in the provider's spelling, without those that are empty."""
    return {to_camel(k): v for k, v in given.items() if v not in ("", None)}


def link_fields(operation: str) -> tuple[str, ...]:
    """Name the fields of an operation that have links to source audio."""
    kind = REQUESTS.get(operation)
    return () if kind is None else tuple(map(to_camel, kind.links))


def length_mistakes(
    operation: str, given: Mapping[str, Any], *, field: str, seconds: float, door: Door
) -> Iterator[Mistake]:
    """Say what is wrong with the length of the source audio.

    Args:
        operation: its name.
        given: fields in either spelling.
        field: the one with the link.
        seconds: how long the source plays.
        door: knows how long it may be.
    """
    fields = spelled(given)
    longest = door.longest_upload(str(fields.get("model", "")))
    if longest is not None and seconds > longest.total_seconds():
        text = (
            f"expected audio of at most {longest.total_seconds():g} s at the door"
            f" {door.name}, got {seconds:.1f} s"
        )
        yield Mistake(field=field, text=text)
    place = read_number(fields.get("continueAt"))
    if operation == UploadExtend.operation and place is not None and place >= seconds:
        text = f"expected a place in the source of {seconds:.1f} s, got {place:g} s"
        yield Mistake(field="continueAt", text=text)


def _between_fields(
    operation: str, fields: Mapping[str, Any], door: Door
) -> Iterator[Mistake]:
    """Check what types cannot say; values may be of any type here."""
    model = fields.get("model")
    for name in _LIMITED:
        limit = door.text_limit(name, model if isinstance(model, str) else "")
        text = fields.get(name)
        if limit is not None and isinstance(text, str) and len(text) > limit:
            shown = str(model)[:_SHOWN_CHARACTERS]
            got = f"expected at most {limit} characters with {shown}, got {len(text)}"
            yield Mistake(field=name, text=got)
    if (flag := _MODES.get(operation)) is not None:
        yield from _custom_mode(fields, flag)
    for start, end in _SPANS:
        first, last = fields.get(start), fields.get(end)
        if not isinstance(first, int | float) or not isinstance(last, int | float):
            continue
        if first >= last:
            text = f"expected more than {start}, which is {first:g}; got {last:g}"
            yield Mistake(field=end, text=text)


def _custom_mode(fields: Mapping[str, Any], flag: str) -> Iterator[Mistake]:
    """Check that custom mode has what it cannot do without."""
    is_custom = fields.get("style") or fields.get("title")
    if flag in fields:
        is_custom = _is_true(fields[flag])
    if is_custom:
        needed = ["style", "title"]
        if not _is_true(fields.get("instrumental")):
            needed.append("prompt")
        for name in needed:
            if name not in fields:
                text = f"expected a value in custom mode ({flag}), got none"
                yield Mistake(field=name, text=text)
    elif flag == "customMode" and "prompt" not in fields:
        text = "expected a value, or custom mode with style and title; got none"
        yield Mistake(field="prompt", text=text)


def _is_true(given: object) -> bool:
    return str(given).lower() in ("true", "1", "yes", "on", "y", "t")


def _hidden(request: Request) -> Iterator[Mistake]:
    """Find fields in ``extra``, which nobody checks: they would count instead."""
    known = {_folded(name) for name in (*type(request).model_fields, CALLBACK_FIELD)}
    if clash := [name for name in request.extra if _folded(name) in known]:
        text = "expected only names that are no fields themselves, got"
        yield Mistake(field="extra", text=f"{text} {_quoted(', '.join(clash))}")


def _folded(name: str) -> str:
    return name.replace("_", "").lower()


def _unwritable(request: Request) -> Iterator[Mistake]:
    """Find what no JSON can hold: bytes of a command line that are no UTF-8."""
    for field, given in request.fields().items():
        try:
            orjson.dumps(given)
        except TypeError:
            text = f"expected text in UTF-8, got {_quoted(given)}"
            yield Mistake(field=field, text=text)


def _mistake(details: ErrorDetails, kind: type[Request]) -> Mistake:
    """Put what pydantic found into our words."""
    field = str(details["loc"][0]) if details["loc"] else "fields"
    if details["type"] == "extra_forbidden":
        known = [to_camel(name) for name in kind.model_fields]
        near = difflib.get_close_matches(field, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        text = (
            f"{kind.operation} has no such field that is known here{hint}"
            " (a newer one goes into extra)"
        )
        return Mistake(field=field, text=text)
    template = _EXPECTED.get(details["type"])
    expected = details["msg"].lower()
    if template is not None:
        fill: Callable[..., str] = template.format
        expected = fill(**details.get("ctx", {}))
    got = "none" if details["type"] == "missing" else _quoted(details["input"])
    return Mistake(field=field, text=f"expected {expected}, got {got}")


def _quoted(given: object) -> str:
    shown = repr(given)
    if len(shown) <= _SHOWN_CHARACTERS:
        return shown
    return f"{shown[:_SHOWN_CHARACTERS]}…"
