"""Download a file from a link that comes from outside, into an asset store.

Everything about the link and about what comes back is distrusted: where it leads,
how much it sends and how slowly, and what it says the file is. Links are secrets
(their query strings are signatures): logs and errors show the host and the path.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Self

import aiohttp

from pipeline.assets.body import Buffers, receive
from pipeline.assets.guard import ForbiddenAddress, public_socket
from pipeline.assets.link import check_host, read_link, show
from pipeline.assets.sniff import HEAD_BYTES, FileType, is_text, sniff
from pipeline.errors import AssetRefused, EmptyFile, FetchFailed, LinkExpired
from pipeline.failpoints import reach
from pipeline.retry import read_retry_after

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterator
    from types import TracebackType

    from aiohttp.abc import AbstractResolver
    from aiohttp.connector import SocketFactoryType
    from yarl import URL

    from pipeline.assets.body import Body, Piece
    from pipeline.assets.store import AssetStore
    from pipeline.task import StoredAsset

OK: Final = 200
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
#: The provider's hosts answer 403 or 441 once a link has expired.
GONE: Final = frozenset({403, 404, 410, 441})
FAMILIES: Final = frozenset({"audio", "image", "video"})
#: Some of the provider's hosts refuse the names of well-known HTTP libraries.
USER_AGENT: Final = "callback-pipeline (file download)"
#: A server that asks for more patience than this does not get it.
LONGEST_AFTER: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchRules:
    """What a download may do and take."""

    #: Larger files are refused.
    max_bytes: int = 200 * 1024 * 1024
    #: The longest for one file with everything around it.
    deadline: timedelta = timedelta(minutes=5)
    #: The longest to wait for a connection.
    connect_timeout: timedelta = timedelta(seconds=10)
    #: The longest to wait for the headers; the span in which speed is measured.
    read_timeout: timedelta = timedelta(seconds=30)
    #: A body that comes more slowly than this, over one span, is given up.
    min_bytes_per_second: int = 1024
    #: Redirects followed; each is checked like the link itself.
    max_redirects: int = 3
    #: For a provider simulated on this machine: fetch from loopback and private
    #: addresses too, and without TLS.
    allow_private_addresses: bool = False
    #: Names of hosts, or ``*.`` and the end of names; empty: every host.
    hosts: Collection[str] = ()
    #: Empty: every port, and so it is where private addresses are allowed.
    ports: Collection[int] = frozenset({443})


class Fetcher:
    """Downloads files; an async context manager, for many tasks at once.

    Args:
        rules: what a download may do and take.
        socket_factory: makes the socket for a final address, or refuses it with
            ``ForbiddenAddress``; ``None`` chooses by the rules.
        resolver: finds the addresses of names; ``None``: the system does.
    """

    def __init__(
        self,
        rules: FetchRules,
        *,
        socket_factory: SocketFactoryType | None = None,
        resolver: AbstractResolver | None = None,
    ) -> None:
        self._rules = rules
        self._resolver = resolver
        if socket_factory is None and not rules.allow_private_addresses:
            socket_factory = public_socket
        self._socket_factory = socket_factory
        self._buffers = Buffers()
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        """Open a session that keeps nothing from one download to the next."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,
                # A connection kept alive would outlive the check of its address,
                # and so would an answer of the name service.
                force_close=True,
                use_dns_cache=False,
                resolver=self._resolver,
                socket_factory=self._socket_factory,
            ),
            headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=self._rules.connect_timeout.total_seconds()
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close every connection."""
        await self._session.close()

    async def fetch(
        self, url: str, store: AssetStore, *, families: Collection[str] = FAMILIES
    ) -> StoredAsset:
        """Download ``url`` into ``store``; return once the file is safe there.

        Memory does not depend on the size of the file. Being cancelled, like
        every error, leaves nothing in the store.

        Args:
            url: an https link.
            store: an open store.
            families: what the file may be: ``audio``, ``image``, ``video``.

        Raises:
            LinkExpired: the server says that there is no such file any more.
            AssetRefused: the link or the file breaks a rule.
            FetchFailed: it did not work; ``after`` is set if the server asked for
                a pause.
        """
        link = read_link(url)
        seconds = self._rules.deadline.total_seconds()
        with _translated(show(link)), self._buffers.shared():
            async with _within(seconds, f"the whole file within {seconds:g} s"):
                response = await self._follow(link)
                with _closing(response):
                    _check_status(response)
                    return await self._save(response, store, families)

    async def _follow(self, link: URL) -> aiohttp.ClientResponse:
        """Request ``link`` and what it redirects to, until something else comes."""
        for _ in range(self._rules.max_redirects + 1):
            self._check_link(link)
            response = await self._request(link)
            if response.status not in REDIRECTS:
                return response
            location = response.headers.get("Location", "")
            response.close()
            if not location:
                message = f"expected a redirect to somewhere, got {response.status}"
                raise FetchFailed(message)
            target = read_link(location, base=link)
            if link.scheme == "https" and target.scheme != "https":
                message = f"expected redirects to stay on https, got {show(target)}"
                raise AssetRefused(message)
            link = target
        message = f"expected at most {self._rules.max_redirects} redirects, got more"
        raise AssetRefused(message)

    def _check_link(self, link: URL) -> None:
        rules = self._rules
        simulated = rules.allow_private_addresses
        if link.scheme not in (("https", "http") if simulated else ("https",)):
            message = f"expected an https link, got {link.scheme or 'no scheme'}"
            raise AssetRefused(message)
        check_host(link, hosts=rules.hosts, ports=() if simulated else rules.ports)

    async def _request(self, link: URL) -> aiohttp.ClientResponse:
        seconds = (
            self._rules.connect_timeout + self._rules.read_timeout
        ).total_seconds()
        async with _within(seconds, f"an answer within {seconds:g} s"):
            return await self._session.get(link, allow_redirects=False)

    async def _save(
        self,
        response: aiohttp.ClientResponse,
        store: AssetStore,
        families: Collection[str],
    ) -> StoredAsset:
        self._check_size(response.content_length or 0)
        body = receive(response, self._buffers)
        try:
            async with self._at_speed(body):
                piece = await body.next()
            file_type = _check_type(piece, families)
            async with store.create(file_type) as upload:
                async with self._at_speed(body):
                    while piece:
                        self._check_size(body.received_bytes)
                        await upload.write(piece)
                        await reach("download.mid_transfer")
                        piece = await body.next()
                return await upload.commit()
        finally:
            body.close()

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > self._rules.max_bytes:
            message = (
                f"expected at most {self._rules.max_bytes} bytes, got {size_bytes}"
            )
            raise AssetRefused(message)

    @asynccontextmanager
    async def _at_speed(self, body: Body) -> AsyncIterator[None]:
        """Give up if less than the minimum comes in during one span."""
        loop = asyncio.get_running_loop()
        span = self._rules.read_timeout.total_seconds()
        least = self._rules.min_bytes_per_second
        async with _within(None, f"at least {least} bytes per second") as limit:
            seen = body.received_bytes
            timer: asyncio.TimerHandle

            def look() -> None:
                nonlocal seen, timer
                if body.received_bytes - seen < least * span:
                    limit.reschedule(loop.time())
                else:
                    seen = body.received_bytes
                    timer = loop.call_later(span, look)

            timer = loop.call_later(span, look)
            try:
                yield
            finally:
                timer.cancel()


def _check_status(response: aiohttp.ClientResponse) -> None:
    status = response.status
    if status in GONE:
        message = f"expected a file, got {status}: the link has expired"
        raise LinkExpired(message)
    if status != OK:
        after = read_retry_after(
            response.headers.get("Retry-After"),
            now=datetime.now(UTC),
            longest=LONGEST_AFTER,
        )
        message = f"expected 200, got {status}"
        raise FetchFailed(message, after=after)
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    if encoding != "identity":
        message = f"expected the file as it is, got it encoded as {encoding[:20]!a}"
        raise FetchFailed(message)


def _check_type(piece: Piece, families: Collection[str]) -> FileType:
    head = bytes(piece[:HEAD_BYTES])
    if not head:
        # New links serve nothing for a while, with 200.
        message = "expected a file, got an empty body"
        raise EmptyFile(message)
    file_type = sniff(head)
    if file_type is None and is_text(head):
        message = "expected a file, got text, perhaps a page that explains an error"
        raise FetchFailed(message)
    if file_type is None:
        message = f"expected a known type of file, got one that starts {head[:8]!r}"
        raise AssetRefused(message)
    if file_type.family not in families:
        expected = " or ".join(sorted(families))
        message = f"expected {expected}, got {file_type.content_type}"
        raise AssetRefused(message)
    return file_type


@contextmanager
def _closing(response: aiohttp.ClientResponse) -> Iterator[None]:
    try:
        yield
    finally:
        response.close()


@asynccontextmanager
async def _within(
    seconds: float | None, expected: str
) -> AsyncIterator[asyncio.Timeout]:
    """Turn a timeout of ours into ``FetchFailed``; ``None``: only when told so."""
    try:
        async with asyncio.timeout(seconds) as limit:
            yield limit
    except TimeoutError as error:
        if not limit.expired():
            raise
        message = f"expected {expected}, got less"
        raise FetchFailed(message) from error


@contextmanager
def _translated(shown: str) -> Iterator[None]:
    """Say which link it was about, and turn errors of aiohttp into ours."""
    try:
        yield
    except FetchFailed as error:
        raise type(error)(f"{shown}: {error}", after=error.after) from error
    except (AssetRefused, LinkExpired) as error:
        raise type(error)(f"{shown}: {error}") from error
    except aiohttp.ClientConnectorError as error:
        if isinstance(error.os_error, ForbiddenAddress):
            message = f"{shown}: expected a public address, got an internal one"
            raise AssetRefused(message) from error
        message = f"{shown}: no connection: {error.os_error}"
        raise FetchFailed(message) from error
    except aiohttp.InvalidURL as error:
        message = f"{shown}: expected a link that can be requested"
        raise AssetRefused(message) from error
    except (aiohttp.ClientError, OSError) as error:
        # Not the text of the error: aiohttp puts whole links into some.
        message = f"{shown}: the transfer broke off ({type(error).__name__})"
        raise FetchFailed(message) from error
