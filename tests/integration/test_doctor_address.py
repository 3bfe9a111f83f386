"""The doctor goes the provider's way to the callback address."""

from __future__ import annotations

import re
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest

from pipeline.doctor import address, reach
from pipeline.doctor.address import look_at_address
from pipeline.settings import load_settings
from pipeline.topology import DEDUPE
from tests.file_server import FileServer, answer, silent
from tests.ingress import running_ingress
from tests.integration.test_ingress_tls import make_certificate

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pipeline.doctor import Finding

TOKEN: Final = "a-secret-of-some-length"
KEY: Final = "the-key-of-signatures"
PATH: Final = f"/callbacks/upload-extend/{TOKEN}"
PRIVATE: Final = "expected a public address, got 127.0.0.1"


async def look(url: str, **ingress: Any) -> list[Finding]:
    """Look at the address; give what is found, but for what all of them have."""
    flags = {"provider.callback_url": url}
    flags |= {f"ingress.{name}": given for name, given in ingress.items()}
    settings = load_settings(environ={}, flags=flags).settings
    found = await look_at_address(settings)
    assert TOKEN not in str(found)
    assert KEY not in str(found)
    assert all(one.why and one.todo for one in found if one.level != "ok")
    return [one for one in found if not one.what.startswith((PRIVATE, "that of"))]


def said(found: list[Finding]) -> list[tuple[str, str]]:
    return [(one.level.value, one.what) for one in found]


@asynccontextmanager
async def served(
    folder: Path, monkeypatch: pytest.MonkeyPatch, url: str, **settings: Any
) -> AsyncIterator[tuple[Any, str]]:
    """Run an ingress with a certificate that this process trusts."""
    make_certificate(folder, "site")
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "site.pem"))
    tls = {
        "certificate_file": str(folder / "site.pem"),
        "key_file": str(folder / "site.key"),
    }
    async with running_ingress(url, tls=tls, **settings) as ingress:
        yield ingress, f"https://127.0.0.1:{ingress.port}"


async def test_an_address_that_is_open_is_well_and_nothing_is_stored(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proof = {"tokens": [TOKEN], "signature": {"keys": [KEY]}}
    monkeypatch.setattr(address, "EXPIRES_SOON", 0 * address.EXPIRES_SOON)
    async with served(tmp_path, monkeypatch, sqlite_url, **proof) as (ingress, url):
        (found,) = await look(url, tokens=TOKEN, **{"signature.keys": KEY})
        stored = await ingress.count(DEDUPE)

    assert "ok" == found.level
    expected = r"answered 200 within \d+\.\d\d s, asked from this machine with our"
    assert re.fullmatch(rf"{expected} token and signature", found.what)
    assert 0 == stored


@pytest.mark.parametrize("scheme", ["task-and-time", "time-and-body", "body"])
async def test_each_signature_can_be_tried(sqlite_url: str, scheme: str) -> None:
    signature = {"keys": [KEY], "scheme": scheme}
    async with running_ingress(sqlite_url, signature=signature) as ingress:
        url = f"http://127.0.0.1:{ingress.port}"
        options = {"signature.keys": KEY, "signature.scheme": scheme}
        found = await look(url, **options)

    assert ["problem", "ok"] == [one.level for one in found]


async def test_an_address_without_https_is_a_problem(sqlite_url: str) -> None:
    async with running_ingress(sqlite_url) as ingress:
        found = await look(f"http://127.0.0.1:{ingress.port}")

    assert ("problem", "expected an address with https, got http") in said(found)
    assert found[1].what.endswith("without token or signature")


async def test_an_address_that_is_not_public_is_a_problem(sqlite_url: str) -> None:
    async with running_ingress(sqlite_url) as ingress:
        url = f"http://127.0.0.1:{ingress.port}"
        settings = load_settings(environ={}, flags={"provider.callback_url": url})
        found = await look_at_address(settings.settings)

    (private,) = [one for one in found if one.what.startswith(PRIVATE)]
    assert "problem" == private.level
    assert "tunnel" in private.todo


async def test_a_simulated_provider_needs_no_public_address(sqlite_url: str) -> None:
    async with running_ingress(sqlite_url) as ingress:
        flags = {
            "provider.callback_url": f"http://127.0.0.1:{ingress.port}",
            "submit.allow_private_addresses": "true",
        }
        found = await look_at_address(load_settings(environ={}, flags=flags).settings)

    levels = [one.level.value for one in found]
    assert (2, 0) == (levels.count("warning"), levels.count("problem"))


async def test_what_speaks_no_http_is_named_without_the_token() -> None:
    async def babble(writer: asyncio.StreamWriter) -> None:
        writer.write(b"garbage not http\r\n\r\n")
        await writer.drain()

    async with FileServer() as server:
        server.add(PATH, babble)
        found = await look(server.url(""), tokens=TOKEN)

    (silence,) = [one.what for one in found if one.what.startswith("no answer")]
    assert "speaks no HTTP" in silence


async def test_a_certificate_that_nobody_vouches_for_is_a_problem(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(tmp_path, monkeypatch, sqlite_url) as (_, url):
        monkeypatch.delenv("SSL_CERT_FILE")
        (found,) = await look(url)

    assert "problem" == found.level
    assert "no certificate that can be trusted: self-signed certificate" == found.what


async def test_a_certificate_that_ends_soon_is_a_warning(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(tmp_path, monkeypatch, sqlite_url) as (_, url):
        found = await look(url)

    assert ("warning", "the certificate ends in 1 days") in said(found)


@pytest.mark.parametrize(
    "ingress_has",
    [{"tokens": ["another-secret-of-some-length"]}, {"signature": {"keys": ["other"]}}],
    ids=["token", "key"],
)
async def test_proof_that_is_not_taken_is_a_problem(
    sqlite_url: str, ingress_has: dict[str, Any]
) -> None:
    async with running_ingress(sqlite_url, **ingress_has) as ingress:
        url = f"http://127.0.0.1:{ingress.port}"
        _, found = await look(url, tokens=TOKEN, **{"signature.keys": KEY})

    assert ("problem", "expected 200, got 401 for a probe") == said([found])[0]
    assert "the same ingress.tokens" in found.todo


async def test_an_ingress_that_lets_anybody_in_is_a_problem(sqlite_url: str) -> None:
    async with running_ingress(sqlite_url) as ingress:
        url = f"http://127.0.0.1:{ingress.port}"
        found = await look(url, tokens=TOKEN, **{"signature.keys": KEY})

    assert [
        ("problem", "a callback with a token that is wrong is let in"),
        ("problem", "a callback with no signature is let in"),
    ] == said(found)[2:]


async def test_a_network_that_is_shut_out_is_a_warning(sqlite_url: str) -> None:
    networks = ["198.51.100.0/24"]
    async with running_ingress(sqlite_url, networks=networks) as ingress:
        url = f"http://127.0.0.1:{ingress.port}"
        found = await look(url, networks=networks[0])

    assert ("warning", "expected 200, got 403 for a probe") in said(found)


async def test_an_ingress_that_is_down_is_a_problem() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    _, found = await look(f"http://127.0.0.1:{port}")

    assert "problem" == found.level
    assert found.what.startswith("no answer: ")
    assert "gives up for good" in found.why


async def test_an_answer_that_does_not_come_is_a_problem(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reach, "PROVIDER_SECONDS", 0.3)
    async with FileServer() as server:
        server.add("/callbacks/upload-extend", silent())
        _, found = await look(server.url(""))

    assert "problem" == found.level
    assert "no answer: nothing within the 0.3 s that the provider waits" == found.what


async def test_an_answer_that_takes_long_is_a_warning(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(address, "SLOW_SECONDS", 0.0)
    async with running_ingress(sqlite_url) as ingress:
        found = await look(f"http://127.0.0.1:{ingress.port}")

    (slow,) = [one for one in found if one.level == "warning"]
    assert re.fullmatch(r"the answer took \d+\.\d s", slow.what)


@pytest.mark.parametrize(
    ("status", "what", "todo"),
    [
        (200, "no ingress of this version", "see where"),
        (301, "expected 200, got 301", "to where it leads"),
        (404, "expected 200, got 404", "its whole path"),
        (503, "expected 200, got 503", "/readyz"),
    ],
)
async def test_an_answer_of_somebody_else_is_a_problem(
    status: int, what: str, todo: str
) -> None:
    async with FileServer() as server:
        server.add(PATH, answer(status=status, headers={"Location": "/else"}))
        _, found = await look(server.url(""), tokens=TOKEN)

    assert "problem" == found.level
    assert what in found.what
    assert todo in found.todo


async def test_a_name_without_an_address_is_a_problem() -> None:
    name = f"{'a' * 70}.example"  # too long to be one

    (found,) = await look(f"https://{name}")

    assert "problem" == found.level
    assert found.what.startswith(f"no address for the name {name}: ")


@pytest.mark.parametrize(("polls", "level"), [("true", "ok"), ("false", "problem")])
async def test_an_address_that_leads_nowhere_is_well_where_somebody_polls(
    polls: str, level: str
) -> None:
    flags = {
        "provider.callback_url": "https://callbacks.invalid",
        "poller.enabled": polls,
    }
    settings = load_settings(environ={}, flags=flags).settings

    (found,) = await look_at_address(settings)

    assert level == found.level
