"""The three ways in which callbacks are signed, over HTTP."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import hmac
import time
from typing import TYPE_CHECKING

import pytest
from prometheus_client import REGISTRY

from tests.ingress import CALLBACK, running_ingress

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.ingress import Ingress

pytestmark = pytest.mark.usefixtures("nothing_unhandled")

TASK, OLD, NEW = "5c79be8e", b"the-old-key", b"the-new-key"
FORGED = CALLBACK.replace(b"generated", b"forged!!!")


def _digest(key: bytes, text: bytes) -> bytes:
    return hmac.new(key, text, hashlib.sha256).digest()


def _task_and_time(key: bytes, body: bytes, now: str) -> dict[str, str]:
    digest = _digest(key, f"{TASK}.{now}".encode())
    signature = base64.b64encode(digest).decode()
    return {"X_Webhook_Timestamp": now, "X_Webhook_Signature": signature}


def _time_and_body(key: bytes, body: bytes, now: str) -> dict[str, str]:
    digits = _digest(key, now.encode() + b"." + body).hex()
    return {
        "X_Webhook_Timestamp": now,
        "X_Webhook_Signature": f"sha256={digits}",
        "X_Webhook_Id": "w-1",
    }


def _body(key: bytes, body: bytes, now: str) -> dict[str, str]:
    return {"X_Signature": _digest(key, body).hex()}


SCHEMES = {
    "task-and-time": _task_and_time,
    "time-and-body": _time_and_body,
    "body": _body,
}


def _now(seconds: int = 0) -> str:
    return str(int(time.time()) + seconds)


def _refused(cause: str) -> float:
    labels = {"cause": cause}
    return REGISTRY.get_sample_value("pipeline_refusals_total", labels) or 0


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_signature_of_any_key_opens(sqlite_url: str, scheme: str) -> None:
    """The old and the new one; another one does not, nor none at all."""
    signature = {"scheme": scheme, "keys": [NEW.decode(), OLD.decode()]}
    sign = SCHEMES[scheme]
    wrong, missing = _refused("signature_wrong"), _refused("signature_missing")
    async with running_ingress(sqlite_url, signature=signature) as ingress:
        for key, status in ((OLD, 200), (NEW, 200), (b"another", 401)):
            headers = sign(key, CALLBACK, _now())
            assert status == (await ingress.post(**headers)).status
        answer = await ingress.post()

        assert (401, "unauthorised") == (answer.status, answer.problem["code"])
        assert 2 == await ingress.count()
    assert wrong + 1 == _refused("signature_wrong")
    assert missing + 1 == _refused("signature_missing")


@pytest.mark.parametrize(
    ("scheme", "status"),
    [("task-and-time", 200), ("time-and-body", 401), ("body", 401)],
)
async def test_body_is_covered_by_two_of_them(
    sqlite_url: str, scheme: str, status: int
) -> None:
    """The first one lets a forged body pass: that is how the provider made it."""
    signature = {"scheme": scheme, "keys": [NEW.decode()]}
    headers = SCHEMES[scheme](NEW, CALLBACK, _now())
    async with running_ingress(sqlite_url, signature=signature) as ingress:
        assert status == (await ingress.post(data=FORGED, **headers)).status


@pytest.mark.parametrize("scheme", ["task-and-time", "time-and-body"])
async def test_time_has_a_tolerance(sqlite_url: str, scheme: str) -> None:
    """Both ways, and what is outside is counted as that."""
    signature = {"scheme": scheme, "keys": [NEW.decode()], "tolerance": "1h"}
    sign = SCHEMES[scheme]
    before = _refused("timestamp_outside_tolerance")
    async with running_ingress(sqlite_url, signature=signature) as ingress:
        for seconds, status in ((-3500, 200), (3500, 200), (-3700, 401), (3700, 401)):
            headers = sign(NEW, CALLBACK, _now(seconds))
            assert status == (await ingress.post(**headers)).status
        assert 401 == (await ingress.post(**sign(NEW, CALLBACK, "soon"))).status
    assert before + 2 == _refused("timestamp_outside_tolerance")


async def test_time_is_covered_too(sqlite_url: str) -> None:
    """An old callback cannot be given a new time."""
    signature = {"scheme": "time-and-body", "keys": [NEW.decode()]}
    headers = _time_and_body(NEW, CALLBACK, _now(-5)) | {"X_Webhook_Timestamp": _now()}
    async with running_ingress(sqlite_url, signature=signature) as ingress:
        assert 401 == (await ingress.post(**headers)).status


@pytest.mark.parametrize(
    ("spelling", "status"),
    [
        (lambda digest: digest.hex(), 200),
        (lambda digest: digest.hex().upper(), 200),
        (lambda digest: f"sha256={digest.hex()}", 200),
        (lambda digest: base64.b64encode(digest).decode(), 200),
        (lambda digest: digest.hex()[:-1], 401),
        (lambda digest: f"sha1={digest.hex()}", 401),
        (lambda _: "", 401),
        (lambda _: "0" * 64, 401),
    ],
)
async def test_signature_of_the_body_alone_is_read_in_several_spellings(
    sqlite_url: str, spelling: Callable[[bytes], str], status: int
) -> None:
    """None is documented; each proves the key all the same."""
    signature = {"scheme": "body", "keys": [NEW.decode()]}
    headers = {"X_Signature": spelling(_digest(NEW, CALLBACK))}
    async with running_ingress(sqlite_url, signature=signature) as ingress:
        assert status == (await ingress.post(**headers)).status


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_schemes_do_not_open_for_each_other(sqlite_url: str, scheme: str) -> None:
    """One is chosen; a weaker one cannot be picked by the caller."""
    signature = {"scheme": scheme, "keys": [NEW.decode()]}
    async with running_ingress(sqlite_url, signature=signature) as ingress:
        for other in SCHEMES.keys() - {scheme}:
            headers = SCHEMES[other](NEW, CALLBACK, _now())
            assert 401 == (await ingress.post(**headers)).status


async def test_compressed_body_is_signed_as_it_was_meant(sqlite_url: str) -> None:
    """How it travels is the transport's business."""
    signature = {"scheme": "time-and-body", "keys": [NEW.decode()]}
    headers = _time_and_body(NEW, CALLBACK, _now()) | {"Content_Encoding": "gzip"}
    async with running_ingress(sqlite_url, signature=signature) as ingress:
        body = gzip.compress(CALLBACK)
        assert 200 == (await ingress.post(data=body, **headers)).status


# -- before the body ----------------------------------------------------------------


async def _begin(ingress: Ingress, headers: dict[str, str]) -> tuple[bytes, bytes]:
    """Send a head whose body never comes; give the status and the whole answer."""
    lines = "".join(
        f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()
    )
    head = f"POST /callbacks/midi HTTP/1.1\r\nHost: x\r\n{lines}"
    reader, writer = await asyncio.open_connection(ingress.host, ingress.port)
    try:
        writer.write(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
        async with asyncio.timeout(5):
            answer = await reader.readuntil(b"}")
    finally:
        writer.close()
    return answer.split(b" ")[1], answer


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_callback_without_a_signature_is_refused_before_its_body(
    sqlite_url: str, scheme: str
) -> None:
    """Or anybody could fill the memory with bodies that never end."""
    signature = {"scheme": scheme, "keys": [NEW.decode()]}
    before = _refused("signature_missing")
    # Were the body waited for, the answer would come too late.
    async with running_ingress(
        sqlite_url, signature=signature, body_timeout="60s"
    ) as ingress:
        status, answer = await _begin(ingress, {})

        assert b"401" == status
        assert b"unauthorised" in answer
    assert before + 1 == _refused("signature_missing")


@pytest.mark.parametrize("scheme", ["task-and-time", "time-and-body"])
@pytest.mark.parametrize(
    ("stamp", "cause"),
    [
        (None, "signature_missing"),
        ("soon", "timestamp_unreadable"),
        ("1000000000", "timestamp_outside_tolerance"),
    ],
)
async def test_signature_of_another_time_is_refused_before_the_body(
    sqlite_url: str, scheme: str, stamp: str | None, cause: str
) -> None:
    """The answer says no more than for a wrong one; the metric does."""
    signature = {"scheme": scheme, "keys": [NEW.decode()]}
    headers = SCHEMES[scheme](NEW, CALLBACK, stamp or _now())
    if stamp is None:
        del headers["X_Webhook_Timestamp"]
    before = _refused(cause)
    async with running_ingress(
        sqlite_url, signature=signature, body_timeout="60s"
    ) as ingress:
        status, answer = await _begin(ingress, headers)
        wrong = await ingress.post(**SCHEMES[scheme](OLD, CALLBACK, _now()))

        assert b"401" == status
        assert wrong.problem["detail"].encode() in answer
    assert before + 1 == _refused(cause)


async def test_callers_without_a_signature_take_nobodys_place(sqlite_url: str) -> None:
    """However many of them never end their bodies."""
    signature = {"keys": [NEW.decode()]}
    async with running_ingress(
        sqlite_url, signature=signature, max_requests=2, body_timeout="60s"
    ) as ingress:
        for _ in range(4):
            await _begin(ingress, {})

        answer = await ingress.post(**_task_and_time(NEW, CALLBACK, _now()))

    assert 200 == answer.status
