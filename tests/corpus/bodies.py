"""Hostile bodies of callbacks, by name: what parsers and readers have tripped over.

Large ones are made when they are asked for. Whoever finds another one adds it here.
"""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any, Final

from pipeline.simulator.options import ScenarioOptions
from pipeline.simulator.payloads import callback_body, record_info
from pipeline.simulator.scenario import plan_scenario
from pipeline.task import Stage
from tests.callbacks import make_content, make_record_info

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: The limits of the ingress and of its parser.
BODY_LIMIT: Final = 1024 * 1024
NESTING_LIMIT: Final = 1024

#: JSON values that are seldom where they are expected.
ODD_VALUES: Final[tuple[Any, ...]] = (
    None,
    True,
    0,
    -1,
    200.5,
    1e308,
    2**63,
    2**64 - 1,
    10**30,
    "",
    " ",
    "\0",
    "\u202e\u2066",
    "\ud7ff\uffff",
    "x" * 5000,
    "9" * 5000,
    "nan",
    "2026-02-30 25:61:61",
    "javascript:alert(1)",
    "https://",
    "https://files.example.com/" + "a" * 5000,
    [],
    {},
    [[[[]]]],
    [None, None],
    {"": {"": ""}},
    {"task_id": "other"},
)

_OPEN: Final = b'{"data":{"task_id":"%b","callbackType":"first"},"x":'


def _with(value: bytes, task: bytes = b"t1") -> bytes:
    """Put a value, as it is written, beside a task that is all right."""
    return _OPEN.replace(b"%b", task) + value + b"}"


def _nested(depth: int, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    return _with(opening * depth + closing * depth)


def _of_length(size: int) -> bytes:
    return _with(b'"' + b"y" * (size - len(_with(b'""'))) + b'"')


BODIES: Final[dict[str, Callable[[], bytes]]] = {
    # -- no JSON
    "empty": lambda: b"",
    "space": lambda: b" \t\r\n",
    "no JSON": lambda: b"hello",
    "cut off": lambda: b'{"data":{"task_id":"1"',
    "NaN": lambda: _with(b"NaN"),
    "Infinity": lambda: _with(b"Infinity"),
    "-Infinity": lambda: _with(b"-Infinity"),
    "comment": lambda: _with(b"/* no */ 1"),
    "trailing comma": lambda: _with(b"[1,]"),
    "single quotes": lambda: b"{'task_id':'1'}",
    "two documents": lambda: b'{"task_id":"1"}{"task_id":"2"}',
    "document and NUL": lambda: b'{"task_id":"1"}\0',
    "NUL in front": lambda: b'\0{"task_id":"1"}',
    "NUL bytes": lambda: b"\0" * 1000,
    "raw NUL in text": lambda: b'{"task_id":"a\0b"}',
    "raw newline in text": lambda: b'{"task_id":"a\nb"}',
    "byte order mark": lambda: b'\xef\xbb\xbf{"task_id":"1"}',
    "UTF-16": lambda: '{"task_id":"1"}'.encode("utf-16"),
    "UTF-16 without mark": lambda: '{"task_id":"1"}'.encode("utf-16-le"),
    "UTF-32": lambda: '{"task_id":"1"}'.encode("utf-32"),
    "latin-1": lambda: '{"task_id":"é"}'.encode("latin-1"),
    "overlong UTF-8": lambda: b'{"task_id":"\xc0\xaf"}',
    "surrogate in UTF-8": lambda: b'{"task_id":"\xed\xa0\x80"}',
    "beyond Unicode": lambda: b'{"task_id":"\xf4\x90\x80\x80"}',
    "lone surrogate": lambda: b'{"task_id":"\\ud800"}',
    "lone surrogate elsewhere": lambda: _with(b'"\\udfff"'),
    "surrogates the wrong way": lambda: _with(b'"\\udc00\\ud800"'),
    "surrogate as a name": lambda: b'{"task_id":"1","\\udc00":1}',
    "wrong escape": lambda: _with(b'"\\x41"'),
    "pickle": lambda: b"\x80\x04\x95\x0c\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94.",
    "gzip, not declared": lambda: b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
    "form": lambda: b"task_id=1&code=200",
    "XML": lambda: b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>',
    # -- no object, no task
    "array": lambda: b'[{"task_id":"1"}]',
    "text": lambda: b'"task"',
    "null": lambda: b"null",
    "number": lambda: b"1e999",
    "no task": lambda: b'{"code":200,"data":{"callbackType":"text"}}',
    "long task": lambda: _with(b"1", b"t" * 10_000),
    "task that cannot be printed": lambda: _with(b"1", b"a\\u0007b"),
    "task right to left": lambda: _with(b"1", b"a\\u202eb"),
    # -- numbers
    "5,000 digits": lambda: _with(b"9" * 5000),
    "5,000 digits as the task": lambda: b'{"task_id":' + b"9" * 5000 + b"}",
    "5,000 digits as the code": lambda: b'{"task_id":"1","code":' + b"9" * 5000 + b"}",
    "100,000 digits after the point": lambda: _with(b"0." + b"1" * 100_000),
    "huge exponent": lambda: _with(b"1e" + b"9" * 100),
    "tiny exponent": lambda: _with(b"1e-" + b"9" * 100),
    "minus zero": lambda: b'{"task_id":-0,"code":-0.0}',
    "leading zero": lambda: b'{"task_id":007}',
    "plus": lambda: b'{"task_id":+7}',
    # -- depth
    "just below the nesting limit": lambda: _nested(NESTING_LIMIT - 2),
    "at the nesting limit": lambda: _nested(NESTING_LIMIT - 1),
    "just above the nesting limit": lambda: _nested(NESTING_LIMIT),
    "100,000 brackets": lambda: _nested(100_000),
    "100,000 open brackets": lambda: b"[" * 100_000,
    "100,000 braces": lambda: _nested(100_000, b'{"a":', b"1}")[:900_000],
    "nested task": lambda: b'{"data":' * 500 + b'{"task_id":"1"}' + b"}" * 500,
    # -- repetition
    "one name twice": lambda: b'{"task_id":"1","task_id":"2"}',
    "data twice": lambda: b'{"data":{"task_id":"1"},"data":null,"task_id":"2"}',
    "one name written in two ways": lambda: b'{"task_id":"1","t\\u0061sk_id":"2"}',
    "10,000 names": lambda: _with(
        b"{" + b",".join(b'"n%d":%d' % (n, n) for n in range(10_000)) + b"}"
    ),
    "20,000 tracks": lambda: (
        b'{"data":{"task_id":"t2","callbackType":"complete","data":['
        + b",".join(b'{"id":"%d"}' % n for n in range(20_000))
        + b"]}}"
    ),
    "20,000 links of one track": lambda: (
        b'{"data":{"task_id":"t3","vocal_removal_info":{'
        + b",".join(b'"a%d_url":"http://x/%d"' % (n, n) for n in range(20_000))
        + b"}}}"
    ),
    # -- size
    "one byte below the limit": lambda: _of_length(BODY_LIMIT - 1),
    "of the largest size": lambda: _of_length(BODY_LIMIT),
    "one byte too large": lambda: _of_length(BODY_LIMIT + 1),
    "huge text": lambda: _with(b'"' + b"\\u00e9" * 150_000 + b'"'),
    "nothing but space": lambda: b" " * 500_000 + b'{"task_id":"1"}',
    # -- names that mean something elsewhere
    "__proto__": lambda: b'{"task_id":"1","__proto__":{"a":1},"__class__":"x"}',
    "format characters": lambda: _with(b'"%s%n{0}{task_id}${jndi:x}"'),
    "SQL": lambda: _with(b"1", b"'; DROP TABLE messages; --"),
    "routing key": lambda: _with(b"1", b"#.*.callback"),
    "new line for the log": lambda: _with(b"1", b"a\\nevent=callback_accepted"),
}


def documented_shapes() -> list[dict[str, Any]]:
    """Give bodies of every documented shape, by the simulated provider and by hand."""
    scenario = plan_scenario(ScenarioOptions(tasks=12, seed=7))
    shapes: list[dict[str, Any]] = [
        callback_body(task, callback, _link)
        for task in scenario.tasks
        for callback in task.callbacks
    ]
    shapes += [
        record_info(task, stage, _link)
        for task in scenario.tasks[:2]
        for stage in (Stage.FIRST, Stage.COMPLETE, None)
    ]
    shapes += [make_content(), json.loads(make_record_info())]
    shapes += [
        {"code": 200, "data": {"task_id": "t4", **more}}
        for more in (
            {"audioWavUrl": "https://files.example.com/a.wav"},
            {"video_url": "https://files.example.com/a.mp4"},
            {"images": ["https://files.example.com/a.png"]},
            {"response": {"images": ["https://files.example.com/a.png"]}},
            {"vocal_removal_info": {"vocal_url": "https://files.example.com/v.mp3"}},
            {"successFlag": 1, "response": {"vocalUrl": "https://files.example.com/v"}},
            {"lyricsData": [{"title": "a", "text": "b"}], "status": "SUCCESS"},
            {
                "origin_data": [
                    {"extract": {"audio_url": "https://x/a"}, "remove": {"id": "r"}},
                    {"stem_type_group_name": "Bass", "audio_url": "https://x/b"},
                ]
            },
            {"voiceId": "v1", "status": "success"},
            {"instruments": [{"name": "Piano", "notes": [{"pitch": 60}]}]},
        )
    ]
    return shapes


def places_in(shape: object, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Give the way to every value in a document, the document itself left out."""
    inner: Any = ()
    if isinstance(shape, dict):
        inner = shape.items()
    elif isinstance(shape, list):
        inner = enumerate(shape)
    for name, value in inner:
        yield (*above, name)
        yield from places_in(value, (*above, name))


def replaced(shape: dict[str, Any], place: tuple[Any, ...], value: object) -> Any:
    """Give a document with another value in one place."""
    made = copy.deepcopy(shape)
    inner: Any = made
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = copy.deepcopy(value)
    return made


def wrong_types() -> Iterator[tuple[str, bytes]]:
    """Give every documented field with every odd value; with a name for each.

    Shapes that have the same places are taken once.
    """
    seen = set()
    for shape in documented_shapes():
        for place in places_in(shape):
            kind = tuple("#" if isinstance(name, int) else name for name in place)
            if kind in seen:
                continue
            seen.add(kind)
            for number, value in enumerate(ODD_VALUES):
                name = f"{'.'.join(map(str, kind))} {number}"
                yield name, json.dumps(replaced(shape, place, value)).encode()


def _link(path: str) -> str:
    return f"https://files.example.com{path}?Expires=1796598994&Signature=07c8"
