"""The store in a local folder: modes of files, damage, odd file systems."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
import threading
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from pipeline.assets import local
from pipeline.assets.incoming import IncomingFile
from pipeline.assets.local import INCOMING, LocalAssetStore
from pipeline.assets.sniff import MP3
from pipeline.assets.store import open_store
from pipeline.assets.threads import NICENESS, WRITERS
from pipeline.errors import ConfigurationError, FetchFailed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pipeline.task import StoredAsset

BODY = b"ID3" + b"x" * 300_000


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    """Modes do not depend on who runs the tests."""
    before = os.umask(0o022)
    yield
    os.umask(before)


async def put(store: LocalAssetStore, body: bytes = BODY) -> StoredAsset:
    async with store.create(MP3) as upload:
        await upload.write(body)
        return await upload.commit()


def incoming(root: Path) -> list[Path]:
    return list((root / INCOMING).iterdir())


async def test_nobody_else_may_read_a_file(tmp_path: Path) -> None:
    """Files 0640, folders 0750."""
    async with LocalAssetStore(tmp_path / "a") as store:
        stored = await put(store)

    path = tmp_path / "a" / stored.location
    assert path.stat().st_mode & 0o777 == 0o640
    assert path.parent.stat().st_mode & 0o777 == 0o750


async def test_same_hash_is_never_written_again(tmp_path: Path) -> None:
    """The second upload leaves the first one's file as it is."""
    async with LocalAssetStore(tmp_path) as store:
        stored = await put(store)
        before = (tmp_path / stored.location).stat()

        await put(store)

    after = (tmp_path / stored.location).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert after.st_nlink == 1


async def test_a_damaged_file_is_replaced(tmp_path: Path) -> None:
    """A hash whose file has another size lost its end to a failing disk."""
    async with LocalAssetStore(tmp_path) as store:
        stored = await put(store)
        (tmp_path / stored.location).write_bytes(b"ID3")

        await put(store)

    assert (tmp_path / stored.location).read_bytes() == BODY
    assert incoming(tmp_path) == []


async def test_file_systems_without_links_are_fine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where links are refused the file is renamed."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    async with LocalAssetStore(tmp_path) as store:
        stored = await put(store)
        again = await put(store)

    assert stored == again
    assert (tmp_path / stored.location).read_bytes() == BODY
    assert incoming(tmp_path) == []


async def test_a_disk_that_refuses_is_a_failure_of_this_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names what was tried; nothing stays behind."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    async with LocalAssetStore(tmp_path) as store:
        with pytest.raises(FetchFailed, match="No space left on device"):
            await put(store)

    assert incoming(tmp_path) == []


async def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    """Only what is older than asked for."""
    async with LocalAssetStore(tmp_path) as store:
        left = tmp_path / INCOMING / "left.part"
        left.write_bytes(b"ID3")
        os.utime(left, (1_000_000, 1_000_000))
        (tmp_path / INCOMING / "young.part").write_bytes(b"ID3")

        swept = await store.sweep(timedelta(hours=1))

    assert swept == 1
    assert ["young.part"] == [path.name for path in incoming(tmp_path)]


async def test_cancelling_while_the_file_is_made_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread makes the file although nobody waits for it any more."""
    going, go = threading.Event(), threading.Event()

    class SlowFile(IncomingFile):
        def __init__(self, path: Path) -> None:
            going.set()
            go.wait(10)
            super().__init__(path)

    async with LocalAssetStore(tmp_path) as store:
        monkeypatch.setattr(local, "IncomingFile", SlowFile)
        task = asyncio.create_task(put(store))
        await asyncio.to_thread(going.wait, 10)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        go.set()
    # Closing the store has waited for its threads.

    assert task.cancelled()
    assert incoming(tmp_path) == []


async def test_cancelling_a_write_waits_for_it_before_closing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A descriptor closed under a write may belong to another file by then."""
    going, go, order = threading.Event(), threading.Event(), []

    class SlowDigest:
        def update(self, _: object) -> None:
            going.set()
            go.wait(10)
            order.append("written")

    async with LocalAssetStore(tmp_path) as store:
        upload = store.create(MP3)
        await upload.__aenter__()
        monkeypatch.setattr(upload._raw, "_digest", SlowDigest())
        write = asyncio.create_task(upload.write(BODY))
        await asyncio.to_thread(going.wait, 10)
        write.cancel()
        await asyncio.gather(write, return_exceptions=True)
        leave = asyncio.create_task(upload.__aexit__(None, None, None))
        leave.add_done_callback(lambda _: order.append("closed"))
        go.set()
        await leave

    assert ["written", "closed"] == order
    assert incoming(tmp_path) == []


@pytest.mark.skipif(sys.platform != "linux", reason="priorities of threads")
async def test_hashing_gives_way_to_the_event_loop(tmp_path: Path) -> None:
    """Its threads have the least priority, and no other has lost any."""
    mine = os.getpriority(os.PRIO_PROCESS, 0)
    async with LocalAssetStore(tmp_path) as store:
        await put(store)
        threads = [int(number) for number in os.listdir("/proc/self/task")]  # noqa: PTH208
        found = Counter(os.getpriority(os.PRIO_PROCESS, number) for number in threads)

    assert 1 <= found[NICENESS] <= WRITERS
    assert mine == os.getpriority(os.PRIO_PROCESS, 0)
    assert found[mine] >= 2


async def test_folder_that_cannot_be_made_is_a_wrong_setting(tmp_path: Path) -> None:
    """The message names the setting, the folder and the reason."""
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(ConfigurationError, match=r"assets_url.*file/assets"):
        async with open_store(str(tmp_path / "file" / "assets")):
            pass


@pytest.mark.parametrize("url", ["s3://bucket/assets", "gs://bucket", "az://box"])
def test_an_object_store_names_the_extra_that_it_needs(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where its library is not installed."""
    monkeypatch.delitem(sys.modules, "pipeline.assets.object_store", raising=False)
    monkeypatch.setitem(sys.modules, "obstore", None)

    with pytest.raises(ConfigurationError, match="objectstore"):
        open_store(url)


@pytest.mark.parametrize("url", ["ftp://host/assets", ""])
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="expected a folder"):
        open_store(url)


def test_an_address_with_a_host_is_no_folder() -> None:
    """``file://data/assets`` means a host called data: two slashes too few."""
    with pytest.raises(ConfigurationError, match="file:///folder"):
        open_store("file://data/assets")


def test_secrets_of_an_address_are_not_in_the_message() -> None:
    """Keys may stand in addresses of object stores."""
    with pytest.raises(ConfigurationError) as caught:
        open_store("s3://key:secret@bucket/assets")

    assert "secret" not in str(caught.value)


async def test_spaces_in_a_file_address_are_decoded(tmp_path: Path) -> None:
    """``file:`` addresses are percent-encoded, plain paths are not."""
    async with open_store(f"file://{tmp_path}/my%20files"):
        pass

    assert (tmp_path / "my files").is_dir()
