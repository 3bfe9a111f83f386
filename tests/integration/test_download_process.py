"""Downloads in a process of its own: killed, short of disk, over TLS, on uvloop."""

from __future__ import annotations

import asyncio
import hashlib
import os
import ssl
import sys
from contextlib import asynccontextmanager
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from pipeline.assets.local import INCOMING, LocalAssetStore
from tests.file_server import (
    FileServer,
    answer,
    chunked,
    head,
    make_mp3,
    silent,
)
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SCRIPT: Final = Path(__file__).with_name("fetch_process.py")
ROOT: Final = Path(__file__).parents[2]
BODY: Final = make_mp3(4_000_000)
LOCATION: Final = (
    f"sha256/{hashlib.sha256(BODY).hexdigest()[:2]}/{hashlib.sha256(BODY).hexdigest()}"
    ".mp3"
)
LOOPS: Final = [
    "asyncio",
    pytest.param(
        "uvloop",
        marks=pytest.mark.skipif(
            find_spec("uvloop") is None, reason="the extra 'speed' is not installed"
        ),
    ),
]


@asynccontextmanager
async def fetching(
    url: str,
    folder: Path,
    *,
    limit: int = 0,
    loop: str = "asyncio",
    certificate: Path | None = None,
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start the process; it has ended when this is left."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if certificate is not None:
        environment["SSL_CERT_FILE"] = str(certificate)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(SCRIPT),
        url,
        str(folder),
        str(limit),
        loop,
        stdout=asyncio.subprocess.PIPE,
        env=environment,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        # The transport of the pipe is closed only once all of it has been read.
        await process.communicate()


async def fetch(url: str, folder: Path, **options: object) -> str:
    """Run the process to its end and give what it said."""
    async with (
        asyncio.timeout(30),
        fetching(url, folder, **options) as process,  # type: ignore[arg-type]
    ):
        said, _ = await process.communicate()
    assert process.returncode == 0
    return said.decode().strip()


def parts(folder: Path) -> list[Path]:
    incoming = folder / INCOMING
    return list(incoming.iterdir()) if incoming.is_dir() else []


async def has_begun(folder: Path) -> bool:
    """Tell whether something of a file is on the disk."""
    found = await asyncio.to_thread(parts, folder)
    return any(part.stat().st_size for part in found)


async def test_killed_download_leaves_only_what_sweep_removes(tmp_path: Path) -> None:
    """And the next one succeeds."""
    half = silent(head(headers={"Content-Length": str(len(BODY))}) + BODY[:2_500_000])
    async with FileServer() as server:
        async with fetching(server.add("/a", half), tmp_path) as process:
            await eventually(lambda: has_begun(tmp_path))
            process.kill()
            await process.wait()

        async with LocalAssetStore(tmp_path) as store:
            left = parts(tmp_path)
            stored = await store.exists(LOCATION)
            swept = await store.sweep(timedelta(0))
        again = await fetch(server.add("/a", answer(BODY)), tmp_path)

    assert (1, False, 1) == (len(left), stored, swept)
    assert again == LOCATION
    assert parts(tmp_path) == []


@pytest.mark.parametrize("limit", [1, 100_000, 300_000, 1_100_000, 3_999_999])
async def test_full_disk_fails_and_leaves_nothing(tmp_path: Path, limit: int) -> None:
    """The system writes a part, then refuses; wherever that happens."""
    async with FileServer() as server:
        said = await fetch(server.add("/a", answer(BODY)), tmp_path, limit=limit)

    assert said.startswith("FetchFailed 127.0.0.1/a: writing")
    assert "File too large" in said
    assert parts(tmp_path) == []
    assert list((tmp_path / "sha256").iterdir()) == []


async def test_disk_that_is_just_large_enough_will_do(tmp_path: Path) -> None:
    """The limit of the test above is what makes it fail."""
    async with FileServer() as server:
        said = await fetch(server.add("/a", answer(BODY)), tmp_path, limit=len(BODY))

    assert said == LOCATION


@pytest.mark.parametrize("loop", LOOPS)
async def test_every_loop_and_every_way_brings_the_same(
    tmp_path: Path, loop: str
) -> None:
    """Known length and chunks, plain and over TLS."""
    context, certificate = await make_certificate(tmp_path)
    said: set[str] = set()
    for tls in (None, context):
        async with FileServer(context=tls) as server:
            server.add("/length", answer(BODY))
            server.add("/chunks", chunked(BODY[:1000], BODY[1000:]))
            for path in ("/length", "/chunks"):
                if tls and path == "/chunks":
                    # The server closes at once, and the last bytes of a TLS
                    # connection may be dropped then: the fetch fails, and is retried.
                    continue
                url = server.url(path, host="localhost")
                said.add(
                    await fetch(url, tmp_path / "a", loop=loop, certificate=certificate)
                )

    assert said == {LOCATION}


@pytest.mark.parametrize("loop", LOOPS)
async def test_broken_transfer_over_tls_fails(tmp_path: Path, loop: str) -> None:
    """The connection ends in the middle of the body."""
    context, certificate = await make_certificate(tmp_path)
    async with FileServer(context=context) as server:
        server.add("/a", answer(BODY[:1_500_000], length=len(BODY)))
        url = server.url("/a", host="localhost")
        said = await fetch(url, tmp_path / "a", loop=loop, certificate=certificate)

    assert said.startswith("FetchFailed localhost/a: ")
    assert parts(tmp_path / "a") == []


async def test_certificate_that_nobody_vouches_for_is_not_taken(tmp_path: Path) -> None:
    """The same server, but its certificate is not trusted."""
    context, _ = await make_certificate(tmp_path)
    async with FileServer(context=context) as server:
        said = await fetch(server.url("/a", host="localhost"), tmp_path / "a")

    assert said.startswith("FetchFailed localhost/a: ")
    assert server.requests == []


async def test_redirect_from_https_to_http_is_refused(tmp_path: Path) -> None:
    """The rest of the way could be read and changed by anybody."""
    context, certificate = await make_certificate(tmp_path)
    async with FileServer() as plain, FileServer(context=context) as server:
        target = plain.add("/b", answer(BODY))
        server.add("/a", answer(status=302, headers={"Location": target}))
        url = server.url("/a", host="localhost")
        said = await fetch(url, tmp_path / "a", certificate=certificate)

    assert "AssetRefused localhost/a: expected redirects to stay on https" in said
    assert plain.requests == []


async def make_certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """Make a certificate for localhost that vouches for itself."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    process = await asyncio.create_subprocess_exec(
        *("openssl", "req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"),
        *("-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=localhost"),
        *("-addext", "subjectAltName=DNS:localhost"),
        *("-keyout", str(key), "-out", str(certificate)),
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert await process.wait() == 0
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context, certificate
