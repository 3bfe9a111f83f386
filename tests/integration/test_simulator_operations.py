"""Every operation can be submitted and asked for over HTTP, within the limits."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from pipeline.provider.signature import Scheme
from pipeline.simulator import (
    OPERATIONS,
    PostingRules,
    ProviderOptions,
    RateLimits,
    SimulatedProvider,
    SimulatedSubscriber,
)
from pipeline.simulator.endpoints import AT_ONCE
from pipeline.simulator.operations import BY_NAME
from tests.signatures import refuse_signature

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pipeline.simulator.signing import SignedText

NOWHERE = "http://127.0.0.1:9/callback"
FAST = ProviderOptions(time_scale=1000)
#: As slow as life: limits are met by the first few calls.
SLOW = ProviderOptions(time_scale=1)
DETAILS = "/api/v1/generate/record-info"
MINT = "/api/v1/common/download-url"
RECOVERY = "/api/v1/suno/recovery"
RECOVERY_DETAILS = "/api/v1/suno/recovery/record-info"
FIELDS: dict[type, object] = {str: "https://example.com/a", bool: False, list: ["a"]}


@asynccontextmanager
async def client(provider: SimulatedProvider) -> AsyncIterator[aiohttp.ClientSession]:
    headers = {"Authorization": "Bearer simulated-key"}
    async with aiohttp.ClientSession(provider.url, headers=headers) as session:
        yield session


async def call(
    session: aiohttp.ClientSession, method: str, path: str, **more: Any
) -> tuple[int, Any]:
    async with session.request(method, path, **more) as response:
        return response.status, await response.json()


async def status_of(session: aiohttp.ClientSession, link: str) -> int:
    async with session.get(link) as response:
        return response.status


def make_submission(operation: str, callback_url: str = NOWHERE) -> dict[str, Any]:
    fields = {name: FIELDS[kind] for name, kind in BY_NAME[operation].required.items()}
    return {**fields, "model": "V5", "callBackUrl": callback_url}


async def finished(provider: SimulatedProvider, operation: str = "generate") -> str:
    """Let a task be made and tell somebody of its end; give its id."""
    async with SimulatedSubscriber() as receiver:
        task_id = await provider.submit(receiver.url("any"), operation=operation)
        await provider.drain()
    return task_id


@pytest.mark.parametrize("operation", [one for one in OPERATIONS if one != "recovery"])
async def test_every_operation_is_submitted_calls_back_and_has_details(
    operation: str,
) -> None:
    """Its details are at its own endpoint, and at no other one."""
    known = BY_NAME[operation]
    others = {one.details_path for one in BY_NAME.values()} - {known.details_path}
    async with (
        SimulatedSubscriber() as receiver,
        SimulatedProvider(FAST) as provider,
        client(provider) as session,
    ):
        body = make_submission(operation, receiver.url("mine"))
        _, answer = await call(session, "POST", known.submit_path, json=body)
        task_id = answer["data"]["taskId"]
        await provider.drain()
        asked = {"params": {"taskId": task_id}}
        _, details = await call(session, "GET", known.details_path, **asked)
        codes = [
            (await call(session, "GET", path, **asked))[1]["code"]
            for path in sorted(others)[:2]
        ]

    assert answer["code"] == 200
    assert details["code"] == 200
    assert details["data"]["taskId"] == task_id
    assert receiver.requests("mine")
    assert codes == [400, 400]


async def test_a_submission_without_what_its_operation_needs_is_refused() -> None:
    async with SimulatedProvider(FAST) as provider, client(provider) as session:
        for operation, known in BY_NAME.items():
            for name in known.required:
                body = make_submission(operation)
                del body[name]
                _, answer = await call(session, "POST", known.submit_path, json=body)
                assert answer["code"] == 400
                assert name in answer["msg"]


@pytest.mark.parametrize(("door", "code"), [("S", 400), ("K", 409)])
@pytest.mark.parametrize("operation", ["wav", "cover-image"])
async def test_what_is_made_once_is_refused_the_second_time(
    door: Any, code: int, operation: str
) -> None:
    options = replace(FAST, door=door)
    path, body = BY_NAME[operation].submit_path, make_submission(operation)

    async with SimulatedProvider(options) as provider, client(provider) as session:
        _, first = await call(session, "POST", path, json=body)
        _, second = await call(session, "POST", path, json=body)

    assert first["code"] == 200
    assert second["code"] == code


@pytest.mark.parametrize("is_named", [True, False])
async def test_what_is_made_once_names_the_earlier_task_if_told_to(
    *, is_named: bool
) -> None:
    options = replace(FAST, door="K", names_earlier=is_named)
    path, body = BY_NAME["wav"].submit_path, make_submission("wav")

    async with SimulatedProvider(options) as provider, client(provider) as session:
        _, first = await call(session, "POST", path, json=body)
        _, second = await call(session, "POST", path, json=body)

    assert second["code"] == 409
    assert second["data"] == (first["data"] if is_named else None)


async def test_some_calls_are_answered_at_once() -> None:
    async with SimulatedProvider(FAST) as provider, client(provider) as session:
        for path in AT_ONCE:
            _, answer = await call(session, "POST", path, json={})
            assert answer["code"] == 200
            assert answer["data"] == AT_ONCE[path]


async def test_a_call_can_be_told_what_to_answer() -> None:
    """Once, and then it is as ever."""
    path, body = BY_NAME["generate"].submit_path, make_submission("generate")

    async with SimulatedProvider(FAST) as provider, client(provider) as session:
        provider.refuse_next(path, 455, times=2)
        provider.refuse_next(path, 500, status=503)
        answers = [await call(session, "POST", path, json=body) for _ in range(4)]

    assert [(s, a["code"]) for s, a in answers] == [
        (200, 455),
        (200, 455),
        (503, 500),
        (200, 200),
    ]


@pytest.mark.parametrize(
    ("door", "refusals"), [("S", [(200, 430), (200, 405)]), ("K", [(429, 429)] * 2)]
)
async def test_a_task_is_asked_for_three_times_in_a_second(
    door: Any, refusals: list[tuple[int, int]]
) -> None:
    """Others may be asked for meanwhile, and what was refused is on the record."""
    options = replace(SLOW, door=door)
    async with SimulatedProvider(options) as provider, client(provider) as session:
        one, other = [await provider.submit(NOWHERE) for _ in range(2)]
        asked = {"params": {"taskId": one}}
        answers = [await call(session, "GET", DETAILS, **asked) for _ in range(5)]
        more = await call(session, "GET", DETAILS, params={"taskId": other})
        violations = [(v.call, v.task_id) for v in provider.violations]

        assert provider.report().violations == 2
        assert provider.questions(one) == 5

    assert [(s, a["code"]) for s, a in answers] == [(200, 200)] * 3 + refusals
    assert more[1]["code"] == 200
    assert violations == [("details", one)] * 2


async def test_limits_can_be_kept_in_real_time() -> None:
    """However fast the simulated clock is."""
    options = replace(FAST, time_scale=100_000, rates=RateLimits(in_real_time=True))
    async with SimulatedProvider(options) as provider, client(provider) as session:
        task_id = await provider.submit(NOWHERE)
        asked = {"params": {"taskId": task_id}}
        answers = [await call(session, "GET", DETAILS, **asked) for _ in range(4)]

    assert [answer["code"] for _, answer in answers] == [200, 200, 200, 430]


async def test_a_submission_too_many_is_on_the_record() -> None:
    path, body = BY_NAME["generate"].submit_path, make_submission("generate")

    async with SimulatedProvider(SLOW) as provider, client(provider) as session:
        for _ in range(21):
            await call(session, "POST", path, json=body)

        assert [violation.call for violation in provider.violations] == ["submit"]


async def test_a_minted_link_works_for_twenty_minutes() -> None:
    """On the simulated clock; the link it was made of may be dead by then."""
    options = replace(FAST, door="K", time_scale=600)
    async with SimulatedProvider(options) as provider, client(provider) as session:
        path = provider.plan_of(await finished(provider)).files[0].path
        old = provider.link(path)
        provider.expire(path, status=441)
        _, answer = await call(session, "POST", MINT, json={"url": old})
        minted = answer["data"]
        statuses = [await status_of(session, link) for link in (old, minted)]
        provider.clock.advance(timedelta(minutes=21))
        later = await status_of(session, minted)

    assert statuses == [441, 200]
    assert later == 441


async def test_no_link_is_minted_for_a_file_of_somebody_else() -> None:
    """The same path on another host is another file."""
    options = replace(FAST, door="K")
    async with SimulatedProvider(options) as provider, client(provider) as session:
        path = provider.plan_of(await finished(provider)).files[0].path
        urls = [f"https://example.com{path}", f"{provider.url}.example{path}", path, ""]
        answers = [await call(session, "POST", MINT, json={"url": url}) for url in urls]

    assert [answer["code"] for _, answer in answers] == [422] * 4


async def test_links_are_minted_at_one_door_only() -> None:
    async with SimulatedProvider(FAST) as provider, client(provider) as session:
        status, _ = await call(session, "POST", MINT, json={"url": provider.url})

    assert status == 404


async def test_details_have_links_that_work_after_others_have_expired() -> None:
    async with SimulatedProvider(FAST) as provider, client(provider) as session:
        task_id = await finished(provider)
        path = provider.plan_of(task_id).files[0].path
        old = provider.link(path)
        provider.expire(path)
        _, details = await call(session, "GET", DETAILS, params={"taskId": task_id})
        fresh = details["data"]["response"]["sunoData"][0]["audioUrl"]
        statuses = [await status_of(session, link) for link in (old, fresh)]

    assert statuses == [403, 200]


@pytest.mark.parametrize(
    ("id_name", "address_name"),
    [("sunoTaskId", "callBackUrl"), ("task_id", "call_back_url")],
)
async def test_a_lost_file_is_recovered_under_another_address(
    id_name: str, address_name: str
) -> None:
    """Then the callback and the details say the same."""
    async with (
        SimulatedSubscriber() as receiver,
        SimulatedProvider(FAST) as provider,
        client(provider) as session,
    ):
        task_id = await finished(provider)
        one, other = [track.audio.path for track in provider.plan_of(task_id).tracks]
        provider.lose(one, recoverable=True)
        provider.lose(other, status=410)
        gone = [await status_of(session, provider.link(path)) for path in (one, other)]
        body = {id_name: task_id, address_name: receiver.url("mine")}
        _, answer = await call(session, "POST", RECOVERY, json=body)
        asked = {"params": {"task_id": task_id}}
        await provider.drain()
        _, late = await call(session, "GET", RECOVERY_DETAILS, **asked)
        told = receiver.requests("mine")[0].json()
        status = await status_of(session, told["data"][0]["audio_url"])

    assert gone == [404, 410]
    assert answer["data"] == {"task_id": task_id}
    assert told["code"] == late["code"] == 200
    assert told["task_id"] == late["task_id"] == task_id
    assert [item["status"] for item in told["data"]] == ["success", "failed"]
    assert [item["status"] for item in late["data"]] == ["success", "failed"]
    assert status == 200


async def test_a_recovery_that_is_not_done_says_so_until_it_is() -> None:
    """It takes longer than any test, and ends when it is told to."""
    options = replace(FAST, recovery_takes=timedelta(days=9))
    async with SimulatedProvider(options) as provider, client(provider) as session:
        task_id = await finished(provider)
        path = provider.plan_of(task_id).tracks[0].audio.path
        provider.lose(path, recoverable=True)
        await call(session, "POST", RECOVERY, json={"task_id": task_id})
        asked = {"params": {"task_id": task_id}}
        _, early = await call(session, "GET", RECOVERY_DETAILS, **asked)
        provider.finish_recovery(task_id)
        _, late = await call(session, "GET", RECOVERY_DETAILS, **asked)

    assert (early["code"], early["data"]) == (201, None)
    assert late["code"] == 200


async def test_a_recovery_that_brings_nothing_fails() -> None:
    async with SimulatedProvider(FAST) as provider, client(provider) as session:
        task_id = await finished(provider)
        for file in provider.plan_of(task_id).files:
            provider.lose(file.path)
        await call(session, "POST", RECOVERY, json={"task_id": task_id})
        await provider.clock.sleep(timedelta(seconds=30))
        asked = {"params": {"task_id": task_id}}
        _, late = await call(session, "GET", RECOVERY_DETAILS, **asked)
        _, unknown = await call(session, "POST", RECOVERY, json={"task_id": "x"})

    assert late["code"] == 500
    assert unknown["code"] == 400


@pytest.mark.parametrize("signed", ["task-and-time", "time-and-body", "body"])
async def test_callbacks_are_signed_as_their_door_does(signed: SignedText) -> None:
    rules = PostingRules(webhook_key="secret", signed=signed)
    scheme = Scheme(signed)
    async with (
        SimulatedSubscriber() as receiver,
        SimulatedProvider(replace(FAST, posting=rules)) as provider,
    ):
        task_id = await provider.submit(receiver.url("mine"))
        await provider.drain()
        requests = receiver.requests("mine")

    assert len(requests) == 3
    for request in requests:
        headers = request.headers
        refusal = refuse_signature(
            keys=[b"secret"],
            task_id=task_id,
            timestamp=headers.get("x-webhook-timestamp"),
            signature=headers.get(scheme.header.lower()),
            now=request.received_at.timestamp(),
            tolerance=timedelta(minutes=5),
            scheme=scheme,
            body=request.body,
        )
        assert refusal is None


async def test_the_cousin_sends_clips_with_states_and_names_each_event() -> None:
    options = replace(FAST, door="M")
    async with (
        SimulatedSubscriber() as receiver,
        SimulatedProvider(options) as provider,
    ):
        task_id = await provider.submit(receiver.url("mine"))
        await provider.drain()
        requests = receiver.requests("mine")

    bodies = [request.json() for request in requests]
    assert [[clip["state"] for clip in body["data"]] for body in bodies] == [
        ["streaming", "streaming"],
        ["succeeded", "streaming"],
        ["succeeded", "succeeded"],
    ]
    assert {body["task_id"] for body in bodies} == {task_id}
    assert [body["event"] for body in bodies][-1] == "song.completed"
    ids = [request.headers["x-webhook-id"] for request in requests]
    assert ids == [request.headers["idempotency-key"] for request in requests]
    assert len(set(ids)) == 3
    assert isinstance(bodies[-1]["data"][0]["duration"], str)


async def test_callbacks_get_lost_without_the_provider_knowing() -> None:
    """The same ones for the same seed; the details tell of the task all the same."""

    async def play() -> tuple[int, int]:
        options = replace(FAST, posting=PostingRules(loss_rate=0.5))
        async with (
            SimulatedSubscriber() as receiver,
            SimulatedProvider(options) as provider,
        ):
            ids = [await provider.submit(receiver.url("mine")) for _ in range(10)]
            report = await provider.drain()
            details = [provider.details(task_id) for task_id in ids]

        assert report.is_settled
        assert {body and body["data"]["status"] for body in details} == {"SUCCESS"}
        assert report.lost == 30 - len(receiver.requests("mine"))
        return report.lost, report.callbacks_accepted

    lost, accepted = await play()
    assert 5 < lost < 25
    assert (lost, accepted) == await play()


async def test_callbacks_reach_nobody_and_the_details_say_so() -> None:
    """Of some tasks, whoever listens; the same ones for the same seed."""
    rules = PostingRules(unreachable_rate=0.5)
    options = replace(FAST, time_scale=20_000, posting=rules)
    async with (
        SimulatedSubscriber() as receiver,
        SimulatedProvider(options) as provider,
    ):
        url = receiver.url("mine")
        ids = [await provider.submit(url, operation="wav") for _ in range(10)]
        report = await provider.drain()
        details = [provider.details(task_id) for task_id in ids]

    flags = [body["data"]["successFlag"] for body in details if body]
    failed = flags.count("CALLBACK_EXCEPTION")
    assert 1 < failed < 9
    assert (failed, 10 - failed) == (report.gave_up, len(receiver.requests("mine")))
    assert report.callbacks_sent == 4 * failed + report.callbacks_accepted


async def test_details_of_a_sibling_tell_of_callbacks_that_failed() -> None:
    """Four tries, then never again; the file is there all the same."""
    options = replace(FAST, time_scale=20_000)
    async with (
        SimulatedSubscriber() as receiver,
        SimulatedProvider(options) as provider,
    ):
        receiver.fail("mine")
        task_id = await provider.submit(receiver.url("mine"), operation="wav")
        report = await provider.drain()
        details = provider.details(task_id)

    assert report.gave_up == 1
    assert len(receiver.requests("mine")) == 4
    assert details is not None
    assert details["data"]["successFlag"] == "CALLBACK_EXCEPTION"
    assert details["data"]["response"]["audioWavUrl"]
