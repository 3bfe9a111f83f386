"""The provider's client against a server whose every answer a test decides."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from pydantic import SecretStr

from pipeline.errors import (
    ProviderError,
    ProviderRefused,
    ProviderUnavailable,
    TaskNotFound,
)
from pipeline.provider import session as session_module
from pipeline.provider.callback import OPERATIONS
from pipeline.provider.client import ProviderClient
from pipeline.provider.door import generic_door
from pipeline.task import TaskId
from tests.callbacks import TASK, make_record_info
from tests.file_server import FileServer, answer, silent
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.file_server import Answer

PATH = "/api/v1/generate/record-info"
#: A header that is no UTF-8.
NO_TEXT = b"HTTP/1.1 200 OK\r\nContent-Encoding: \xff\xfe\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture
async def server() -> AsyncIterator[FileServer]:
    """The provider's API."""
    async with FileServer() as running:
        yield running


@pytest.fixture
async def client(server: FileServer) -> AsyncIterator[ProviderClient]:
    """The client under test, in no hurry."""
    async with make_client(server) as opened:
        yield opened


def make_client(server: FileServer, **changes: Any) -> ProviderClient:
    values: dict[str, Any] = {"timeout": timedelta(seconds=5), "rate_per_second": 1000}
    values |= changes
    return ProviderClient(server.url(""), SecretStr("the-key"), **values)


def coded(code: int, *, status: int = 200, message: str = "told so") -> Answer:
    """Answer with a code and nothing else."""
    body = orjson.dumps({"code": code, "msg": message, "data": None})
    return answer(body, status=status)


async def test_details_are_asked_for_with_the_key(
    client: ProviderClient, server: FileServer
) -> None:
    server.add(PATH, answer(make_record_info()))

    details = await client.details(TASK, "upload-extend")

    (request,) = server.requests
    assert (details.body, details.operation) == (make_record_info(), "upload-extend")
    assert (request.method, request.target) == ("GET", f"{PATH}?taskId={TASK}")
    assert "Bearer the-key" == request.headers["authorization"]
    assert "cookie" not in request.headers


async def test_task_id_from_outside_stays_one_value_of_the_query(
    client: ProviderClient, server: FileServer
) -> None:
    server.add(PATH, answer(make_record_info()))

    await client.details(TaskId("a&taskId=b#/../?c=d e"), "generate")

    target = server.requests[0].target
    assert f"{PATH}?taskId=a%26taskId%3Db%23/../?c%3Dd+e" == target


@pytest.mark.parametrize("operation", sorted(OPERATIONS))
async def test_every_operation_can_be_asked_for(
    operation: str, client: ProviderClient, server: FileServer
) -> None:
    call = generic_door().find_details(operation)
    assert call is not None
    server.add(call.path, answer(make_record_info()))

    await client.details(TASK, operation)

    name = "task_id" if operation == "recovery" else "taskId"
    assert f"{call.path}?{name}={TASK}" == server.requests[0].target


async def test_operation_that_nobody_knows_is_not_asked_for(
    client: ProviderClient, server: FileServer
) -> None:
    with pytest.raises(TaskNotFound, match="'tango'"):
        await client.details(TASK, "tango")

    assert [] == server.requests


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (coded(400), TaskNotFound),
        (coded(422), TaskNotFound),
        (coded(401), ProviderRefused),
        (coded(401, status=401), ProviderRefused),
        (coded(433), ProviderRefused),
        # The address is wrong, or there is maintenance: no word about the task.
        (coded(404), ProviderUnavailable),
        (coded(404, status=404), ProviderUnavailable),
        (coded(400, status=400), ProviderUnavailable),
        (coded(455), ProviderUnavailable),
        (coded(500), ProviderUnavailable),
        (coded(200, status=500), ProviderUnavailable),
        (answer(status=302, headers={"Location": PATH}), ProviderUnavailable),
        (answer(b"<html>"), ProviderUnavailable),
        (answer(b"[]"), ProviderUnavailable),
        (answer(b'{"data": null}'), ProviderUnavailable),
        (answer(b"[" * 5000), ProviderUnavailable),
        (answer(b"x", headers={"Content-Encoding": "gzip"}), ProviderUnavailable),
        (silent(NO_TEXT), ProviderUnavailable),
        (answer(b"{}", length=100), ProviderUnavailable),
        (silent(b"no HTTP at all\r\n\r\n"), ProviderUnavailable),
    ],
)
async def test_both_status_and_code_must_be_good(
    how: Answer,
    expected: type[ProviderError],
    client: ProviderClient,
    server: FileServer,
) -> None:
    server.add(PATH, how)

    with pytest.raises(ProviderError) as caught:
        await client.details(TASK, "generate")

    assert expected is type(caught.value)
    assert "the-key" not in str(caught.value)
    assert str(caught.value).isascii()
    assert 1 == len(server.requests)


async def test_pause_that_the_provider_asks_for_is_passed_on(
    client: ProviderClient, server: FileServer
) -> None:
    server.add(PATH, answer(status=429, headers={"Retry-After": "90"}))

    with pytest.raises(ProviderUnavailable) as caught:
        await client.details(TASK, "generate")

    assert timedelta(seconds=90) == caught.value.after


async def test_answer_has_a_deadline(server: FileServer) -> None:
    server.add(PATH, silent(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"))

    async with make_client(server, timeout=timedelta(milliseconds=200)) as client:
        with pytest.raises(ProviderUnavailable, match=r"within 0\.2 s"):
            await client.details(TASK, "generate")


async def test_answer_has_a_limit(
    client: ProviderClient, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "ANSWER_BYTES", 1000)
    server.add(PATH, answer(make_record_info(param="x" * 1000)))

    with pytest.raises(ProviderUnavailable, match="at most 1000 bytes"):
        await client.details(TASK, "generate")


async def test_nobody_there_is_unavailable(server: FileServer) -> None:
    async with make_client(server) as client:
        await server.__aexit__(None, None, None)

        with pytest.raises(ProviderUnavailable, match="ConnectorError"):
            await client.details(TASK, "generate")


async def test_no_more_questions_at_a_time_than_allowed(server: FileServer) -> None:
    server.add(PATH, silent())

    async with make_client(server, concurrency=2) as client:
        questions = [
            asyncio.create_task(client.details(TASK, "generate")) for _ in range(5)
        ]

        async def are_two() -> bool:
            return len(server.requests) == 2

        await eventually(are_two)
        for question in questions:
            question.cancel()
        await asyncio.gather(*questions, return_exceptions=True)

    assert 2 == len(server.requests)


async def test_no_more_questions_in_a_second_than_allowed(server: FileServer) -> None:
    server.add(PATH, answer(make_record_info()))
    loop = asyncio.get_running_loop()

    async with make_client(server, rate_per_second=20) as client:
        started = loop.time()
        await asyncio.gather(*(client.details(TASK, "generate") for _ in range(5)))

    assert loop.time() - started >= 4 / 20


async def test_question_that_is_given_up_takes_no_turn_away(
    server: FileServer,
) -> None:
    """Or turns would move away from those who wait, for as long as many come."""
    server.add(PATH, answer(make_record_info()))
    loop = asyncio.get_running_loop()
    # With room for all of them: what they wait for is their turn.
    async with make_client(server, rate_per_second=4, concurrency=100) as client:
        await client.details(TASK, "generate")
        waiting = [
            asyncio.create_task(client.details(TaskId(f"t-{n}"), "generate"))
            for n in range(60)
        ]
        given_up = asyncio.gather(*waiting, return_exceptions=True)
        loop.call_later(0.05, given_up.cancel)
        await asyncio.wait(waiting)
        began = loop.time()

        await client.details(TASK, "generate")

        # Behind them all it would be 15 s.
        assert loop.time() - began < 10
