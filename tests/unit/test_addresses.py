"""Addresses with several hosts."""

from __future__ import annotations

import pytest

from pipeline.addresses import split_hosts


@pytest.mark.parametrize(
    ("url", "nodes"),
    [
        ("amqp://one/", ["amqp://one/"]),
        ("amqp://one", ["amqp://one"]),
        (
            "amqp://u:p@one:5672,two:5673,three/host?heartbeat=5",
            [
                "amqp://u:p@one:5672/host?heartbeat=5",
                "amqp://u:p@two:5673/host?heartbeat=5",
                "amqp://u:p@three/host?heartbeat=5",
            ],
        ),
        ("amqps://[::1]:5671, [::2]", ["amqps://[::1]:5671", "amqps://[::2]"]),
        ("amqp://one,,two/", ["amqp://one/", "amqp:///", "amqp://two/"]),
        # Commas elsewhere are no separators.
        ("amqp://u:a,b@one,two/", ["amqp://u:a,b@one/", "amqp://u:a,b@two/"]),
        ("amqp://one/a,b?c=d,e", ["amqp://one/a,b?c=d,e"]),
        # An @ that is not written as %40 belongs to the password, as it did.
        ("amqp://u:p@ss@one/", ["amqp://u:p@ss@one/"]),
    ],
)
def test_each_host_gets_an_address_that_is_otherwise_the_same(
    url: str, nodes: list[str]
) -> None:
    assert nodes == split_hosts(url)


@pytest.mark.parametrize("url", ["one,two", "amqp://u:p@one,v:p@two/", ""])
def test_what_cannot_be_split_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match="expected") as raised:
        split_hosts(url)

    assert "p@" not in str(raised.value)
