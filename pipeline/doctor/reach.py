"""Go the provider's way to the ingress: name, address, certificate, answer.

Nothing is stored by it (``pipeline.ingress.probe``). What is found out is judged in
``address.py``.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

import aiohttp

from pipeline.ingress.probe import PROBE_BODY, PROBE_HEADER, PROBE_TASK_ID
from pipeline.provider.signature import (
    TIMESTAMP_HEADER,
    Scheme,
    sign,
    sign_body,
)
from pipeline.values import value

if TYPE_CHECKING:
    from yarl import URL

    from pipeline.settings.ingress import SignatureSettings

#: How long the provider waits for an answer.
PROVIDER_SECONDS: Final = 15.0


@value
class Certificate:
    """What a server shows, if it can be trusted."""

    not_after: datetime


@value
class Answer:
    """What came back for a probe."""

    status: int
    seconds: float
    #: Whether an ingress of ours has taken it for what it is.
    is_ours: bool
    #: The other side's clock, and ours at the same time; ``None``: it told no time.
    clocks: tuple[datetime, datetime] | None


async def resolve(url: URL) -> list[str]:
    """Give the addresses that the host of ``url`` has.

    Raises:
        OSError: it has none, or the name service does not answer.
        UnicodeError: it is no name of a host.
    """
    loop = asyncio.get_running_loop()
    found = await asyncio.wait_for(
        loop.getaddrinfo(url.host or "", url.port or 0, type=socket.SOCK_STREAM),
        PROVIDER_SECONDS,
    )
    return sorted({str(one[4][0]) for one in found})


async def look_at_certificate(url: URL) -> Certificate:
    """Connect as the provider would, and check name, chain and time of the certificate.

    Raises:
        ssl.SSLCertVerificationError: it is not to be trusted.
        OSError: there is no connection, or no TLS on it; also ``TimeoutError``.
    """
    _, writer = await asyncio.wait_for(
        asyncio.open_connection(
            url.host, url.port, ssl=ssl.create_default_context(), happy_eyeballs_delay=1
        ),
        PROVIDER_SECONDS,
    )
    try:
        shown = writer.get_extra_info("peercert")
    finally:
        writer.transport.abort()
    seconds = ssl.cert_time_to_seconds(shown["notAfter"])
    return Certificate(not_after=datetime.fromtimestamp(seconds, UTC))


async def post_probe(address: str, signature: SignatureSettings | None) -> Answer:
    """Post a probe; with settings of a signature that have keys it is signed.

    Raises:
        aiohttp.ClientError, OSError: there is no answer; also ``TimeoutError``.
    """
    headers = {"Content-Type": "application/json", PROBE_HEADER: "1"}
    if signature is not None and signature.keys:
        headers |= _signed(signature)
    timeout = aiohttp.ClientTimeout(total=PROVIDER_SECONDS)
    # Made here, like that of the certificate: both trust the same authorities.
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context())
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        started, sent_at = time.perf_counter(), datetime.now(UTC)
        async with session.post(
            address, data=PROBE_BODY, headers=headers, allow_redirects=False
        ) as response:
            await response.read()
            seconds = time.perf_counter() - started
            return Answer(
                status=response.status,
                seconds=seconds,
                is_ours=PROBE_HEADER in response.headers,
                clocks=read_clock(response.headers.get("Date"), sent_at),
            )


def read_clock(date: str | None, sent_at: datetime) -> tuple[datetime, datetime] | None:
    """Read the ``Date`` of an answer to what was sent at ``sent_at``, beside our time.

    Whole seconds: the other clock may be one ahead of it.
    """
    if date is None:
        return None
    try:
        there = parsedate_to_datetime(date)
    except ValueError:
        return None
    if there.tzinfo is None:
        return None
    now = datetime.now(UTC)
    return there.astimezone(UTC), sent_at + (now - sent_at) / 2


def _signed(signature: SignatureSettings) -> dict[str, str]:
    key = signature.keys[0].get_secret_value().encode()
    timestamp = str(int(time.time()))
    match scheme := Scheme(signature.scheme):
        case Scheme.TASK_AND_TIME:
            text = sign(key, PROBE_TASK_ID, timestamp)
        case Scheme.TIME_AND_BODY:
            text = sign_body(key, PROBE_BODY, timestamp)
        case Scheme.BODY:
            text = sign_body(key, PROBE_BODY)
    timed = {TIMESTAMP_HEADER: timestamp} if scheme.is_timed else {}
    return {scheme.header: text, **timed}
