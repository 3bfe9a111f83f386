"""Stages, the names of occurrences, and tracks merged in any order."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.task import (
    Stage,
    TaskUpdate,
    Track,
    bare_link,
    derived_id,
    event_id,
    leads,
    merge_tracks,
)
from tests.callbacks import after, make_track, make_update


def test_stages_rank_from_unknown_to_complete() -> None:
    ranked = sorted(Stage, key=lambda stage: stage.rank)

    assert ["unknown", "text", "first", "failed", "complete"] == ranked
    assert [False, False, False, True, True] == [stage.is_final for stage in ranked]


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("https://a.example/1.mp3", "https://a.example/1.mp3"),
        ("https://a.example/1.mp3?sig=1&t=2", "https://a.example/1.mp3"),
        ("https://a.example/1.mp3#x?y", "https://a.example/1.mp3"),
        ("https://a.example/1.mp3?x#y", "https://a.example/1.mp3"),
        ("https://[broken?sig=1", "https://[broken"),
        ("", ""),
    ],
)
def test_a_bare_link_has_no_query_and_no_fragment(link: str, expected: str) -> None:
    assert expected == bare_link(link)


def test_a_repeat_with_fresh_links_is_the_same_occurrence() -> None:
    first = make_update(links={"audio": "https://a.example/1.mp3?sig=1"})
    again = make_update(links={"audio": "https://a.example/1.mp3?sig=2"})

    assert event_id(first) == event_id(again)


def test_the_order_of_tracks_and_links_changes_no_occurrence() -> None:
    one, two = make_track("a"), make_track("b")
    turned = replace(two, links=dict(reversed(list(two.links.items()))))

    assert event_id(make_update(tracks=[one, two])) == event_id(
        make_update(tracks=[turned, one])
    )


@pytest.mark.parametrize(
    "change",
    [
        {"task_id": "other"},
        {"operation": "extend"},
        {"stage": Stage.FIRST},
        {"tracks": ()},
        {"tracks": (make_track(title="New"),)},
        {"tracks": (make_track(prompt="la"),)},
        {"tracks": (make_track(duration_seconds=1.0),)},
        {"tracks": (make_track(links={"audio": "https://a.example/other.mp3"}),)},
        {"tracks": (make_track(stream_url="https://a.example/stream"),)},
        {"tracks": (make_track(error="clip_error"),)},
    ],
)
def test_other_contents_are_another_occurrence(change: dict[str, Any]) -> None:
    update = make_update(tracks=[make_track()])

    assert event_id(update) != event_id(replace(update, **change))


def test_a_failure_with_another_code_is_another_occurrence() -> None:
    failed = make_update(Stage.FAILED, code=400)

    assert event_id(failed) != event_id(replace(failed, code=500))


def test_free_text_makes_no_other_occurrence() -> None:
    update = make_update(message="All generated successfully.")

    assert event_id(update) == event_id(replace(update, message="success"))


def test_derived_ids_repeat_and_differ_by_every_part() -> None:
    assert derived_id("a", "b") == derived_id("a", "b")
    assert len({derived_id("a", "b"), derived_id("ab"), derived_id("b", "a")}) == 3
    assert len(derived_id("a")) == 32


def test_a_value_replaces_an_empty_one_and_never_the_other_way_round() -> None:
    early = Track(track_id="a", title="Early", prompt="la", links={"image": "i"})
    final = Track(track_id="a", title="Final", links={"audio": "x"})

    (merged,) = merge_tracks([(Stage.COMPLETE, [final]), (Stage.TEXT, [early])])

    expected = Track(
        track_id="a", title="Final", prompt="la", links={"audio": "x", "image": "i"}
    )
    assert expected == merged


def test_the_higher_stage_wins_though_it_came_first() -> None:
    def told(stage: Stage) -> tuple[Stage, list[Track]]:
        return stage, [Track(track_id="a", title=stage.value)]

    for order in permutations(
        [told(Stage.TEXT), told(Stage.FIRST), told(Stage.FAILED)]
    ):
        (merged,) = merge_tracks(order)

        assert merged.title == "failed"


def test_a_track_that_was_made_has_not_failed() -> None:
    failed, made = make_track(links={}, error="clip_error"), make_track()

    for told in ([failed, made], [made, failed]):
        (track,) = merge_tracks([(Stage.COMPLETE, told)])
        assert ("", made.links) == (track.error, track.links)
    (later,) = merge_tracks([(Stage.FIRST, [failed]), (Stage.COMPLETE, [made])])
    assert "" == later.error


def test_tracks_are_sorted_by_their_id() -> None:
    told = [(Stage.TEXT, [make_track("b")]), (Stage.FIRST, [make_track("a")])]

    assert ["a", "b"] == [track.track_id for track in merge_tracks(told)]


texts = st.sampled_from(["", "a", "b"])
tracks = st.builds(
    Track,
    track_id=st.sampled_from(["1", "2"]),
    title=texts,
    prompt=texts,
    stream_url=texts,
    error=texts,
    duration_seconds=st.sampled_from([0.0, 1.0, 2.0]),
    created_at=st.sampled_from([None, after(0), after(1)]),
    links=st.dictionaries(
        st.sampled_from(["audio", "image"]), st.sampled_from(["x", "y"])
    ),
)
updates = st.builds(
    make_update,
    st.sampled_from(Stage),
    tracks=st.lists(tracks, max_size=3),
    code=st.sampled_from([None, 200, 400]),
    message=texts,
    operation=st.sampled_from(["generate", "extend"]),
)


@given(data=st.data(), told=st.lists(updates, max_size=6))
@settings(max_examples=300, deadline=None)
def test_any_permutation_of_updates_gives_the_same_task(
    data: st.DataObject, told: list[TaskUpdate]
) -> None:
    shuffled = data.draw(st.permutations(told))
    # Any of them may be told twice.
    shuffled += told[:2]

    assert _merged(told) == _merged(shuffled)


def _merged(told: list[TaskUpdate]) -> tuple[Any, ...]:
    lead: TaskUpdate | None = None
    for update in told:
        if lead is None or leads(update, lead):
            lead = update
    said = None if lead is None else (lead.stage, lead.code, lead.message)
    return said, merge_tracks([(update.stage, update.tracks) for update in told])
