"""The provider's files are real, and their links live as long as they should."""

from __future__ import annotations

import hashlib
import io
import sys
import wave
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

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

FAST = ProviderOptions(time_scale=1000)


@asynccontextmanager
async def client(provider: SimulatedProvider) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(provider.url) as session:
        yield session


async def played(
    provider: SimulatedProvider, options: ScenarioOptions
) -> tuple[TaskPlan, ...]:
    """Play a scenario against a receiver that takes everything."""
    scenario = plan_scenario(options)
    async with SimulatedSubscriber() as receiver:
        await provider.run(scenario, callback_url=receiver.url("any"))
    return scenario.tasks


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
    options = replace(FAST, link_lifetime=timedelta(days=1))
    async with SimulatedProvider(options) as provider, client(provider) as session:
        file = (await played(provider, replace(PLAIN, tasks=1)))[0].files[0]
        link = provider.link(file.path)

        async def ask(link: str) -> int:
            async with session.get(link) as answer:
                return answer.status

        early = await ask(link)
        provider.clock.advance(timedelta(days=1))
        late = await ask(link)
        again = await ask(provider.link(file.path))

    assert (200, 403, 200) == (early, late, again)


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


async def test_there_is_audio_to_submit_that_can_be_decoded() -> None:
    async with (
        SimulatedProvider(FAST) as provider,
        client(provider) as session,
        session.get(provider.source_url) as answer,
    ):
        content = await answer.read()

    with wave.open(io.BytesIO(content)) as audio:
        assert audio.getnframes() / audio.getframerate() > 2
    assert ("audio/wav", 200) == (answer.content_type, answer.status)
