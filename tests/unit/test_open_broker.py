"""Which adapter an address asks for."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from pipeline.broker import open_broker
from pipeline.broker.rabbitmq import RabbitBroker
from pipeline.broker.sqlite import SqliteBroker
from pipeline.errors import ConfigurationError

DEADLINE = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:////var/lib/pipeline/broker.db", "/var/lib/pipeline/broker.db"),
        ("sqlite:///data/broker.db", str(Path("data/broker.db").absolute())),
        ("sqlite:////with%20space/b.db?lease_seconds=2.5", "/with space/b.db"),
    ],
)
def test_sqlite_address_names_a_file(url: str, path: str) -> None:
    broker = open_broker(url, deadline=DEADLINE)

    assert isinstance(broker, SqliteBroker)
    assert Path(path) == broker._session.database.path


def test_lease_can_be_set_in_the_address() -> None:
    broker = open_broker("sqlite:///b.db?lease_seconds=2.5", deadline=DEADLINE)

    assert isinstance(broker, SqliteBroker)
    assert broker._session.lease_milliseconds == 2500


@pytest.mark.parametrize("scheme", ["amqp", "amqps"])
def test_amqp_address_names_a_rabbitmq(scheme: str) -> None:
    broker = open_broker(f"{scheme}://guest:guest@127.0.0.1:1/", deadline=DEADLINE)

    assert isinstance(broker, RabbitBroker)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://broker.db",
        "sqlite:///",
        "sqlite:///b.db?lease_seconds=0",
        "sqlite:///b.db?lease_seconds=soon",
        "sqlite:///b.db?lease_seconds=nan",
        "sqlite:///b.db?lease_seconds=inf",
        "sqlite:///b.db?leese_seconds=2",
        "redis://127.0.0.1",
        "broker.db",
        "",
    ],
)
def test_address_that_cannot_be_understood_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="expected"):
        open_broker(url, deadline=DEADLINE)


def test_password_of_an_unknown_scheme_is_not_shown() -> None:
    with pytest.raises(ConfigurationError) as raised:
        open_broker("amqpx://user:hunter2@host/", deadline=DEADLINE)

    assert "hunter2" not in str(raised.value)
