"""Submitting through the client: what is sent, and what each answer means."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from pydantic import SecretStr

from pipeline.errors import (
    AlreadyThere,
    OutcomeUnknown,
    ProviderError,
    ProviderRefused,
    ProviderUnavailable,
    SourceUnusable,
    SubmissionRefused,
    TaskNotFound,
)
from pipeline.provider.calls import AT_ONCE
from pipeline.provider.client import ProviderClient
from pipeline.provider.door import Door, door_of
from pipeline.provider.requests import REQUESTS
from pipeline.settings import load_settings
from pipeline.task import TaskId
from tests.file_server import FileServer, answer, silent
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.file_server import Answer

CALLBACK = "https://hooks.example.com/callbacks/generate/a-token"
PATH = "/api/v1/generate"
FIELDS: dict[str, Any] = {"prompt": "copper lanterns", "model": "V5"}
S, K = "sunoapi-org", "kie-ai"


@pytest.fixture
async def server() -> AsyncIterator[FileServer]:
    """The provider's API."""
    async with FileServer() as running:
        yield running


def door(name: str, **limits: Any) -> Door:
    settings = load_settings(environ={}, flags={"provider.door": name}).settings
    found = door_of(settings)
    if limits:
        changed = found.limits.model_copy(update=limits)
        settings_of_it = found.settings.model_copy(update={"limits": changed})
        return replace(found, settings=settings_of_it)
    return found


def make_client(server: FileServer, at: str = S, **changes: Any) -> ProviderClient:
    values: dict[str, Any] = {
        "door": door(at),
        "timeout": timedelta(seconds=5),
        "rate_per_second": 1000,
        "submit_timeout": timedelta(seconds=5),
        "submit_waits": (),
    }
    return ProviderClient(server.url(""), SecretStr("the-key"), **(values | changes))


def accepted(**data: Any) -> Answer:
    body = {"code": 200, "msg": "success", "data": data}
    return answer(orjson.dumps(body))


def coded(code: object, *, status: int = 200, **headers: str) -> Answer:
    body = orjson.dumps({"code": code, "msg": "told so", "data": None})
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return answer(body, status=status, headers=named)


def in_turn(*answers: Answer) -> Answer:
    """Answer with one after the other, then with the last again."""
    left = [*answers]

    async def write(writer: asyncio.StreamWriter) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(writer)

    return write


async def submit(client: ProviderClient) -> TaskId:
    return await client.submit("generate", FIELDS, callback_url=CALLBACK)


@pytest.mark.parametrize("spelling", ["taskId", "task_id"])
async def test_submission_carries_key_fields_and_callback_address(
    server: FileServer, spelling: str
) -> None:
    server.add(PATH, accepted(**{spelling: "t-1"}))

    async with make_client(server) as client:
        task_id = await submit(client)

    (request,) = server.requests
    assert "t-1" == task_id
    assert ("POST", PATH) == (request.method, request.target)
    assert FIELDS | {"callBackUrl": CALLBACK} == orjson.loads(request.body)
    assert "Bearer the-key" == request.headers["authorization"]
    assert "application/json" == request.headers["content-type"]


@pytest.mark.parametrize("operation", sorted({*REQUESTS} - {"recovery"}))
async def test_every_operation_has_its_path(server: FileServer, operation: str) -> None:
    call = door(S).find_submit(operation)
    assert call is not None
    server.add(call.path, accepted(taskId="t-1"))

    async with make_client(server) as client:
        await client.submit(operation, {}, callback_url=CALLBACK)

    assert call.path == server.requests[0].target


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (S, {"sunoTaskId": "t-1", "callBackUrl": CALLBACK}),
        (K, {"task_id": "t-1", "call_back_url": CALLBACK}),
    ],
)
async def test_recovery_is_spelled_as_the_door_does(
    server: FileServer, at: str, expected: dict[str, str]
) -> None:
    server.add("/api/v1/suno/recovery", accepted(task_id="r-1"))

    async with make_client(server, at) as client:
        recovering = await client.recover(TaskId("t-1"), callback_url=CALLBACK)

    assert "r-1" == recovering
    assert expected == orjson.loads(server.requests[0].body)


async def test_operation_that_the_door_does_not_take_is_not_sent(
    server: FileServer,
) -> None:
    async with make_client(server) as client:
        with pytest.raises(SubmissionRefused, match="'tango'"):
            await client.submit("tango", {}, callback_url=CALLBACK)

    assert [] == server.requests


@pytest.mark.parametrize(
    ("code", "at", "expected"),
    [
        (400, S, SubmissionRefused),
        (413, S, SubmissionRefused),
        (422, K, SubmissionRefused),
        (451, S, SourceUnusable),
        (409, K, AlreadyThere),
        (401, S, ProviderRefused),
        (402, K, ProviderRefused),
        (433, K, ProviderRefused),
        (505, K, ProviderRefused),
        (429, S, ProviderRefused),
        (429, "api-box", ProviderRefused),
        (429, K, ProviderUnavailable),
        (405, S, ProviderUnavailable),
        (430, S, ProviderUnavailable),
        (408, K, ProviderUnavailable),
        (455, S, ProviderUnavailable),
        (500, S, ProviderUnavailable),
        (501, K, ProviderUnavailable),
        (531, K, ProviderUnavailable),
        ("400", S, SubmissionRefused),
    ],
)
async def test_code_means_what_the_door_says_also_with_http_200(
    server: FileServer, code: object, at: str, expected: type[ProviderError]
) -> None:
    server.add(PATH, coded(code))

    async with make_client(server, at) as client:
        with pytest.raises(ProviderError) as caught:
            await submit(client)

    assert expected is type(caught.value)
    assert door(at).failure(int(str(code))).advice in str(caught.value)
    assert (int(str(code)), 1) == (caught.value.code, len(server.requests))
    assert "the-key" not in str(caught.value)


@pytest.mark.parametrize("spelling", ["taskId", "task_id"])
async def test_what_is_there_already_names_the_earlier_task(
    server: FileServer, spelling: str
) -> None:
    said = {"code": 409, "msg": "exists", "data": {spelling: "t-0"}}
    server.add(PATH, answer(orjson.dumps(said)))

    async with make_client(server, K) as client:
        with pytest.raises(AlreadyThere) as caught:
            await submit(client)

    assert ("t-0", 409) == (caught.value.task_id, caught.value.code)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (answer(status=401), ProviderRefused),
        (answer(status=403), ProviderRefused),
        (answer(status=302, headers={"Location": PATH}), ProviderRefused),
        (answer(status=422), SubmissionRefused),
        # No word of credits: a gateway, which has not passed it on.
        (answer(status=429), ProviderUnavailable),
        (coded(500, status=500), ProviderUnavailable),
    ],
)
async def test_status_without_a_code_means_what_http_says(
    server: FileServer, how: Answer, expected: type[ProviderError]
) -> None:
    server.add(PATH, how)

    async with make_client(server) as client:
        with pytest.raises(ProviderError) as caught:
            await submit(client)

    assert expected is type(caught.value)


@pytest.mark.parametrize(
    "how",
    [
        answer(status=502),
        answer(b"<html>bad gateway", status=504),
        coded(504, status=504),
        answer(b"<html>"),
        answer(b'{"data": {}}'),
        accepted(),
        accepted(taskId="\n"),
        accepted(taskId="x" * 200),
        # Refused, and accepted, at once.
        answer(b'{"code": 500, "data": {"taskId": "t-1"}}'),
        answer(b"{}", length=100),
        answer(b"x", headers={"Content-Encoding": "gzip"}),
        silent(b"no HTTP at all\r\n\r\n"),
        silent(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"),
        silent(),
    ],
)
async def test_outcome_that_is_unknown_is_said_and_never_sent_again(
    server: FileServer, how: Answer
) -> None:
    """It would be paid for twice."""
    server.add(PATH, how)
    changes: dict[str, Any] = {
        "submit_timeout": timedelta(milliseconds=300),
        "submit_waits": (timedelta(0),) * 3,
    }

    async with make_client(server, **changes) as client:
        with pytest.raises(OutcomeUnknown, match="may have been accepted"):
            await submit(client)

    assert 1 == len(server.requests)


async def test_nobody_there_is_no_unknown_outcome(server: FileServer) -> None:
    async with make_client(server) as client:
        await server.__aexit__(None, None, None)

        with pytest.raises(ProviderUnavailable, match="ConnectorError"):
            await submit(client)


async def test_refusal_for_the_moment_is_tried_again(server: FileServer) -> None:
    server.add(PATH, in_turn(coded(500), coded(455), accepted(taskId="t-1")))

    async with make_client(server, submit_waits=(timedelta(0),) * 3) as client:
        assert "t-1" == await submit(client)

    assert 3 == len(server.requests)


async def test_tries_come_to_an_end(server: FileServer) -> None:
    server.add(PATH, coded(500))

    async with make_client(server, submit_waits=(timedelta(0),) * 3) as client:
        with pytest.raises(ProviderUnavailable):
            await submit(client)

    assert 4 == len(server.requests)


async def test_code_that_nobody_knows_gets_one_more_attempt(server: FileServer) -> None:
    server.add(PATH, coded(777))

    async with make_client(server, submit_waits=(timedelta(0),) * 3) as client:
        with pytest.raises(ProviderUnavailable):
            await submit(client)

    assert 2 == len(server.requests)


async def test_pause_is_the_one_asked_for_or_the_doors(server: FileServer) -> None:
    server.add(PATH, in_turn(coded(430, Retry_After="7"), coded(430), coded(500)))

    async with make_client(server) as client:
        pauses = []
        for _ in range(3):
            with pytest.raises(ProviderUnavailable) as caught:
                await submit(client)
            pauses.append(caught.value.after)

    assert [timedelta(seconds=7), timedelta(seconds=10), None] == pauses


async def test_nobody_waits_for_an_hour(server: FileServer) -> None:
    server.add(PATH, coded(430, Retry_After="3600"))

    async with make_client(server, submit_waits=(timedelta(0),) * 3) as client:
        with pytest.raises(ProviderUnavailable):
            await submit(client)

    assert 1 == len(server.requests)


async def test_secrets_do_not_come_back_in_messages(server: FileServer) -> None:
    said = f"cannot reach {CALLBACK} with the-key"
    server.add(PATH, answer(orjson.dumps({"code": 400, "msg": said})))

    async with make_client(server) as client:
        with pytest.raises(SubmissionRefused) as caught:
            await submit(client)

    assert "cannot reach *** with ***" in str(caught.value)


async def test_no_more_submissions_than_the_door_takes(server: FileServer) -> None:
    """So many at once, and further ones when their time is over."""
    may_answer = asyncio.Event()

    async def held(writer: asyncio.StreamWriter) -> None:
        await may_answer.wait()
        await accepted(taskId="t-1")(writer)

    server.add(PATH, held)
    slow = door(S, submits=3, submit_window=timedelta(milliseconds=400))
    loop = asyncio.get_running_loop()

    async def are_three() -> bool:
        return len(server.requests) == 3

    patience = timedelta(seconds=30)
    async with make_client(server, door=slow, submit_timeout=patience) as client:
        ends: list[float] = []

        async def one() -> None:
            await submit(client)
            ends.append(loop.time() - answered_at)

        submissions = [asyncio.create_task(one()) for _ in range(7)]
        # None of them has an answer, so nothing but the limit holds up the others.
        await eventually(are_three)
        answered_at = loop.time()
        may_answer.set()
        await asyncio.gather(*submissions)

    assert ends[3] >= 0.4
    assert ends[6] >= 0.8


async def test_task_is_asked_for_no_more_often_than_the_door_takes(
    server: FileServer,
) -> None:
    """Other tasks do not wait for it."""
    server.add("/api/v1/generate/record-info", coded(200))
    loop = asyncio.get_running_loop()

    async with make_client(server) as client:
        started = loop.time()
        others = (client.details(TaskId(f"t-{n}"), "generate") for n in range(20))
        await asyncio.gather(*others)
        others_took = loop.time() - started
        same = (client.details(TaskId("t-1"), "generate") for _ in range(3))
        await asyncio.gather(*same)

    # If they waited for each other, it would be 7 s and more.
    assert others_took < 5
    assert loop.time() - started >= 0.9


@pytest.mark.parametrize(
    ("at", "path"), [(S, "/api/v1/generate/credit"), (K, "/api/v1/chat/credit")]
)
async def test_credits_are_asked_for_where_the_door_has_them(
    server: FileServer, at: str, path: str
) -> None:
    server.add(path, answer(b'{"code": 200, "data": 93.5}'))

    async with make_client(server, at) as client:
        assert 93.5 == await client.credits()


@pytest.mark.parametrize("at", ["generic", "musicapi-ai"])
async def test_credits_of_a_door_that_tells_none(server: FileServer, at: str) -> None:
    async with make_client(server, at) as client:
        with pytest.raises(ProviderUnavailable, match="no call for credits"):
            await client.credits()


async def test_credits_that_are_no_number(server: FileServer) -> None:
    server.add("/api/v1/generate/credit", answer(b'{"code": 200, "data": {}}'))

    async with make_client(server) as client:
        with pytest.raises(ProviderUnavailable, match="number of credits"):
            await client.credits()


async def test_link_is_made_anew(server: FileServer) -> None:
    fresh = "https://files.example.com/a.mp3?signed=1"
    body = orjson.dumps({"code": 200, "data": fresh})
    server.add("/api/v1/common/download-url", answer(body))

    async with make_client(server, K) as client:
        assert fresh == await client.fresh_link("https://files.example.com/a.mp3")

    sent = orjson.loads(server.requests[0].body)
    assert {"url": "https://files.example.com/a.mp3"} == sent


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (coded(422), TaskNotFound),
        (coded(404, status=404), TaskNotFound),
        (coded(401), ProviderRefused),
        (coded(500), ProviderUnavailable),
        (answer(b'{"code": 200, "data": "javascript:alert(1)"}'), ProviderUnavailable),
        (answer(b'{"code": 200, "data": null}'), ProviderUnavailable),
        (silent(b"no HTTP at all\r\n\r\n"), ProviderUnavailable),
    ],
)
async def test_link_that_cannot_be_made_anew(
    server: FileServer, how: Answer, expected: type[ProviderError]
) -> None:
    server.add("/api/v1/common/download-url", how)

    async with make_client(server, K) as client:
        with pytest.raises(ProviderError) as caught:
            await client.fresh_link("https://files.example.com/a.mp3")

    assert expected is type(caught.value)


async def test_door_that_makes_no_links_is_not_asked(server: FileServer) -> None:
    async with make_client(server, S) as client:
        with pytest.raises(TaskNotFound, match="makes no links"):
            await client.fresh_link("https://files.example.com/a.mp3")

    assert [] == server.requests


@pytest.mark.parametrize("name", sorted(AT_ONCE))
async def test_what_is_answered_at_once_gives_its_data(
    server: FileServer, name: str
) -> None:
    server.add(AT_ONCE[name], answer(b'{"code": 200, "data": {"result": "calm"}}'))

    async with make_client(server) as client:
        assert {"result": "calm"} == await client.at_once(name, {"content": "quiet"})
