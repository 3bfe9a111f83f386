"""Bodies of the provider's other operations: id, stage, failure and files."""

from __future__ import annotations

import time
from typing import Any

import orjson
import pytest

from pipeline.provider.callback import normalise, peek
from pipeline.task import Notes, Stage, TaskUpdate, event_id
from tests.callbacks import TASK, make_item

LINK = "https://files.example.com/out"


def told(operation: str, content: dict[str, Any]) -> TaskUpdate:
    """Read a body, and make sure that the ingress saw the same."""
    body = orjson.dumps({"msg": "", **content})
    update = normalise(body, operation)
    assert update.stage is peek(body, operation).stage
    assert update.task_id == TASK
    return update


def links(update: TaskUpdate) -> list[dict[str, str]]:
    return [dict(track.links) for track in update.tracks]


@pytest.mark.parametrize(
    "data",
    [
        {"audioWavUrl": LINK, "task_id": TASK},
        {"audio_wav_url": LINK, "taskId": TASK},
        {"taskId": TASK, "response": {"audioWavUrl": LINK}},
        {"taskId": TASK, "successFlag": "SUCCESS", "response": {"audioWavUrl": LINK}},
    ],
)
def test_a_wav_file_is_the_audio_of_one_track(data: dict[str, Any]) -> None:
    update = told("wav", {"code": 200, "data": data})

    assert update.stage is Stage.COMPLETE
    assert [{"audio": LINK}] == links(update)


@pytest.mark.parametrize("name", ["vocal_removal_info", "vocal_separation_info"])
def test_each_stem_is_a_file_of_one_track(name: str) -> None:
    info = {
        "vocal_url": f"{LINK}/my vocals.mp3",
        "instrumental_url": LINK,
        "origin_url": "",
        "drums_url": None,
        "backing_vocals_url": LINK,
    }

    update = told("vocal-removal", {"code": 200, "data": {"task_id": TASK, name: info}})

    assert update.stage is Stage.COMPLETE
    assert [
        {
            "vocal": f"{LINK}/my vocals.mp3",
            "instrumental": LINK,
            "backing_vocals": LINK,
        }
    ] == links(update)


STEMS = [
    *("backing_vocals", "drums", "bass", "guitar", "keyboard", "piano"),
    *("percussion", "strings", "synth", "fx", "brass", "woodwinds"),
]


def test_every_stem_that_is_there_is_a_file() -> None:
    """Any of them may be empty, and new ones need no code."""
    names = [*STEMS, "theremin"]
    info = {f"{name}_url": f"{LINK}/{name}.mp3" for name in names}
    empty = {f"{name}_url": None for name in ("vocal", "instrumental", "origin")}
    data = {"taskId": TASK, "vocal_removal_info": {**info, **empty}}

    (files,) = links(told("vocal-removal", {"code": 200, "data": data}))

    assert {*names} == {*files}


def test_advanced_stems_are_tracks_of_their_own() -> None:
    data = {
        "task_id": TASK,
        "vocal_removal_info": {
            "origin_data": [
                {"extract": {"audio_url": LINK}, "remove": {"audio_url": LINK}},
                {
                    "audio_url": f"{LINK}/my drums.mp3",
                    "stem_type_group_name": "Drums",
                    "id": "d1",
                },
                None,
            ]
        },
    }

    update = told("vocal-removal", {"code": 200, "data": data})

    assert ["stem-1-extract", "stem-1-remove", "d1"] == [
        t.track_id for t in update.tracks
    ]
    expected = [LINK, LINK, f"{LINK}/my drums.mp3"]
    assert [{"audio": link} for link in expected] == links(update)
    assert "Drums" == update.tracks[2].title


@pytest.mark.parametrize("code", [0, 200])
def test_a_music_video_is_a_video_of_one_track(code: int) -> None:
    data = {"task_id": TASK, "video_url": LINK}

    update = told("music-video", {"code": code, "data": data})

    assert update.stage is Stage.COMPLETE
    assert [{"video": LINK}] == links(update)


def test_each_cover_is_an_image_of_its_own() -> None:
    data = {"taskId": TASK, "images": [LINK, f"{LINK}/2", 3]}

    update = told("cover-image", {"code": 200, "data": data})

    assert update.stage is Stage.COMPLETE
    assert [{"image": LINK}, {"image": f"{LINK}/2"}] == links(update)


def test_recovered_files_are_those_of_their_tracks() -> None:
    items = [
        {"id": "a", "audio_url": LINK, "title": "", "status": "success", "error": None},
        {"id": "b", "audio_url": None, "status": "failed", "error": "clip_error"},
    ]

    update = told("recovery", {"code": 200, "task_id": TASK, "data": items})

    assert update.stage is Stage.COMPLETE
    assert [{"audio": LINK}, {}] == links(update)


def test_a_recovery_at_work_is_no_failure() -> None:
    update = told("recovery", {"code": 201, "task_id": TASK, "data": None})

    assert update.stage is Stage.UNKNOWN


@pytest.mark.parametrize(
    ("operation", "data"),
    [
        ("midi", {"taskId": TASK, "state": "complete", "instruments": [{"name": "x"}]}),
        ("voice", {"taskId": TASK, "voiceId": "v1", "status": "success"}),
        (
            "lyrics",
            {"task_id": TASK, "callbackType": "complete", "data": [{"text": "la"}]},
        ),
        ("voice-validate", {"taskId": TASK, "status": "success", "validateInfo": "a"}),
    ],
)
def test_what_brings_no_file_is_complete_without_one(
    operation: str, data: dict[str, Any]
) -> None:
    assert told(operation, {"code": 200, "data": data}).stage is Stage.COMPLETE


NOTE = {"pitch": 60, "start": 0.5, "end": 1.25, "velocity": 0.8}


def played(*instruments: Any) -> TaskUpdate:
    data = {"taskId": TASK, "state": "complete", "instruments": [*instruments]}
    return told("midi", {"code": 200, "data": data})


def test_notes_are_counted_and_stay_in_the_body() -> None:
    """There may be many thousands."""
    update = played(
        {"name": "Piano", "notes": [NOTE] * 5000}, {"name": "Bass", "notes": [NOTE]}
    )

    assert (Stage.COMPLETE, ()) == (update.stage, update.tracks)
    assert update.notes is not None
    assert (2, 5001) == (update.notes.instruments, update.notes.notes)


@pytest.mark.parametrize("count", [1, 45_000])
def test_a_note_is_the_same_in_numbers_and_in_text(count: int) -> None:
    text = {"pitch": "60", "start": "0.50", "end": "1.25", "velocity": "0.8"}

    one, other = (
        played({"name": "Piano", "notes": [note] * count}) for note in (NOTE, text)
    )

    assert event_id(one) == event_id(other)


@pytest.mark.parametrize(
    "other",
    [
        {"name": "Piano", "notes": []},
        {"name": "Piano", "notes": [NOTE, NOTE]},
        {"name": "Bass", "notes": [NOTE]},
        *(
            {"name": "Piano", "notes": [{**NOTE, field: 7}]}
            for field in ("pitch", "start", "end", "velocity")
        ),
        {"name": "Piano", "notes": [{**NOTE, "pitch": "C4"}]},
        {"name": "Piano", "notes": [None]},
        {"name": "Piano", "notes": "none"},
        "no instrument",
    ],
)
def test_other_notes_are_another_occurrence(other: Any) -> None:
    known = played({"name": "Piano", "notes": [NOTE]})

    assert event_id(known) != event_id(played(other))


def test_what_has_no_notes_keeps_the_id_that_it_had() -> None:
    """Ids are in ledgers and at subscribers: a repeat has to have the same."""
    wav = told("wav", {"code": 200, "data": {"task_id": TASK, "audioWavUrl": LINK}})
    pending = told("midi", {"code": 200, "data": {"taskId": TASK, "successFlag": 0}})

    assert "1ec7b60e9d9ae9200bc28d7ab305452a" == event_id(wav)
    assert "d935cf546b1d7912b99349c4cdc1fbb9" == event_id(pending)


@pytest.mark.parametrize("data", [{"voiceId": "v1"}, {"response": {"voiceId": "v1"}}])
def test_a_voice_is_a_track_with_its_id(data: dict[str, Any]) -> None:
    content = {"code": 200, "data": {"taskId": TASK, "status": "success", **data}}

    (track,) = told("voice", content).tracks

    assert "v1" == track.track_id


def test_the_words_that_prove_a_voice_are_a_prompt() -> None:
    data = {"taskId": TASK, "validateInfo": "the river does not wait"}

    update = told("voice-validate", {"code": 200, "data": data})

    assert update.stage is Stage.COMPLETE
    assert ["the river does not wait"] == [track.prompt for track in update.tracks]


def test_each_lyric_is_a_track_with_words() -> None:
    items = [
        {"text": "la", "title": "A", "status": "complete", "error_message": ""},
        {"text": "", "title": "", "status": "failed", "error_message": "no"},
    ]
    data = {"taskId": TASK, "callbackType": "complete", "data": items}

    update = told("lyrics", {"code": 200, "data": data})

    assert [("A", "la"), ("", "")] == [(t.title, t.prompt) for t in update.tracks]


AUDIO_OPERATIONS = [
    *("generate", "extend", "upload-cover", "upload-extend", "replace-section"),
    *("add-instrumental", "add-vocals", "mashup", "sounds"),
]


@pytest.mark.parametrize("operation", AUDIO_OPERATIONS)
def test_the_audio_operations_have_audio_image_and_stream(operation: str) -> None:
    data = {"task_id": TASK, "callbackType": "complete", "data": [make_item()]}

    (track,) = told(operation, {"code": 200, "data": data}).tracks

    assert {"audio", "image"} == {*track.links}
    assert track.stream_url


def test_a_failed_voice_in_a_fine_envelope_has_failed() -> None:
    data = {
        "taskId": TASK,
        "voiceId": None,
        "status": "fail",
        "errorCode": 500,
        "errorMessage": "too short",
    }

    update = told("voice", {"code": 200, "data": data})

    assert update.stage is Stage.FAILED
    assert (500, "too short") == (update.code, update.message)


@pytest.mark.parametrize(
    ("operation", "content"),
    [
        ("wav", {"code": 500, "data": {"audioWavUrl": None, "task_id": TASK}}),
        ("vocal-removal", {"code": 500, "data": {"task_id": TASK}}),
        ("midi", {"code": 500, "data": {"taskId": TASK}}),
        ("music-video", {"code": 500, "data": {"task_id": TASK, "video_url": None}}),
        ("cover-image", {"code": 501, "data": {"taskId": TASK, "images": None}}),
        ("recovery", {"code": 500, "task_id": TASK, "data": []}),
        (
            "lyrics",
            {
                "code": 400,
                "data": {"task_id": TASK, "callbackType": "complete", "data": None},
            },
        ),
        ("lyrics", {"code": 500, "data": {"taskId": TASK, "callbackType": "error"}}),
        (
            "vocal-removal",
            {"code": 500, "data": {"task_id": TASK, "vocal_removal_info": None}},
        ),
        ("voice-validate", {"code": 200, "data": {"taskId": TASK, "status": "fail"}}),
        (
            "replace-section",
            {"code": 500, "data": {"task_id": TASK, "error": "too short"}},
        ),
        ("wav", {"code": 200, "data": {"taskId": TASK, "successFlag": "X_FAILED"}}),
        ("midi", {"code": 200, "data": {"taskId": TASK, "successFlag": 3}}),
        (
            "voice",
            {
                "code": 200,
                "data": {"taskId": TASK, "callbackType": "complete", "status": "fail"},
            },
        ),
    ],
)
def test_failures_are_told_by_code_or_flag(
    operation: str, content: dict[str, Any]
) -> None:
    assert told(operation, content).stage is Stage.FAILED


@pytest.mark.parametrize(
    ("operation", "content"),
    [
        ("wav", {"code": 200, "data": {"audioWavUrl": None, "task_id": TASK}}),
        ("midi", {"code": 200, "data": {"taskId": TASK, "successFlag": 0}}),
        ("wav", {"code": 200, "data": {"taskId": TASK, "successFlag": "PENDING"}}),
        ("cover-image", {"code": 200, "data": {"taskId": TASK, "images": None}}),
        ("voice", {"data": {"taskId": TASK}}),
        ("midi", {"code": 200, "data": {"taskId": TASK}}),
        (
            "vocal-removal",
            {"code": 200, "data": {"task_id": TASK, "vocal_removal_info": None}},
        ),
        ("music-video", {"code": 0, "data": {"task_id": TASK, "video_url": None}}),
    ],
)
def test_what_says_nothing_is_unknown_and_kept(
    operation: str, content: dict[str, Any]
) -> None:
    update = told(operation, content)

    assert update.stage is Stage.UNKNOWN
    assert update.unknown_reason


@pytest.mark.parametrize(
    ("operation", "data"),
    [
        ("lyrics", {"status": "CALLBACK_EXCEPTION", "response": None}),
        ("lyrics", {"status": "SUCCESS", "response": {"data": []}}),
        ("lyrics", {"callbackType": "complete", "data": None}),
        ("lyrics", {"callbackType": "complete", "data": []}),
        ("voice", {"status": "success", "voiceId": None}),
        ("voice", {"callbackType": "complete"}),
        ("voice-validate", {"status": "SUCCESS", "validateInfo": ""}),
        ("midi", {"successFlag": "CALLBACK_EXCEPTION"}),
        ("midi", {"successFlag": 1}),
        ("midi", {"state": "complete", "instruments": None}),
        ("midi", {"state": "complete", "instruments": []}),
    ],
)
def test_complete_without_a_result_is_unknown_also_where_no_file_is_needed(
    operation: str, data: dict[str, Any]
) -> None:
    """So it is asked for again: nothing would bring the result otherwise."""
    body = orjson.dumps({"code": 200, "data": {"taskId": TASK, **data}})

    update = normalise(body, operation)

    assert update.stage is Stage.UNKNOWN
    assert "complete, but without" in update.unknown_reason


def test_more_notes_than_music_has_are_told_apart_in_no_time() -> None:
    """Each note that is looked at costs; a MiB of them would take a second."""

    def notes_of(last: int) -> Notes:
        notes: list[dict[str, int]] = [{}] * 340_000 + [{"pitch": last}]
        data = {"taskId": TASK, "state": "complete", "instruments": [{"notes": notes}]}
        body = orjson.dumps({"code": 200, "data": data})
        began = time.process_time()
        update = normalise(body, "midi")
        assert time.process_time() - began < 0.5
        assert update.notes is not None
        return update.notes

    assert notes_of(60) == notes_of(60)
    assert notes_of(60).digest != notes_of(61).digest
    assert 340_001 == notes_of(60).notes


def test_a_result_with_a_link_of_no_use_is_unknown() -> None:
    body = orjson.dumps({"code": 200, "data": {"task_id": TASK, "video_url": "gone"}})

    assert normalise(body, "music-video").stage is Stage.UNKNOWN


def test_an_audio_callback_sent_to_the_wrong_address_is_kept() -> None:
    body = orjson.dumps(
        {
            "code": 200,
            "data": {
                "task_id": TASK,
                "callbackType": "complete",
                "data": [make_item()],
            },
        }
    )

    assert normalise(body, "wav").stage is Stage.UNKNOWN
