"""The store in a bucket: what is left behind, outages, mistakes, secrets."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
import time
import traceback
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from pipeline.assets.object_store import ObjectAssetStore
from pipeline.assets.object_upload import INCOMING, PART_BYTES
from pipeline.assets.sniff import MP3
from pipeline.assets.store import CHUNK_BYTES
from pipeline.errors import ConfigurationError, FetchFailed
from tests.file_server import FileServer, answer, head, silent
from tests.object_server import ACCESS_KEY, SECRET_KEY, ObjectServer
from tests.tcp_proxy import Direction, TcpProxy
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pipeline.task import StoredAsset

SCRIPT: Final = Path(__file__).with_name("fetch_process.py")
ROOT: Final = Path(__file__).parents[2]
#: Enough for a busy machine; nobody waits for it.
DEADLINE: Final = timedelta(seconds=20)
#: Little enough to wait for.
SHORT: Final = timedelta(seconds=3)
#: What a busy machine may take on top of a deadline.
BUSY_SECONDS: Final = 10.0
SMALL: Final = b"ID3" + b"s" * 100_000
LARGE: Final = b"ID3" + b"l" * (2 * PART_BYTES)

both_sizes = pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])


def open_bucket(bucket: str, deadline: timedelta = DEADLINE) -> ObjectAssetStore:
    return ObjectAssetStore(f"s3://{bucket}", deadline=deadline)


@pytest.fixture
async def store(bucket: str) -> AsyncIterator[ObjectAssetStore]:
    """A store in an empty bucket."""
    async with open_bucket(bucket) as opened:
        yield opened


@pytest.fixture
async def proxy(
    object_server: ObjectServer, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[TcpProxy]:
    """What stands between the store and its server."""
    endpoint = object_server.endpoint
    async with TcpProxy.to(endpoint) as opened:
        url = opened.url_for(endpoint).rstrip("/")
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        yield opened


@asynccontextmanager
async def answering(
    monkeypatch: pytest.MonkeyPatch, status: int, body: str
) -> AsyncIterator[None]:
    """Answer everything alike, in place of the real server."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n"
        writer.write(f"{head}Connection: close\r\n\r\n{body}".encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        yield


@asynccontextmanager
async def fetching(url: str, bucket: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start a process that fetches; it has ended when this is left."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(SCRIPT),
        url,
        f"s3://{bucket}",
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def put(store: ObjectAssetStore, body: bytes) -> StoredAsset:
    async with store.create(MP3) as upload:
        for start in range(0, len(body), CHUNK_BYTES):
            await upload.write(body[start : start + CHUNK_BYTES])
        return await upload.commit()


async def read(store: ObjectAssetStore, location: str) -> bytes:
    async with store.open(location) as chunks:
        return b"".join([chunk async for chunk in chunks])


def location_of(body: bytes) -> str:
    digest = hashlib.sha256(body).hexdigest()
    return f"sha256/{digest[:2]}/{digest}.mp3"


def told(error: BaseException) -> str:
    """Everything that a log could print of an error."""
    return "".join(traceback.format_exception(error))


@both_sizes
async def test_nothing_is_left_beside_a_stored_file(
    store: ObjectAssetStore, object_server: ObjectServer, bucket: str, body: bytes
) -> None:
    await put(store, body)
    await put(store, body)

    assert [location_of(body)] == object_server.keys(bucket)
    assert [] == object_server.unfinished(bucket)


@both_sizes
async def test_nothing_is_left_of_an_upload_that_was_given_up(
    store: ObjectAssetStore, object_server: ObjectServer, bucket: str, body: bytes
) -> None:
    async with store.create(MP3) as upload:
        for start in range(0, len(body), CHUNK_BYTES):
            await upload.write(body[start : start + CHUNK_BYTES])

    assert [] == object_server.keys(bucket)
    assert [] == object_server.unfinished(bucket)


async def test_nothing_is_left_of_an_upload_that_is_cancelled_in_a_request(
    store: ObjectAssetStore, object_server: ObjectServer, bucket: str
) -> None:
    """Wherever it was: also while its first part was on its way."""

    async def upload() -> None:
        async with store.create(MP3) as begun:
            await begun.write(LARGE[:PART_BYTES])
            writing.set()
            for _ in range(10):
                await begun.write(LARGE)

    for pause in (0.0, 0.005, 0.02, 0.05, 0.1):
        writing = asyncio.Event()
        task = asyncio.create_task(upload())
        await writing.wait()
        await asyncio.wait({task}, timeout=pause)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

        assert task.cancelled()
        assert [] == object_server.keys(bucket)
        assert [] == object_server.unfinished(bucket)


@both_sizes
async def test_media_type_is_that_of_the_file(
    store: ObjectAssetStore, object_server: ObjectServer, bucket: str, body: bytes
) -> None:
    stored = await put(store, body)

    found = object_server.client.head_object(Bucket=bucket, Key=stored.location)
    assert "audio/mpeg" == found["ContentType"]


@both_sizes
async def test_same_contents_are_not_written_again(
    store: ObjectAssetStore, object_server: ObjectServer, bucket: str, body: bytes
) -> None:
    client = object_server.client
    client.put_bucket_versioning(
        Bucket=bucket, VersioningConfiguration={"Status": "Enabled"}
    )

    stored = await put(store, body)
    await put(store, body)

    versions = client.list_object_versions(Bucket=bucket, Prefix=stored.location)
    assert 1 == len(versions["Versions"])


@both_sizes
async def test_a_damaged_file_is_replaced(
    store: ObjectAssetStore, object_server: ObjectServer, bucket: str, body: bytes
) -> None:
    """A hash that has another size was not stored by us."""
    key = location_of(body)
    object_server.client.put_object(Bucket=bucket, Key=key, Body=b"ID3")

    await put(store, body)

    assert body == await read(store, key)


async def test_sweep_removes_what_a_killed_process_left(
    store: ObjectAssetStore, object_server: ObjectServer, bucket: str
) -> None:
    key = f"{INCOMING}/0123.part"
    object_server.client.put_object(Bucket=bucket, Key=key, Body=b"ID3")

    young = await store.sweep(timedelta(hours=1))
    old = await store.sweep(timedelta(seconds=-5))

    assert (0, 1) == (young, old)
    assert [] == object_server.keys(bucket)


async def test_a_download_that_is_killed_is_made_again(
    store: ObjectAssetStore, object_server: ObjectServer, bucket: str
) -> None:
    """Nothing has the name of the file before all of it is there."""
    half = silent(head(headers={"Content-Length": str(len(LARGE))}) + LARGE[:-1000])

    async def has_begun() -> bool:
        return bool(await asyncio.to_thread(object_server.unfinished, bucket))

    async with FileServer() as server:
        async with fetching(server.add("/a", half), bucket) as process:
            await eventually(has_begun)
            process.kill()
            await process.wait()
        found = await store.exists(location_of(LARGE))
        async with fetching(server.add("/a", answer(LARGE)), bucket) as process:
            said, _ = await process.communicate()

    assert not found
    assert location_of(LARGE) == said.decode().strip()
    assert LARGE == await read(store, location_of(LARGE))
    assert [location_of(LARGE)] == object_server.keys(bucket)


async def test_a_bucket_that_is_not_there_is_a_mistake(bucket: str) -> None:
    with pytest.raises(ConfigurationError, match=r"s3://no-such-bucket.*NoSuchBucket"):
        async with open_bucket("no-such-bucket"):
            pass


async def test_wrong_credentials_are_a_mistake_and_not_told(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the service says of them stays out of messages and tracebacks."""
    body = (
        "<Error><Code>InvalidAccessKeyId</Code><AWSAccessKeyId>"
        f"{ACCESS_KEY}</AWSAccessKeyId><Secret>{SECRET_KEY}</Secret></Error>"
    )

    async with answering(monkeypatch, 403, body):
        with pytest.raises(ConfigurationError, match="InvalidAccessKeyId") as caught:
            async with open_bucket(bucket):
                pass

    assert ACCESS_KEY not in told(caught.value)
    assert SECRET_KEY not in told(caught.value)


async def test_no_credentials_at_all_are_a_mistake(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    # Where a machine in a cloud would ask who it is.
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1")

    with pytest.raises(ConfigurationError, match="no credentials"):
        async with open_bucket(bucket):
            pass


async def test_an_endpoint_without_tls_has_to_be_allowed(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ALLOW_HTTP")

    with pytest.raises(ConfigurationError, match="AWS_ALLOW_HTTP"):
        async with open_bucket(bucket):
            pass


@pytest.mark.parametrize(
    "url", ["s3://", "s3://key:secret@bucket", "s3://bucket?x=1", "s3://bucket/../up"]
)
def test_an_address_that_cannot_work_is_refused_and_not_told(url: str) -> None:
    with pytest.raises(ConfigurationError, match="assets_url") as caught:
        ObjectAssetStore(url, deadline=DEADLINE)

    assert "secret" not in told(caught.value)


def test_azure_wants_an_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)

    with pytest.raises(ConfigurationError, match="AZURE_STORAGE_ACCOUNT_NAME"):
        ObjectAssetStore("az://container/prefix", deadline=DEADLINE)


@both_sizes
async def test_a_server_that_is_away_fails_uploads_until_it_is_back(
    proxy: TcpProxy, bucket: str, body: bytes
) -> None:
    """No mistake of anybody: the store opens, and works as soon as it can."""
    await proxy.refuse()
    async with open_bucket(bucket) as store:
        with pytest.raises(FetchFailed) as caught:
            await put(store, body)
        with pytest.raises(FetchFailed):
            await store.exists(location_of(body))
        await proxy.accept()

        stored = await put(store, body)

        assert await store.exists(stored.location)
    assert SECRET_KEY not in told(caught.value)


@both_sizes
async def test_a_server_that_does_not_answer_is_given_up_in_time(
    proxy: TcpProxy, bucket: str, body: bytes
) -> None:
    async with open_bucket(bucket, SHORT) as store:
        proxy.hold()
        started = time.monotonic()

        with pytest.raises(FetchFailed, match="no answer within 3 s"):
            await put(store, body)

        # The call itself, the wait for it, and giving up the parts.
        longest_seconds = 4 * SHORT.total_seconds() + BUSY_SECONDS
        assert time.monotonic() - started < longest_seconds
        proxy.resume()


async def test_a_connection_that_breaks_off_is_made_again(
    proxy: TcpProxy, bucket: str, object_server: ObjectServer
) -> None:
    """One cut in the middle of an upload: nobody notices, nothing is left."""
    async with open_bucket(bucket) as store:
        proxy.cut_after(PART_BYTES // 2, Direction.TO_SERVER)

        stored = await put(store, LARGE)

        assert LARGE == await read(store, stored.location)
    assert [stored.location] == object_server.keys(bucket)


async def test_reading_that_stalls_fails(proxy: TcpProxy, bucket: str) -> None:
    async with open_bucket(bucket) as store:
        stored = await put(store, LARGE)
    async with open_bucket(bucket, SHORT) as store:

        async def read_on() -> None:
            async with store.open(stored.location) as chunks:
                async for _ in chunks:
                    proxy.hold()

        with pytest.raises(FetchFailed, match="reading"):
            await read_on()

        proxy.resume()


async def test_an_upload_that_cannot_be_given_up_keeps_nobody_waiting(
    proxy: TcpProxy, bucket: str, object_server: ObjectServer
) -> None:
    """The parts stay: that is what the bucket's rule for them is for."""

    async def has_begun() -> bool:
        return bool(await asyncio.to_thread(object_server.unfinished, bucket))

    async with open_bucket(bucket, SHORT) as store:
        async with store.create(MP3) as upload:
            await upload.write(LARGE)
            await eventually(has_begun)
            await proxy.refuse()
            proxy.cut()
            started = time.monotonic()
        taken = time.monotonic() - started

    assert taken < 3 * SHORT.total_seconds() + BUSY_SECONDS
