"""Reading callbacks, beside pydantic: bodies a second on one core.

    python -m benchmarks.normalise

The mix is that of ordinary traffic: per hundred bodies some thirty each of ``text``,
``first`` and ``complete`` with one or two tracks, and a few failures, answers of the
details endpoint and other operations. The peers validate the same bodies with models
that know both spellings, once refusing what does not fit and once swallowing it, as
nothing may be refused here. They do nothing else: no stage, no class of a failure, no
tracks joined, no links judged. Counted is the processor time of this process, so that
other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import orjson
from pydantic import (
    AliasChoices,
    BaseModel,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    create_model,
    field_validator,
)

from benchmarks.results import (
    Comparison,
    Results,
    Target,
    add_json_option,
    compare,
    finish,
    interleave,
    medians_of,
    number,
    table,
)
from pipeline.provider.callback import normalise, peek
from tests.callbacks import TASK, make_body, make_item, make_record_info

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LINK: Final = "https://files.example.com/out"
OURS: Final = "ours"
PEEK: Final = "ours, at a glance"
PEER: Final = "pydantic"
TOLERANT: Final = "pydantic, tolerant"
ABOUT: Final = {
    OURS: "normalise: everything, for the workers",
    PEEK: "peek: task and stage, for the ingress",
    PEER: "models validated, nothing else; one odd field and the body is refused",
    TOLERANT: "the same, but an odd field counts as missing",
}
#: What one core has to read in a second.
WANTED: Final = Target(at_least=20_000)


class _Tolerant(BaseModel):
    """Takes any value: one that does not fit counts as missing."""

    @field_validator("*", mode="wrap")
    @classmethod
    def _swallow(cls, value: object, judge: ValidatorFunctionWrapHandler) -> object:
        try:
            return judge(value)
        except ValidationError:
            return None


def models(base: type[BaseModel]) -> type[BaseModel]:
    """Make models of what the bodies have in common, on a base."""

    def either(callback: str, details: str) -> object:
        return Field(None, validation_alias=AliasChoices(callback, details))

    def called(name: str) -> object:
        return Field(None, validation_alias=name)

    text = str | None
    track = create_model(
        "Track",
        __base__=base,
        id=(text, None),
        audio=(text, either("audio_url", "audioUrl")),
        image=(text, either("image_url", "imageUrl")),
        stream=(text, either("stream_audio_url", "streamAudioUrl")),
        model=(text, either("model_name", "modelName")),
        prompt=(text, None),
        title=(text, None),
        tags=(text, None),
        created_at=(int | str | None, called("createTime")),
        duration=(float | None, None),
    )
    tracks = list[track] | None
    response = create_model(
        "Response", __base__=base, tracks=(tracks, called("sunoData"))
    )
    data = create_model(
        "Data",
        __base__=base,
        task_id=(text, either("task_id", "taskId")),
        kind=(text, called("callbackType")),
        status=(text, None),
        tracks=(tracks, called("data")),
        response=(response | None, None),
    )
    return create_model(
        "Body",
        __base__=base,
        code=(int | None, None),
        msg=(text, None),
        data=(data | None, None),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What one round of one case gave."""

    #: Bodies in a second of processor time.
    rate: float


def main() -> None:
    """Measure all and print the tables."""
    options = _options()
    results = Results()
    bodies = mix()
    cases: dict[str, Callable[[bytes, str], object]] = {
        OURS: normalise,
        PEEK: peek,
        PEER: partial(_validate, models(BaseModel)),
        TOLERANT: partial(_validate, models(_Tolerant)),
    }

    def measure(name: str, number_of_round: int) -> Round:
        del number_of_round
        return _timed(cases[name], bodies, options.bodies)

    rounds = interleave(
        list(ABOUT),
        options.rounds,
        measure,
        failed=results.failed,
        describe=lambda found: f"{found.rate:.0f}/s",
    )
    results.cases = {
        name: medians_of(found, ("rate",)) for name, found in rounds.items()
    }
    results.comparisons = [
        *_absolute(results),
        *compare(
            "normalise",
            OURS,
            [(peer, "rate", "bodies/s", None) for peer in (PEER, TOLERANT)],
            results.cases,
            failed=results.failed,
        ),
    ]
    finish(results, [_table(rounds, results, len(bodies))], options.json)


def mix() -> Sequence[tuple[bytes, str]]:
    """Give a hundred bodies of ordinary traffic, each with its operation."""
    one, two = [make_item(1)], [make_item(1), make_item(2)]
    half = [make_item(1), make_item(2, audio_url="", duration=None)]
    audio: list[tuple[bytes, int]] = [
        (make_body("text", items=[]), 15),
        (make_body("text", items=half), 10),
        (make_body("first", items=one), 15),
        (make_body("first", items=half), 13),
        (make_body("complete", items=two), 22),
        (make_body("complete", items=one), 6),
        (make_body("error", code=500, items=[]), 2),
        (make_body("complete", code=400, items=[]), 1),
        (make_record_info("SUCCESS"), 5),
        (make_record_info("PENDING", response=None), 3),
    ]
    others: list[tuple[str, dict[str, object], int]] = [
        ("wav", {"audioWavUrl": LINK, "task_id": TASK}, 3),
        (
            "vocal-removal",
            {
                "task_id": TASK,
                "vocal_removal_info": {
                    "vocal_url": LINK,
                    "instrumental_url": LINK,
                    "origin_url": "",
                },
            },
            2,
        ),
        ("music-video", {"task_id": TASK, "video_url": LINK}, 1),
        ("cover-image", {"taskId": TASK, "images": [LINK, LINK]}, 1),
        ("lyrics", {"callbackType": "complete", "taskId": TASK, "data": [{}]}, 1),
    ]
    bodies = [(body, "upload-extend") for body, count in audio for _ in range(count)]
    for operation, data, count in others:
        body = orjson.dumps({"code": 200, "msg": "success", "data": data})
        bodies += [(body, operation)] * count
    return bodies


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bodies", type=int, default=50_000, help="in each round")
    add_json_option(parser)
    return parser.parse_args()


def _timed(
    read: Callable[[bytes, str], object],
    bodies: Sequence[tuple[bytes, str]],
    count: int,
) -> Round:
    turns = max(1, count // len(bodies))
    calls = [partial(read, body, operation) for body, operation in bodies]
    started = time.process_time()
    for _ in range(turns):
        for call in calls:
            call()
    return Round(rate=turns * len(bodies) / (time.process_time() - started))


def _validate(model: type[BaseModel], body: bytes, operation: str) -> object:
    del operation
    try:
        return model.model_validate_json(body)
    except ValidationError:
        return None


def _absolute(results: Results) -> list[Comparison]:
    """Set the rate beside what is wanted of it."""
    return [
        Comparison(
            benchmark="normalise",
            figure=f"bodies/s, {name}",
            ours=results.cases.get(name, {}).get("rate"),
            target=WANTED,
            problem=f"failed: {results.failed.get(name, '')}",
        )
        for name in (OURS, PEEK)
    ]


def _table(rounds: dict[str, list[Round]], results: Results, count: int) -> str:
    rows = []
    for name, about in ABOUT.items():
        median = results.cases.get(name, {}).get("rate")
        rates = [found.rate for found in rounds.get(name, [])]
        spread = f"{number(min(rates))} to {number(max(rates))}" if rates else "-"
        rows.append([name, about, number(median), spread])
    header = ["case", f"what, of {count} kinds in turn", "bodies/s", "spread"]
    return table(header, rows)


if __name__ == "__main__":
    main()
