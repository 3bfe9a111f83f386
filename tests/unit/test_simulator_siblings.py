"""Operations without tracks have the shapes that their pages document."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.simulator import OPERATIONS, PLAIN, ScenarioOptions, plan_scenario
from pipeline.simulator.operations import BY_NAME, Family, family_of
from pipeline.simulator.payloads import callback_body, record_info
from pipeline.task import Stage

if TYPE_CHECKING:
    from pipeline.simulator import TaskPlan

SIBLINGS = [name for name in OPERATIONS if family_of(name) is not Family.AUDIO]


def link(path: str) -> str:
    return f"https://files.example{path}"


def make_tasks(operation: str, **changes: Any) -> tuple[TaskPlan, ...]:
    options = replace(
        PLAIN, tasks=20, operations=(operation,), audio_format="mp3", **changes
    )
    return plan_scenario(options).tasks


def bodies(operation: str, **changes: Any) -> list[dict[str, Any]]:
    return [
        callback_body(task, callback, link)
        for task in make_tasks(operation, **changes)
        for callback in task.callbacks
    ]


def datas(operation: str, **changes: Any) -> list[dict[str, Any]]:
    return [body["data"] for body in bodies(operation, **changes)]


@pytest.mark.parametrize("operation", SIBLINGS)
def test_a_sibling_tells_of_its_end_alone(operation: str) -> None:
    for task in make_tasks(operation):
        (callback,) = task.callbacks
        assert callback.stage is Stage.COMPLETE
        assert task.milestones == ((Stage.COMPLETE, callback.at),)


def test_replacing_a_section_tells_of_its_end_alone() -> None:
    """Its page has the shape of audio, and no other stage."""
    kinds = {data["callbackType"] for data in datas("replace-section")}

    assert kinds == {"complete"}


@pytest.mark.parametrize("operation", SIBLINGS)
def test_what_a_sibling_says_is_the_same_every_time(operation: str) -> None:
    assert bodies(operation) == bodies(operation)
    failing = {"failure_rate": 1}
    assert bodies(operation, **failing) == bodies(operation, **failing)


def test_lyrics_are_texts_of_which_one_may_have_failed() -> None:
    found = datas("lyrics")

    items = [item for data in found for item in data["data"]]
    assert {item["status"] for item in items} == {"complete", "failed"}
    assert {"error_message" in item for item in items} == {True, False}
    assert {"task_id" in data for data in found} == {True, False}
    assert {data["callbackType"] for data in found} == {"complete"}


def test_failed_lyrics_may_call_themselves_complete() -> None:
    found = bodies("lyrics", failure_rate=1)

    assert {body["code"] for body in found} == {400}
    assert {body["data"]["callbackType"] for body in found} >= {"complete", "error"}
    assert {body["data"]["data"] for body in found} == {None}


def test_wav_is_one_link_and_no_type() -> None:
    found = datas("wav")

    assert all(data["audioWavUrl"].endswith(".wav") for data in found)
    assert {"task_id" in data for data in found} == {True, False}
    assert not any("callbackType" in data for data in found)
    assert bodies("wav", failure_rate=1)[0]["data"]["audioWavUrl"] is None


def test_vocals_come_in_two_parts_in_stems_or_one_by_one() -> None:
    """Under both names; a link may hold a space, and an empty stem is empty."""
    found = datas("vocal-removal")
    names = {next(name for name in data if name != "task_id") for data in found}
    infos = [data[next(n for n in data if n != "task_id")] for data in found]

    assert names == {"vocal_removal_info", "vocal_separation_info"}
    assert {len(info) for info in infos} == {3, 10, 1}
    entries = next(info["origin_data"] for info in infos if "origin_data" in info)
    assert set(entries[0]) == {"extract", "remove"}
    assert [entry["stem_type_group_name"] for entry in entries[1:]] == [
        "Lead Vocal",
        "Drum Kit",
    ]
    stems = next(info for info in infos if len(info) == 10)
    assert stems["origin_url"] == ""
    assert stems["piano_url"] is None
    assert " " in stems["vocal_url"]


def test_midi_has_its_notes_in_it_with_times_of_two_kinds() -> None:
    found = datas("midi")

    notes = [data["instruments"][0]["notes"][0] for data in found]
    assert {type(note["start"]) for note in notes} == {float, str}
    assert all(data["state"] == "complete" for data in found)


def test_a_music_video_succeeds_with_code_200_or_0() -> None:
    assert {body["code"] for body in bodies("music-video")} == {0, 200}
    assert all(data["video_url"].endswith(".mp4") for data in datas("music-video"))


def test_covers_are_a_list_of_links() -> None:
    assert {len(data["images"]) for data in datas("cover-image")} == {2}
    assert {body["code"] for body in bodies("cover-image", failure_rate=1)} == {501}


def test_a_failed_voice_hides_in_an_envelope_that_looks_fine() -> None:
    failed = bodies("voice", failure_rate=1)[0]

    assert failed["code"] == 200
    assert failed["data"]["status"] == "fail"
    assert datas("voice")[0]["voiceId"]
    assert datas("voice-validate")[0]["validateInfo"]


def test_a_recovery_has_its_id_at_the_top_and_a_list_at_data() -> None:
    """Of two tracks one stays lost: the code is 200 all the same."""
    body = bodies("recovery", expired_rate=1)[0]

    assert body["code"] == 200
    assert body["task_id"]
    assert {item["status"] for item in body["data"]} == {"success", "failed"}
    assert {item["error"] for item in body["data"]} == {None, "feed_failed"}


@pytest.mark.parametrize(
    ("operation", "name", "waiting", "done", "failed"),
    [
        ("wav", "successFlag", "PENDING", "SUCCESS", "GENERATE_WAV_FAILED"),
        ("vocal-removal", "successFlag", "PENDING", "SUCCESS", "GENERATE_AUDIO_FAILED"),
        ("music-video", "successFlag", "PENDING", "SUCCESS", "GENERATE_MP4_FAILED"),
        ("lyrics", "status", "PENDING", "SUCCESS", "GENERATE_LYRICS_FAILED"),
        ("midi", "successFlag", 0, 1, 3),
        ("cover-image", "successFlag", 2, 1, 3),
        ("voice", "status", "wait", "success", "fail"),
    ],
)
def test_details_have_flags_of_words_or_numbers(
    operation: str, name: str, waiting: object, done: object, failed: object
) -> None:
    good = make_tasks(operation)[0]
    bad = [
        record_info(task, Stage.FAILED, link)["data"]
        for task in make_tasks(operation, failure_rate=1)
    ]

    assert record_info(good, None, link)["data"][name] == waiting
    assert record_info(good, Stage.COMPLETE, link)["data"][name] == done
    assert failed in {data[name] for data in bad}
    assert all(data["errorCode"] for data in bad)


@pytest.mark.parametrize("operation", ["wav", "vocal-removal", "music-video"])
def test_details_say_so_when_the_callback_could_not_be_delivered(
    operation: str,
) -> None:
    task = make_tasks(operation)[0]

    data = record_info(task, Stage.COMPLETE, link, callback_gave_up=True)["data"]

    assert data["successFlag"] == "CALLBACK_EXCEPTION"
    assert data["response"]


def test_a_recovery_at_work_says_201() -> None:
    task = make_tasks("recovery")[0]

    assert record_info(task, None, link)["code"] == 201
    assert record_info(task, None, link)["data"] is None
    assert record_info(task, Stage.COMPLETE, link)["code"] == 200


def test_every_operation_has_paths_of_its_own_to_be_submitted() -> None:
    paths = [operation.submit_path for operation in BY_NAME.values()]

    assert len(set(paths)) == len(paths) == 18
    assert "/api/v1/lyrics" in paths
    assert "/api/v1/suno/cover/generate" in paths
    assert "/api/v1/generate/mashup" in paths


def test_dead_links_are_there_for_every_operation_with_files() -> None:
    """One task in four has lost its file, whichever operation it is of."""
    for operation in ("wav", "vocal-removal", "music-video", "upload-extend"):
        options = ScenarioOptions(
            tasks=20, operations=(operation,), expired_rate=0.25, failure_rate=0
        )
        assert plan_scenario(options).expired_links == 5
