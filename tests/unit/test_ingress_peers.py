"""Who may connect, and how often: counting in and out."""

from __future__ import annotations

import pytest
from prometheus_client import REGISTRY

from pipeline.ingress.peers import Peers, peers_of
from pipeline.settings import IngressSettings

HERE, THERE, ELSEWHERE = "203.0.113.7", "198.51.100.1", "192.0.2.9"


def _refused(cause: str) -> float:
    labels = {"cause": cause}
    return REGISTRY.get_sample_value("pipeline_refusals_total", labels) or 0


def _entered(peers: Peers, peer: str | None, times: int) -> list[int]:
    """Connect so often; give the keys of those that were let in."""
    keys = [peers.enter(peer) for _ in range(times)]
    return [key for key in keys if key is not None]


@pytest.mark.parametrize(
    ("most", "most_of_one", "let_in"),
    [(1000, None, 750), (1000, 3, 3), (1, None, 1), (5, 10, 5)],
)
def test_one_address_may_have_three_quarters_unless_told_otherwise(
    most: int, most_of_one: int | None, let_in: int
) -> None:
    """At least one, and never more than there are."""
    settings = IngressSettings.model_validate(
        {"max_connections": most, "max_connections_per_address": most_of_one}
    )

    assert let_in == len(_entered(peers_of(settings), HERE, most + 1))


def test_place_is_free_again_when_a_connection_is_closed() -> None:
    """Of the address, and of all."""
    peers = Peers(3, most_of_one=2)
    (first, _) = _entered(peers, HERE, 3)
    _entered(peers, THERE, 1)
    assert peers.enter(ELSEWHERE) is None

    peers.leave(first)

    assert [] != _entered(peers, HERE, 1)
    assert peers.enter(ELSEWHERE) is None


def test_nothing_is_kept_of_an_address_that_has_left() -> None:
    """Or the memory would grow with everybody who ever called."""
    peers = Peers()
    for number in range(300):
        for key in _entered(peers, f"198.51.{number // 256}.{number % 256}", 2):
            peers.leave(key)

    assert {} == peers._count_of


def test_network_of_64_bits_is_one_address() -> None:
    """As for rates: whoever has one address of it has them all."""
    peers = Peers(8, most_of_one=2)

    keys = [peers.enter(f"2001:db8::{number}") for number in range(1, 4)]
    keys.append(peers.enter("2001:db8:0:1::1"))

    assert [True, True, False, True] == [key is not None for key in keys]


def test_address_is_the_same_inside_ipv6() -> None:
    """A socket for both kinds sees IPv4 so."""
    peers = Peers(4, most_of_one=1)

    assert peers.enter(HERE) is not None
    assert peers.enter(f"::ffff:{HERE}") is None


@pytest.mark.parametrize(
    ("health_networks", "let_in"), [([], True), ([THERE], False), ([ELSEWHERE], True)]
)
def test_caller_that_could_only_be_refused_is_not_let_in(
    health_networks: list[str], *, let_in: bool
) -> None:
    """Who may see health is let in, and that is everybody unless it is said."""
    peers = Peers(networks=[HERE], health_networks=health_networks)
    before = _refused("network")

    assert let_in == (peers.enter(ELSEWHERE) is not None)

    assert before + (not let_in) == _refused("network")


def test_all_outside_of_the_networks_have_a_quarter_together() -> None:
    """They may look at health, and leave room for callbacks."""
    peers = Peers(8, networks=[HERE])

    assert 2 == len(_entered(peers, THERE, 2) + _entered(peers, ELSEWHERE, 2))
    assert 6 == len(_entered(peers, HERE, 8))


@pytest.mark.parametrize("peer", [None, "nonsense"])
def test_caller_without_an_address_is_outside_of_every_network(
    peer: str | None,
) -> None:
    """And where there are none, it counts as one."""
    assert peers_let_in([HERE], peer) == 0
    assert peers_let_in([], peer) == 2


def peers_let_in(networks: list[str], peer: str | None) -> int:
    """Connect three times with two allowed; give how often it was let in."""
    peers = Peers(8, most_of_one=2, networks=networks, health_networks=networks)
    return len(_entered(peers, peer, 3))


def test_proxies_leave_no_room_for_more_than_there_is() -> None:
    """They have no limit of their own, but that of all."""
    peers = Peers(8, proxies=[HERE], networks=[THERE], health_networks=[THERE])

    assert 8 == len(_entered(peers, HERE, 20))
    assert peers.enter(THERE) is None
