"""What Google Cloud Storage and Azure are asked for; S3 has a server of its own.

There is no server here that speaks like them, so these tests look at the requests
and answer the way that the services' documents say.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Self

import pytest

from pipeline.assets.object_store import ObjectAssetStore
from pipeline.assets.sniff import MP3
from pipeline.errors import FetchFailed

if TYPE_CHECKING:
    from types import TracebackType

BODY: Final = b"ID3" + b"x" * 1000
DIGEST: Final = hashlib.sha256(BODY).hexdigest()
LOCATION: Final = f"sha256/{DIGEST[:2]}/{DIGEST}.mp3"
KEY: Final = base64.b64encode(b"not a key of anybody").decode()
HEADERS: Final = (
    'ETag: "1"\r\nx-goog-generation: 1\r\n'
    "Last-Modified: Sun, 22 Nov 2026 10:00:00 GMT\r\nConnection: close\r\n"
)
SERVICES: Final = {
    # Address, the condition that nothing is there, the answer that something is.
    "google": ("gs://bucket/music", "x-goog-if-generation-match: 0", 412),
    "azure": ("az://bucket/music", "if-none-match: *", 409),
}

every_service = pytest.mark.parametrize("service", SERVICES)


class Service:
    """Answers a PUT with a status, and a HEAD as if the file were there."""

    def __init__(self, put_status: int) -> None:
        self._put_status = put_status
        self.heads: list[str] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{port}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.close()

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        self.heads.append(head)
        if head.startswith("put"):
            await reader.readexactly(len(BODY))
            answer = f"HTTP/1.1 {self._put_status} X\r\nContent-Length: 0\r\n"
        else:
            answer = f"HTTP/1.1 200 OK\r\nContent-Length: {len(BODY)}\r\n"
        writer.write(f"{answer}{HEADERS}\r\n".encode())
        await writer.drain()
        writer.close()


def open_bucket(
    service: str, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> ObjectAssetStore:
    account = {
        "gcs_base_url": endpoint,
        "disable_oauth": True,
        "client_email": "",
        "private_key": "",
        "private_key_id": "",
    }
    for name, value in {
        "GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(account),
        "GOOGLE_ALLOW_HTTP": "true",
        "AZURE_STORAGE_ACCOUNT_NAME": "account",
        "AZURE_STORAGE_ACCOUNT_KEY": KEY,
        "AZURE_STORAGE_ENDPOINT": endpoint,
        "AZURE_ALLOW_HTTP": "true",
    }.items():
        monkeypatch.setenv(name, value)
    return ObjectAssetStore(SERVICES[service][0], deadline=timedelta(seconds=20))


async def put(store: ObjectAssetStore) -> str:
    async with store.create(MP3) as upload:
        await upload.write(BODY)
        return (await upload.commit()).location


@every_service
async def test_a_small_file_is_created_on_a_condition_with_one_request(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Service(201 if service == "azure" else 200) as server:
        stored = await put(open_bucket(service, server.endpoint, monkeypatch))

    (head,) = server.heads
    path = head.split()[1].replace("%2f", "/").replace("%2e", ".")
    assert LOCATION == stored
    assert f"/bucket/music/{LOCATION}" == path
    assert f"\r\n{SERVICES[service][1]}\r\n" in head
    assert "content-type: audio/mpeg\r\n" in head


@every_service
async def test_the_same_file_is_success(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service says that it is there; it has the size; nothing is sent again."""
    async with Service(SERVICES[service][2]) as server:
        stored = await put(open_bucket(service, server.endpoint, monkeypatch))

    assert LOCATION == stored
    assert ["put", "head"] == [head.split()[0] for head in server.heads]


@every_service
async def test_a_refusal_is_told_without_the_key(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Service(403) as server:
        store = open_bucket(service, server.endpoint, monkeypatch)
        with pytest.raises(FetchFailed, match="PermissionDeniedError") as caught:
            await put(store)

    assert KEY not in str(caught.value)
    assert caught.value.__cause__ is None
