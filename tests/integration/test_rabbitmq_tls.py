"""RabbitMQ over TLS: the fast path opens that connection itself."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from yarl import URL

from pipeline.broker.rabbitmq import RabbitBroker
from pipeline.errors import BrokerUnavailable
from pipeline.topology import DEDUPE
from tests.factories import make_envelope, make_publication
from tests.tcp_proxy import TcpProxy
from tests.waiting import eventually, receive_one

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pipeline.topology import Topology

pytestmark = [pytest.mark.rabbitmq, pytest.mark.usefixtures("nothing_unhandled")]

PATIENT = timedelta(seconds=10)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate that signs itself, with its key in the same folder."""
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec"),
            *("-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"),
            *("-subj", "/CN=broker", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", folder / "key.pem", "-out", folder / "cert.pem"),
        ],
        check=True,
        capture_output=True,
        timeout=30,
    )
    return folder / "cert.pem"


@pytest.fixture
async def tls_url(rabbitmq_url: str, certificate: Path) -> AsyncIterator[URL]:
    """Address of the broker behind an end of encryption."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    async with TcpProxy.to(rabbitmq_url, tls=context) as proxy:
        yield URL(proxy.url_for(rabbitmq_url)).with_scheme("amqps")


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "plain"])
async def test_messages_go_over_tls(
    tls_url: URL,
    certificate: Path,
    rabbit_topology: Topology,
    fast: bool,  # noqa: FBT001
) -> None:
    """Large ones and many of them, both ways."""
    url = str(tls_url.update_query(cafile=str(certificate)))
    large = make_publication(make_envelope(body=b"x" * 2**20))
    async with RabbitBroker(url, deadline=PATIENT, fast=fast) as broker:
        await broker.declare(rabbit_topology)

        await asyncio.gather(*(broker.publish(large) for _ in range(10)))

        async with broker.consume(DEDUPE, prefetch=1) as consumer:
            for _ in range(10):
                delivery = await receive_one(consumer)
                assert large.envelope == delivery.envelope
                await delivery.ack()
        assert broker.problem is None


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "plain"])
async def test_certificate_that_nobody_vouches_for_is_refused(
    tls_url: URL,
    rabbit_topology: Topology,
    fast: bool,  # noqa: FBT001
) -> None:
    """The reason is said; nothing is sent to whoever that is."""
    deadline = timedelta(seconds=0.5)
    async with RabbitBroker(str(tls_url), deadline=deadline, fast=fast) as broker:

        async def is_refused() -> bool:
            return "certificate" in str(broker.problem).lower()

        await eventually(is_refused, within=30)
        with pytest.raises(BrokerUnavailable, match=r"(?i)certificate"):
            await broker.declare(rabbit_topology)
