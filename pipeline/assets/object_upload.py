"""One file on its way into a bucket: hashed, sent in parts, put in its place."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Self

import obstore
from obstore.exceptions import AlreadyExistsError

from pipeline.assets.object_errors import translated
from pipeline.assets.store import Upload
from pipeline.errors import FetchFailed
from pipeline.logs import get_logger
from pipeline.task import StoredAsset

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from concurrent.futures import ThreadPoolExecutor
    from types import TracebackType

    from obstore import AsyncWritableFile
    from obstore.store import ObjectStore

    from pipeline.assets.sniff import FileType

log = get_logger("assets")

#: Before the keys of files that are not complete yet.
INCOMING: Final = ".incoming"
#: The size of one part. S3 takes no smaller ones; most files are not larger.
PART_BYTES: Final = 5 * 1024 * 1024
#: Parts of one file on their way at the same time. Together with the one that is
#: being filled and the first one, this is what an upload holds in memory.
PARTS_AT_ONCE: Final = 2
#: The longest to wait until an upload is given up: a process that is told to stop
#: has little time, and what stays is removed later.
GIVING_UP: Final = timedelta(seconds=5)


class ObjectUpload(Upload):
    """One file on its way into an ``ObjectAssetStore``."""

    def __init__(
        self,
        client: ObjectStore,
        file_type: FileType,
        *,
        deadline: timedelta,
        writers: ThreadPoolExecutor,
        discarding: set[asyncio.Task[None]],
    ) -> None:
        self._client = client
        self._type = file_type
        self._attributes = {"Content-Type": file_type.content_type}
        self._deadline = deadline
        self._writers = writers
        self._discarding = discarding
        self._digest = hashlib.sha256()
        self._size_bytes = 0
        #: The first part, until there is more.
        self._head: list[bytes] = []
        self._key = f"{INCOMING}/{secrets.token_hex(16)}.part"
        self._writer: AsyncWritableFile | None = None
        #: What is being done to the writer.
        self._step: asyncio.Future[object] | None = None
        #: Whether the writer was told to complete the temporary key.
        self._closed = False

    async def __aenter__(self) -> Self:
        """Nothing to make: small files have no temporary key."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give up the parts, or remove the temporary key."""
        self._head.clear()
        if self._writer is None:
            return
        # Also when this task is cancelled once more: the store waits for it.
        task = asyncio.create_task(self._discard(self._writer))
        self._discarding.add(task)
        task.add_done_callback(self._discarding.discard)
        await asyncio.shield(task)

    async def write(self, chunk: bytes | memoryview) -> None:
        """Hash a chunk; send a part once it is full."""
        loop = asyncio.get_running_loop()
        data = await loop.run_in_executor(self._writers, self._take, chunk)
        if self._writer is None:
            self._head.append(data)
            if self._size_bytes <= PART_BYTES:
                return
            data = b"".join(self._head)
            self._head.clear()
            self._writer = obstore.open_writer_async(
                self._client,
                self._key,
                attributes=self._attributes,
                buffer_size=PART_BYTES,
                max_concurrency=PARTS_AT_ONCE,
            )
        await self._do(f"writing {len(data)} bytes", self._writer.write(data))

    async def commit(self) -> StoredAsset:
        """Put the file in the place that its hash names."""
        digest = self._digest.hexdigest()
        location = f"sha256/{digest[:2]}/{digest}{self._type.suffix}"
        if self._writer is None:
            async with translated("storing a file", self._deadline):
                await self._put(location)
        else:
            self._closed = True
            await self._do("completing a file", self._writer.close())
            async with translated("storing a file", self._deadline):
                await self._copy(location)
        return StoredAsset(
            sha256=digest,
            size_bytes=self._size_bytes,
            content_type=self._type.content_type,
            location=location,
        )

    def _take(self, chunk: bytes | memoryview) -> bytes:
        data = bytes(chunk)
        self._digest.update(data)
        self._size_bytes += len(data)
        return data

    async def _put(self, location: str) -> None:
        """Create the file; one that is there already is the same one."""
        body = b"".join(self._head)
        try:
            await obstore.put_async(
                self._client,
                location,
                body,
                attributes=self._attributes,
                mode="create",
            )
        except AlreadyExistsError:
            # A hash with another size is damaged. None is there while another
            # request, with the same bytes, is just being carried out.
            if await size_of(self._client, location) != len(body):
                await obstore.put_async(
                    self._client,
                    location,
                    body,
                    attributes=self._attributes,
                    use_multipart=False,
                )

    async def _copy(self, location: str) -> None:
        """Give a complete file its name.

        Copying on a condition is no part of what all services understand. Between
        looking and copying somebody else may store the same bytes: they are then
        replaced by themselves.
        """
        if await size_of(self._client, location) != self._size_bytes:
            await obstore.copy_async(self._client, self._key, location)

    async def _do(self, doing: str, step: Awaitable[object]) -> None:
        """Do something to the writer, to its end even if this task is cancelled.

        A request that is broken off may have begun an upload that nobody knows.
        """
        self._step = asyncio.ensure_future(step)
        async with translated(doing, self._deadline):
            await asyncio.shield(self._step)

    async def _discard(self, writer: AsyncWritableFile) -> None:
        try:
            patience = min(self._deadline, GIVING_UP)
            async with translated("giving up an upload", patience):
                if self._step is not None:
                    await asyncio.wait({self._step})
                if not self._closed:
                    # It gives up the parts when it is told of an error.
                    await writer.__aexit__(FetchFailed, None, None)
                else:
                    await self._remove()
        except FetchFailed as error:
            if self._step is not None:
                self._step.cancel()
            log.warning("upload_left_behind", key=self._key, error=str(error))

    async def _remove(self) -> None:
        try:
            await obstore.delete_async(self._client, self._key)
        except FileNotFoundError:
            return


async def size_of(client: ObjectStore, location: str) -> int | None:
    """Tell the size of a file; ``None``: there is none."""
    try:
        return (await obstore.head_async(client, location))["size"]
    except FileNotFoundError:
        return None
