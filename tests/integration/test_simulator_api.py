"""The provider's endpoints and files behave as documented, over real HTTP."""

from __future__ import annotations

import asyncio
import hashlib
import io
import sys
import wave
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import aiohttp
import av
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

    from pipeline.simulator.plan import FilePlan, TaskPlan

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
    """Accepted at once, then three callbacks, then SUCCESS in the details."""
    async with (
        SimulatedSubscriber() as receiver,
        SimulatedProvider(FAST) as provider,
        client(provider) as session,
    ):
        body = make_submission(receiver.url("mine"))
        status, answer = await json_of(session, "POST", SUBMIT, json=body)
        task_id = answer["data"]["taskId"]
        _, early = await json_of(session, "GET", DETAILS, params={"taskId": task_id})
        report = await provider.drain()
        _, late = await json_of(session, "GET", DETAILS, params={"taskId": task_id})

    assert status == answer["code"] == 200
    assert answer["msg"] == "success"
    assert early["data"]["status"] == "PENDING"
    assert early["data"]["response"] is None
    assert late["data"]["status"] == "SUCCESS"
    assert late["data"]["operationType"] == "upload_extend"
    bodies = [request.json() for request in receiver.requests("mine")]
    assert [body["data"]["task_id"] for body in bodies] == [task_id] * 3
    assert report.callbacks_accepted == 3


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


@pytest.mark.parametrize(("door", "code"), [("S", 429), ("K", 402)])
async def test_an_empty_account_is_refused(door: Any, code: int) -> None:
    options = replace(FAST, door=door, credits=1)
    body = make_submission("http://127.0.0.1:9/callback")

    async with SimulatedProvider(options) as provider, client(provider) as session:
        await json_of(session, "POST", SUBMIT, json=body)
        _, left = await json_of(session, "GET", "/api/v1/generate/credit")
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


async def test_every_file_of_a_run_is_real() -> None:
    """Audio decodes, pictures decode, and the digest is the one announced."""
    async with SimulatedProvider(FAST) as provider, client(provider) as session:
        tasks = await played(
            provider, ScenarioOptions(tasks=6, seed=4, oddity_rate=1, expired_rate=0)
        )
        files = [file for task in tasks for file in task.files]
        bodies = {file.path: await fetch(session, provider, file) for file in files}
        known = {file.path: await provider.content(file.path) for file in files}

    assert len({hashlib.sha256(body).digest() for body in bodies.values()}) == 24
    assert {file.file_format for file in files} >= {"mp3", "png", "jpeg"}
    for file in files:
        body = bodies[file.path]
        assert hashlib.sha256(body).hexdigest() == known[file.path].sha256
        with av.open(io.BytesIO(body), "r") as container:
            frames = list(container.decode(**{stream_kind(file): 0}))
        assert len(frames) >= 1


async def test_without_av_files_are_wav_and_png(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The wheel alone, without the extra, offers real files too."""
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setitem(sys.modules, "numpy", None)

    async with SimulatedProvider(FAST) as provider, client(provider) as session:
        tasks = await played(
            provider, ScenarioOptions(tasks=6, oddity_rate=1, expired_rate=0)
        )
        files = [file for task in tasks for file in task.files]
        bodies = {file.path: await fetch(session, provider, file) for file in files}

    assert {file.file_format for file in files} == {"wav", "png"}
    for file in files:
        if file.kind == "audio":
            with wave.open(io.BytesIO(bodies[file.path]), "rb") as read:
                assert read.getnframes() / read.getframerate() > 2
        else:
            assert bodies[file.path].startswith(b"\x89PNG")


async def test_files_with_odd_addresses_and_types_are_served() -> None:
    """An address with spaces, and a type that says nothing."""
    async with SimulatedProvider(FAST) as provider, client(provider) as session:
        tasks = await played(provider, ScenarioOptions(tasks=12, oddity_rate=1))
        audio = [track.audio for task in tasks for track in task.tracks]
        alive = [file for file in audio if not file.expiry]
        spaced = next(file for file in alive if " " in file.path)
        plain = next(f for f in alive if f.content_type == "application/octet-stream")

        async with session.get(provider.link(spaced.path)) as answer:
            assert answer.status == 200
        async with session.get(provider.link(plain.path)) as answer:
            assert answer.headers["Content-Type"] == "application/octet-stream"
        assert {file.file_format for file in audio} == {"mp3", "m4a"}


async def test_a_range_can_be_asked_for() -> None:
    """A download that was cut goes on where it stopped, if the file is the same."""
    async with SimulatedProvider(FAST) as provider, client(provider) as session:
        file = (await played(provider, replace(PLAIN, tasks=1)))[0].files[0]
        whole = (await provider.content(file.path)).data
        link = provider.link(file.path)

        async def ask(**headers: str) -> tuple[int, bytes, str]:
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            async with session.get(link, headers=sent) as answer:
                body = await answer.read()
                return answer.status, body, answer.headers.get("Content-Range", "")

        async with session.head(link) as head:
            etag = head.headers["ETag"]
            assert head.headers["Accept-Ranges"] == "bytes"
            assert head.content_length == len(whole)
        size = len(whole)
        rest = f"bytes 100-{size - 1}/{size}"
        assert await ask(Range="bytes=100-") == (206, whole[100:], rest)
        assert (await ask(Range="bytes=0-9"))[:2] == (206, whole[:10])
        assert (await ask(Range="bytes=-7"))[:2] == (206, whole[-7:])
        assert await ask(Range=f"bytes={size}-") == (416, b"", f"bytes */{size}")
        assert (await ask(Range="lines=1-2"))[:2] == (200, whole)
        assert (await ask(Range="bytes=5-", If_Range=etag))[:2] == (206, whole[5:])
        assert (await ask(Range="bytes=5-", If_Range='"old"'))[:2] == (200, whole)
        assert (await ask(If_None_Match=etag))[0] == 304


async def test_links_expire_on_the_simulated_clock() -> None:
    options = replace(FAST, link_lifetime=timedelta(minutes=25))
    async with SimulatedProvider(options) as provider, client(provider) as session:
        file = (await played(provider, replace(PLAIN, tasks=1)))[0].files[0]
        link = provider.link(file.path)

        async with session.get(link) as answer:
            early = answer.status
        async with asyncio.timeout(10):
            while early == 200:
                async with session.get(link) as answer:
                    if answer.status != 200:
                        break
        async with session.get(provider.link(file.path)) as renewed:
            again = renewed.status

    assert early == 200
    assert answer.status == 403
    assert again == 200


async def test_links_that_are_not_ours_are_refused() -> None:
    async with SimulatedProvider(FAST) as provider, client(provider) as session:
        file = (await played(provider, replace(PLAIN, tasks=1)))[0].files[0]
        link = provider.link(file.path)
        cases = {
            link.split("?", maxsplit=1)[0]: 403,
            link.replace("Signature=", "Signature=0"): 403,
            link.replace("/files/", "/files/other-"): 404,
        }

        for address, status in cases.items():
            async with session.get(address) as answer:
                assert answer.status == status


async def test_a_dead_link_answers_its_status_and_a_fresh_one_may_help() -> None:
    """Half of the files are gone for good, the others only their links."""
    options = ScenarioOptions(
        tasks=8, failure_rate=0, expired_rate=1, renewable_rate=0.5, missing_rate=0
    )
    async with SimulatedProvider(FAST) as provider, client(provider) as session:
        tasks = await played(provider, options)
        told = links_told(provider)
        seen = {}
        for file in (file for task in tasks for file in task.files if file.expiry):
            assert file.expiry is not None
            async with session.get(told[file.path]) as answer:
                assert answer.status == file.expiry.status
            async with session.get(provider.link(file.path)) as answer:
                assert (answer.status == 200) is file.expiry.renewable
            seen[file.expiry] = file

    assert {expiry.status for expiry in seen} == {403, 404, 410, 441}
    assert {expiry.renewable for expiry in seen} == {True, False}


async def test_a_direct_link_can_be_asked_for() -> None:
    """Ours get one for twenty minutes; foreign addresses are refused with 422."""
    path = "/api/v1/common/download-url"
    async with SimulatedProvider(FAST) as provider, client(provider) as session:
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


async def test_streams_are_empty_and_upstream_originals_are_gone() -> None:
    """Who takes them for the final file gets nothing, as in life."""
    async with SimulatedProvider(FAST) as provider, client(provider) as session:
        track = (await played(provider, replace(PLAIN, tasks=1)))[0].tracks[0]
        async with session.get(track.stream_path) as stream:
            assert (stream.status, await stream.read()) == (200, b"")
        async with session.get(f"/upstream/{track.audio_id}.mp3") as upstream:
            assert upstream.status == 403


async def test_a_file_can_be_made_to_fail_for_a_while() -> None:
    async with SimulatedProvider(FAST) as provider, client(provider) as session:
        file = (await played(provider, replace(PLAIN, tasks=1)))[0].files[0]
        provider.files.fail_next(file.path, 503, times=2)
        statuses = []
        for _ in range(3):
            async with session.get(provider.link(file.path)) as answer:
                statuses.append(answer.status)
        agent = {"User-Agent": "Python-urllib/3.11"}
        async with session.get(provider.link(file.path), headers=agent) as answer:
            statuses.append(answer.status)

    assert statuses == [503, 503, 200, 403]
    assert provider.files.requests[file.path] == 4


async def test_forgotten_files_are_rendered_again_byte_for_byte(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Memory stays bounded however many files a run has."""
    monkeypatch.setattr("pipeline.simulator.files.CACHE_BYTES", 1)

    async with SimulatedProvider(FAST) as provider:
        files = (await played(provider, replace(PLAIN, tasks=1)))[0].files
        first = [await provider.content(file.path) for file in files]
        again = [await provider.content(file.path) for file in files]

        assert [content.sha256 for content in first] == [c.sha256 for c in again]
        with pytest.raises(KeyError):
            await provider.content("/files/nothing.mp3")


async def test_links_can_name_another_host() -> None:
    """In containers the server is reached under another name than it listens on."""
    options = replace(FAST, public_url="http://simulator:9000/")
    async with SimulatedProvider(options) as provider:
        await played(provider, replace(PLAIN, tasks=1))

        assert all(
            link.startswith("http://simulator:9000/files/")
            for link in links_told(provider).values()
        )


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


async def fetch(
    session: aiohttp.ClientSession, provider: SimulatedProvider, file: FilePlan
) -> bytes:
    async with session.get(provider.link(file.path)) as answer:
        assert answer.status == 200, file
        return await answer.read()


def stream_kind(file: FilePlan) -> str:
    return "audio" if file.kind == "audio" else "video"


def links_told(provider: SimulatedProvider) -> dict[str, str]:
    """Read every link to a file out of the bodies that were sent."""
    texts = b" ".join(sent.body for sent in provider.sent).decode().split('"')
    links = [text for text in texts if "/files/" in text]
    return {"/files/" + link.split("/files/")[1].split("?")[0]: link for link in links}
