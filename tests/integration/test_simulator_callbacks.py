"""Callbacks go out as the provider sends them: timeout, retries, then never."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from aiohttp import web

from pipeline.simulator import (
    PLAIN,
    PostingRules,
    ProviderOptions,
    ScenarioOptions,
    SentCallback,
    SimulatedProvider,
    plan_scenario,
)
from pipeline.simulator.server import serve
from pipeline.simulator.signing import callback_headers
from pipeline.task import Stage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Handler = Callable[[int, web.Request], Awaitable[int]]

#: 1, 5 and 15 simulated minutes take 1.26 real seconds.
FAST = ProviderOptions(time_scale=1000, seed=3)


class Receiver:
    """Somebody's callback address, with any behaviour."""

    def __init__(self, handler: Handler) -> None:
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.paths: Counter[str] = Counter()
        self.times: list[float] = []
        self._handler = handler
        self.url = ""

    async def receive(self, request: web.Request) -> web.Response:
        if request.method != "POST":
            return web.Response(text="where redirects lead to: all is well here")
        self.bodies.append(await request.read())
        self.headers.append(dict(request.headers))
        self.paths[request.path] += 1
        self.times.append(asyncio.get_running_loop().time())
        status = await self._handler(len(self.bodies), request)
        headers = {"Location": "/elsewhere"} if status == 302 else {}
        return web.Response(status=status, headers=headers)


@asynccontextmanager
async def receiver(handler: Handler) -> AsyncIterator[Receiver]:
    app = web.Application()
    made = Receiver(handler)
    app.router.add_route("*", "/{path:.*}", made.receive)
    async with serve(app, host="127.0.0.1", port=0) as url:
        made.url = f"{url}/callbacks/{{operation}}"
        yield made


async def fine(_: int, __: web.Request) -> int:
    return 200


def one_task(**changes: Any) -> ScenarioOptions:
    return replace(PLAIN, tasks=1, **changes)


async def test_every_callback_of_a_scenario_is_delivered_once() -> None:
    """A good receiver gets the whole plan, and the report agrees with it."""
    scenario = plan_scenario(ScenarioOptions(tasks=12, seed=2, oddity_rate=0.4))

    async with receiver(fine) as target, SimulatedProvider(FAST) as provider:
        report = await provider.run(scenario, callback_url=target.url)

    assert len(target.bodies) == scenario.callbacks
    assert report.callbacks_sent == report.callbacks_accepted == scenario.callbacks
    assert report.duplicates_accepted == scenario.duplicates
    assert len(report.events) == scenario.callbacks - scenario.duplicates
    assert report.is_settled
    assert report.as_dict()["gave_up"] == 0
    assert sorted(sent.body for sent in provider.sent) == sorted(target.bodies)


async def test_callbacks_come_in_the_planned_order_and_pace() -> None:
    """text, first, complete; a hundred times as fast as planned."""
    scenario = plan_scenario(one_task(seed=5))
    options = replace(FAST, time_scale=100)

    async with receiver(fine) as target, SimulatedProvider(options) as provider:
        began = asyncio.get_running_loop().time()
        await provider.run(scenario, callback_url=target.url)

    types = [orjson.loads(body)["data"]["callbackType"] for body in target.bodies]
    assert types == ["text", "first", "complete"]
    for at, callback in zip(target.times, scenario.tasks[0].callbacks, strict=True):
        late_seconds = at - began - callback.at.total_seconds() / 100
        # Never early; on a busy machine late, but nowhere near the planned minutes.
        assert -0.1 < late_seconds < 10


async def test_every_operation_has_its_own_address() -> None:
    scenario = plan_scenario(
        replace(PLAIN, tasks=2, operations=("generate", "upload-cover"))
    )

    async with receiver(fine) as target, SimulatedProvider(FAST) as provider:
        await provider.run(scenario, callback_url=target.url)

    assert target.paths == {"/callbacks/generate": 3, "/callbacks/upload-cover": 3}


async def test_a_refused_callback_is_retried_with_the_same_body() -> None:
    """Twice 503, then 200: three attempts after one and five minutes."""

    async def fails_twice(number: int, _: web.Request) -> int:
        return 503 if number <= 2 else 200

    task = plan_scenario(one_task()).tasks[0]
    scenario = plan_scenario(one_task())
    scenario = replace(scenario, tasks=(replace(task, callbacks=task.callbacks[:1]),))
    async with receiver(fails_twice) as target, SimulatedProvider(FAST) as provider:
        report = await provider.run(scenario, callback_url=target.url)

    assert [sent.attempt for sent in provider.sent] == [1, 2, 3]
    assert [sent.status for sent in provider.sent] == [503, 503, 200]
    assert len(set(target.bodies)) == 1
    assert report.callbacks_sent == 3
    assert report.callbacks_accepted == 1
    waits = [b - a for a, b in zip(target.times, target.times[1:], strict=False)]
    assert 0.05 < waits[0] < 5
    assert 0.29 < waits[1] < 5


@pytest.mark.parametrize("status", [201, 204, 302, 400, 500])
async def test_only_200_counts_and_after_four_attempts_the_task_is_silent(
    status: int,
) -> None:
    """Three retries, then no callback of this task is sent any more."""

    async def refuses(_: int, __: web.Request) -> int:
        return status

    # The second callback comes four simulated hours after the first one, 4 s, and the
    # retries take 21 minutes: a busy machine has time to answer in between.
    task = plan_scenario(one_task()).tasks[0]
    hours = (timedelta(), timedelta(hours=4), timedelta(hours=4, minutes=1))
    spread = tuple(
        replace(callback, at=at)
        for callback, at in zip(task.callbacks, hours, strict=True)
    )
    scenario = plan_scenario(one_task())
    scenario = replace(scenario, tasks=(replace(task, callbacks=spread),))
    options = replace(FAST, time_scale=3600)
    async with receiver(refuses) as target, SimulatedProvider(options) as provider:
        report = await provider.run(scenario, callback_url=target.url)
        details = provider.details(task.task_id)

    assert [sent.attempt for sent in provider.sent] == [1, 2, 3, 4]
    assert target.paths == {"/callbacks/upload-extend": 4}
    assert report.gave_up == 1
    assert report.suppressed == 2
    assert report.is_settled
    assert report.events == frozenset()
    assert len(report.uncertain_events) == 1
    assert details is not None
    assert details["data"]["status"] == "CALLBACK_EXCEPTION"


async def test_an_answer_that_takes_too_long_is_a_failure() -> None:
    """The receiver may have acted on it all the same: the event is uncertain."""
    release = asyncio.Event()

    async def first_hangs(number: int, _: web.Request) -> int:
        if number == 1:
            await release.wait()
        return 200

    rules = PostingRules(least_timeout_seconds=2)
    task = plan_scenario(one_task()).tasks[0]
    scenario = plan_scenario(one_task())
    scenario = replace(scenario, tasks=(replace(task, callbacks=task.callbacks[:1]),))
    options = replace(FAST, posting=rules)
    async with receiver(first_hangs) as target, SimulatedProvider(options) as provider:
        report = await provider.run(scenario, callback_url=target.url)
        release.set()

    assert [sent.status for sent in provider.sent] == [None, 200]
    assert provider.sent[0].error == "no answer within 2 s"
    assert report.callbacks_accepted == 1
    assert len(target.bodies) == 2


async def test_a_receiver_that_is_not_there_is_a_failure() -> None:
    async with receiver(fine) as target:
        gone = target.url

    options = replace(FAST, time_scale=20_000)
    async with SimulatedProvider(options) as provider:
        report = await provider.run(plan_scenario(one_task()), callback_url=gone)

    assert report.callbacks_accepted == 0
    assert report.gave_up + report.suppressed == 3
    assert "ClientConnectorError" in provider.sent[0].error


async def test_repeats_are_the_same_bytes_or_freshly_signed() -> None:
    """Both kinds come, and only query strings of links differ."""
    scenario = plan_scenario(
        replace(PLAIN, tasks=4, duplicate_rate=0.6, tracks_per_task=1)
    )

    async with receiver(fine) as target, SimulatedProvider(FAST) as provider:
        report = await provider.run(scenario, callback_url=target.url)

    by_event: dict[str, set[bytes]] = {}
    for sent in provider.sent:
        by_event.setdefault(sent.semantic_id, set()).add(sent.body)
    assert len(target.bodies) > len(set(target.bodies)), "no repeat was identical"
    assert max(map(len, by_event.values())) > 1, "no repeat was freshly signed"
    assert len(by_event) == len(report.events) == 12


async def test_callbacks_are_signed_when_a_key_is_set() -> None:
    rules = PostingRules(webhook_key="secret")
    options = replace(FAST, posting=rules)

    async with receiver(fine) as target, SimulatedProvider(options) as provider:
        await provider.run(plan_scenario(one_task()), callback_url=target.url)

    for body, headers in zip(target.bodies, target.headers, strict=True):
        task_id = orjson.loads(body)["data"]["task_id"]
        expected = callback_headers(
            task_id, key="secret", timestamp=int(headers["X-Webhook-Timestamp"])
        )
        assert expected.items() <= headers.items()
        assert headers["Content-Type"] == "application/json"


async def test_without_a_key_there_are_no_signatures() -> None:
    async with receiver(fine) as target, SimulatedProvider(FAST) as provider:
        await provider.run(plan_scenario(one_task()), callback_url=target.url)

    assert not any("X-Webhook-Signature" in headers for headers in target.headers)


async def test_no_more_requests_at_once_than_allowed() -> None:
    running = peak = 0

    async def counts(_: int, __: web.Request) -> int:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await asyncio.sleep(0.01)
        running -= 1
        return 200

    options = replace(FAST, time_scale=100_000, posting=PostingRules(concurrency=3))
    async with receiver(counts) as target, SimulatedProvider(options) as provider:
        scenario = plan_scenario(replace(PLAIN, tasks=20))
        report = await provider.run(scenario, callback_url=target.url)

    assert report.callbacks_accepted == 60
    assert peak == 3


async def test_the_report_knows_stages_and_files() -> None:
    """Missing stages and dead links are told apart from what must be there."""
    options = ScenarioOptions(
        tasks=20, seed=8, missing_rate=0.3, failure_rate=0.2, expired_rate=0.2
    )
    scenario = plan_scenario(options)

    async with receiver(fine) as target, SimulatedProvider(FAST) as provider:
        report = await provider.run(scenario, callback_url=target.url)

    failed = {task.task_id for task in scenario.tasks if task.failure}
    ends = Counter(report.stages.values())
    assert {t for t, stage in report.stages.items() if stage is Stage.FAILED} == failed
    assert ends[Stage.COMPLETE] >= 11
    dead = [f for files in report.files.values() for f in files if f.expiry]
    assert len(dead) == scenario.expired_links == 3
    paths = [file.path for files in report.files.values() for file in files]
    assert len(paths) == len(set(paths))


async def test_sent_callbacks_are_shown_as_they_happen() -> None:
    seen: list[SentCallback] = []
    options = replace(FAST, time_scale=200)

    async with (
        receiver(fine) as target,
        SimulatedProvider(options, on_sent=seen.append) as provider,
    ):
        await provider.run(plan_scenario(one_task()), callback_url=target.url)

    assert [sent.stage for sent in seen] == [Stage.TEXT, Stage.FIRST, Stage.COMPLETE]
    assert tuple(seen) == provider.sent


async def test_an_error_in_the_hook_is_not_swallowed() -> None:
    def breaks(_: SentCallback) -> None:
        raise LookupError

    async with receiver(fine) as target:
        with pytest.raises(ExceptionGroup):
            async with SimulatedProvider(FAST, on_sent=breaks) as provider:
                await provider.run(plan_scenario(one_task()), callback_url=target.url)


async def test_cancelling_a_run_stops_it() -> None:
    """Nothing is sent after the cancellation, and nothing is left running."""
    options = replace(FAST, time_scale=1)
    async with receiver(fine) as target, SimulatedProvider(options) as provider:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await provider.run(plan_scenario(one_task()), callback_url=target.url)

        assert len(asyncio.all_tasks()) == 1
        assert not provider.report().is_settled

    assert target.bodies == []


async def test_the_same_seed_sends_the_same_bodies_but_for_links() -> None:
    """Address, time and signature of links are all that differs between two runs."""

    async def play() -> list[tuple[str, bytes]]:
        options = replace(FAST, time_scale=20_000)
        scenario = plan_scenario(ScenarioOptions(tasks=10, seed=9))
        async with receiver(fine) as target, SimulatedProvider(options) as provider:
            await provider.run(scenario, callback_url=target.url)
            cut = provider.url.encode()
            return sorted(
                (sent.semantic_id, strip_queries(sent.body.replace(cut, b"")))
                for sent in provider.sent
            )

    assert await play() == await play()


def strip_queries(body: bytes) -> bytes:
    parts = body.split(b"?Expires=")
    return parts[0] + b"".join(part[part.index(b'"') :] for part in parts[1:])
