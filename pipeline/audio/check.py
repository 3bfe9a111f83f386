"""Whether a file that was stored as audio is audio that can be heard."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Final

from pipeline.audio.probe import DEFAULT_LIMITS, ProbeLimits, probe
from pipeline.errors import AssetMissing, AssetRefused, FetchFailed

if TYPE_CHECKING:
    from pipeline.assets.store import AssetStore
    from pipeline.task import StoredAsset

#: Notes and pictures are not decoded.
_DECODED_FAMILIES: Final = ("audio/", "video/")
_NO_SOUND: Final = frozenset({"audio/midi"})
#: Kinds of file that have no sound, or in which it is not what matters.
_OTHER_KINDS: Final = frozenset({"image", "video"})
#: The kind of a whole track; a stem may be silent, such as the drums of a ballad.
_TRACK: Final = "audio"


class AudioCheck:
    """Decodes what was stored, a few files at a time.

    Args:
        limits: what one file may take.
        concurrency: the most files at the same time; as many as there are
            processors unless given.
    """

    def __init__(
        self, *, limits: ProbeLimits = DEFAULT_LIMITS, concurrency: int | None = None
    ) -> None:
        self._limits = limits
        self._turns = asyncio.Semaphore(concurrency or os.cpu_count() or 1)

    async def check(self, store: AssetStore, stored: StoredAsset, kind: str) -> None:
        """Decode a file unless it is none with sound; return if it can be heard.

        Raises:
            AssetRefused: it cannot be decoded within the limits, has no sample, or is
                a whole track of silence.
            FetchFailed: it could not be read or decoded this time.
        """
        if kind in _OTHER_KINDS or stored.content_type in _NO_SOUND:
            return
        if not stored.content_type.startswith(_DECODED_FAMILIES):
            return
        async with self._turns:
            try:
                async with store.on_disk(stored.location) as path:
                    found = await probe(path, limits=self._limits)
            except AssetRefused as error:
                raise AssetRefused(f"{stored.location}: {error}") from error
            except AssetMissing as error:
                raise FetchFailed(str(error)) from error
        if found.is_silent and kind == _TRACK:
            message = (
                f"{stored.location}: expected something to hear, got"
                f" {found.duration_seconds:.1f} s of silence"
            )
            raise AssetRefused(message)
