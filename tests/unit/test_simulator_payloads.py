"""Bodies have the shapes that the provider documents, and its known oddities."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from pipeline.simulator import PLAIN, Oddity, TaskPlan, plan_scenario
from pipeline.simulator.failures import FAILURES, Failure, FailureData
from pipeline.simulator.payloads import (
    accepted,
    callback_body,
    record_info,
    refused,
    told_files,
)
from pipeline.simulator.plan import CallbackPlan
from pipeline.task import Stage


def link(path: str) -> str:
    return f"https://files.example{path}"


def make_task(*, operation: str = "upload-extend") -> TaskPlan:
    options = replace(PLAIN, tasks=1, operations=(operation,), audio_format="mp3")
    return plan_scenario(options).tasks[0]


def make_body(
    stage: Stage, oddity: Oddity | None = None, *, task: TaskPlan | None = None
) -> dict[str, Any]:
    callback = CallbackPlan(stage=stage, at=timedelta(0), oddity=oddity)
    return callback_body(task or make_task(), callback, link)


def test_text_brings_an_empty_list() -> None:
    task = make_task()

    body = make_body(Stage.TEXT, task=task)

    assert body == {
        "code": 200,
        "msg": "Text generation completed successfully.",
        "data": {"callbackType": "text", "task_id": task.task_id, "data": []},
    }


def test_first_brings_one_finished_track() -> None:
    task = make_task()

    data = make_body(Stage.FIRST, task=task)["data"]

    assert data["callbackType"] == "first"
    assert [track["id"] for track in data["data"]] == [task.tracks[0].audio_id]
    assert data["data"][0]["audio_url"] == link(task.tracks[0].audio.path)


def test_complete_brings_every_track_with_every_documented_field() -> None:
    task = make_task()

    data = make_body(Stage.COMPLETE, task=task)["data"]

    assert len(data["data"]) == 2
    assert set(data["data"][0]) == {
        "id",
        "audio_url",
        "source_audio_url",
        "stream_audio_url",
        "source_stream_audio_url",
        "image_url",
        "source_image_url",
        "prompt",
        "model_name",
        "title",
        "tags",
        "createTime",
        "duration",
    }
    assert data["data"][0]["createTime"].startswith("2026-01-01 12:00:0")


def test_only_uploads_bring_upstream_links() -> None:
    task = make_task(operation="generate")

    track = make_body(Stage.COMPLETE, task=task)["data"]["data"][0]

    assert not any(name.startswith("source_") for name in track)


@pytest.mark.parametrize("failure", FAILURES)
def test_failures_have_a_code_other_than_200(failure: Failure) -> None:
    task = replace(make_task(), failure=failure)

    body = make_body(Stage.FAILED, task=task)

    assert body["code"] == failure.code != 200
    assert body["data"]["callbackType"] == failure.callback_type
    assert body["data"]["task_id"] == task.task_id
    match failure.data:
        case FailureData.NULL:
            assert body["data"]["data"] is None
        case FailureData.EMPTY:
            assert body["data"]["data"] == []
        case FailureData.ABSENT:
            assert "data" not in body["data"]
        case FailureData.REASON:
            assert body["data"]["error"] == failure.message


def test_a_failure_can_call_itself_complete() -> None:
    """The code wins over the type: 400 with ``complete`` is documented."""
    assert ("complete", 400) in {(f.callback_type, f.code) for f in FAILURES}


def test_odd_text_stages() -> None:
    with_tracks = make_body(Stage.TEXT, Oddity.TEXT_WITH_TRACKS)["data"]["data"]
    with_null = make_body(Stage.TEXT, Oddity.TEXT_WITH_NULL)["data"]

    assert [track["audio_url"] for track in with_tracks] == ["", ""]
    assert with_null["data"] is None


def test_odd_first_stage_has_one_empty_audio_url() -> None:
    tracks = make_body(Stage.FIRST, Oddity.FIRST_WITH_ALL_TRACKS)["data"]["data"]

    assert [bool(track["audio_url"]) for track in tracks] == [True, False]


def test_odd_spellings_of_the_task_id() -> None:
    task = make_task()

    camel = make_body(Stage.FIRST, Oddity.CAMEL_TASK_ID, task=task)
    top = make_body(Stage.FIRST, Oddity.TOP_LEVEL_TASK_ID, task=task)

    assert camel["data"]["taskId"] == task.task_id
    assert "task_id" not in camel["data"]
    assert top["task_id"] == task.task_id
    assert "task_id" not in top["data"]


def test_odd_code_type_and_time() -> None:
    as_text = make_body(Stage.FIRST, Oddity.CODE_AS_TEXT)
    upper = make_body(Stage.COMPLETE, Oddity.UPPER_CASE_TYPE)
    epoch = make_body(Stage.COMPLETE, Oddity.CREATE_TIME_IN_MILLISECONDS)

    assert as_text["code"] == "200"
    assert upper["data"]["callbackType"] == "COMPLETE"
    assert isinstance(epoch["data"]["data"][0]["createTime"], int)


def test_odd_tracks() -> None:
    camel = make_body(Stage.COMPLETE, Oddity.CAMEL_CASE_TRACKS)["data"]["data"][0]
    sparse = make_body(Stage.COMPLETE, Oddity.SPARSE_TRACKS)["data"]["data"][0]
    new = make_body(Stage.COMPLETE, Oddity.NEW_FIELDS)["data"]["data"][0]

    assert "audioUrl" in camel
    assert "audio_url" not in camel
    assert "tags" not in sparse
    assert sparse["duration"] is None
    assert "bpm" in new


def test_an_unknown_stage_has_the_id_twice_and_a_type_of_its_own() -> None:
    task = make_task()

    body = make_body(Stage.UNKNOWN, Oddity.UNKNOWN_STAGE, task=task)

    assert body["taskId"] == body["data"]["task_id"] == task.task_id
    assert body["data"]["callbackType"] == "task_completed"


def test_a_callback_can_look_like_an_answer_of_the_details_endpoint() -> None:
    task = make_task()

    body = make_body(Stage.COMPLETE, Oddity.RECORD_INFO_SHAPE, task=task)

    assert "callbackType" not in body["data"]
    assert body["data"]["taskId"] == task.task_id
    assert body["data"]["status"] == "SUCCESS"
    assert len(body["data"]["response"]["sunoData"]) == 2


@pytest.mark.parametrize(
    ("stage", "status", "links"),
    [
        (None, "PENDING", None),
        (Stage.TEXT, "TEXT_SUCCESS", [False, False]),
        (Stage.FIRST, "FIRST_SUCCESS", [True, False]),
        (Stage.COMPLETE, "SUCCESS", [True, True]),
    ],
)
def test_details_follow_the_stage(
    stage: Stage | None, status: str, links: list[bool] | None
) -> None:
    task = make_task()

    data = record_info(task, stage, link)["data"]

    assert data["status"] == status
    assert data["operationType"] == "upload_extend"
    assert json.loads(data["param"])["model"] == task.model
    if links is None:
        assert data["response"] is None
    else:
        tracks = data["response"]["sunoData"]
        assert [bool(track["audioUrl"]) for track in tracks] == links
        assert [track["duration"] > 0 for track in tracks] == links


def test_details_of_a_failure_carry_its_code() -> None:
    task = replace(make_task(), failure=FAILURES[2])

    data = record_info(task, Stage.FAILED, link)["data"]

    assert data["status"] == "SENSITIVE_WORD_ERROR"
    assert data["errorCode"] == 400
    assert data["errorMessage"] == FAILURES[2].message
    assert data["response"] is None


def test_details_say_when_callbacks_could_not_be_delivered() -> None:
    data = record_info(make_task(), Stage.COMPLETE, link, callback_gave_up=True)["data"]

    assert data["status"] == "CALLBACK_EXCEPTION"
    assert len(data["response"]["sunoData"]) == 2


def test_answers_to_a_submission() -> None:
    assert accepted("t1") == {"code": 200, "msg": "success", "data": {"taskId": "t1"}}
    assert refused(422, "no") == {"code": 422, "msg": "no", "data": None}


def test_told_files_are_those_whose_links_are_final() -> None:
    """Nothing at the text stage; the audio of finished tracks, pictures of all."""
    task = make_task()
    at = timedelta(0)
    one, two = task.tracks

    def told(stage: Stage, oddity: Oddity | None = None) -> set[str]:
        callback = CallbackPlan(stage=stage, at=at, oddity=oddity)
        return {file.path for file in told_files(task, callback)}

    assert told(Stage.TEXT, Oddity.TEXT_WITH_TRACKS) == set()
    assert told(Stage.FIRST) == {one.audio.path, one.image.path}
    assert told(Stage.FIRST, Oddity.FIRST_WITH_ALL_TRACKS) == {
        one.audio.path,
        one.image.path,
        two.image.path,
    }
    assert told(Stage.COMPLETE) == {file.path for file in task.files}
