"""What every asset store promises; ``assets/store.py`` has the clauses."""

from __future__ import annotations

import asyncio
import hashlib
import re
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import pytest

from pipeline.assets.sniff import MP3, PNG
from pipeline.assets.store import CHUNK_BYTES, AssetStore, open_store
from pipeline.errors import AssetMissing, AssetRefused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pipeline.task import StoredAsset

BODY: Final = b"ID3" + bytes(range(256)) * 4000
#: More than one part of an upload to an object store.
LARGE_BODY: Final = b"ID3" + bytes(range(256)) * 25_000
NEVER_STORED: Final = f"sha256/ab/ab{'0' * 62}.mp3"
WRONG_LOCATIONS: Final = [
    "",
    "sha256",
    "/etc/passwd",
    "../secrets.mp3",
    f"sha256/ab/../../../ab{'0' * 62}.mp3",
    f"sha256/cd/ab{'0' * 62}.mp3",
    f"sha256/ab/ab{'0' * 62}",
    f"sha256/ab/ab{'0' * 62}.mp3\n",
    f"sha256/ab/ab{'0' * 62}.mp3/..",
    f"/sha256/ab/ab{'0' * 62}.mp3",
    f"sha256/AB/AB{'0' * 62}.mp3",
    f"sha256\\ab\\ab{'0' * 62}.mp3",
    ".incoming/0123.part",
]


@pytest.fixture(params=["folder", "file", "s3"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of an empty store."""
    if request.param == "s3":
        return f"s3://{request.getfixturevalue('bucket')}/some/prefix"
    prefix = "file://" if request.param == "file" else ""
    return f"{prefix}{tmp_path}/assets"


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[AssetStore]:
    """Open a store."""
    async with open_store(store_url) as opened:
        yield opened


@pytest.fixture(params=[BODY, LARGE_BODY], ids=["small", "large"])
def body(request: pytest.FixtureRequest) -> bytes:
    """What a file holds; stores may treat large ones in another way."""
    held: bytes = request.param
    return held


def place(body: bytes) -> str:
    digest = hashlib.sha256(body).hexdigest()
    return f"sha256/{digest[:2]}/{digest}.mp3"


async def put(store: AssetStore, body: bytes = BODY) -> StoredAsset:
    async with store.create(MP3) as upload:
        for start in range(0, len(body), CHUNK_BYTES):
            await upload.write(body[start : start + CHUNK_BYTES])
        return await upload.commit()


async def read(store: AssetStore, location: str) -> bytes:
    async with store.open(location) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def test_file_comes_back_as_it_was_stored(store: AssetStore, body: bytes) -> None:
    """Every byte, in order."""
    stored = await put(store, body)

    assert await read(store, stored.location) == body


async def test_commit_says_what_was_stored(store: AssetStore, body: bytes) -> None:
    """Hash, size, media type and the location they make."""
    stored = await put(store, body)

    assert hashlib.sha256(body).hexdigest() == stored.sha256
    assert len(body) == stored.size_bytes
    assert stored.content_type == "audio/mpeg"
    assert place(body) == stored.location


async def test_file_can_be_had_on_this_machine(store: AssetStore, body: bytes) -> None:
    stored = await put(store, body)

    async with store.on_disk(stored.location) as path:
        found = await asyncio.to_thread(path.read_bytes)
        suffix = path.suffix

    assert (body, ".mp3") == (found, suffix)
    assert await store.exists(stored.location)


async def test_suffix_is_that_of_the_type(store: AssetStore) -> None:
    """Nothing from outside becomes part of a location."""
    async with store.create(PNG) as upload:
        await upload.write(b"\x89PNG\r\n\x1a\n")
        stored = await upload.commit()

    assert re.fullmatch(r"sha256/../[0-9a-f]{64}\.png", stored.location)


async def test_file_survives_closing_and_opening_again(store_url: str) -> None:
    """What was committed is there for another process."""
    async with open_store(store_url) as first:
        stored = await put(first)

    async with open_store(store_url) as second:
        assert await second.exists(stored.location)
        assert await read(second, stored.location) == BODY


async def test_same_contents_twice_are_one_file(store: AssetStore, body: bytes) -> None:
    """Content-addressed: the second commit succeeds and changes nothing."""
    first = await put(store, body)

    second = await put(store, body)

    assert first == second
    assert await read(store, first.location) == body


async def test_same_contents_at_once_are_one_file(
    store: AssetStore, body: bytes
) -> None:
    """Ten uploads that end together do not disturb one another."""
    stored = await asyncio.gather(*(put(store, body) for _ in range(10)))

    assert len(set(stored)) == 1
    assert await read(store, stored[0].location) == body


async def test_uploads_at_once_are_kept_apart(store: AssetStore) -> None:
    """Each has its own bytes and its own hash."""
    bodies = [b"ID3" + bytes([n]) * (CHUNK_BYTES * 2 + n) for n in range(8)]

    stored = await asyncio.gather(*(put(store, body) for body in bodies))

    assert [hashlib.sha256(b).hexdigest() for b in bodies] == [s.sha256 for s in stored]


async def test_a_view_of_a_buffer_can_be_written(store: AssetStore) -> None:
    """The buffer may be used again once ``write`` has returned."""
    buffer = bytearray(b"ID3" + b"a" * 1000)

    async with store.create(MP3) as upload:
        await upload.write(memoryview(buffer)[:10])
        buffer[:10] = b"b" * 10
        await upload.write(memoryview(buffer)[:10])
        stored = await upload.commit()

    assert await read(store, stored.location) == b"ID3aaaaaaabbbbbbbbbb"


async def test_upload_without_commit_leaves_nothing(
    store: AssetStore, body: bytes
) -> None:
    """Leaving the context is enough."""
    async with store.create(MP3) as upload:
        await upload.write(body)

    assert not await store.exists(place(body))
    assert await store.sweep(timedelta(0)) == 0


async def test_upload_that_fails_leaves_nothing(store: AssetStore, body: bytes) -> None:
    """An error inside the context is passed on."""

    async def upload_and_fail() -> None:
        async with store.create(MP3) as upload:
            await upload.write(body)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await upload_and_fail()

    assert await store.sweep(timedelta(0)) == 0


async def test_upload_that_is_cancelled_leaves_nothing(store: AssetStore) -> None:
    """Wherever it was: here, between two writes."""
    writing = asyncio.Event()

    async def upload_for_ever() -> None:
        async with store.create(MP3) as upload:
            while True:
                await upload.write(BODY)
                writing.set()

    task = asyncio.create_task(upload_for_ever())
    await asyncio.wait_for(writing.wait(), 10)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert task.cancelled()
    assert await store.sweep(timedelta(0)) == 0


async def test_sweep_leaves_uploads_in_progress_alone(
    store: AssetStore, body: bytes
) -> None:
    """What is younger than the limit belongs to somebody."""
    async with store.create(MP3) as upload:
        await upload.write(body)

        swept = await store.sweep(timedelta(hours=1))
        stored = await upload.commit()

    assert swept == 0
    assert await store.exists(stored.location)


async def test_sweep_removes_no_stored_file(store: AssetStore, body: bytes) -> None:
    """However old it is."""
    stored = await put(store, body)

    swept = await store.sweep(timedelta(0))

    assert swept == 0
    assert await store.exists(stored.location)


async def test_file_that_is_not_there_is_missing(store: AssetStore) -> None:
    """``exists`` says no, ``open`` raises."""
    assert not await store.exists(NEVER_STORED)
    with pytest.raises(AssetMissing, match=NEVER_STORED):
        await read(store, NEVER_STORED)


@pytest.mark.parametrize("location", WRONG_LOCATIONS)
async def test_what_is_no_location_is_refused(store: AssetStore, location: str) -> None:
    """No path leads out of the store."""
    with pytest.raises(AssetRefused):
        await store.exists(location)
    with pytest.raises(AssetRefused):
        await read(store, location)


async def test_only_what_is_there_can_be_had_on_this_machine(
    store: AssetStore,
) -> None:
    with pytest.raises(AssetMissing):
        async with store.on_disk(NEVER_STORED):
            pass
    with pytest.raises(AssetRefused):
        async with store.on_disk("/etc/passwd"):
            pass


async def test_chunks_that_are_read_are_bounded(store: AssetStore, body: bytes) -> None:
    """Reading takes no more memory for a larger file."""
    stored = await put(store, body)

    async with store.open(stored.location) as chunks:
        sizes = [len(chunk) async for chunk in chunks]

    assert sum(sizes) == len(body)
    assert max(sizes) <= CHUNK_BYTES


async def test_closing_twice_is_harmless(store_url: str) -> None:
    """Idempotent, as for every resource."""
    async with AsyncExitStack() as stack:
        opened = await stack.enter_async_context(open_store(store_url))
        await opened.__aexit__(None, None, None)
