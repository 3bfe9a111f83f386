"""Fixtures for every kind of test: the addresses of the two brokers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import pytest

from tests.rabbitmq_node import (
    RabbitNode,
    ServerMissing,
    find_server,
    install_server,
    started_node,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.object_server import ObjectServer

#: Set by those who can do without what is tested on RabbitMQ.
WITHOUT_RABBITMQ: Final = "PIPELINE_TEST_WITHOUT_RABBITMQ"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Install RabbitMQ before the first test, where its time limit does not count."""
    if os.environ.get(WITHOUT_RABBITMQ):
        return
    given = os.environ.get("PIPELINE_TEST_AMQP_URL")
    if any(
        # Some tests take a node down: they need one of their own in any case.
        "rabbitmq_node" in getattr(item, "fixturenames", ())
        or (not given and item.get_closest_marker("rabbitmq"))
        for item in items
    ):
        install_server()


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """Address of an embedded broker in a file of its own, with short leases."""
    return f"sqlite:///{tmp_path}/broker.db?lease_seconds=1"


@pytest.fixture(scope="session")
def object_server() -> Iterator[ObjectServer]:
    """A server that speaks S3, for this session."""
    from tests.object_server import started_server  # noqa: PLC0415 - slow to import

    with started_server() as server:
        yield server


@pytest.fixture
def bucket(object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of an empty bucket, and an environment that leads to it."""
    for name, value in object_server.environment.items():
        monkeypatch.setenv(name, value)
    return object_server.make_bucket()


@pytest.fixture(scope="session")
def rabbitmq_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitNode]:
    """A private RabbitMQ for this session; with xdist, one for each worker."""
    try:
        find_server("rabbitmq-server")
    except ServerMissing as missing:
        # A run that was meant to check everything must not look green without.
        if os.environ.get(WITHOUT_RABBITMQ):
            pytest.skip(str(missing))
        pytest.fail(
            f"{missing}. Tests that stop and start a node need the package in any case."
            f" {WITHOUT_RABBITMQ}=1 skips what needs RabbitMQ",
            pytrace=False,
        )
    with started_node(tmp_path_factory.mktemp("rabbitmq")) as node:
        yield node


@pytest.fixture(scope="session")
def rabbitmq_url(request: pytest.FixtureRequest) -> str:
    """Address of a RabbitMQ: ``PIPELINE_TEST_AMQP_URL``, or a private node."""
    if url := os.environ.get("PIPELINE_TEST_AMQP_URL"):
        return url
    node: RabbitNode = request.getfixturevalue("rabbitmq_node")
    return node.url
