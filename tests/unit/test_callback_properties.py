"""Whatever comes in: an update or ``Unreadable``, and never anything else."""

from __future__ import annotations

import os
from typing import Any, Final

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import Unreadable
from pipeline.events.catalogue import TaskEvent, parse_event
from pipeline.events.publications import task_event
from pipeline.provider.callback import OPERATIONS, normalise, peek
from pipeline.task import ID_LIMIT, Stage, event_id
from tests.callbacks import START, make_camel_item, make_item

#: How many bodies the first property is tried on; many with `make bodies`.
EXAMPLES: Final = int(os.environ.get("PIPELINE_TEST_BODIES", "250"))
#: Names that mean something somewhere, so that they are hit often.
NAMES = sorted(
    {
        *make_item(),
        *make_camel_item(),
        *("code", "msg", "data", "task_id", "taskId", "callbackType", "status"),
        *("response", "sunoData", "errorCode", "errorMessage", "error", "state"),
        *("successFlag", "audioWavUrl", "video_url", "images", "vocal_removal_info"),
        *("vocal_url", "origin_data", "extract", "remove", "instruments", "voiceId"),
        *("clip_id", "lyrics", "mv", "vocalUrl", "validateInfo", "error_message"),
    }
)
WORDS = ["text", "first", "COMPLETE", "error", "SUCCESS", "PENDING", "fail", "200"]
WORDS += ["streaming", "succeeded", "CALLBACK_EXCEPTION", "GENERATE_MP4_FAILED"]

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.sampled_from([*WORDS, "https://files.example.com/a.mp3?x=1", "ab12", "\0"])
    | st.sampled_from([200, 0, 400, 1])
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=3), inner)
    ),
    max_leaves=10,
)
bodies = values.map(orjson.dumps)
likely_bodies = st.builds(
    lambda code, data, task_id, more: orjson.dumps(
        {**more, "code": code, "data": {**data, "task_id": task_id}}
    ),
    st.sampled_from([200, "200", 0, 400, None]) | scalars,
    st.dictionaries(st.sampled_from(NAMES), values, max_size=6),
    st.sampled_from(["ab12", 7]) | scalars,
    st.dictionaries(st.sampled_from(NAMES), scalars, max_size=3),
)
operations = st.sampled_from([*OPERATIONS, "brand-new"])


@given(body=bodies | likely_bodies | st.binary(), operation=operations)
@settings(max_examples=EXAMPLES, deadline=None)
def test_every_body_gives_an_update_or_is_unreadable(
    body: bytes, operation: str
) -> None:
    try:
        peeked = peek(body, operation)
    except Unreadable:
        peeked = None
    try:
        update = normalise(body, operation)
    except Unreadable:
        assert peeked is None
        return

    assert peeked is not None
    assert peeked.task_id == update.task_id
    assert 0 < len(update.task_id) <= ID_LIMIT
    assert bool(update.unknown_reason) == (update.stage is Stage.UNKNOWN)
    assert (update.failure is not None) == (update.stage is Stage.FAILED)
    if update.stage is not peeked.stage:  # a closer look can only find less
        assert peeked.stage is Stage.COMPLETE
        assert update.stage in (Stage.UNKNOWN, Stage.FAILED)
    for track in update.tracks:
        assert 0 < len(track.track_id) <= ID_LIMIT
        assert all(link.lower().startswith("http") for link in track.links.values())
        assert not (track.error and "audio" in track.links)
    assert len({t.track_id for t in update.tracks}) == len(update.tracks)


@given(body=likely_bodies, operation=operations)
@settings(max_examples=120, deadline=None)
def test_every_update_has_an_id_and_an_event(body: bytes, operation: str) -> None:
    try:
        update = normalise(body, operation)
    except Unreadable:
        return

    publication = task_event(
        update,
        event_id(update),
        late=False,
        origin="callback",
        received_at=START,
        source="/pipeline",
        at=START,
    )

    event = parse_event(publication.envelope.body)
    assert isinstance(event, TaskEvent)
    assert event.data.stage is update.stage
    assert [t.track_id for t in event.data.tracks] == [
        t.track_id for t in update.tracks
    ]


@given(value=values)
@settings(max_examples=80, deadline=None)
def test_a_track_of_any_shape_is_read(value: Any) -> None:
    content = {"code": 200, "data": {"task_id": "a", "callbackType": "first"}}
    content["data"]["data"] = [value, {**make_item(), "title": value, "id": value}]  # type: ignore[index]

    update = normalise(orjson.dumps(content), "upload-extend")

    assert update.stage is Stage.FIRST
    assert update.tracks
