"""Answers of the details endpoint: what each status and each field means."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from pipeline.failure import FailureClass
from pipeline.provider.callback import normalise, peek
from pipeline.task import Stage, TaskUpdate, event_id
from tests.callbacks import (
    TASK,
    make_body,
    make_camel_item,
    make_item,
    make_record_info,
)

LINK = "https://files.example.com/out"
#: What MIDI says of its notes.
PLAYED = {"instruments": [{"name": "Piano", "notes": [{"pitch": 60, "start": "0.5"}]}]}
#: How the fields of a track are called by callbacks and by the details endpoint.
FIELDS = [
    ("audio_url", "audioUrl"),
    ("stream_audio_url", "streamAudioUrl"),
    ("image_url", "imageUrl"),
    ("source_audio_url", "sourceAudioUrl"),
    ("source_stream_audio_url", "sourceStreamAudioUrl"),
    ("source_image_url", "sourceImageUrl"),
    ("model_name", "modelName"),
    *((name, name) for name in ("id", "prompt", "title", "tags")),
    *((name, name) for name in ("createTime", "duration")),
]


def answered(status: str, operation: str = "upload-extend", **data: Any) -> TaskUpdate:
    return normalise(make_record_info(status, **data), operation)


def flagged(flag: Any, operation: str, **data: Any) -> TaskUpdate:
    """Read a details answer of an operation that says ``successFlag``."""
    content = {"code": 200, "data": {"taskId": TASK, "successFlag": flag, **data}}
    body = orjson.dumps(content)
    update = normalise(body, operation)
    if update.stage is not Stage.UNKNOWN:
        assert update.stage is peek(body, operation).stage
    return update


@pytest.mark.parametrize("status", ["PENDING", "GENERATING", "BRAND_NEW"])
def test_a_task_that_is_not_there_yet_is_unknown_with_its_status(status: str) -> None:
    update = answered(status, response=None)

    assert update.stage is Stage.UNKNOWN
    assert status in update.unknown_reason
    assert not update.stage.is_final


@pytest.mark.parametrize("status", ["TEXT_SUCCESS", "text_success"])
def test_text_is_no_result_though_it_has_tracks(status: str) -> None:
    """Seen live: an empty address and a duration of 0."""
    item = {**make_camel_item(), "audioUrl": "", "duration": 0}

    update = answered(status, response={"sunoData": [item]})

    assert update.stage is Stage.TEXT
    assert ["audio" in track.links for track in update.tracks] == [False]


def test_the_first_track_is_there_and_the_second_is_not() -> None:
    items = [make_camel_item(1), {**make_camel_item(2), "audioUrl": ""}]

    update = answered("FIRST_SUCCESS", response={"sunoData": items})

    assert update.stage is Stage.FIRST
    assert ["audio" in track.links for track in update.tracks] == [True, False]


def test_success_is_complete_if_the_tracks_are_there() -> None:
    assert answered("SUCCESS").stage is Stage.COMPLETE


@pytest.mark.parametrize(
    "response", [None, {}, {"sunoData": None}, {"sunoData": []}, "absent"]
)
def test_success_without_tracks_has_to_be_asked_for_again(response: Any) -> None:
    update = answered("SUCCESS", response=response)

    assert update.stage is Stage.UNKNOWN
    assert update.unknown_reason


@pytest.mark.parametrize(
    ("status", "code", "failure"),
    [
        ("CREATE_TASK_FAILED", 500, FailureClass.TRANSIENT),
        ("GENERATE_AUDIO_FAILED", 501, FailureClass.TRANSIENT),
        ("SENSITIVE_WORD_ERROR", None, FailureClass.PERMANENT),
        ("SENSITIVE_WORD_ERROR", 500, FailureClass.PERMANENT),
        ("FAILED", None, FailureClass.UNKNOWN),
    ],
)
def test_a_status_of_failure_ends_the_task(
    status: str, code: int | None, failure: FailureClass
) -> None:
    update = answered(status, response=None, errorCode=code, errorMessage="why")

    assert update.stage is Stage.FAILED
    assert (code or 200, "why", failure) == (
        update.code,
        update.message,
        update.failure,
    )


@pytest.mark.parametrize("code", [413, "413"])
def test_pending_with_a_code_has_failed(code: Any) -> None:
    """Seen live: the status stays for minutes although the task has failed."""
    update = answered(
        "PENDING", response=None, errorCode=code, errorMessage="matches a work"
    )

    assert update.stage is Stage.FAILED
    assert (413, FailureClass.PERMANENT) == (update.code, update.failure)


@pytest.mark.parametrize("code", [None, 0, "0", 200, ""])
def test_a_code_of_no_failure_changes_nothing(code: Any) -> None:
    assert answered("PENDING", errorCode=code).stage is Stage.UNKNOWN
    assert answered("SUCCESS", errorCode=code).stage is Stage.COMPLETE


def test_a_lost_callback_says_nothing_of_the_music() -> None:
    """Complete if every track is there; else it has to be asked for again."""
    there = answered("CALLBACK_EXCEPTION")
    missing = answered("CALLBACK_EXCEPTION", response={"sunoData": []})

    assert [Stage.COMPLETE, Stage.UNKNOWN] == [there.stage, missing.stage]


@pytest.mark.parametrize(("callback", "details"), FIELDS)
def test_each_field_is_read_alike_under_both_names(callback: str, details: str) -> None:
    """So that what was called and then asked for is told once."""
    value = make_item().get(callback, "https://x.example.com/7")
    by_callback = normalise(
        make_body(items=[{"audio_url": LINK, callback: value}]), "generate"
    )
    by_details = answered(
        "SUCCESS",
        "generate",
        response={"sunoData": [{"audioUrl": LINK, details: value}]},
    )

    assert by_callback.tracks == by_details.tracks
    assert event_id(by_callback) == event_id(by_details)


def test_the_place_of_id_tracks_and_failure_is_known_in_both() -> None:
    called = normalise(make_body("error", code=501, items=[], error="why"), "generate")
    asked = answered(
        "GENERATE_AUDIO_FAILED",
        "generate",
        response=None,
        errorCode=501,
        errorMessage="why",
    )

    assert TASK == called.task_id == asked.task_id
    assert called == asked


@pytest.mark.parametrize(
    ("operation", "response"),
    [
        ("wav", {"audioWavUrl": LINK}),
        ("vocal-removal", {"vocalUrl": LINK, "instrumentalUrl": None}),
        ("music-video", {"videoUrl": LINK}),
    ],
)
def test_a_flag_that_is_text_is_read_like_a_status(
    operation: str, response: dict[str, Any]
) -> None:
    stages = {
        flag: flagged(flag, operation, response=response).stage
        for flag in (
            "PENDING",
            "SUCCESS",
            "CREATE_TASK_FAILED",
            "GENERATE_WAV_FAILED",
            "GENERATE_AUDIO_FAILED",
            "GENERATE_MP4_FAILED",
            "CALLBACK_EXCEPTION",
        )
    }

    assert Stage.UNKNOWN is stages.pop("PENDING")
    assert Stage.COMPLETE is stages.pop("SUCCESS")
    assert Stage.COMPLETE is stages.pop("CALLBACK_EXCEPTION")
    assert {Stage.FAILED} == {*stages.values()}


def test_a_lost_callback_of_a_file_that_is_not_there_is_asked_for_again() -> None:
    update = flagged("CALLBACK_EXCEPTION", "wav", response={"audioWavUrl": None})

    assert update.stage is Stage.UNKNOWN


@pytest.mark.parametrize(
    ("operation", "flag", "expected"),
    [
        ("midi", 0, Stage.UNKNOWN),
        ("midi", 1, Stage.COMPLETE),
        ("midi", 2, Stage.FAILED),
        ("midi", 3, Stage.FAILED),
        ("midi", "2", Stage.FAILED),
        ("cover-image", 0, Stage.UNKNOWN),
        ("cover-image", 1, Stage.COMPLETE),
        ("cover-image", 2, Stage.UNKNOWN),
        ("cover-image", 3, Stage.FAILED),
        ("cover-image", 4, Stage.UNKNOWN),
        ("cover-image", True, Stage.UNKNOWN),
    ],
)
def test_a_flag_that_is_a_number_means_another_thing_for_each_operation(
    operation: str, flag: Any, expected: Stage
) -> None:
    """2 is a task that was not made for MIDI, and a picture in progress for covers."""
    results = {"images": [LINK], "instruments": [{"name": "piano"}]}
    update = flagged(flag, operation, response=results)

    assert expected is update.stage
    assert bool(update.unknown_reason) is (expected is Stage.UNKNOWN)


@pytest.mark.parametrize(
    ("operation", "told", "response"),
    [
        ("wav", {"audioWavUrl": LINK}, {"audioWavUrl": LINK}),
        ("music-video", {"video_url": LINK}, {"videoUrl": LINK}),
        ("cover-image", {"images": [LINK]}, {"images": [LINK]}),
        (
            "vocal-removal",
            {"vocal_removal_info": {"backing_vocals_url": LINK, "vocal_url": LINK}},
            {"backingVocalsUrl": LINK, "vocalUrl": LINK},
        ),
        (
            "vocal-removal",
            {"vocal_separation_info": {"origin_data": [{"audio_url": LINK}]}},
            {"originData": [{"audioUrl": LINK}]},
        ),
        ("voice", {"voiceId": "v1", "status": "success"}, {"voiceId": "v1"}),
        ("midi", {"state": "complete", **PLAYED}, PLAYED),
    ],
)
def test_details_of_each_operation_tell_the_news_of_its_callback(
    operation: str, told: dict[str, Any], response: dict[str, Any]
) -> None:
    """Details also say which audio the file was made from; callbacks do not."""
    body = orjson.dumps({"code": 200, "data": {"task_id": TASK, **told}})
    callback = normalise(body, operation)
    flag = 1 if operation in ("cover-image", "midi") else "SUCCESS"
    place = "midiData" if operation == "midi" else "response"
    more = {place: response, "audioId": "a1", "musicId": "m1"}
    details = flagged(flag, operation, **more)

    assert callback.stage is Stage.COMPLETE
    assert callback.notes == details.notes
    assert bool(callback.notes) is (operation == "midi")
    assert event_id(callback) == event_id(details)


def test_details_of_lyrics_tell_the_news_of_their_callback() -> None:
    item = {"text": "la", "title": "A", "status": "complete", "errorMessage": ""}
    told = make_body(items=[{**item, "error_message": None}])
    asked = make_record_info("SUCCESS", response={"taskId": TASK, "data": [item]})

    assert event_id(normalise(told, "lyrics")) == event_id(normalise(asked, "lyrics"))
