"""Which addresses count as public."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from pipeline.assets.guard import ForbiddenAddress, is_public, public_socket

if TYPE_CHECKING:
    from aiohttp.connector import AddrInfoType

PUBLIC = [
    "1.1.1.1",
    "93.184.216.34",
    "2606:4700:4700::1111",
    "2a00:1450:4001:80b::200e",
    "::ffff:1.1.1.1",
    "64:ff9b::101:101",
]
INTERNAL = [
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd12:3456::1",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "not an address",
    "",
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_pass(address: str) -> None:
    """Ordinary addresses, and public ones inside the two IPv6 forms in use."""
    assert is_public(address)


@pytest.mark.parametrize("address", INTERNAL)
def test_internal_addresses_do_not_pass(address: str) -> None:
    """Also those that ``is_global`` of Python 3.11 takes for public."""
    assert not is_public(address)


def test_no_socket_is_made_for_an_internal_address() -> None:
    """The refusal is an ``OSError``, which the connector passes on."""
    address: AddrInfoType = (
        socket.AF_INET,
        socket.SOCK_STREAM,
        socket.IPPROTO_TCP,
        "",
        ("169.254.169.254", 80),
    )

    with pytest.raises(ForbiddenAddress):
        public_socket(address)


def test_a_socket_is_made_for_a_public_address() -> None:
    """Of the family that was asked for; nothing is connected yet."""
    address: AddrInfoType = (
        socket.AF_INET,
        socket.SOCK_STREAM,
        socket.IPPROTO_TCP,
        "",
        ("1.1.1.1", 443),
    )

    with public_socket(address) as made:
        assert socket.AF_INET == made.family
