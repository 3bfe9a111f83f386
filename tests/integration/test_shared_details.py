"""Files of one task ask the provider once for all of them."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import pytest
from pydantic import SecretStr

from pipeline.errors import ProviderUnavailable
from pipeline.provider.client import ProviderClient
from pipeline.task import AssetKey, TaskId
from pipeline.workers.shared_details import MOST_ANSWERS, SharedDetails, Told
from tests.callbacks import TASK, make_record_info
from tests.file_server import FileServer, answer, silent
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


PATH: Final = "/api/v1/generate/record-info"
FILES: Final = [
    AssetKey(task_id=TASK, track_id=f"track-{number}", kind="audio")
    for number in range(5)
]


@pytest.fixture
async def api() -> AsyncIterator[FileServer]:
    """The provider's API; it knows one task."""
    async with FileServer() as running:
        running.add(PATH, answer(make_record_info()))
        yield running


@pytest.fixture
async def client(api: FileServer) -> AsyncIterator[ProviderClient]:
    """An open client, in no hurry."""
    key = SecretStr("the-key")
    async with ProviderClient(api.url(""), key, rate_per_second=1000) as opened:
        yield opened


@pytest.fixture
def shared(client: ProviderClient) -> SharedDetails:
    """What is under test."""
    return SharedDetails(client)


async def ask(shared: SharedDetails, key: AssetKey, task_id: TaskId = TASK) -> Told:
    return await shared.details(task_id, "upload-extend", key)


async def is_asked(api: FileServer, count: int) -> bool:
    return len(api.requests) >= count


async def test_files_that_ask_together_share_one_question(
    shared: SharedDetails, api: FileServer
) -> None:
    answers = await asyncio.gather(*(ask(shared, key) for key in FILES))

    assert not any(told.is_kept for told in answers)
    assert {make_record_info()} == {told.details.body for told in answers}
    assert 1 == len(api.requests)


async def test_files_that_ask_a_little_later_have_the_same_answer(
    shared: SharedDetails, api: FileServer
) -> None:
    told = [await ask(shared, key) for key in FILES]

    assert 1 == len(api.requests)
    assert [False, True, True, True, True] == [one.is_kept for one in told]


async def test_a_file_that_asks_again_has_a_new_answer(
    shared: SharedDetails, api: FileServer
) -> None:
    """The one that it had has not helped; the new one is for the others, too."""
    for key in FILES:
        await ask(shared, key)

    for key in FILES:
        await ask(shared, key)

    assert 2 == len(api.requests)


async def test_an_old_answer_serves_nobody(
    client: ProviderClient, api: FileServer
) -> None:
    shared = SharedDetails(client, kept_for=timedelta(seconds=-1))

    for key in FILES[:2]:
        await ask(shared, key)

    assert 2 == len(api.requests)


async def test_tasks_do_not_share_their_answers(
    shared: SharedDetails, api: FileServer
) -> None:
    await ask(shared, FILES[0])
    await ask(shared, FILES[1], TaskId("another"))

    assert 2 == len(api.requests)


async def test_no_answer_is_shared_by_those_who_wait_for_it_and_not_kept(
    shared: SharedDetails, api: FileServer
) -> None:
    api.add(PATH, answer(status=503))
    found = await asyncio.gather(
        *(ask(shared, key) for key in FILES), return_exceptions=True
    )
    asked = len(api.requests)
    api.add(PATH, answer(make_record_info()))

    told = await ask(shared, FILES[0])

    assert [ProviderUnavailable] * len(FILES) == [type(one) for one in found]
    assert 1 == asked
    assert make_record_info() == told.details.body


async def test_one_that_gives_up_leaves_the_question_to_the_next(
    shared: SharedDetails, api: FileServer
) -> None:
    api.add(PATH, silent())
    first = asyncio.create_task(ask(shared, FILES[0]))
    await eventually(lambda: is_asked(api, 1))
    second = asyncio.create_task(ask(shared, FILES[1]))
    await asyncio.sleep(0)
    api.add(PATH, answer(make_record_info()))

    first.cancel()
    await asyncio.wait({first})

    assert make_record_info() == (await second).details.body
    assert 2 == len(api.requests)


async def test_answers_are_kept_in_bounded_memory(shared: SharedDetails) -> None:
    for number in range(MOST_ANSWERS * 2):
        await ask(shared, FILES[0], TaskId(f"task-{number}"))

    assert len(shared._shared) <= MOST_ANSWERS
