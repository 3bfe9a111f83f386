"""Write callbacks and details of the operations whose results are no tracks. Pure.

Every family has its shape, and most have several: pages differ from each other and
from live traffic. Which of them a task gets is drawn from its id, so that the same
task is always written the same way, and every shape comes up among many tasks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pipeline.simulator.chance import seeded
from pipeline.simulator.operations import Family, family_of
from pipeline.simulator.results import STEM_GROUPS, shape_of, stem_kind

if TYPE_CHECKING:
    from pipeline.simulator.bodies import Body, Link
    from pipeline.simulator.failures import Failure
    from pipeline.simulator.plan import TaskPlan
    from pipeline.task import Stage

#: Stems that are documented and that nothing here makes: empty, one way or another.
_EMPTY_STEMS: Final = {"piano_url": None, "strings_url": "", "fx_url": None}
#: ``successFlag`` where it is text: in ``GENERATE_…_FAILED``.
_FLAG_WORDS: Final = {Family.WAV: "WAV", Family.VOCALS: "AUDIO", Family.VIDEO: "MP4"}
#: ``successFlag`` where it is a number.
_PENDING, _DONE, _NOT_CREATED, _FAILED = 0, 1, 2, 3
#: What 2 means for covers.
_GENERATING: Final = 2
#: The codes of failures that have one of their own.
_CODES: Final = {Family.COVER: 501, Family.LYRICS: 400}
_NOTES: Final = 12


def sibling_callback(task: TaskPlan, link: Link) -> Body:
    """Write the one callback of a task: how it has ended."""
    family = family_of(task.operation)
    if task.failure is not None:
        return _failure(task, family, task.failure)
    if family is Family.RECOVERY:
        return recovered(task, link)
    data = _data(task, family, link)
    is_zero = family is Family.VIDEO and shape_of(task).random() < 0.5  # noqa: PLR2004
    return {"code": 0 if is_zero else 200, "msg": "success", "data": data}


def sibling_details(
    task: TaskPlan, stage: Stage | None, link: Link, *, callback_gave_up: bool
) -> Body:
    """Write the answer of the family's details endpoint."""
    family = family_of(task.operation)
    is_over = stage is not None and stage.is_final
    if family is Family.RECOVERY:
        if not is_over:
            running = {"code": 201, "msg": "running"}
            return {**running, "task_id": task.task_id, "data": None}
        return sibling_callback(task, link)
    failure = task.failure if is_over else None
    is_done = is_over and failure is None
    data: Body = {"taskId": task.task_id, **_answer(task, family, link, is_done)}
    data |= _standing(family, failure, is_done=is_done, gave_up=callback_gave_up)
    data["errorCode"] = failure and _CODES.get(family, failure.code)
    data["errorMessage"] = failure and failure.message
    return {"code": 200, "msg": "success", "data": data}


def recovered(task: TaskPlan, link: Link) -> Body:
    """Write which files of a task have come back: a list at ``data``."""
    items = []
    for track in task.tracks:
        is_lost = track.audio.expiry is not None
        items.append(
            {
                "id": track.audio_id,
                "audio_url": None if is_lost else link(track.audio.path),
                "title": track.title,
                "status": "failed" if is_lost else "success",
                "error": "feed_failed" if is_lost else None,
            }
        )
    is_any = any(item["audio_url"] for item in items)
    return {
        "code": 200 if is_any else 500,
        "msg": "success" if is_any else "Recovery failed.",
        "task_id": task.task_id,
        "data": items,
    }


def _data(task: TaskPlan, family: Family, link: Link) -> Body:
    """Write ``data`` of a callback of success."""
    chance = shape_of(task)
    # Most pages write it one way; of these two, every other body has the other one.
    name = "task_id" if family in (Family.VOCALS, Family.VIDEO) else "taskId"
    if family in (Family.LYRICS, Family.WAV):
        name = chance.choice(("task_id", "taskId"))
    data: Body = {name: task.task_id}
    match family:
        case Family.LYRICS:
            error = chance.choice(("error_message", "errorMessage"))
            data |= {"callbackType": "complete", "data": _lyrics(task, error)}
        case Family.WAV:
            data["audioWavUrl"] = link(task.files[0].path)
        case Family.VOCALS:
            info = chance.choice(("vocal_removal_info", "vocal_separation_info"))
            data[info] = _stems(task, link)
        case Family.MIDI:
            data |= {"state": "complete", **_midi(task)}
        case Family.VIDEO:
            data["video_url"] = link(task.files[0].path)
        case Family.COVER:
            data["images"] = [link(file.path) for file in task.files]
        case _:
            data |= _voice(task, family)
    return data


def _answer(task: TaskPlan, family: Family, link: Link, is_done: bool) -> Body:  # noqa: FBT001 - private, and what it says is plain
    """Write what a details answer has of the result; before the end it is null."""
    result: Body
    match family:
        case Family.LYRICS:
            items = _lyrics(task, "errorMessage")
            result = {"response": {"taskId": task.task_id, "data": items}}
        case Family.WAV:
            result = {"response": {"audioWavUrl": link(task.files[0].path)}}
        case Family.VOCALS:
            stems = _stems(task, link)
            result = {"response": {_camel(name): stems[name] for name in stems}}
        case Family.MIDI:
            result = {"midiData": {"state": "complete", **_midi(task)}}
        case Family.VIDEO:
            result = {"response": {"videoUrl": link(task.files[0].path)}}
        case Family.COVER:
            result = {"response": {"images": [link(f.path) for f in task.files]}}
        case _:
            result = {k: v for k, v in _voice(task, family).items() if k != "status"}
    return result if is_done else dict.fromkeys(result)


def _standing(
    family: Family, failure: Failure | None, *, is_done: bool, gave_up: bool
) -> Body:
    """Write how far a task is, in the words or numbers of its family."""
    is_refused = failure is not None and failure.status == "CREATE_TASK_FAILED"
    name = "successFlag"
    state: str | int
    failed: str | int
    if family in (Family.MIDI, Family.COVER):
        waiting = _GENERATING if family is Family.COVER else _PENDING
        failed = _NOT_CREATED if is_refused and family is Family.MIDI else _FAILED
        state = _DONE if is_done else waiting
    elif family in (Family.VOICE, Family.VALIDATION):
        name, failed = "status", "fail"
        state = "success" if is_done else "wait"
    else:
        word = _FLAG_WORDS.get(family, "LYRICS")
        name = "status" if family is Family.LYRICS else name
        failed = "CREATE_TASK_FAILED" if is_refused else f"GENERATE_{word}_FAILED"
        state = "SUCCESS" if is_done else "PENDING"
        state = "CALLBACK_EXCEPTION" if gave_up else state
    return {name: state if failure is None else failed}


def _failure(task: TaskPlan, family: Family, failure: Failure) -> Body:
    task_id = task.task_id
    code = _CODES.get(family, 500)
    data: Body
    match family:
        case Family.LYRICS:
            # One door says ``complete`` here, too: the code alone tells.
            kind = failure.callback_type
            data = {"callbackType": kind, "task_id": task_id, "data": None}
        case Family.WAV:
            data = {"audioWavUrl": None, "task_id": task_id}
        case Family.VOCALS:
            data = {"task_id": task_id, "vocal_removal_info": None}
        case Family.VIDEO:
            data = {"task_id": task_id, "video_url": None}
        case Family.COVER:
            data = {"taskId": task_id, "images": None}
        case Family.VOICE:
            # The envelope looks fine.
            told = {"errorCode": failure.code, "errorMessage": failure.message}
            data = {"taskId": task_id, "voiceId": None, "status": "fail", **told}
            code = 200
        case Family.RECOVERY:
            return {"code": 500, "msg": failure.message, "task_id": task_id, "data": []}
        case _:
            data = {"taskId": task_id}
    return {"code": code, "msg": failure.message, "data": data}


def _lyrics(task: TaskPlan, error: str) -> list[Body]:
    """Write two texts; of some tasks the second has failed."""
    track = task.tracks[0]
    good = {"text": track.prompt, "title": track.title, "status": "complete", error: ""}
    if shape_of(task).random() < 0.5:  # noqa: PLR2004 - every other one
        return [good, good | {"text": f"{track.prompt}\n{track.title}"}]
    bad = {"text": "", "title": "", "status": "failed", error: "generation failed"}
    return [good, bad]


def _stems(task: TaskPlan, link: Link) -> Body:
    """Write links of stems: by name, or one by one in a list."""
    results = task.results
    if stem_kind(task) != 2:  # noqa: PLR2004 - as ``stem_kind`` says
        stems: Body = {f"{r.name}_url": link(r.file.path) for r in results}
        more = _EMPTY_STEMS if stem_kind(task) else {}
        return {**stems, **more, "origin_url": ""}
    extract, remove, *flat = (
        {"id": result.track_id, "audio_url": link(result.file.path)}
        for result in results
    )
    groups = [
        {**entry, "stem_type_group_name": group}
        for entry, group in zip(flat, STEM_GROUPS, strict=True)
    ]
    return {"origin_data": [{"extract": extract, "remove": remove}, *groups]}


def _midi(task: TaskPlan) -> Body:
    """Write notes; times are numbers, or text that holds one."""
    chance = seeded("midi", task.task_id)
    as_text = chance.random() < 0.5  # noqa: PLR2004 - every other one
    notes = []
    for number in range(_NOTES):
        start, end = number * 0.25, number * 0.25 + 0.2
        notes.append(
            {
                "pitch": chance.randrange(40, 90),
                "start": f"{start:g}" if as_text else start,
                "end": f"{end:g}" if as_text else end,
                "velocity": 0.8,
            }
        )
    return {"instruments": [{"name": "Piano", "notes": notes}]}


def _voice(task: TaskPlan, family: Family) -> Body:
    if family is Family.VALIDATION:
        return {"validateInfo": task.tracks[0].prompt, "status": "success"}
    voice = f"voice-{task.task_id[:12]}"
    errors = {"errorCode": None, "errorMessage": None}
    return {"voiceId": voice, "status": "success", **errors}


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)
