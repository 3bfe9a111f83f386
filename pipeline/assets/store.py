"""Where files are kept: the port, and the choice of an adapter by address.

Files are content-addressed (``sha256/ab/abcd….mp3``), so storing one twice is one
file, and a file is never changed once it is there. This module must not know where
files come from. One adapter now, a local folder (``local.py``).
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import unquote, urlsplit

from pipeline.errors import AssetRefused, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from pipeline.assets.sniff import FileType
    from pipeline.task import StoredAsset

#: The size of what ``open`` yields. Every chunk costs a change of thread, so what
#: is given to ``write`` should not be smaller either.
CHUNK_BYTES: Final = 256 * 1024

#: Schemes of addresses that lead to an object store.
OBJECT_SCHEMES: Final = ("s3", "gs", "az")
#: The longest for one call of an object store, unless it is said otherwise.
CALL_DEADLINE: Final = timedelta(seconds=20)

_LOCATION: Final = re.compile(r"sha256/([0-9a-f]{2})/\1[0-9a-f]{62}\.[a-z0-9]{1,8}")


class AssetStore(ABC):
    """A handle on a store, to be used as an async context manager.

    All methods may be called concurrently by tasks of one event loop.
    """

    @abstractmethod
    async def __aenter__(self) -> Self:
        """Open; make what is missing.

        Raises:
            ConfigurationError: the store cannot be used as it is configured.
        """

    @abstractmethod
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close. Idempotent."""

    @abstractmethod
    def create(self, file_type: FileType) -> Upload:
        """Begin a file. The type comes first: object stores fix it on creation."""

    @abstractmethod
    def open(self, location: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Read a file back, in chunks of at most ``CHUNK_BYTES``.

        Raises:
            AssetRefused: this is no location of a store.
            AssetMissing: there is no such file.
            FetchFailed: it cannot be read now.
        """

    @abstractmethod
    def on_disk(self, location: str) -> AbstractAsyncContextManager[Path]:
        """Give a file as one on this machine, to be read while the context is open.

        Raises:
            AssetRefused, AssetMissing, FetchFailed: as ``open``.
        """

    @abstractmethod
    async def exists(self, location: str) -> bool:
        """Tell whether there is such a file.

        Raises:
            AssetRefused: this is no location of a store.
            FetchFailed: the store does not answer.
        """

    @abstractmethod
    async def sweep(self, older_than: timedelta) -> int:
        """Remove uploads that a killed process left behind; return how many.

        ``older_than`` has to be longer than any upload can take.

        Raises:
            FetchFailed: the store does not answer.
        """


class Upload(ABC):
    """One file on its way in, to be used as an async context manager, by one task.

    Leaving the context without ``commit`` (also by an error, also by being
    cancelled) leaves nothing behind.
    """

    @abstractmethod
    async def __aenter__(self) -> Self:
        """Make room for the file.

        Raises:
            FetchFailed: the store does not take files now.
        """

    @abstractmethod
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove what was not committed."""

    @abstractmethod
    async def write(self, chunk: bytes | memoryview) -> None:
        """Append a chunk; ``CHUNK_BYTES`` or more, but for the last one.

        The chunk must not be changed before this returns.

        Raises:
            FetchFailed: the store is full or cannot be reached.
        """

    @abstractmethod
    async def commit(self) -> StoredAsset:
        """Put the complete file in its place; return once it survives a crash.

        If the same contents are there already, nothing is written again.

        Raises:
            FetchFailed: the store is full or cannot be reached.
        """


def open_store(url: str, *, deadline: timedelta = CALL_DEADLINE) -> AssetStore:
    """Choose the adapter for an address.

    Args:
        url: ``folder``, ``file:///folder``, or ``s3://``, ``gs://`` or ``az://``
            with a bucket and a prefix.
        deadline: the longest for one call of an object store.

    Raises:
        ConfigurationError: the address is of no kind that is known here, or what
            it takes is not installed.
    """
    from pipeline.assets.local import LocalAssetStore  # noqa: PLC0415 - by address

    parts = urlsplit(url)
    if not parts.scheme and url:
        return LocalAssetStore(Path(url))
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path:
        return LocalAssetStore(Path(unquote(parts.path)))
    if parts.scheme in OBJECT_SCHEMES:
        return _open_bucket(url, deadline)
    shown = f"{parts.scheme}://" if parts.scheme else "nothing"
    message = (
        "assets_url: expected a folder, file:///folder, s3://, gs:// or az://, "
        f"got {shown}"
    )
    raise ConfigurationError(message)


def _open_bucket(url: str, deadline: timedelta) -> AssetStore:
    try:
        from pipeline.assets.object_store import ObjectAssetStore  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name != "obstore":
            raise
        message = (
            "assets_url: an object store needs the extra 'objectstore'; "
            "install callback-pipeline[objectstore]"
        )
        raise ConfigurationError(message) from error
    return ObjectAssetStore(url, deadline=deadline)


def check_location(location: str) -> str:
    """Give back a location that a ``commit`` can have returned, and no other.

    Raises:
        AssetRefused: it is none; a path that leads out of the store never is.
    """
    if _LOCATION.fullmatch(location) is None:
        message = f"expected sha256/ab/abcd….suffix, got {location[:100]!r}"
        raise AssetRefused(message)
    return location
