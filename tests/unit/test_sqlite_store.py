"""What the embedded broker does to its file, step by step."""

from __future__ import annotations

import apsw
import pytest

from pipeline.broker.sqlite_message import Parcel
from pipeline.broker.sqlite_store import Store
from pipeline.errors import Unroutable
from pipeline.topology import CALLBACKS, build_topology

#: Larger messages are refused in these tests; SQLite's own limit is 1 GB.
LIMIT_BYTES = 10_000
TOPOLOGY = build_topology(prefix="test", subscriptions={})
EXCHANGE = TOPOLOGY.exchange_name(CALLBACKS)


@pytest.fixture
def connection() -> apsw.Connection:
    connection = apsw.Connection(":memory:")
    connection.limit(apsw.SQLITE_LIMIT_LENGTH, LIMIT_BYTES)
    return connection


@pytest.fixture
def store(connection: apsw.Connection) -> Store:
    store = Store()
    store.topology = TOPOLOGY
    store.prepare(connection)
    return store


def parcel(body: bytes, exchange: str = EXCHANGE) -> Parcel:
    return Parcel(
        exchange=exchange,
        mandatory=True,
        routing_key="callback.generate.text",
        content_type="application/json",
        headers=b"{}",
        body=body,
    )


def bodies(connection: apsw.Connection) -> list[bytes]:
    return [body for (body,) in connection.execute("SELECT body FROM messages")]


def test_messages_of_which_one_is_too_large_are_not_stored_at_all(
    store: Store, connection: apsw.Connection
) -> None:
    """What others have stored in the same transaction stays."""
    large = parcel(b"x" * LIMIT_BYTES)
    connection.execute("BEGIN IMMEDIATE")
    store.insert(connection, [parcel(b"before")], now=0)

    with pytest.raises(apsw.TooBigError):
        store.insert(connection, [parcel(b"with"), large], now=0)
    with pytest.raises(apsw.TooBigError):
        store.insert(connection, [large], now=0)
    store.insert(connection, [parcel(b"after")], now=0)
    connection.execute("COMMIT")

    assert [b"before", b"after"] == bodies(connection)


def test_messages_of_which_one_has_no_queue_are_not_stored_at_all(
    store: Store, connection: apsw.Connection
) -> None:
    with pytest.raises(Unroutable, match="nothing was stored"):
        store.insert(connection, [parcel(b"with"), parcel(b"x", "nowhere")], now=0)

    assert [] == bodies(connection)
