"""``pipeline poller`` as a process: started, killed, started again."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import pytest

from pipeline.ledger.expectations import Expectation
from pipeline.task import Stage
from tests.callbacks import TASK, make_body, make_record_info
from tests.file_server import FileServer, answer
from tests.waiting import eventually
from tests.whole_pipeline import (
    STUDIO,
    WITHIN_SECONDS,
    until_dead,
    whole_pipeline,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.whole_pipeline import WholePipeline

PATH: Final = "/api/v1/generate/record-info"
#: Without files, so that the end of a task is all there is to it.
FAILED: Final = make_record_info(
    "GENERATE_AUDIO_FAILED", response=None, errorCode=501, errorMessage="failed"
)
#: What is heard of an end that no callback has told of.
RECOVERED: Final = ["task.failed", "task.recovered"]
SETTINGS: Final = {
    "provider__api_key": "the-key",
    "provider__timeout": "10s",
    "broker__deadline": "10s",
    "poller__quiet": "500ms",
    "poller__interval": "500ms",
}
#: A lease runs out some ten seconds after its owner has died: not sooner, because who
#: has no answer on a busy machine, or no confirm, asks once more.
MORTAL: Final = SETTINGS | {"provider__timeout": "4s", "broker__deadline": "4s"}


async def expect(pipeline: WholePipeline) -> None:
    now = datetime.now(UTC)
    await pipeline.ledger.expect(
        [
            Expectation(
                task_id=TASK,
                operation="upload-extend",
                submitted_at=now - timedelta(minutes=5),
                due_at=now,
            )
        ]
    )


def heard(pipeline: WholePipeline) -> list[str]:
    effects = pipeline.subscriber.effects(STUDIO)
    return sorted(request.json()["type"] for request in effects)


async def has_heard(pipeline: WholePipeline) -> bool:
    return len(heard(pipeline)) >= len(RECOVERED)


async def has_heard_all(pipeline: WholePipeline) -> bool:
    """Tell whether the text was heard, too: each is told when its turn comes."""
    requests = pipeline.subscriber.effects(STUDIO)
    return len({request.json()["type"] for request in requests}) > len(RECOVERED)


@pytest.mark.parametrize("place", ["poller.before_publish", "poller.before_note"])
async def test_killed_between_the_question_and_what_follows(
    sqlite_url: str, tmp_path: Path, place: str
) -> None:
    """What was published has its effect; else another asks again. It is told once."""
    async with FileServer() as api:
        api.add(PATH, answer(FAILED))
        async with whole_pipeline(
            sqlite_url, tmp_path, provider__base_url=api.url(""), **MORTAL
        ) as pipeline:
            await expect(pipeline)
            async with pipeline.running("poller", failpoints=f"{place}=exit") as run:
                await until_dead(run)
            killed_after = len(api.requests)
            async with pipeline.running():
                await eventually(lambda: has_heard(pipeline), within=WITHIN_SECONDS)
                asked = len(api.requests)
            task = await pipeline.ledger.find_task(TASK)

    assert task is not None
    assert (1, Stage.FAILED) == (killed_after, task.stage)
    assert place != "poller.before_publish" or asked == 2
    assert RECOVERED == heard(pipeline)


async def is_asked(api: FileServer, count: int) -> bool:
    return len(api.requests) >= count


async def test_a_poller_stops_in_order_and_shows_its_health(
    sqlite_url: str, tmp_path: Path
) -> None:
    async with FileServer() as api:
        api.add(PATH, answer(FAILED))
        async with whole_pipeline(
            sqlite_url,
            tmp_path,
            provider__base_url=api.url(""),
            metrics__port=0,
            **SETTINGS,
        ) as pipeline:
            await expect(pipeline)
            async with pipeline.running("poller") as run:
                await eventually(lambda: is_asked(api, 1), within=WITHIN_SECONDS)
                base = await asyncio.to_thread(run.address)
                async with pipeline.session.get(f"{base}/readyz") as response:
                    ready = response.status
                code = await asyncio.to_thread(run.stop)

    assert (200, 0) == (ready, code)
    (line,) = run.events("task_asked_for")
    assert ("final", "failed") == (line["outcome"], line["stage"])
    assert ["poller", "health"] == run.events("roles_started")[0]["roles"]


async def test_a_poller_without_a_key_says_what_to_set(
    sqlite_url: str, tmp_path: Path
) -> None:
    async with whole_pipeline(
        sqlite_url, tmp_path, provider__base_url="https://a.example"
    ) as pipeline:
        done = await asyncio.to_thread(
            pipeline.cli, "poller", "--config", str(tmp_path / "p.toml")
        )

    assert 1 == done.returncode
    assert "provider.api_key: expected a value" in done.stderr


async def test_a_stage_whose_callback_got_lost_is_told_as_recovered(
    broker_url: str, tmp_path: Path
) -> None:
    """The text comes by a callback; the end, by asking alone; both are heard."""
    async with FileServer() as api:
        api.add(PATH, answer(FAILED))
        async with (
            whole_pipeline(
                broker_url, tmp_path, provider__base_url=api.url(""), **SETTINGS
            ) as pipeline,
            pipeline.running(),
        ):
            await eventually(lambda: is_told(pipeline), within=WITHIN_SECONDS)
            await eventually(lambda: has_heard_all(pipeline), within=WITHIN_SECONDS)
            events = {
                request.json()["type"]: request.json()
                for request in pipeline.subscriber.effects(STUDIO)
            }

    assert sorted([*RECOVERED, "task.text"]) == sorted(events)
    recovered, failed = events["task.recovered"], events["task.failed"]
    assert {
        "task_id": TASK,
        "operation": "upload-extend",
        "stage": "failed",
        "event_id": failed["id"],
    } == recovered["data"]
    assert "poll" == failed["data"]["origin"]


async def test_who_polls_alone_hears_of_no_recovery(
    sqlite_url: str, tmp_path: Path
) -> None:
    """No callback can come where the address leads nowhere."""
    async with FileServer() as api:
        api.add(PATH, answer(FAILED))
        async with (
            whole_pipeline(
                sqlite_url,
                tmp_path,
                provider__base_url=api.url(""),
                provider__callback_url="https://callbacks.invalid",
                **SETTINGS,
            ) as pipeline,
            pipeline.running(),
        ):
            await expect(pipeline)
            # Both would be published together, and be told in any order.
            await pipeline.until_done(0)
            await eventually(lambda: is_noted(pipeline), within=WITHIN_SECONDS)

    assert ["task.failed"] == heard(pipeline)


async def is_told(pipeline: WholePipeline) -> bool:
    """Send the callback of a text, once somebody listens."""
    if not pipeline.base:
        return False
    url, body = f"{pipeline.base}/callbacks/upload-extend", make_body("text", items=[])
    headers = {"Content-Type": "application/json"}
    async with pipeline.session.post(url, data=body, headers=headers) as response:
        return response.status == 200


async def is_noted(pipeline: WholePipeline) -> bool:
    return (await pipeline.ledger.totals()).notifications_delivered >= 1
