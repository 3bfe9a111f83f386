"""What a body says of notes, in a few bytes: their number, and a hash of them.

There may be many thousands. Nobody behind the queue works on them, so they stay in
the raw body; but two bodies with different notes are two pieces of news. Nothing here
raises, whatever comes in.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

import orjson

from pipeline.provider.fields import read_mapping, read_number, read_text
from pipeline.task import Notes

if TYPE_CHECKING:
    from pipeline.message import JSONValue

_INSTRUMENTS: Final = "instruments"
#: Where the details answer has what the callback has in ``data``.
_PLACES: Final = ("midiData", "midi_data", "response")
#: More than this are hashed as they came: to look at each takes time, which whoever
#: sends them decides on. A body of 2 MiB has room for no more that are notes, with
#: pitch, start, end and velocity: 40 bytes at least.
_READ_LIMIT: Final = 50_000


def read_notes(data: dict[str, JSONValue]) -> Notes | None:
    """Read how many notes there are, and which; ``None``: there is no list of them.

    Numbers count as what they are, also in text: callback and details answer may
    write them differently, and their hash is the same, up to 50,000 notes.
    """
    instruments = data.get(_INSTRUMENTS)
    if type(instruments) is not list:
        places = (read_mapping(data.get(name)).get(_INSTRUMENTS) for name in _PLACES)
        instruments = next((place for place in places if type(place) is list), None)
        if instruments is None:
            return None
    items = [read_mapping(one) for one in instruments]
    lists = [_list_of_notes(item) for item in items]
    count = sum(map(len, lists))
    played: object = instruments
    if count + len(items) <= _READ_LIMIT:
        played = [
            (
                read_text(item.get("name")),
                [_note(note) if type(note) is dict else None for note in notes],
            )
            for item, notes in zip(items, lists, strict=True)
        ]
    return Notes(
        instruments=len(items),
        notes=count,
        digest=hashlib.sha256(orjson.dumps(played)).hexdigest()[:32],
    )


def _list_of_notes(item: dict[str, JSONValue]) -> list[JSONValue]:
    notes = item.get("notes")
    return notes if type(notes) is list else []


def _note(note: dict[str, JSONValue]) -> tuple[object, ...]:
    get = note.get
    return (
        _figure(get("pitch")),
        _figure(get("start")),
        _figure(get("end")),
        _figure(get("velocity")),
    )


def _figure(value: JSONValue) -> float | str | None:
    """Give a number, or text that is none, such as the name of a pitch."""
    if type(value) is float:
        return value
    number = read_number(value)
    return number if number is not None else read_text(value) or None
