"""The asset store in a bucket of S3, Google Cloud Storage or Azure, on obstore.

A file that fits into one part is sent with one conditional request, straight to the
place its hash names: nothing half-done can exist. A larger one is sent in parts,
while it comes in, to a temporary key, and copied to its place by the service once
its hash is known.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import obstore
from aiofiles.tempfile import NamedTemporaryFile

from pipeline.assets.object_address import connect
from pipeline.assets.object_errors import FOREIGN, diagnose, translated
from pipeline.assets.object_upload import INCOMING, ObjectUpload, size_of
from pipeline.assets.store import CHUNK_BYTES, AssetStore, check_location
from pipeline.assets.threads import make_writers
from pipeline.errors import AssetMissing, ConfigurationError, FetchFailed
from pipeline.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from datetime import timedelta
    from types import TracebackType

    from obstore import BytesStream

    from pipeline.assets.sniff import FileType

log = get_logger("assets")

#: Keys looked at with one request; the services give no more.
_PAGE: Final = 1000


class ObjectAssetStore(AssetStore):
    """Keeps files in a bucket.

    Args:
        url: ``s3://bucket/prefix``, ``gs://…`` or ``az://…``. Credentials and the
            like are read from the environment by obstore.
        deadline: the longest for one call, with the tries that it makes.

    Raises:
        ConfigurationError: the address or the environment is wrong.
    """

    def __init__(self, url: str, *, deadline: timedelta) -> None:
        self._url = url
        self._deadline = deadline
        self._client = connect(url, deadline)
        self._writers = make_writers()
        self._discarding: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """Try whether the bucket can be written, listed and cleared.

        One that does not answer is no mistake: uploads fail until it does.
        """
        try:
            async with asyncio.timeout(self._deadline.total_seconds()):
                await self._try_out()
        except FOREIGN as error:
            diagnosis = diagnose(error)
            if not diagnosis.passing:
                self._writers.shutdown(wait=False)
                message = (
                    f"assets_url: expected a bucket that can be written, listed and "
                    f"cleared, got {self._url}: {diagnosis.text}"
                )
                raise ConfigurationError(message) from None
            log.warning(
                "asset_store_unavailable", store=self._url, error=diagnosis.text
            )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let what is being discarded be discarded, and end the threads."""
        if self._discarding:
            await asyncio.wait(self._discarding)
        await asyncio.to_thread(self._writers.shutdown)

    def create(self, file_type: FileType) -> ObjectUpload:
        """Begin a file; nothing is sent before the first part is full."""
        return ObjectUpload(
            self._client,
            file_type,
            deadline=self._deadline,
            writers=self._writers,
            discarding=self._discarding,
        )

    @asynccontextmanager
    async def open(self, location: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """Read a file back as it comes, with one request."""
        check_location(location)
        async with translated(f"reading {location}", self._deadline):
            try:
                result = await obstore.get_async(self._client, location)
            except FileNotFoundError:
                message = f"expected a file at {location}, the store has none"
                raise AssetMissing(message) from None
        stream = result.stream(CHUNK_BYTES)
        yield self._chunks(stream, result.meta["size"], location)

    @asynccontextmanager
    async def on_disk(self, location: str) -> AsyncIterator[Path]:
        """Copy the file to a temporary one, with the suffix it has."""
        temporary = NamedTemporaryFile(
            prefix="pipeline-", suffix=Path(check_location(location)).suffix
        )
        async with AsyncExitStack() as stack:
            with _on_this_disk(location):
                copy = await stack.enter_async_context(temporary)
                async with self.open(location) as chunks:
                    async for chunk in chunks:
                        await copy.write(chunk)
                await copy.flush()
            yield Path(str(copy.name))

    async def exists(self, location: str) -> bool:
        """Tell whether there is such a file."""
        check_location(location)
        async with translated(f"looking for {location}", self._deadline):
            return await size_of(self._client, location) is not None

    async def sweep(self, older_than: timedelta) -> int:
        """Remove temporary keys that were written ``older_than`` ago.

        Parts of an upload that a killed process has begun have no key, so this
        cannot see them: the bucket has to be told to drop them.
        """
        oldest = datetime.now(UTC) - older_than
        count = 0
        pages = obstore.list(self._client, INCOMING, chunk_size=_PAGE)
        while True:
            async with translated("removing what was left behind", self._deadline):
                page = await anext(pages, None)
                if page is None:
                    return count
                left = [one["path"] for one in page if one["last_modified"] < oldest]
                if left:
                    await obstore.delete_async(self._client, left)
                    count += len(left)

    async def _try_out(self) -> None:
        key = f"{INCOMING}/{secrets.token_hex(16)}.part"
        await obstore.put_async(self._client, key, b"", mode="create")
        await anext(obstore.list(self._client, INCOMING), None)
        await obstore.delete_async(self._client, key)

    async def _chunks(
        self, stream: BytesStream, size_bytes: int, location: str
    ) -> AsyncIterator[bytes]:
        received = 0
        while True:
            async with translated(f"reading {location}", self._deadline):
                piece = await anext(stream, None)
            if piece is None:
                break
            received += len(piece)
            whole = memoryview(piece)
            for start in range(0, len(whole), CHUNK_BYTES):
                yield bytes(whole[start : start + CHUNK_BYTES])
        if received != size_bytes:
            message = f"{location}: expected {size_bytes} bytes, got {received}"
            raise FetchFailed(message)


@contextmanager
def _on_this_disk(location: str) -> Iterator[None]:
    """Turn errors of writing a copy into ours."""
    try:
        yield
    except OSError as error:
        message = f"copying {location} failed: {error.strerror or error}"
        raise FetchFailed(message) from error
