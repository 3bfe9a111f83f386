"""The asset store in a folder of this machine, on aiofiles."""

from __future__ import annotations

import asyncio
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from io import FileIO
from typing import TYPE_CHECKING, Final, ParamSpec, Self, TypeVar

from aiofiles.threadpool import wrap

from pipeline.assets.incoming import FOLDER_MODE, IncomingFile, sync_folder
from pipeline.assets.store import CHUNK_BYTES, AssetStore, Upload, check_location
from pipeline.assets.threads import make_writers
from pipeline.errors import AssetMissing, ConfigurationError, FetchFailed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from concurrent.futures import Future
    from datetime import timedelta
    from pathlib import Path
    from types import TracebackType

    from aiofiles.threadpool.binary import AsyncFileIO

    from pipeline.assets.sniff import FileType
    from pipeline.task import StoredAsset

P = ParamSpec("P")
T = TypeVar("T")

#: Files that are not complete yet, inside the root.
INCOMING: Final = ".incoming"
#: Threads for all that may wait long for the disk, such as ``fsync``.
WAITERS: Final = 4


class LocalAssetStore(AssetStore):
    """Keeps files in a folder of this machine.

    Work on files is done by a few threads of its own: a slow disk must not keep
    name resolution waiting, which uses the threads of the event loop.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._writers = make_writers()
        self._waiters = ThreadPoolExecutor(WAITERS, thread_name_prefix="assets")

    async def __aenter__(self) -> Self:
        """Make the folders, and try whether they can be written."""
        try:
            await self._call(_prepare, self._root)
        except OSError as error:
            message = (
                f"assets_url: expected a folder that can be written, "
                f"got {self._root}: {error.strerror}"
            )
            raise ConfigurationError(message) from error
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let calls in progress finish, and end the threads."""
        await asyncio.to_thread(self._writers.shutdown)
        await asyncio.to_thread(self._waiters.shutdown)

    def create(self, file_type: FileType) -> LocalUpload:
        """Begin a file; there is one on disk once the upload is entered."""
        return LocalUpload(
            self._root, file_type, writers=self._writers, waiters=self._waiters
        )

    @asynccontextmanager
    async def open(self, location: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """Read a file back; a file that is replaced meanwhile is read to its end."""
        path = self._root / check_location(location)
        with _translated(f"reading {location}"):
            try:
                raw = await self._call(FileIO, path, "rb")
            except FileNotFoundError as error:
                message = f"expected a file at {location}, the store has none"
                raise AssetMissing(message) from error
        file: AsyncFileIO = wrap(raw, executor=self._waiters)
        try:
            yield _chunks(file, location)
        finally:
            await file.close()

    @asynccontextmanager
    async def on_disk(self, location: str) -> AsyncIterator[Path]:
        """Give the file where it is."""
        if not await self.exists(location):
            message = f"expected a file at {location}, the store has none"
            raise AssetMissing(message)
        yield self._root / location

    async def exists(self, location: str) -> bool:
        """Tell whether there is such a file."""
        return await self._call((self._root / check_location(location)).is_file)

    async def sweep(self, older_than: timedelta) -> int:
        """Remove uploads to which nothing was written for ``older_than``."""
        oldest = time.time() - older_than.total_seconds()
        with _translated("removing what was left behind"):
            return await self._call(_sweep, self._root / INCOMING, oldest)

    async def _call(
        self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._waiters, lambda: function(*args, **kwargs)
        )


class LocalUpload(Upload):
    """One file on its way into a ``LocalAssetStore``."""

    def __init__(
        self,
        root: Path,
        file_type: FileType,
        *,
        writers: ThreadPoolExecutor,
        waiters: ThreadPoolExecutor,
    ) -> None:
        self._root = root
        self._type = file_type
        self._writers = writers
        self._waiters = waiters
        self._raw: IncomingFile
        self._file: AsyncFileIO

    async def __aenter__(self) -> Self:
        """Make the temporary file."""
        path = self._root / INCOMING / f"{secrets.token_hex(16)}.part"
        opening = self._waiters.submit(IncomingFile, path)
        with _translated("creating a file"):
            try:
                self._raw = await asyncio.wrap_future(opening)
            except asyncio.CancelledError:
                # The thread may be making the file just now, for nobody.
                opening.add_done_callback(_discard)
                raise
        self._file = wrap(self._raw, executor=self._writers)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the temporary file if it is still there."""
        if self._raw.closed:
            return
        # Safe beside a write that still runs in its thread because its task was
        # cancelled, and beside a commit.
        loop = asyncio.get_running_loop()
        await asyncio.shield(loop.run_in_executor(self._waiters, self._raw.discard))

    async def write(self, chunk: bytes | memoryview) -> None:
        """Hash and append a chunk, in one change of thread."""
        with _translated(f"writing {len(chunk)} bytes"):
            await self._file.write(chunk)

    async def commit(self) -> StoredAsset:
        """Sync the file, move it to its place, sync the folder."""
        loop = asyncio.get_running_loop()
        with _translated("completing a file"):
            return await loop.run_in_executor(
                self._waiters, self._raw.place, self._root, self._type
            )


def _discard(opening: Future[IncomingFile]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().discard()


def _prepare(root: Path) -> None:
    incoming = root / INCOMING
    for folder in (root, incoming, root / "sha256"):
        folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    sync_folder(root)
    # Trying is the only way to know: access() ignores read-only mounts' reasons.
    IncomingFile(incoming / f"{secrets.token_hex(16)}.part").discard()


def _sweep(incoming: Path, oldest: float) -> int:
    count = 0
    for path in incoming.iterdir():
        try:
            if path.stat().st_mtime < oldest:
                path.unlink()
                count += 1
        except FileNotFoundError:
            # Its upload has just ended.
            continue
    return count


async def _chunks(file: AsyncFileIO, location: str) -> AsyncIterator[bytes]:
    with _translated(f"reading {location}"):
        while chunk := await file.read(CHUNK_BYTES):
            yield chunk


@contextmanager
def _translated(doing: str) -> Iterator[None]:
    """Turn errors of the file system into ours."""
    try:
        yield
    except OSError as error:
        message = f"{doing} failed: {error.strerror or error}"
        raise FetchFailed(message) from error
