"""TLS by the ingress itself, and certificates that change while it runs."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from typing import TYPE_CHECKING

import pytest

from pipeline.errors import ConfigurationError
from pipeline.ingress import app
from pipeline.ingress.tls import certificate_of
from pipeline.settings import TlsSettings
from tests.ingress import CALLBACK, running_ingress
from tests.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.ingress.tls import Certificate

pytestmark = pytest.mark.usefixtures("nothing_unhandled")

WHOLE = (
    b"POST /callbacks/generate HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    % len(CALLBACK)
) + CALLBACK


def make_certificate(folder: Path, name: str, *, password: str = "") -> None:
    """Write ``NAME.pem`` and ``NAME.key``, for this machine and signed by itself."""
    secret = ("-passout", f"pass:{password}") if password else ("-nodes",)
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-days", "2"),
            *("-pkeyopt", "ec_paramgen_curve:prime256v1", *secret),
            *(
                "-subj",
                f"/CN={name}",
                "-addext",
                "subjectAltName=IP:127.0.0.1,DNS:localhost",
            ),
            *("-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem"),
        ],
        check=True,
        capture_output=True,
        timeout=30,
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates called ``first`` and ``second``, and one with a password."""
    folder = tmp_path_factory.mktemp("made")
    make_certificate(folder, "first")
    make_certificate(folder, "second")
    make_certificate(folder, "locked", password="secret")
    return folder


@pytest.fixture
def tls(made: Path, tmp_path: Path) -> dict[str, str]:
    """Settings for the first certificate, looked at often."""
    _put(made, tmp_path, "first")
    return {
        "certificate_file": str(tmp_path / "tls.pem"),
        "key_file": str(tmp_path / "tls.key"),
        "check_interval": "20ms",
    }


def _certificate(tls: dict[str, str]) -> Certificate:
    made = certificate_of(TlsSettings.model_validate(tls))
    assert made is not None
    return made


def _put(made: Path, folder: Path, name: str) -> None:
    shutil.copy(made / f"{name}.pem", folder / "tls.pem")
    shutil.copy(made / f"{name}.key", folder / "tls.key")


def _trusting(made: Path, *names: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    for name in names:
        context.load_verify_locations(made / f"{name}.pem")
    return context


async def _subject(
    host: str, port: int, context: ssl.SSLContext, *, name: str | None = None
) -> str:
    """Connect and say whose certificate is shown; only with a name one is asked for."""
    _, writer = await asyncio.open_connection(
        host, port, ssl=context, server_hostname=name
    )
    found = writer.get_extra_info("peercert")["subject"]
    writer.close()
    return str(dict(pair for (pair,) in found)["commonName"])


async def test_callbacks_are_taken_over_tls(
    sqlite_url: str, made: Path, tls: dict[str, str]
) -> None:
    """Small ones and large ones, and health as well."""
    client = _trusting(made, "first")
    async with running_ingress(sqlite_url, tls=tls, tls_client=client) as ingress:
        large = CALLBACK[:-1] + b',"x":"' + b"y" * 900_000 + b'"}'
        assert 200 == (await ingress.post()).status
        assert 200 == (await ingress.post(data=large)).status
        assert 400 == (await ingress.post(data=b"no json")).status
        assert 200 == (await ingress.get("/healthz")).status
        assert 2 == await ingress.count()


async def test_client_that_does_not_know_the_certificate_sends_nothing(
    sqlite_url: str, made: Path, tls: dict[str, str]
) -> None:
    """Nothing of it is an error of ours."""
    async with running_ingress(sqlite_url, tls=tls) as ingress:
        with pytest.raises(ssl.SSLCertVerificationError):
            await _subject(ingress.host, ingress.port, _trusting(made, "second"))


async def test_plain_http_is_not_answered(
    sqlite_url: str, made: Path, tls: dict[str, str]
) -> None:
    """No callback goes over the wire in the open by mistake."""
    client = _trusting(made, "first")
    async with running_ingress(sqlite_url, tls=tls, tls_client=client) as ingress:
        try:
            answer = await ingress.raw(WHOLE)
        except ConnectionResetError:
            answer = b""

        assert b"HTTP" not in answer
        assert 0 == await ingress.count()
        assert 200 == (await ingress.post()).status


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")
@pytest.mark.parametrize(
    ("version", "works"),
    [
        (ssl.TLSVersion.TLSv1, False),
        (ssl.TLSVersion.TLSv1_1, False),
        (ssl.TLSVersion.TLSv1_2, True),
        (ssl.TLSVersion.TLSv1_3, True),
    ],
)
async def test_old_versions_of_tls_are_refused(
    sqlite_url: str,
    made: Path,
    tls: dict[str, str],
    version: ssl.TLSVersion,
    works: bool,  # noqa: FBT001
) -> None:
    """Below 1.2, even for a client that would take any cipher."""
    client = _trusting(made, "first")
    client.set_ciphers("ALL:@SECLEVEL=0")
    client.minimum_version = client.maximum_version = version
    async with running_ingress(sqlite_url, tls=tls) as ingress:
        if works:
            assert "first" == await _subject(ingress.host, ingress.port, client)
        else:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await _subject(ingress.host, ingress.port, client)


async def test_new_certificate_is_used_without_a_restart(
    sqlite_url: str, made: Path, tls: dict[str, str], tmp_path: Path
) -> None:
    """By new connections; one that is open goes on."""
    client = _trusting(made, "first", "second")
    async with running_ingress(sqlite_url, tls=tls) as ingress:
        where = (ingress.host, ingress.port)
        assert "first" == await _subject(*where, client)
        reader, writer = await asyncio.open_connection(*where, ssl=client)

        _put(made, tmp_path, "second")

        async def is_new() -> bool:
            return "second" == await _subject(*where, client)

        await eventually(is_new)
        assert "second" == await _subject(*where, client, name="localhost")
        writer.write(WHOLE)
        async with asyncio.timeout(20):  # a commit may take its time
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        writer.close()


async def test_certificate_that_does_not_fit_leaves_the_old_one_in_place(
    sqlite_url: str, made: Path, tls: dict[str, str], tmp_path: Path
) -> None:
    """Half a renewal, rubbish, or files that are gone; the next whole one is taken."""
    client = _trusting(made, "first", "second")
    certificate = _certificate(tls)
    shutil.copy(made / "second.pem", tmp_path / "tls.pem")
    assert not certificate.reload()
    (tmp_path / "tls.pem").write_text("no certificate")
    assert not certificate.reload()
    (tmp_path / "tls.pem").unlink()
    assert not certificate.reload()

    routes = app.Routes({}, None)
    serving = app.serve(routes, host="127.0.0.1", port=0, certificate=certificate)
    async with serving as (host, port):
        assert "first" == await _subject(host, port, client)
        _put(made, tmp_path, "second")

        async def is_new() -> bool:
            return "second" == await _subject(host, port, client)

        await eventually(is_new)


async def test_slow_handshake_is_given_up(
    sqlite_url: str, tls: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection on which nothing is said does not stay."""
    monkeypatch.setattr(app, "HANDSHAKE_SECONDS", 0.2)
    async with running_ingress(sqlite_url, tls=tls) as ingress:
        assert b"" == await ingress.raw(b"", within=5)


@pytest.mark.parametrize(
    ("certificate", "key"),
    [
        ("first.pem", "second.key"),
        ("first.key", "first.key"),
        ("missing.pem", "first.key"),
        ("first.pem", "missing.key"),
        ("first.pem", "first.pem"),
        ("locked.pem", "locked.key"),
    ],
)
def test_wrong_files_are_a_mistake_in_the_settings(
    made: Path, certificate: str, key: str
) -> None:
    """Named before anything listens; nobody is asked for a password."""
    files = {
        "certificate_file": str(made / certificate),
        "key_file": str(made / key),
    }
    with pytest.raises(ConfigurationError, match=rf"{certificate} and .*{key}: "):
        _certificate(files)
