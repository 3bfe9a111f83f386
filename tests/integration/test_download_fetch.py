"""Downloads from a real server that misbehaves in every way we know of."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import pytest

from pipeline.assets.body import LARGEST_BYTES, SMALLEST_BYTES, Buffers
from pipeline.assets.fetch import Fetcher, FetchRules
from pipeline.assets.local import INCOMING, LocalAssetStore
from pipeline.errors import AssetRefused, FetchFailed, LinkExpired
from tests.file_server import (
    PNG_HEAD,
    FileServer,
    answer,
    chunked,
    head,
    make_mp3,
    silent,
    until_closed,
)
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SECRET: Final = "X-Signature=s3cr3t"
MIB: Final = 1024 * 1024
#: Around every size at which the way of receiving changes.
SIZES: Final = [
    11,
    1000,
    SMALLEST_BYTES - 1,
    SMALLEST_BYTES,
    SMALLEST_BYTES + 1,
    LARGEST_BYTES,
    LARGEST_BYTES + 1,
    2 * LARGEST_BYTES,
    5 * LARGEST_BYTES + 7,
]


def rules(**changes: object) -> FetchRules:
    values: dict[str, object] = {
        "allow_private_addresses": True,
        "deadline": timedelta(seconds=20),
        "read_timeout": timedelta(seconds=10),
        **changes,
    }
    return FetchRules(**values)  # type: ignore[arg-type]


@pytest.fixture
async def server() -> AsyncIterator[FileServer]:
    """A server for files."""
    async with FileServer() as running:
        yield running


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LocalAssetStore]:
    """An empty store, in which nothing may be left behind."""
    async with LocalAssetStore(tmp_path) as opened:
        yield opened
    assert [] == list((tmp_path / INCOMING).iterdir())


async def fetch(
    url: str, store: LocalAssetStore, *, limits: FetchRules | None = None
) -> bytes:
    """Fetch, and read back what was stored."""
    async with Fetcher(limits or rules()) as fetcher:
        stored = await fetcher.fetch(url, store)
    async with store.open(stored.location) as chunks:
        body = b"".join([chunk async for chunk in chunks])
    assert hashlib.sha256(body).hexdigest() == stored.sha256
    return body


def files(root: Path, pattern: str) -> int:
    return len(list(root.rglob(pattern)))


async def has_begun(root: Path) -> bool:
    """Tell whether something of a file is on the disk."""
    parts = await asyncio.to_thread(lambda: list((root / INCOMING).iterdir()))
    return any(part.stat().st_size for part in parts)


@pytest.mark.parametrize("size", SIZES)
async def test_file_of_known_length_arrives_whole(
    server: FileServer, store: LocalAssetStore, size: int
) -> None:
    """Whatever its size, past the parser or through it."""
    body = make_mp3(size, fill=b"") + bytes(n % 251 for n in range(size - 11))
    url = server.add("/a.mp3", answer(body))

    assert body == await fetch(url, store)


@pytest.mark.parametrize("size", SIZES)
async def test_file_of_unknown_length_arrives_whole(
    server: FileServer, store: LocalAssetStore, size: int
) -> None:
    """In chunks, and up to the end of the connection."""
    body = make_mp3(size)
    pieces = [body[start : start + 100_000] for start in range(0, size, 100_000)]

    in_chunks = await fetch(server.add("/a", chunked(*pieces)), store)
    to_the_end = await fetch(server.add("/b", until_closed(body)), store)

    assert body == in_chunks
    assert body == to_the_end


async def test_body_in_tiny_pieces_arrives_whole(
    server: FileServer, store: LocalAssetStore
) -> None:
    """Pieces as small as a packet, with the buffers changing their turns."""
    body = make_mp3(3 * MIB)

    async def write(writer: asyncio.StreamWriter) -> None:
        writer.write(head(headers={"Content-Length": str(len(body))}))
        for start in range(0, len(body), 1400):
            writer.write(body[start : start + 1400])
            await writer.drain()

    assert body == await fetch(server.add("/a", write), store)


async def test_nothing_beyond_the_length_is_taken(
    server: FileServer, store: LocalAssetStore
) -> None:
    """What follows the body on the connection is not part of the file."""
    body = make_mp3(2 * MIB)
    url = server.add("/a", answer(body + b"HTTP/1.1 200 OK\r\n", length=len(body)))

    assert body == await fetch(url, store)


async def test_many_files_at_once_are_kept_apart(
    server: FileServer, store: LocalAssetStore
) -> None:
    """Fifty downloads share one fetcher."""
    bodies = [make_mp3(MIB + n, fill=bytes([n])) for n in range(50)]
    urls = [server.add(f"/{n}", answer(body)) for n, body in enumerate(bodies)]

    async with Fetcher(rules()) as fetcher:
        stored = await asyncio.gather(*(fetcher.fetch(url, store) for url in urls))

    assert [hashlib.sha256(b).hexdigest() for b in bodies] == [s.sha256 for s in stored]


async def test_same_file_at_once_is_stored_once(
    server: FileServer, store: LocalAssetStore, tmp_path: Path
) -> None:
    """Two workers may have the same request for a while."""
    url = server.add("/a", answer(make_mp3(MIB)))

    async with Fetcher(rules()) as fetcher:
        stored = await asyncio.gather(*(fetcher.fetch(url, store) for _ in range(10)))

    assert len(set(stored)) == 1
    assert files(tmp_path, "*.mp3") == 1


@pytest.mark.parametrize("status", [403, 404, 410, 441])
async def test_dead_link_has_expired(
    server: FileServer, store: LocalAssetStore, status: int
) -> None:
    """The provider's hosts use all of these."""
    url = server.add("/a", answer(b"gone", status=status))

    with pytest.raises(LinkExpired, match=str(status)):
        await fetch(url, store)


@pytest.mark.parametrize("status", [201, 204, 206, 304, 400, 401, 429, 500, 503])
async def test_other_status_may_be_another_next_time(
    server: FileServer, store: LocalAssetStore, status: int
) -> None:
    """Only 200 is a file."""
    url = server.add("/a", answer(status=status))

    with pytest.raises(FetchFailed, match=f"expected 200, got {status}") as caught:
        await fetch(url, store)
    assert caught.value.after is None


async def test_pause_that_the_server_asks_for_is_kept(
    server: FileServer, store: LocalAssetStore
) -> None:
    """The worker waits at least as long."""
    url = server.add("/a", answer(status=503, headers={"Retry-After": "120"}))

    with pytest.raises(FetchFailed) as caught:
        await fetch(url, store)
    assert timedelta(minutes=2) == caught.value.after


async def test_empty_body_may_be_a_file_next_time(
    server: FileServer, store: LocalAssetStore
) -> None:
    """Hosts of streams answer 200 with no bytes until the file is there."""
    for path, how in {"/a": answer(), "/b": chunked(), "/c": until_closed(b"")}.items():
        with pytest.raises(FetchFailed, match="empty"):
            await fetch(server.add(path, how), store)


@pytest.mark.parametrize(
    "page",
    [
        b"<!DOCTYPE html><html><body>Not found</body></html>",
        b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
        b'{"code": 404, "msg": "not found"}',
        b"Not found\n",
    ],
)
async def test_page_with_status_200_is_no_file(
    server: FileServer, store: LocalAssetStore, page: bytes
) -> None:
    """Whatever its media type says."""
    url = server.add("/a.mp3", answer(page, headers={"Content-Type": "audio/mpeg"}))

    with pytest.raises(FetchFailed, match="got text"):
        await fetch(url, store)


async def test_type_is_told_by_contents(
    server: FileServer, store: LocalAssetStore
) -> None:
    """Neither the suffix of the link nor the media type is believed."""
    headers = {"Content-Type": "text/html"}
    url = server.add("/a.exe", answer(make_mp3(), headers=headers))

    async with Fetcher(rules()) as fetcher:
        stored = await fetcher.fetch(url, store)

    assert stored.content_type == "audio/mpeg"
    assert stored.location.endswith(".mp3")


async def test_unknown_type_is_refused(
    server: FileServer, store: LocalAssetStore
) -> None:
    """A program is no music, this time and next time."""
    url = server.add("/a.mp3", answer(b"\x7fELF\x02\x01\x01\x00" + b"\0" * 1000))

    with pytest.raises(AssetRefused, match="known type"):
        await fetch(url, store)


async def test_type_of_another_family_is_refused(
    server: FileServer, store: LocalAssetStore
) -> None:
    """A picture in the place of music."""
    url = server.add("/a.mp3", answer(PNG_HEAD + b"\0" * 1000))

    async with Fetcher(rules()) as fetcher:
        with pytest.raises(AssetRefused, match="expected audio, got image/png"):
            await fetcher.fetch(url, store, families=("audio",))


async def test_compressed_body_is_not_taken(
    server: FileServer, store: LocalAssetStore
) -> None:
    """We ask for the file as it is, and never inflate what we did not ask for."""
    headers = {"Content-Encoding": "gzip"}
    url = server.add("/a.mp3", answer(gzip.compress(make_mp3()), headers=headers))

    with pytest.raises(FetchFailed, match="encoded as 'gzip'"):
        await fetch(url, store)
    assert server.requests[0].headers["accept-encoding"] == "identity"


async def test_encoding_that_is_no_text_is_quoted_so_that_it_can_be_kept(
    server: FileServer, store: LocalAssetStore
) -> None:
    """In a log, in a dead letter, in the ledger."""
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: \xff\xfe\r\nContent-Length: 0\r\n\r\n"
    url = server.add("/a.mp3", silent(head))

    with pytest.raises(FetchFailed) as caught:
        await fetch(url, store)

    assert str(caught.value).isascii()


@pytest.mark.parametrize("sent", [0, 500, 300_000, 3_000_000])
async def test_body_that_ends_early_is_no_file(
    server: FileServer, store: LocalAssetStore, sent: int
) -> None:
    """The announced length has to arrive."""
    url = server.add("/a", answer(make_mp3(4 * MIB)[:sent], length=4 * MIB))

    with pytest.raises(FetchFailed):
        await fetch(url, store)


async def test_chunked_body_that_ends_early_is_no_file(
    server: FileServer, store: LocalAssetStore
) -> None:
    """The last chunk is missing."""
    beginning = head(headers={"Transfer-Encoding": "chunked"})

    async def write(writer: asyncio.StreamWriter) -> None:
        writer.write(beginning + b"400\r\n" + make_mp3(1024) + b"\r\n")
        await writer.drain()

    with pytest.raises(FetchFailed, match="broke off"):
        await fetch(server.add("/a", write), store)


async def test_announced_size_over_the_limit_is_refused(
    server: FileServer, store: LocalAssetStore
) -> None:
    """Before the body is read."""
    url = server.add("/a", silent(head(headers={"Content-Length": "1000001"})))

    with pytest.raises(AssetRefused, match="at most 1000000 bytes, got 1000001"):
        await fetch(url, store, limits=rules(max_bytes=1_000_000))


async def test_size_over_the_limit_is_refused_on_the_way(
    server: FileServer, store: LocalAssetStore
) -> None:
    """A body without a length is cut off where the limit is passed."""
    endless = make_mp3(100_000)

    async def write(writer: asyncio.StreamWriter) -> None:
        writer.write(head(headers={"Transfer-Encoding": "chunked"}))
        while True:
            writer.write(b"%x\r\n%s\r\n" % (len(endless), endless))
            await writer.drain()

    with pytest.raises(AssetRefused, match="at most 1000000 bytes"):
        await fetch(server.add("/a", write), store, limits=rules(max_bytes=1_000_000))


async def test_file_of_exactly_the_limit_is_taken(
    server: FileServer, store: LocalAssetStore
) -> None:
    """The limit is what may be, not what may not."""
    body = make_mp3(100_000)

    assert body == await fetch(
        server.add("/a", answer(body)), store, limits=rules(max_bytes=100_000)
    )


@pytest.mark.parametrize(
    "beginning",
    [
        b"",
        head(headers={"Content-Length": "4000000"}),
        head(headers={"Content-Length": "4000000"}) + make_mp3(600_000),
        head(headers={"Transfer-Encoding": "chunked"}) + b"4\r\nID3\x04\r\n",
    ],
    ids=["no head", "no body", "half a body", "half a chunked body"],
)
async def test_silence_is_not_waited_for(
    server: FileServer, store: LocalAssetStore, beginning: bytes
) -> None:
    """Wherever the server falls silent."""
    url = server.add("/a", silent(beginning))
    impatient = rules(
        read_timeout=timedelta(seconds=0.2), connect_timeout=timedelta(seconds=0.2)
    )

    with pytest.raises(FetchFailed, match="expected"):
        await asyncio.wait_for(fetch(url, store, limits=impatient), 10)


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_trickle_is_given_up(
    server: FileServer,
    store: LocalAssetStore,
    is_chunked: bool,  # noqa: FBT001
) -> None:
    """A byte now and then keeps a connection alive, and a worker busy for ever."""

    async def write(writer: asyncio.StreamWriter) -> None:
        name = "Transfer-Encoding" if is_chunked else "Content-Length"
        writer.write(head(headers={name: "chunked" if is_chunked else "4000000"}))
        for byte in make_mp3(100_000):
            writer.write(b"1\r\n%c\r\n" % byte if is_chunked else bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.01)  # the pace of this server, not a wait

    slow = rules(read_timeout=timedelta(seconds=0.3))

    with pytest.raises(FetchFailed, match="at least 1024 bytes per second"):
        await asyncio.wait_for(fetch(server.add("/a", write), store, limits=slow), 10)


async def test_speed_over_the_minimum_is_enough(
    server: FileServer, store: LocalAssetStore
) -> None:
    """A slow server may take many spans, as long as each brings enough."""
    body = make_mp3(60_000)

    async def write(writer: asyncio.StreamWriter) -> None:
        writer.write(head(headers={"Content-Length": str(len(body))}))
        for start in range(0, len(body), 1000):
            writer.write(body[start : start + 1000])
            await writer.drain()
            await asyncio.sleep(0.01)  # the pace of this server, not a wait

    slow = rules(read_timeout=timedelta(seconds=0.2))

    assert body == await fetch(server.add("/a", write), store, limits=slow)


async def test_deadline_covers_everything(
    server: FileServer, store: LocalAssetStore
) -> None:
    """A server that is fast enough can still take too long."""

    async def write(writer: asyncio.StreamWriter) -> None:
        writer.write(head(headers={"Transfer-Encoding": "chunked"}))
        piece = make_mp3(10_000)
        while True:
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            await writer.drain()
            await asyncio.sleep(0.01)  # the pace of this server, not a wait

    short = rules(deadline=timedelta(seconds=0.4))

    with pytest.raises(FetchFailed, match=r"the whole file within 0\.4 s"):
        await asyncio.wait_for(fetch(server.add("/a", write), store, limits=short), 10)


async def test_being_cancelled_leaves_nothing(
    server: FileServer, store: LocalAssetStore, tmp_path: Path
) -> None:
    """In the middle of a body; the error is passed on."""
    length = head(headers={"Content-Length": "4000000"})
    url = server.add("/a", silent(length + make_mp3(1_500_000)))
    task = asyncio.create_task(fetch(url, store))
    await eventually(lambda: has_begun(tmp_path))

    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert task.cancelled()


async def test_redirects_are_followed(
    server: FileServer, store: LocalAssetStore
) -> None:
    """Three of them, absolute and relative, of every kind."""
    body = make_mp3()
    for number, status in enumerate([301, 302, 307], start=1):
        target = f"/{number + 1}" if number != 2 else server.url("/3")
        headers = {"Location": target}
        server.add(f"/{number}", answer(status=status, headers=headers))
    server.add("/4", answer(body))

    assert body == await fetch(server.url("/1"), store)
    assert ["/1", "/2", "/3", "/4"] == [r.target for r in server.requests]


async def test_more_redirects_are_refused(
    server: FileServer, store: LocalAssetStore
) -> None:
    """A circle ends."""
    url = server.add("/a", answer(status=302, headers={"Location": "/a"}))

    with pytest.raises(AssetRefused, match="at most 3 redirects"):
        await fetch(url, store)
    assert len(server.requests) == 4


async def test_redirect_to_nowhere_fails(
    server: FileServer, store: LocalAssetStore
) -> None:
    """Without a ``Location`` there is nothing to follow."""
    url = server.add("/a", answer(status=302))

    with pytest.raises(FetchFailed, match="redirect to somewhere"):
        await fetch(url, store)


@pytest.mark.parametrize(
    "location",
    ["ftp://a.example/x", "http://user:pass@a.example/x", "http://[::1", "file:///x"],
)
async def test_redirect_to_what_may_not_be_fetched_is_refused(
    server: FileServer, store: LocalAssetStore, location: str
) -> None:
    """Each hop is checked like the link itself."""
    url = server.add("/a", answer(status=302, headers={"Location": location}))

    with pytest.raises(AssetRefused):
        await fetch(url, store)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a.mp3",
        "/a.mp3",
        "https://",
        "https:///a.mp3",
        "ftp://a.example/a.mp3",
        "file:///etc/passwd",
        "data:audio/mpeg;base64,SUQz",
        "https://user:pass@a.example/a.mp3",
        "https://user@a.example/a.mp3",
        "https://[::1/a.mp3",
        "https://a.example:99999/a.mp3",
        "http://a.example/a.mp3",
        "https://a.example/\ud800",
    ],
)
async def test_link_that_may_not_be_fetched_is_refused(
    store: LocalAssetStore, url: str
) -> None:
    """By the ordinary rules: https, a host, no password."""
    async with Fetcher(FetchRules()) as fetcher:
        with pytest.raises(AssetRefused):
            await fetcher.fetch(url, store)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
        "169.254.169.254",
        "10.0.0.1",
    ],
)
async def test_internal_address_is_refused(
    server: FileServer, store: LocalAssetStore, host: str
) -> None:
    """However it is written; nothing is sent."""
    async with Fetcher(FetchRules(ports=())) as fetcher:
        with pytest.raises(AssetRefused, match=r"public address|can be requested"):
            await fetcher.fetch(f"https://{host}:{server.port}/a", store)
    assert server.requests == []


async def test_sockets_can_be_made_elsewhere(
    server: FileServer, store: LocalAssetStore
) -> None:
    """The seam through which a stricter guard sees every final address."""
    seen: list[object] = []

    def refuse(address: object) -> None:
        seen.append(address)
        raise OSError(1, "not today")

    async with Fetcher(rules(), socket_factory=refuse) as fetcher:  # type: ignore[arg-type]
        with pytest.raises(FetchFailed, match="not today"):
            await fetcher.fetch(server.url("/a"), store)
    assert len(seen) == 1


async def test_nobody_there_may_be_somebody_next_time(
    server: FileServer, store: LocalAssetStore
) -> None:
    """Refused connections and unknown names."""
    async with FileServer() as gone:
        url = gone.url("/a")

    for dead in (url, "http://no-such-host.invalid/a"):
        with pytest.raises(FetchFailed, match="no connection"):
            await fetch(dead, store)


async def test_answer_that_is_no_http_fails(
    server: FileServer, store: LocalAssetStore
) -> None:
    """Whatever speaks at that port."""
    url = server.add("/a", silent(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"))

    with pytest.raises(FetchFailed):
        await fetch(url, store)


async def test_signed_links_are_requested_as_they_are(
    server: FileServer, store: LocalAssetStore
) -> None:
    """Encoding a signature anew could make it another one."""
    server.add("/a%20b/c%2Fd.mp3", answer(make_mp3()))
    query = "?X-Sig=a%2Fb%2bc%3D&e=1~2%7E3"

    await fetch(server.url(f"/a%20b/c%2Fd.mp3{query}#part"), store)

    assert f"/a%20b/c%2Fd.mp3{query}" == server.requests[0].target


async def test_links_with_spaces_are_encoded(
    server: FileServer, store: LocalAssetStore
) -> None:
    """They have been seen."""
    server.add("/my%20song.mp3", answer(make_mp3()))

    await fetch(server.url("/my song.mp3"), store)

    assert server.requests[0].target == "/my%20song.mp3"


async def test_requests_say_who_asks_and_keep_nothing(
    server: FileServer, store: LocalAssetStore
) -> None:
    """Own agent, no cookies; some hosts refuse the agents of libraries."""
    cookie = {"Set-Cookie": "id=1", "Location": "/b"}
    url = server.add("/a", answer(status=302, headers=cookie))
    server.add("/b", answer(make_mp3()))

    await fetch(url, store)

    assert {"callback-pipeline (file download)"} == {
        request.headers["user-agent"] for request in server.requests
    }
    assert all("cookie" not in request.headers for request in server.requests)


async def test_proxies_of_the_environment_are_not_used(
    server: FileServer, store: LocalAssetStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy would connect to addresses that nobody has checked."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    body = make_mp3()

    assert body == await fetch(server.add("/a", answer(body)), store)


@pytest.mark.parametrize(
    "how",
    [
        answer(status=404),
        answer(status=500),
        answer(b"<html>"),
        answer(b"\x7fELF\0"),
        answer(make_mp3(), length=10_000_000),
        answer(status=302, headers={"Location": f"/b?{SECRET}"}),
        answer(status=302, headers={"Location": f"ftp://a.example/?{SECRET}"}),
        silent(b"nonsense\r\n\r\n"),
    ],
)
async def test_signatures_are_in_no_error(
    server: FileServer,
    store: LocalAssetStore,
    caplog: pytest.LogCaptureFixture,
    how: object,
) -> None:
    """Errors show host and path: whoever reads logs cannot fetch the file."""
    caplog.set_level(logging.DEBUG)
    url = server.add("/songs/a.mp3", how)  # type: ignore[arg-type]

    with pytest.raises((FetchFailed, AssetRefused, LinkExpired)) as caught:
        await fetch(f"{url}?{SECRET}", store)

    assert "127.0.0.1/songs/a.mp3: " in str(caught.value)
    assert "s3cr3t" not in str(caught.value)
    assert "s3cr3t" not in caplog.text


def test_buffers_grow_smaller_as_downloads_grow_more() -> None:
    """One download may take much, fifty together not much more."""
    buffers = Buffers()
    sizes = []

    stack = [buffers.shared() for _ in range(50)]
    for one in stack:
        one.__enter__()
        sizes.append(buffers.size_bytes)

    assert LARGEST_BYTES == sizes[0]
    assert SMALLEST_BYTES == sizes[-1]
    assert sizes == sorted(sizes, reverse=True)
    assert 50 * 2 * sizes[-1] <= 32 * MIB
