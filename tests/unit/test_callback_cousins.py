"""Bodies of the cousins, whose songs have a state each: musicapi.ai, sunoapi.com."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from pipeline.provider.callback import normalise, peek
from pipeline.task import Stage, TaskUpdate, Track, event_id
from tests.callbacks import TASK

AUDIO = "https://cdn.example.com/1.mp3"


def make_song(state: str = "succeeded", number: int = 1, **changes: Any) -> Any:
    return {
        "clip_id": f"c{number}",
        "state": state,
        "title": "Iron Man",
        "tags": "rock",
        "lyrics": "[Verse] Night",
        "image_url": "https://cdn.example.com/1.jpeg",
        "audio_url": AUDIO,
        "video_url": None,
        "created_at": "2026-11-20T11:58:00Z",
        "duration": "104.88",
        "mv": "sonic-v4",
        **changes,
    }


def told(*songs: Any, **changes: Any) -> TaskUpdate:
    content = {
        "code": 200,
        "task_id": TASK,
        "platform": "suno",
        "event": "song.completed",
        "data": [*songs],
        **changes,
    }
    body = orjson.dumps(content)
    update = normalise(body, "generate")
    if update.stage is not Stage.UNKNOWN:
        assert update.stage is peek(body, "generate").stage
    return update


def test_a_song_is_read_in_full() -> None:
    update = told(make_song())

    expected = Track(
        track_id="c1",
        title="Iron Man",
        tags="rock",
        prompt="[Verse] Night",
        model_name="sonic-v4",
        duration_seconds=104.88,
        created_at=datetime(2026, 11, 20, 11, 58, tzinfo=UTC),
        links={"audio": AUDIO, "image": "https://cdn.example.com/1.jpeg"},
    )
    assert (TASK, Stage.COMPLETE, 200) == (update.task_id, update.stage, update.code)
    assert (expected,) == update.tracks


def test_a_song_may_have_a_video() -> None:
    (track,) = told(make_song(video_url="https://cdn.example.com/1.mp4")).tracks

    assert {"audio", "image", "video"} == {*track.links}


def test_a_song_that_streams_can_be_played_and_is_not_the_file() -> None:
    update = told(make_song("streaming"))

    assert update.stage is Stage.TEXT
    (track,) = update.tracks
    assert AUDIO == track.stream_url
    assert "audio" not in track.links


def test_one_song_that_is_ready_is_the_first() -> None:
    update = told(make_song("succeeded", 1), make_song("streaming", 2))

    assert update.stage is Stage.FIRST
    assert ["audio" in track.links for track in update.tracks] == [True, False]


def test_one_song_that_has_failed_leaves_the_others() -> None:
    update = told(make_song("succeeded", 1), make_song("failed", 2, error="no idea"))

    assert update.stage is Stage.COMPLETE
    assert ["", "no idea"] == [track.error for track in update.tracks]
    assert ["audio" in track.links for track in update.tracks] == [True, False]


def test_all_songs_failed_is_a_failure() -> None:
    update = told(make_song("failed", 1), make_song("failed", 2))

    assert update.stage is Stage.FAILED
    assert ["failed", "failed"] == [track.error for track in update.tracks]


@pytest.mark.parametrize("state", ["queued", "Brand New"])
def test_a_state_that_is_not_known_is_kept_as_unknown(state: str) -> None:
    update = told(make_song(state))

    assert update.stage is Stage.UNKNOWN
    assert state.lower() in update.unknown_reason


def test_a_code_of_failure_wins_over_the_states() -> None:
    assert told(make_song(), code=500).stage is Stage.FAILED


def test_a_body_without_songs_is_unknown() -> None:
    assert told().stage is Stage.UNKNOWN


def test_the_same_songs_are_the_same_news() -> None:
    """Whatever the id of the request: it is new for each try."""
    again = make_song(audio_url=f"{AUDIO}?signed=2")

    assert event_id(told(make_song())) == event_id(told(again))


def test_older_bodies_have_final_states_only_and_no_event() -> None:
    song = make_song()

    update = told(song, event=None, platform=None)

    assert update.stage is Stage.COMPLETE
