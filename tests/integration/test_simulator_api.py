"""The provider's endpoints behave as documented, over real HTTP."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from pipeline.simulator import (
    PLAIN,
    ProviderOptions,
    ScenarioOptions,
    SimulatedProvider,
    SimulatedSubscriber,
    plan_scenario,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pipeline.simulator.plan import TaskPlan

KEY = {"Authorization": "Bearer simulated-key"}
FAST = ProviderOptions(time_scale=1000)
SUBMIT = "/api/v1/generate/upload-extend"
DETAILS = "/api/v1/generate/record-info"


def make_submission(callback_url: str) -> dict[str, Any]:
    return {
        "uploadUrl": "https://example.com/source.mp3",
        "defaultParamFlag": False,
        "instrumental": True,
        "continueAt": 10,
        "model": "V4_5",
        "callBackUrl": callback_url,
    }


@asynccontextmanager
async def client(provider: SimulatedProvider) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(provider.url, headers=KEY) as session:
        yield session


async def json_of(
    session: aiohttp.ClientSession, method: str, path: str, **more: Any
) -> tuple[int, Any]:
    async with session.request(method, path, **more) as response:
        return response.status, await response.json()


async def played(
    provider: SimulatedProvider, options: ScenarioOptions
) -> tuple[TaskPlan, ...]:
    """Play a scenario against a receiver that takes everything."""
    scenario = plan_scenario(options)
    async with SimulatedSubscriber() as receiver:
        await provider.run(scenario, callback_url=receiver.url("any"))
    return scenario.tasks


async def test_a_submitted_task_is_worked_on_and_calls_back() -> None:
    """Accepted at once, three callbacks, and SUCCESS in the details."""
    async with (
        SimulatedSubscriber() as receiver,
        SimulatedProvider(FAST) as provider,
        client(provider) as session,
    ):
        body = make_submission(receiver.url("mine"))
        status, answer = await json_of(session, "POST", SUBMIT, json=body)
        task_id = answer["data"]["taskId"]
        report = await provider.drain()
        _, late = await json_of(session, "GET", DETAILS, params={"taskId": task_id})

    assert status == answer["code"] == 200
    assert answer["msg"] == "success"
    assert late["data"]["status"] == "SUCCESS"
    assert late["data"]["operationType"] == "upload_extend"
    bodies = [request.json() for request in receiver.requests("mine")]
    assert [body["data"]["task_id"] for body in bodies] == [task_id] * 3
    assert report.callbacks_accepted == 3


async def test_a_task_that_was_just_submitted_is_pending() -> None:
    """On a clock so slow that nothing of it can be finished meanwhile."""
    options = replace(FAST, time_scale=0.001)
    async with SimulatedProvider(options) as provider, client(provider) as session:
        body = make_submission("http://127.0.0.1:9/callback")
        _, answer = await json_of(session, "POST", SUBMIT, json=body)
        task = {"taskId": answer["data"]["taskId"]}
        _, early = await json_of(session, "GET", DETAILS, params=task)

    assert early["data"]["status"] == "PENDING"
    assert early["data"]["response"] is None


@pytest.mark.parametrize(
    ("operation", "fields"),
    [
        ("", {"customMode": False, "instrumental": True, "prompt": "rain"}),
        ("/extend", {"audioId": "a1", "defaultParamFlag": False}),
        (
            "/upload-cover",
            {
                "uploadUrl": "https://e.example/a",
                "customMode": True,
                "instrumental": True,
            },
        ),
    ],
)
async def test_sibling_operations_are_submitted_under_their_own_paths(
    operation: str, fields: dict[str, object]
) -> None:
    body = {**fields, "model": "V5", "callBackUrl": "http://127.0.0.1:9/callback"}

    async with SimulatedProvider(FAST) as provider, client(provider) as session:
        path = f"/api/v1/generate{operation}"
        _, answer = await json_of(session, "POST", path, json=body)
        details = provider.details(answer["data"]["taskId"])

    assert answer["code"] == 200
    assert details is not None
    expected = operation.strip("/").replace("-", "_") or "generate"
    assert details["data"]["operationType"] == expected


async def test_submissions_without_the_key_are_refused() -> None:
    async with SimulatedProvider(FAST) as provider, aiohttp.ClientSession() as session:
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            status, answer = await json_of(
                session, "POST", provider.url + SUBMIT, json={}, headers=headers
            )
            assert status == answer["code"] == 401
            assert "access permission" in answer["msg"]


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"[" * 100_000, b"\xff"])
async def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    async with SimulatedProvider(FAST) as provider, client(provider) as session:
        status, answer = await json_of(session, "POST", SUBMIT, data=body)

    assert status == 200
    assert answer == {
        "code": 400,
        "msg": "The body must be a JSON object",
        "data": None,
    }


async def test_wrong_parameters_are_refused_in_the_body() -> None:
    """HTTP 200 with another code inside: clients must look at both."""
    body = make_submission("not an address")

    async with SimulatedProvider(FAST) as provider, client(provider) as session:
        status, answer = await json_of(session, "POST", SUBMIT, json=body)

    assert status == 200
    assert answer["code"] == 400
    assert "callBackUrl" in answer["msg"]


@pytest.mark.parametrize(
    ("door", "http_status", "code"), [("S", 200, 430), ("K", 429, 429)]
)
async def test_calling_too_often_is_refused(
    door: Any, http_status: int, code: int
) -> None:
    """Twenty new tasks in ten seconds, not one more."""
    options = replace(FAST, door=door, time_scale=1)
    body = make_submission("http://127.0.0.1:9/callback")

    async with SimulatedProvider(options) as provider, client(provider) as session:
        answers = [await json_of(session, "POST", SUBMIT, json=body) for _ in range(21)]

    assert [answer["code"] for _, answer in answers[:20]] == [200] * 20
    assert answers[20][0] == http_status
    assert answers[20][1]["code"] == code


@pytest.mark.parametrize(
    ("door", "code", "path"),
    [("S", 429, "/api/v1/generate/credit"), ("K", 402, "/api/v1/chat/credit")],
)
async def test_an_empty_account_is_refused(door: Any, code: int, path: str) -> None:
    options = replace(FAST, door=door, credits=1)
    body = make_submission("http://127.0.0.1:9/callback")

    async with SimulatedProvider(options) as provider, client(provider) as session:
        await json_of(session, "POST", SUBMIT, json=body)
        _, left = await json_of(session, "GET", path)
        _, answer = await json_of(session, "POST", SUBMIT, json=body)

    assert left["data"] == 0
    assert answer["code"] == code


async def test_details_of_an_unknown_task_and_wrong_paths() -> None:
    async with SimulatedProvider(FAST) as provider, client(provider) as session:
        _, unknown = await json_of(session, "GET", DETAILS, params={"taskId": "x"})
        wrong_status, wrong = await json_of(session, "GET", "/api/v1/nonsense")
        method_status, _ = await json_of(session, "GET", SUBMIT)

    assert unknown["code"] == 400
    assert unknown["data"] is None
    assert wrong_status == wrong["code"] == 404
    assert method_status == 404


async def test_a_direct_link_can_be_asked_for() -> None:
    """Ours get one for twenty minutes; foreign addresses are refused with 422."""
    path = "/api/v1/common/download-url"
    # Twenty minutes take 12 s, more than a busy machine needs until it is fetched.
    options = replace(FAST, door="K", time_scale=100)
    async with SimulatedProvider(options) as provider, client(provider) as session:
        file = (await played(provider, replace(PLAIN, tasks=1)))[0].files[0]
        _, answer = await json_of(
            session, "POST", path, json={"url": provider.url + file.path}
        )
        _, foreign = await json_of(
            session, "POST", path, json={"url": "https://example.com/a.mp3"}
        )
        async with session.get(answer["data"]) as fetched:
            status = fetched.status

    assert status == 200
    assert foreign["code"] == 422


async def test_submitted_tasks_can_misbehave_as_scenarios_do() -> None:
    options = replace(FAST, behaviour=ScenarioOptions(failure_rate=1))
    async with (
        SimulatedSubscriber() as receiver,
        SimulatedProvider(options) as provider,
    ):
        task_id = await provider.submit(receiver.url("mine"))
        await provider.drain()

        codes = [request.json()["code"] for request in receiver.requests("mine")]
        details = provider.details(task_id)

    assert any(str(code) != "200" for code in codes)
    assert details is not None
    assert details["data"]["errorCode"]


async def test_a_provider_that_is_not_open_says_so() -> None:
    provider = SimulatedProvider()

    with pytest.raises(RuntimeError, match="use it as an async context manager"):
        _ = provider.url


async def test_leaving_the_context_abandons_what_is_under_way() -> None:
    async with SimulatedProvider(replace(FAST, time_scale=1)) as provider:
        await provider.submit("http://127.0.0.1:9/callback")

    assert len(asyncio.all_tasks()) == 1
    assert provider.sent == ()
