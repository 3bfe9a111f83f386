"""Links that somebody could put into a callback to make us speak to our own network.

A fake name service answers for names, so that nothing here asks the real one; numbers
in every spelling are read by the system itself, as it does when it is not tested.
"""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from pipeline.assets.fetch import Fetcher, FetchRules
from pipeline.assets.guard import public_socket
from pipeline.assets.local import LocalAssetStore
from pipeline.errors import AssetRefused, FetchFailed
from tests.file_server import FileServer, answer, make_mp3

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from aiohttp.connector import AddrInfoType

#: What names lead to; a list of lists is a name that changes its answer.
NAMES: Final[dict[str, list[list[str]]]] = {
    "localhost": [["127.0.0.1", "::1"]],
    "internal.example": [["10.0.0.1"]],
    "metadata.google.internal": [["169.254.169.254"]],
    "loopback6.example": [["::1"]],
    "mapped.example": [["::ffff:192.168.0.1"]],
    "nat64.example": [["64:ff9b::7f00:1"]],
    "local-nat64.example": [["64:ff9b:1::7f00:1"]],
    "six-to-four.example": [["2002:7f00:1::1"]],
    "teredo.example": [["2001:0:7f00:1::1"]],
    "compatible.example": [["::127.0.0.1"]],
    "unique-local.example": [["fd00::1"]],
    "link-local.example": [["fe80::1"]],
    "carrier.example": [["100.64.0.1"]],
    "zero.example": [["0.0.0.0"]],
    "broadcast.example": [["255.255.255.255"]],
    "multicast.example": [["224.0.0.1"]],
    "benchmark.example": [["198.18.0.1"]],
    "127.0.0.1.nip.example": [["127.0.0.1"]],
    "rebinding.example": [["127.0.0.1"], ["93.184.216.34"]],
    "xn--lcalhost-n4a.example": [["127.0.0.1"]],
    "all-internal.example": [["10.0.0.1", "192.168.0.1", "::1"]],
}

#: Refused for what is written: no name is looked up for them, no socket made.
WRITTEN_WRONG: Final = [
    "",
    " ",
    "\x00",
    "a.mp3",
    "//files.example/a.mp3",
    "/etc/passwd",
    "https:",
    "https://",
    "https:///a.mp3",
    "https:a.mp3",
    "https://?x",
    "https://#x",
    "https://:443/a.mp3",
    "http://1.1.1.1/a.mp3",
    "HTTP://1.1.1.1/a.mp3",
    "file:///etc/passwd",
    "FILE:///etc/passwd",
    "file://localhost/etc/passwd",
    "data:audio/mpeg;base64,SUQz",
    "gopher://127.0.0.1:6379/_FLUSHALL",
    "ftp://files.example/a.mp3",
    "dict://127.0.0.1:11211/stats",
    "ldap://127.0.0.1/",
    "jar:https://files.example!/a",
    "javascript:alert(1)",
    "ws://files.example/a.mp3",
    "wss://files.example/a.mp3",
    "unix:///var/run/docker.sock",
    "https+unix://%2Fvar%2Frun%2Fdocker.sock/",
    "view-source:https://files.example/",
    "https://user@files.example/a.mp3",
    "https://user:pass@files.example/a.mp3",
    "https://files.example@127.0.0.1/a.mp3",
    "https://files.example:443@127.0.0.1/a.mp3",
    "https://files.example%40@127.0.0.1/a.mp3",
    "https://:@127.0.0.1/",
    "https://[::1/a.mp3",
    "https://::1/a.mp3",
    "https://[::1]]/a.mp3",
    "https://[v1.x]/a.mp3",
    "https://[127.0.0.1]/a.mp3",
    "https://files.example:99999/a.mp3",
    "https://files.example:-1/a.mp3",
    "https://files.example:0/a.mp3",
    "https://files.example:http/a.mp3",
    "https://files.example:22/a.mp3",
    "https://files.example:25/a.mp3",
    "https://files.example:80/a.mp3",
    "https://files.example:6379/a.mp3",
    "https://files.example:8443/a.mp3",
    "https://127.0.0.1%00.files.example/",
    "https://127.0.0.1%2f.files.example/",
    "https://127.0.0.1%09/",
    "https://%31%32%37.0.0.1/",
    "https://127.0.0.1 files.example/",
    "https://[fe80::1%25lo]/",
    "https://files.example/\ud800",
    "https://\ud800/",
]

#: Refused for where they lead, at the latest when a socket is asked for.
LEADS_INSIDE: Final = [
    "https://127.0.0.1/",
    "https://127.0.0.1:443/",
    "https://127.0.0.1./",
    "https://127.1/",
    "https://127.0.1/",
    "https://127.255.255.254/",
    "https://2130706433/",
    "https://017700000001/",
    "https://0x7f000001/",
    "https://0X7F000001/",
    "https://0x7f.0.0.1/",
    "https://0x7f.1/",
    "https://0177.0.0.1/",
    "https://0177.0.0.01/",
    "https://00000177.1/",
    "https://0/",
    "https://0.0.0.0/",
    "https://10.1/",
    "https://167772161/",
    "https://10.0.0.1/",
    "https://100.64.0.1/",
    "https://169.254.169.254/latest/meta-data/",
    "https://2852039166/latest/meta-data/",
    "https://0xa9fea9fe/latest/meta-data/",
    "https://0251.0376.0251.0376/latest/meta-data/",
    "https://172.16.0.1/",
    "https://192.168.0.1/",
    "https://192.168.257/",
    "https://198.18.0.1/",
    "https://224.0.0.1/",
    "https://255.255.255.255/",
    "https://[::]/",
    "https://[::1]/",
    "https://[0:0:0:0:0:0:0:1]/",
    "https://[0000:0000:0000:0000:0000:0000:0000:0001]/",
    "https://[::127.0.0.1]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[::ffff:7f00:1]/",
    "https://[::ffff:a9fe:a9fe]/",
    "https://[::ffff:0:127.0.0.1]/",
    "https://[64:ff9b::127.0.0.1]/",
    "https://[64:ff9b::a9fe:a9fe]/",
    "https://[64:ff9b:1::10.0.0.1]/",
    "https://[2002:7f00:1::]/",
    "https://[2002:a9fe:a9fe::1]/",
    "https://[2001:0:7f00:1::]/",
    "https://[2001:db8::1]/",
    "https://[fc00::1]/",
    "https://[fd00:ec2::254]/",
    "https://[fe80::1]/",
    "https://[fec0::1]/",
    "https://[ff02::1]/",
    "https://[100::1]/",
    "https://localhost/",
    "https://LOCALHOST/",
    "https://localhost./",
    "https://localhost#@files.example/",
    "https://localhost?@files.example/",
    "https://localhost\\@files.example/",
    "https://127.0.0.1\\@files.example/",
    "https://127.0.0.1\t/",
    "https://127.0.0.1\r\nHost: files.example/",
    "https://①②⑦.⓪.⓪.①/",
    "https://１２７.０.０.１/",  # noqa: RUF001
    "https://127。0。0。1/",
    "https://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/",
    "https://internal.example/",
    "https://INTERNAL.example./",
    "https://metadata.google.internal/computeMetadata/v1/",
    "https://loopback6.example/",
    "https://mapped.example/",
    "https://nat64.example/",
    "https://local-nat64.example/",
    "https://six-to-four.example/",
    "https://teredo.example/",
    "https://compatible.example/",
    "https://unique-local.example/",
    "https://link-local.example/",
    "https://carrier.example/",
    "https://zero.example/",
    "https://broadcast.example/",
    "https://multicast.example/",
    "https://benchmark.example/",
    "https://127.0.0.1.nip.example/",
    "https://xn--lcalhost-n4a.example/",
    "https://all-internal.example/",
    "https://rebinding.example/",
]


class FakeNames(AbstractResolver):
    """Answers for names from a table, and has numbers read by the system."""

    def __init__(self, names: dict[str, list[list[str]]]) -> None:
        self._names = {name: list(answers) for name, answers in names.items()}
        self.asked: list[str] = []

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_UNSPEC,  # noqa: ARG002
    ) -> list[ResolveResult]:
        self.asked.append(host)
        answers = self._names.get(host.lower().removesuffix("."))
        if answers is None:
            found = self._numbers(host, port)
        else:
            found = answers.pop(0) if len(answers) > 1 else answers[0]
        return [_result(host, address, port) for address in found]

    async def close(self) -> None:
        """Nothing is held."""

    def _numbers(self, host: str, port: int) -> list[str]:
        infos = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
        )
        return [str(info[4][0]) for info in infos]


def _result(host: str, address: str, port: int) -> ResolveResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return ResolveResult(
        hostname=host,
        host=address,
        port=port,
        family=family,
        proto=socket.IPPROTO_TCP,
        flags=socket.AI_NUMERICHOST,
    )


class Sockets:
    """Notes the addresses for which the guard makes a socket."""

    def __init__(self, *, also: tuple[str, int] | None = None) -> None:
        self.made: list[tuple[str, int]] = []
        self._also = also

    def __call__(self, address: AddrInfoType) -> socket.socket:
        where = (str(address[4][0]), int(address[4][1]))
        if where == self._also:
            return socket.socket(*address[:3])
        made = public_socket(address)
        self.made.append(where)
        made.close()
        raise ConnectionRefusedError(1, "tests do not call strangers")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LocalAssetStore]:
    """Where nothing may arrive."""
    async with LocalAssetStore(tmp_path) as opened:
        yield opened


@asynccontextmanager
async def _fetcher(
    rules: FetchRules | None = None, sockets: Sockets | None = None
) -> AsyncIterator[tuple[Fetcher, FakeNames, Sockets]]:
    names, made = FakeNames(NAMES), sockets or Sockets()
    chosen = rules or FetchRules()
    async with Fetcher(chosen, socket_factory=made, resolver=names) as fetcher:
        yield fetcher, names, made


@pytest.mark.parametrize("url", WRITTEN_WRONG)
async def test_link_that_is_written_wrongly_is_refused(
    store: LocalAssetStore, url: str
) -> None:
    """Before anybody is asked for an address."""
    async with _fetcher() as (fetcher, names, sockets):
        with pytest.raises(AssetRefused):
            await fetcher.fetch(url, store)

    assert ([], []) == (names.asked, sockets.made)


@pytest.mark.parametrize("url", LEADS_INSIDE)
async def test_link_that_leads_inside_is_refused(
    store: LocalAssetStore, url: str
) -> None:
    """For good, and no socket is made for any address."""
    async with _fetcher() as (fetcher, _, sockets):
        with pytest.raises(AssetRefused):
            await fetcher.fetch(url, store)

    assert [] == sockets.made


@pytest.mark.parametrize("url", LEADS_INSIDE)
async def test_redirect_that_leads_inside_is_refused(
    store: LocalAssetStore, url: str
) -> None:
    """From a host that may be asked, and with links that need no TLS."""
    plain = FetchRules(allow_private_addresses=True)
    async with FileServer() as server:
        sockets = Sockets(also=("127.0.0.1", server.port))
        location = url.encode("utf-8", "replace").decode("latin-1")
        location = location.replace("\r\n", "%0d%0a")
        headers = {"Location": location}
        start = server.add("/a", answer(status=302, headers=headers))
        async with _fetcher(plain, sockets) as (fetcher, _, _):
            with pytest.raises(AssetRefused):
                await fetcher.fetch(start, store)

        assert [] == sockets.made
        assert ["/a"] == [request.target for request in server.requests]


async def test_name_that_changes_its_answer_is_looked_up_for_every_connection(
    store: LocalAssetStore,
) -> None:
    """The address that is checked is the one that is connected to."""
    names = FakeNames({"r.example": [["93.184.216.34"], ["127.0.0.1"]]})
    sockets = Sockets()
    async with Fetcher(FetchRules(), socket_factory=sockets, resolver=names) as fetcher:
        with pytest.raises(FetchFailed, match="do not call strangers"):
            await fetcher.fetch("https://r.example/a", store)
        with pytest.raises(AssetRefused, match="public address"):
            await fetcher.fetch("https://r.example/a", store)

    assert [("93.184.216.34", 443)] == sockets.made
    assert ["r.example", "r.example"] == names.asked


async def test_public_link_gets_a_socket(store: LocalAssetStore) -> None:
    """Or the refusals above would prove nothing."""
    async with _fetcher() as (fetcher, _, sockets):
        with pytest.raises(FetchFailed, match="do not call strangers"):
            await fetcher.fetch("https://93.184.216.34/a.mp3", store)

    assert [("93.184.216.34", 443)] == sockets.made


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("files.example", True),
        ("FILES.EXAMPLE", True),
        ("files.example.", True),
        ("a.cdn.example", True),
        ("a.b.cdn.example", True),
        ("cdn.example", False),
        ("evilcdn.example", False),
        ("a.cdn.example.evil.example", False),
        ("files.example.evil.example", False),
        ("xfiles.example", False),
        ("example", False),
        ("93.184.216.34", False),
    ],
)
async def test_hosts_can_be_limited(
    store: LocalAssetStore,
    host: str,
    allowed: bool,  # noqa: FBT001
) -> None:
    """To names and to the ends of names, dot included."""
    rules = FetchRules(hosts=("files.example", "*.cdn.example"))
    names = FakeNames({host.lower().removesuffix("."): [["93.184.216.34"]]})
    sockets = Sockets()
    expected = FetchFailed if allowed else AssetRefused
    async with Fetcher(rules, socket_factory=sockets, resolver=names) as fetcher:
        with pytest.raises(expected):
            await fetcher.fetch(f"https://{host}/a.mp3", store)

    assert allowed == bool(sockets.made)
    assert allowed == bool(names.asked)


async def test_redirect_to_a_host_that_is_not_allowed_is_refused(
    store: LocalAssetStore,
) -> None:
    """The list is for every hop."""
    rules = FetchRules(allow_private_addresses=True, hosts=("127.0.0.1",))
    async with FileServer() as server, FileServer() as other:
        there = other.url("/b", host="localhost")
        headers = {"Location": there}
        start = server.add("/a", answer(status=302, headers=headers))
        other.add("/b", answer(make_mp3()))
        async with Fetcher(rules) as fetcher:
            with pytest.raises(AssetRefused, match="host that is allowed"):
                await fetcher.fetch(start, store)

        assert [] == other.requests


async def test_ports_can_be_limited(store: LocalAssetStore) -> None:
    """443 by itself; other ones where they are named."""
    link = "https://93.184.216.34:8443/a.mp3"
    async with _fetcher() as (fetcher, _, sockets):
        with pytest.raises(AssetRefused, match="port that is allowed, got 8443"):
            await fetcher.fetch(link, store)
        assert [] == sockets.made

    async with _fetcher(FetchRules(ports={443, 8443})) as (fetcher, _, sockets):
        with pytest.raises(FetchFailed):
            await fetcher.fetch(link, store)
        assert [("93.184.216.34", 8443)] == sockets.made


def test_corpus_is_as_large_as_it_says() -> None:
    """Each link once."""
    links = WRITTEN_WRONG + LEADS_INSIDE

    assert len(set(links)) == len(links) >= 120
