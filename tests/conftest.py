"""Fixtures for every kind of test: the addresses of brokers and databases."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from typing import TYPE_CHECKING, Final

import pytest

from tests import postgres_node as postgres
from tests.rabbitmq_cluster import RabbitCluster, started_cluster
from tests.rabbitmq_install import find_server, install_server
from tests.rabbitmq_node import RabbitNode, started_node
from tests.server_package import ServerMissing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.object_server import ObjectServer

#: Set by those who can do without what is tested on RabbitMQ.
WITHOUT_RABBITMQ: Final = "PIPELINE_TEST_WITHOUT_RABBITMQ"
#: Set by those who can do without what is tested on PostgreSQL.
WITHOUT_POSTGRES: Final = "PIPELINE_TEST_WITHOUT_POSTGRES"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with slow modules, and install servers before the first test.

    A slow module that came last would be waited for by all the other processes. No
    time limit counts for the installation here.
    """
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])
    if not os.environ.get(WITHOUT_RABBITMQ) and _wanted(
        items, "rabbitmq", "PIPELINE_TEST_AMQP_URL"
    ):
        install_server()
    if not os.environ.get(WITHOUT_POSTGRES) and _wanted(
        items, "postgres", "PIPELINE_TEST_POSTGRES_URL"
    ):
        postgres.install_server()


def _wanted(items: list[pytest.Item], mark: str, address: str) -> bool:
    """Tell whether a server of our own is needed for any of the tests."""
    given = os.environ.get(address)
    return any(
        # Some tests take a server down: they need one of their own in any case.
        {f"{mark}_node", f"{mark}_own_node", f"{mark}_cluster"}
        & {*getattr(item, "fixturenames", ())}
        or (not given and item.get_closest_marker(mark))
        for item in items
    )


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """Address of an embedded broker in a file of its own, with short leases.

    They outlast renewals that a busy disk holds up: what a living consumer holds
    would go to others.
    """
    return f"sqlite:///{tmp_path}/broker.db?lease_seconds=5"


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
    _require_rabbitmq()
    with started_node(tmp_path_factory.mktemp("rabbitmq")) as node:
        yield node


@pytest.fixture(scope="module")
def rabbitmq_own_node(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[RabbitNode]:
    """A private RabbitMQ for the tests of a module that stop it.

    Nobody else should have it afterwards: where queues are deleted while it starts,
    RabbitMQ 3.10 gives up the part of it that dead-letters, and declares none any more.
    """
    _require_rabbitmq()
    with started_node(tmp_path_factory.mktemp("rabbitmq-own")) as node:
        yield node


@pytest.fixture(scope="module")
def rabbitmq_cluster(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[RabbitCluster]:
    """Three nodes for the tests of a module; they take a while to start."""
    _require_rabbitmq()
    with started_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


def _require_rabbitmq() -> None:
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


@pytest.fixture(scope="session")
def rabbitmq_url(request: pytest.FixtureRequest) -> str:
    """Address of a RabbitMQ: ``PIPELINE_TEST_AMQP_URL``, or a private node."""
    if url := os.environ.get("PIPELINE_TEST_AMQP_URL"):
        return url
    node: RabbitNode = request.getfixturevalue("rabbitmq_node")
    return node.url


@pytest.fixture(scope="session")
def postgres_node() -> Iterator[postgres.PostgresNode]:
    """A private PostgreSQL for this session; with xdist, one for each worker."""
    try:
        postgres.find_program("initdb")
    except ServerMissing as missing:
        if os.environ.get(WITHOUT_POSTGRES):
            pytest.skip(str(missing))
        pytest.fail(
            f"{missing}. Tests that stop and start a server need the package in any"
            f" case. {WITHOUT_POSTGRES}=1 skips what needs PostgreSQL",
            pytrace=False,
        )
    with postgres.started_server() as node:
        yield node


@pytest.fixture(scope="session")
def postgres_server_url(request: pytest.FixtureRequest) -> str:
    """Address of a PostgreSQL: ``PIPELINE_TEST_POSTGRES_URL``, or a private one."""
    if url := os.environ.get("PIPELINE_TEST_POSTGRES_URL"):
        return url
    node: postgres.PostgresNode = request.getfixturevalue("postgres_node")
    return node.url


@pytest.fixture
def postgres_ledger_url(postgres_server_url: str) -> Iterator[str]:
    """Address of an empty place of its own in PostgreSQL."""
    url = asyncio.run(postgres.make_schema(postgres_server_url))
    yield url
    asyncio.run(postgres.drop_schema(url))
