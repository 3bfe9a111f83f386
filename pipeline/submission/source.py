"""Source audio, looked at before the provider is paid to look at it.

Whatever the provider would have to fetch is fetched here first, under the same guard
as every other link, and decoded from beginning to end in a process of its own. That
it can be had from here does not prove that it can be had from there; that it cannot
be decoded here does.
"""

from __future__ import annotations

import asyncio
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pipeline.assets.guard import is_public
from pipeline.assets.link import read_link, show
from pipeline.assets.local import LocalAssetStore
from pipeline.audio.probe import DEFAULT_LIMITS, probe
from pipeline.errors import AssetRefused, FetchFailed

if TYPE_CHECKING:
    from datetime import timedelta

    from pipeline.assets.fetch import Fetcher
    from pipeline.audio.probe import ProbeLimits

#: What source audio may come in.
FAMILIES: Final = frozenset({"audio", "video"})
_SCHEMES: Final = {False: ("https",), True: ("https", "http")}


class SourceCheck:
    """Fetches and decodes source audio.

    Args:
        fetcher: an open one, whose rules say which addresses are taken.
        limits: what decoding may take.
        concurrency: the most files at the same time.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        *,
        limits: ProbeLimits = DEFAULT_LIMITS,
        concurrency: int = 2,
    ) -> None:
        self._fetcher = fetcher
        self._limits = limits
        self._turns = asyncio.Semaphore(concurrency)

    async def length_of(self, link: str) -> float:
        """Fetch what a link leads to and decode it; give the seconds that it plays.

        Nothing of it is kept.

        Raises:
            AssetRefused: the link or the audio breaks a rule.
            LinkExpired: there is nothing behind the link any more.
            FetchFailed: it could not be fetched or decoded this time.
        """
        async with self._turns:
            with tempfile.TemporaryDirectory(prefix="pipeline-source-") as folder:
                async with LocalAssetStore(Path(folder)) as store:
                    stored = await self._fetcher.fetch(link, store, families=FAMILIES)
                    async with store.on_disk(stored.location) as path:
                        return await self._decode(path)

    async def length_of_file(self, path: Path) -> float:
        """Decode a file of this machine; give the seconds that it plays.

        Raises:
            AssetRefused: it is no audio that can be heard.
            FetchFailed: it could not be decoded this time.
        """
        path = path.absolute()  # noqa: ASYNC240  asks nobody
        if not await asyncio.to_thread(path.is_file):
            message = f"expected a file, found none at {path}"
            raise AssetRefused(message)
        async with self._turns:
            return await self._decode(path)

    async def _decode(self, path: Path) -> float:
        found = await probe(path, limits=self._limits)
        if found.is_silent:
            message = f"expected something to hear, got {found.duration_seconds:.1f} s"
            raise AssetRefused(f"{message} of silence")
        return found.duration_seconds


def refuse_internal(text: str) -> None:
    """Check that a link of ours can be followed from outside, as far as it says.

    Names are not looked up: from inside, ours may lead elsewhere than from outside.

    Raises:
        AssetRefused: it leads to this machine or a private address.
    """
    link = read_link(text)
    host = (link.raw_host or "").removesuffix(".").lower()
    is_address = ":" in host or host.replace(".", "").isdigit()
    is_local = host == "localhost" or host.endswith(".localhost")
    if is_local or (is_address and not is_public(host)):
        message = (
            f"{host}: expected a public address, got an internal one, which the"
            " provider cannot reach"
        )
        raise AssetRefused(message)


async def check_link(text: str, *, private: bool, within: timedelta) -> None:
    """Check where a link leads without following it.

    Args:
        text: the link.
        private: whether private addresses, and links without TLS, are taken.
        within: the longest for the name service.

    Raises:
        AssetRefused: it is no link that the provider could follow.
        FetchFailed: the name service knows no such host, or says nothing.
    """
    link = read_link(text)
    if link.scheme not in _SCHEMES[private]:
        message = f"expected an https link, got {link.scheme or 'no scheme'}"
        raise AssetRefused(message)
    host, port = link.raw_host or "", link.port
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(within.total_seconds()):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError, UnicodeError) as error:
        message = f"{show(link)}: expected a host that the name service knows"
        raise FetchFailed(message) from error
    if not private and not all(is_public(str(one[4][0])) for one in found):
        message = f"{show(link)}: expected a public address, got an internal one"
        raise AssetRefused(message)
