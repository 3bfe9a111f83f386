"""Hostile bodies without end, from a seed: documented callbacks, changed for the worse.

The structure is known, so that most of what comes out is still JSON that names a
task and gets past the first look; the rest is not.
"""

from __future__ import annotations

import copy
import json
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from tests.corpus.bodies import (
    BODIES,
    ODD_VALUES,
    documented_shapes,
    places_in,
    wrong_types,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

#: Larger ones of the corpus come seldom: they take the time of a hundred others.
LARGE_BYTES: Final = 20_000
LARGE_SHARE: Final = 0.03

_NAMES: Final = (
    *("task_id", "taskId", "data", "code", "msg", "callbackType", "callback_type"),
    *("status", "state", "successFlag", "errorCode", "errorMessage", "response"),
    *("sunoData", "audio_url", "audioUrl", "id", "createTime", "duration", "images"),
    *("video_url", "vocal_removal_info", "origin_data", "extract", "", "\0", "é"),
)
_WORDS: Final = ("text", "FIRST", "complete", "error", "SUCCESS", "fail", "200", "-0")
_TOKENS: Final = (
    *(b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"\0", b"\xff", b"\xed\xa0\x80"),
    *(b"\\ud800", b"\\u0000", b"NaN", b"1e999", b"-", b"\xef\xbb\xbf", b"//", b"'"),
    *(b"null", b"true", b'"task_id":', b'"data":{', b"\r\n\r\n", b"0\r\n\r\n"),
)


class Bodies:
    """Makes bodies.

    Args:
        random: decides everything.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self._shapes = documented_shapes()
        self._small = [b for make in BODIES.values() if len(b := make()) <= LARGE_BYTES]
        self._odd = [body for _, body in wrong_types()]

    @cached_property
    def large(self) -> list[bytes]:
        """The large ones of the corpus."""
        return [b for make in BODIES.values() if len(b := make()) > LARGE_BYTES]

    def make(self) -> bytes:
        """Give the next body."""
        roll = self._random.random()
        if roll < 0.60:
            return self._changed()
        if roll < 0.72:
            return self._random.choice(self._odd)
        if roll < 0.85:
            return self._spoilt(self._changed())
        if roll < 0.93:
            is_large = self._random.random() < LARGE_SHARE
            return self._random.choice(self.large if is_large else self._small)
        if roll < 0.96:
            return self._random.randbytes(self._random.randrange(200))
        return json.dumps(self._random.choice(self._shapes)).encode()

    def _changed(self) -> bytes:
        """Change a documented body in one to five places; it stays JSON."""
        random = self._random
        shape = copy.deepcopy(random.choice(self._shapes))
        changes: tuple[Callable[[Any, Any], None], ...] = (
            self._replace,
            self._replace,
            self._remove,
            self._rename,
            self._move,
            self._repeat,
            self._nest,
        )
        for _ in range(random.randint(1, 5)):
            places = list(places_in(shape))
            if not places:
                break
            *above, name = random.choice(places)
            inner = shape
            for step in above:
                inner = inner[step]
            random.choice(changes)(inner, name)
        written = json.dumps(shape, ensure_ascii=random.random() < 0.5)
        return self._doubled(written).encode("utf-8", "surrogatepass")

    def _replace(self, inner: Any, name: Any) -> None:
        inner[name] = self._value()

    def _remove(self, inner: Any, name: Any) -> None:
        del inner[name]

    def _rename(self, inner: Any, name: Any) -> None:
        if isinstance(inner, dict):
            inner[self._random.choice(_NAMES)] = inner.pop(name)
        else:
            inner.insert(0, inner.pop())

    def _move(self, inner: Any, name: Any) -> None:
        """Put a value where another one of its neighbours was."""
        other = self._random.choice(list(inner) if isinstance(inner, dict) else [name])
        inner[name] = copy.deepcopy(inner[other])

    def _repeat(self, inner: Any, name: Any) -> None:
        times = self._random.choice((2, 3, 30))
        if isinstance(inner, list):
            inner.extend([copy.deepcopy(inner[name])] * times)
        else:
            inner[name] = [copy.deepcopy(inner[name])] * times

    def _nest(self, inner: Any, name: Any) -> None:
        value = inner[name]
        for _ in range(self._random.choice((1, 2, 50))):
            value = [value] if self._random.random() < 0.5 else {"data": value}
        inner[name] = value

    def _value(self) -> Any:
        random = self._random
        roll = random.random()
        if roll < 0.5:
            return copy.deepcopy(random.choice(ODD_VALUES))
        if roll < 0.7:
            return random.choice(_WORDS)
        if roll < 0.8:
            return random.choice((random.getrandbits(70), -random.random(), 200, 0))
        points = (random.choice((0x7F, 0xFFF, 0x10FFFF)) for _ in range(6))
        text = "".join(chr(random.randrange(point)) for point in points)
        return text.encode("utf-8", "replace").decode()

    def _doubled(self, written: str) -> str:
        """Write a name a second time now and then, which no dictionary can hold."""
        if self._random.random() < 0.9 or not written.endswith("}"):
            return written
        name, value = self._random.choice(_NAMES), self._random.choice(ODD_VALUES)
        return f"{written[:-1]}, {json.dumps(name)}: {json.dumps(value)}}}"

    def _spoilt(self, body: bytes) -> bytes:
        """Change bytes, whatever becomes of the JSON."""
        random, made = self._random, bytearray(body)
        for _ in range(random.randint(1, 4)):
            at = random.randrange(len(made) + 1)
            match random.randrange(5):
                case 0:
                    made[at:at] = random.choice(_TOKENS)
                case 1:
                    del made[at : at + random.randint(1, 20)]
                case 2:
                    made[at : at + 1] = random.randbytes(1)
                case 3:
                    del made[at:]
                case _:
                    made[at:at] = made[: random.randint(0, 60)]
        return bytes(made)
