"""Buckets of addresses, and whom a chain of proxies stands for."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ingress.limits import RateLimit
from pipeline.ingress.networks import MOST_HOPS, Networks, find_client, read_address
from pipeline.ingress.turned_away import LOG_SECONDS, Tally, TurnedAway

A, B = ip_address("203.0.113.1"), ip_address("203.0.113.2")


class Clock:
    """A time that stands still."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_bucket_empties_and_fills_again() -> None:
    """So many at once, then so many a second; the wait that is told is enough."""
    clock = Clock()
    limit = RateLimit(2, 3, clock=clock)

    assert [0.0] * 3 + [0.5, 0.5] == [limit.wait_of(A) for _ in range(5)]
    clock.now += 0.5
    assert [0.0, 0.5] == [limit.wait_of(A), limit.wait_of(A)]
    clock.now += 3600
    assert [0.0] * 3 + [0.5] == [limit.wait_of(A) for _ in range(4)]


def test_buckets_are_apart() -> None:
    """One that is empty leaves the other full."""
    limit = RateLimit(1, 1, clock=Clock())

    assert [0.0, 1.0, 0.0] == [limit.wait_of(a) for a in (A, A, B)]


def test_memory_is_bounded() -> None:
    """The one that has called least recently is forgotten, not the one that calls."""
    limit = RateLimit(1, 1, most=10, clock=Clock())
    for number in range(10_000):
        limit.wait_of(ip_address(number))
        assert not number or limit.wait_of(A)
        limit.wait_of(A)

    assert 10 == len(limit)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("0.0.0.1", "::1", False),
        ("::1", "::2", True),
    ],
)
def test_ipv6_network_has_one_bucket(one: str, other: str, same: bool) -> None:  # noqa: FBT001
    """Who has one address of it has them all."""
    limit = RateLimit(1, 1, clock=Clock())
    limit.wait_of(ip_address(one))

    assert same == bool(limit.wait_of(ip_address(other)))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("203.0.113.1", "203.0.113.1"),
        (" 203.0.113.1 ", "203.0.113.1"),
        ("203.0.113.1:80", "203.0.113.1"),
        ("::ffff:203.0.113.1", "203.0.113.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("", None),
        ("unknown", None),
        ("203.0.113.1.", None),
        ("0x7f.1", None),
        ("2130706433", None),
        ("203.0.113.0/24", None),
        ("_hidden", None),
        ("127.1", None),
    ],
)
def test_addresses_are_read_in_every_usual_form(text: str, address: str | None) -> None:
    """And in no unusual one."""
    expected = None if address is None else ip_address(address)

    assert expected == read_address(text)


@given(st.text())
def test_no_text_makes_reading_fail(text: str) -> None:
    read_address(text)
    find_client("127.0.0.1", [text], Networks(["127.0.0.1"]))


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.1", [], "203.0.113.1"),
        ("203.0.113.1", ["10.0.0.1"], "203.0.113.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.1"], "203.0.113.1"),
        ("10.0.0.1", ["203.0.113.1, 10.0.0.2"], "203.0.113.1"),
        ("10.0.0.1", ["203.0.113.1", "203.0.113.2, 10.0.0.2"], "203.0.113.2"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("::ffff:10.0.0.1", ["203.0.113.1"], "203.0.113.1"),
        ("10.0.0.1", ["203.0.113.1, rubbish"], None),
        ("10.0.0.1", [""], None),
        (None, ["203.0.113.1"], None),
    ],
)
def test_client_is_the_last_one_that_is_no_proxy(
    peer: str | None, forwarded: list[str], client: str | None
) -> None:
    """Whatever stands before it could have been written by the client itself."""
    expected = None if client is None else ip_address(client)

    assert expected == find_client(peer, forwarded, Networks(["10.0.0.0/8"]))


def test_long_chain_is_not_followed_to_its_end() -> None:
    """A caller could have us read a header for long otherwise."""
    chain = ["203.0.113.1", *["10.0.0.1"] * (MOST_HOPS + 10)]

    found = find_client("10.0.0.1", [",".join(chain)], Networks(["10.0.0.0/8"]))

    assert ip_address("10.0.0.1") == found


def test_who_is_turned_away_is_logged_once_in_a_while(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With the number since the last line."""
    clock = Clock()
    tally = Tally(clock=clock)
    for _ in range(1000):
        tally.add(TurnedAway.RATE, "203.0.113.1")
    clock.now += LOG_SECONDS
    tally.add(TurnedAway.RATE, "203.0.113.1")

    lines = [line for line in capsys.readouterr().out.splitlines() if "turned" in line]
    assert 2 == len(lines)
    assert "count=1 " in lines[0]
    assert "count=1000 " in lines[1]
