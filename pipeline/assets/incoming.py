"""One file on its way into a local store: hashed, written, synced, put in place.

Everything here blocks, and is called by the store's threads.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from io import FileIO
from typing import TYPE_CHECKING, Final

from pipeline.task import StoredAsset

if TYPE_CHECKING:
    from pathlib import Path

    from _typeshed import ReadableBuffer

    from pipeline.assets.sniff import FileType

FILE_MODE: Final = 0o640
FOLDER_MODE: Final = 0o750
#: The disk is told to begin writing after so many bytes.
WRITE_BACK_BYTES: Final = 4 * 1024 * 1024
#: What file systems without hard links answer.
_NO_LINKS: Final = frozenset(
    {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS}
)


class IncomingFile(FileIO):
    """A file that hashes what it writes. All methods block.

    Hashing and writing happen in one call and so in one change of thread; both
    let other threads run. The lock makes the last call wait for the one before
    it: a cancelled task leaves its write running, and a descriptor closed under
    it may by then belong to another file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "xb", opener=_open_private)
        self._path = path
        self._lock = threading.Lock()
        self._digest = hashlib.sha256()
        self._size_bytes = 0
        self._begun_bytes = 0

    def write(self, data: ReadableBuffer, /) -> int:
        """Append all of ``data``; the system may take it in several pieces."""
        with self._lock, memoryview(data) as whole:
            self._digest.update(whole)
            done = 0
            while done < len(whole):
                done += super().write(whole[done:])
            self._size_bytes += done
            self._begin_write_back()
            return done

    def place(self, root: Path, file_type: FileType) -> StoredAsset:
        """Move the file to the place its hash names, and wait for the disk."""
        with self._lock:
            os.fsync(self.fileno())
            digest = self._digest.hexdigest()
            folder = root / "sha256" / digest[:2]
            target = folder / f"{digest}{file_type.suffix}"
            folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
            _link(self._path, target, self._size_bytes)
            # In this order: a name in a folder that is not on disk is lost.
            # Others may have made the folder or the name and not be here yet.
            sync_folder(folder)
            sync_folder(folder.parent)
            self._remove()
            return StoredAsset(
                sha256=digest,
                size_bytes=self._size_bytes,
                content_type=file_type.content_type,
                location=target.relative_to(root).as_posix(),
            )

    def discard(self) -> None:
        """Close, and remove the file if it was not placed. Idempotent."""
        with self._lock:
            if not self.closed:
                self._remove()

    def _begin_write_back(self) -> None:
        """Let the disk begin while more comes in, so that the sync has little left.

        On Linux this advice begins to write what is dirty in the range, and waits
        for nothing: syncing 50 MB takes 2 ms afterwards, and 33 ms without it.
        """
        length = self._size_bytes - self._begun_bytes
        if length >= WRITE_BACK_BYTES and hasattr(os, "posix_fadvise"):
            advice = os.POSIX_FADV_DONTNEED
            os.posix_fadvise(self.fileno(), self._begun_bytes, length, advice)
            self._begun_bytes = self._size_bytes

    def _remove(self) -> None:
        self.close()
        self._path.unlink(missing_ok=True)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, FILE_MODE)


def _link(path: Path, target: Path, size_bytes: int) -> None:
    """Give a complete file its name; the same contents there already are fine."""
    try:
        os.link(path, target)
    except FileExistsError:
        # A hash with another size is a file that the disk has damaged.
        if target.stat().st_size != size_bytes:
            path.replace(target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        path.replace(target)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
