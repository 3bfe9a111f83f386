"""Who is let in: networks, rates, numbers of requests and connections, headers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import REGISTRY

from pipeline.errors import ConfigurationError
from pipeline.provider.callback import OPERATIONS
from tests.ingress import CALLBACK, running_ingress
from tests.waiting import eventually

if TYPE_CHECKING:
    from tests.ingress import Ingress

pytestmark = pytest.mark.usefixtures("nothing_unhandled")

POST = b"POST /callbacks/generate HTTP/1.1\r\nHost: x\r\n"
WHOLE = POST + b"Content-Length: %d\r\n\r\n" % len(CALLBACK) + CALLBACK
HERE = "127.0.0.1"
#: Far more than an answer takes, with the commit that it may need.
ANSWER_SECONDS = 20.0
#: Less than a connection lives that was let in and says nothing: 10 s.
CLOSE_SECONDS = 8.0
GENERAL, OWN = "a-general-secret", "a-secret-of-wav-only"


def _refused(cause: str) -> float:
    labels = {"cause": cause}
    return REGISTRY.get_sample_value("pipeline_refusals_total", labels) or 0


# -- networks -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("networks", "status"),
    [
        ([HERE], 200),
        (["127.0.0.0/8"], 200),
        (["192.0.2.0/24", "127.0.0.0/30"], 200),
        (["192.0.2.0/24"], 403),
        (["::1/128", "::ffff:0:0/96"], 403),
    ],
)
async def test_callbacks_are_taken_from_allowed_networks_only(
    sqlite_url: str, networks: list[str], status: int
) -> None:
    """And the refusal is counted, and says nothing of the networks."""
    before = _refused("network")
    async with running_ingress(sqlite_url, networks=networks) as ingress:
        answer = await ingress.post()

        assert status == answer.status
        assert (200 == status) == bool(await ingress.count())
        if status == 403:
            assert "forbidden_network" == answer.problem["code"]
            assert b"192.0.2" not in answer.body
        assert before + (status == 403) == _refused("network")
        assert 200 == (await ingress.get("/healthz")).status


@pytest.mark.parametrize(
    ("forwarded", "status"),
    [
        ("203.0.113.7", 200),
        ("203.0.113.7:4711", 200),
        ("198.51.100.1, 203.0.113.7", 200),
        ("203.0.113.7, 10.0.0.9", 200),
        ("203.0.113.7, 198.51.100.1", 403),
        ("198.51.100.1", 403),
        ("203.0.113.7, nonsense", 403),
        ("nonsense", 403),
        ("", 403),
        (None, 403),
    ],
)
async def test_proxy_that_is_trusted_says_who_calls(
    sqlite_url: str, forwarded: str | None, status: int
) -> None:
    """The address furthest right that is no proxy's; what is left of it is hearsay."""
    settings: dict[str, Any] = {
        "networks": ["203.0.113.0/24"],
        "trusted_proxies": [HERE, "10.0.0.0/8"],
    }
    headers = {} if forwarded is None else {"X_Forwarded_For": forwarded}
    async with running_ingress(sqlite_url, **settings) as ingress:
        assert status == (await ingress.post(**headers)).status


async def test_nobody_else_is_believed_what_it_says(sqlite_url: str) -> None:
    """Or anybody could write an address that is allowed."""
    allowed = "203.0.113.7"
    async with running_ingress(sqlite_url, networks=[allowed]) as ingress:
        assert 403 == (await ingress.post(X_Forwarded_For=allowed)).status
    settings: dict[str, Any] = {"networks": [allowed], "trusted_proxies": ["192.0.2.1"]}
    async with running_ingress(sqlite_url, **settings) as ingress:
        assert 403 == (await ingress.post(X_Forwarded_For=allowed)).status


async def test_several_headers_are_read_as_one(sqlite_url: str) -> None:
    """A proxy may add a line of its own below the one that the caller wrote."""
    settings: dict[str, Any] = {"networks": ["203.0.113.7"], "trusted_proxies": [HERE]}
    tail = b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(CALLBACK)
    good, bad = b"X-Forwarded-For: 203.0.113.7\r\n", b"x-forwarded-for: 10.0.0.1\r\n"
    async with running_ingress(sqlite_url, **settings) as ingress:
        first = await ingress.raw(POST + bad + good + tail + CALLBACK)
        second = await ingress.raw(POST + good + bad + tail + CALLBACK)

    assert b"200" == first.split(b" ")[1]
    assert b"403" == second.split(b" ")[1]


async def test_health_is_shown_to_its_own_networks_only(sqlite_url: str) -> None:
    """Where no proxy hides it; others do not even learn that it is there."""
    async with running_ingress(sqlite_url, health_networks=["10.0.0.0/8"]) as ingress:
        paths = ("/healthz", "/readyz", "/metrics", "/openapi.json")
        answers = [await ingress.get(path) for path in paths]

        assert [404] * 4 == [answer.status for answer in answers]
        assert 200 == (await ingress.post()).status
    async with running_ingress(sqlite_url, health_networks=[HERE]) as ingress:
        assert 200 == (await ingress.get("/metrics")).status


# -- rates --------------------------------------------------------------------------


async def test_caller_that_calls_too_often_has_to_wait(sqlite_url: str) -> None:
    """It is told how long, and counted; nothing of it is published."""
    before = _refused("rate")
    # The next turn is far off, however long the disk takes for the first three.
    limits: dict[str, Any] = {"rate_per_second": 0.01, "rate_burst": 3}
    async with running_ingress(sqlite_url, **limits) as ingress:
        answers = [await ingress.post() for _ in range(5)]

        assert [200] * 3 + [429] * 2 == [answer.status for answer in answers]
        assert "too_many_requests" == answers[3].problem["code"]
        assert 1 <= int(answers[3].headers["retry-after"]) <= 100
        assert 3 == await ingress.count()
        assert before + 2 == _refused("rate")
        assert 200 == (await ingress.get("/healthz")).status


async def test_wait_that_was_told_is_enough(sqlite_url: str) -> None:
    """After it the caller is let in again."""
    limits: dict[str, Any] = {"rate_per_second": 0.5, "rate_burst": 1}
    async with running_ingress(sqlite_url, **limits) as ingress:
        # At once: who comes after an answer has waited for the disk already.
        answers = await asyncio.gather(ingress.post(), ingress.post())
        assert [200, 429] == sorted(answer.status for answer in answers)
        (refused,) = [answer for answer in answers if answer.status == 429]

        await asyncio.sleep(int(refused.headers["retry-after"]))  # as it was told

        assert 200 == (await ingress.post()).status


async def test_callers_behind_a_proxy_do_not_hold_up_each_other(
    sqlite_url: str,
) -> None:
    """Each address has a bucket of its own, and the proxy none."""
    limits: dict[str, Any] = {
        "rate_per_second": 0.01,
        "rate_burst": 1,
        "trusted_proxies": [HERE],
    }
    async with running_ingress(sqlite_url, **limits) as ingress:
        callers = ["203.0.113.1", "203.0.113.2", "203.0.113.1", "2001:db8::1"]
        callers += ["2001:db8::2", "2001:db8:0:1::1"]

        answers = [(await ingress.post(X_Forwarded_For=c)).status for c in callers]

    assert [200, 200, 429, 200, 429, 200] == answers


# -- numbers ------------------------------------------------------------------------


async def test_more_requests_than_allowed_are_told_to_come_later(
    sqlite_url: str,
) -> None:
    """Whoever is in is served; there is room again when it is out."""
    async with running_ingress(sqlite_url, max_requests=1) as ingress:
        reader, writer = await asyncio.open_connection(ingress.host, ingress.port)
        writer.write(WHOLE[:-1])

        async def is_busy() -> bool:
            return 503 == (await ingress.post()).status

        await eventually(is_busy)
        answer = await ingress.post()
        assert "too_busy" == answer.problem["code"]
        assert 1 <= int(answer.headers["retry-after"])
        writer.write(WHOLE[-1:])
        async with asyncio.timeout(ANSWER_SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert 200 == (await ingress.post()).status
        writer.close()


async def test_room_is_free_again_after_every_kind_of_answer(sqlite_url: str) -> None:
    """Refused, broken off, or left by its caller."""
    async with running_ingress(sqlite_url, max_requests=1) as ingress:
        assert 400 == (await ingress.post(data=b"no json")).status
        assert 404 == (await ingress.post("/callbacks/paint")).status
        _, writer = await asyncio.open_connection(ingress.host, ingress.port)
        writer.write(WHOLE[:-1])
        await writer.drain()
        writer.close()

        async def is_let_in() -> bool:
            return 200 == (await ingress.post()).status

        await eventually(is_let_in)


async def test_more_connections_than_allowed_are_closed(sqlite_url: str) -> None:
    """At once; those that are open are served, and there is room again after them."""
    before = _refused("connections")
    limits: dict[str, Any] = {"max_connections": 2, "max_connections_per_address": 2}
    async with running_ingress(sqlite_url, **limits) as ingress:
        first = await asyncio.open_connection(ingress.host, ingress.port)
        second = await asyncio.open_connection(ingress.host, ingress.port)
        await _answered(*second)
        third = await asyncio.open_connection(ingress.host, ingress.port)
        async with asyncio.timeout(CLOSE_SECONDS):
            assert b"" == await third[0].read()
        assert before + 1 == _refused("connections")
        await _answered(*first)
        for _, writer in (first, second, third):
            writer.close()

        await _until_let_in(ingress, HERE)


async def _connected_from(
    ingress: Ingress, address: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(
        ingress.host, ingress.port, local_addr=(address, 0)
    )


async def _until_let_in(ingress: Ingress, address: str) -> None:
    async def is_let_in() -> bool:
        reader, writer = await _connected_from(ingress, address)
        writer.write(WHOLE)
        async with asyncio.timeout(ANSWER_SECONDS):
            got = await reader.read(12)
        writer.close()
        return got == b"HTTP/1.1 200"

    await eventually(is_let_in)


async def _is_closed(reader: asyncio.StreamReader) -> bool:
    async with asyncio.timeout(CLOSE_SECONDS):
        return b"" == await reader.read()


async def test_one_address_cannot_take_all_connections(sqlite_url: str) -> None:
    """It may have three quarters, idle or not; everybody else still gets in."""
    before = _refused("address")
    async with running_ingress(sqlite_url, max_connections=8) as ingress:
        idle = [await _connected_from(ingress, "127.0.0.9") for _ in range(6)]
        # They are in when they are answered.
        for reader, writer in idle:
            await _answered(reader, writer)

        late = await _connected_from(ingress, "127.0.0.9")
        assert await _is_closed(late[0])
        assert before + 1 == _refused("address")
        other = await _connected_from(ingress, HERE)
        await _answered(*other)

        idle[0][1].close()

        await _until_let_in(ingress, "127.0.0.9")
        for _, writer in (*idle, late, other):
            writer.close()


async def test_proxy_that_is_trusted_may_have_all_connections(sqlite_url: str) -> None:
    """Those of everybody come from it."""
    limits: dict[str, Any] = {"max_connections": 8, "trusted_proxies": [HERE]}
    async with running_ingress(sqlite_url, **limits) as ingress:
        opened = [await _connected_from(ingress, HERE) for _ in range(8)]
        for reader, writer in opened:
            await _answered(reader, writer)
        for _, writer in opened:
            writer.close()


async def test_nobody_outside_the_networks_can_connect_where_health_has_its_own(
    sqlite_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Closed at once and unheard, for there is nothing that it could get."""
    before = _refused("network")
    settings: dict[str, Any] = {
        "networks": ["127.0.0.2"],
        "health_networks": ["127.0.0.3"],
        "trusted_proxies": ["127.0.0.4"],
    }
    async with running_ingress(sqlite_url, **settings) as ingress:
        for _ in range(5):
            reader, writer = await _connected_from(ingress, "127.0.0.9")
            assert await _is_closed(reader)
            writer.close()

        assert before + 5 == _refused("network")
        for address, status in (("2", b"200"), ("3", b"403"), ("4", b"403")):
            reader, writer = await _connected_from(ingress, f"127.0.0.{address}")
            writer.write(WHOLE)
            async with asyncio.timeout(ANSWER_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
            assert status == head.split(b" ")[1]
            writer.close()
    lines = [
        line
        for line in capsys.readouterr().out.splitlines()
        if "callers_turned_away" in line and "127.0.0.9" in line
    ]
    assert 1 == len(lines)


async def test_all_outside_the_networks_together_count_as_one_address(
    sqlite_url: str,
) -> None:
    """They may look at health; they cannot shut the provider out."""
    settings: dict[str, Any] = {"networks": [HERE], "max_connections": 8}
    async with running_ingress(sqlite_url, **settings) as ingress:
        outside = [await _connected_from(ingress, f"127.0.0.{n}") for n in range(2, 10)]
        closed = [await _is_closed(reader) for reader, _ in outside[2:]]

        assert [True] * 6 == closed
        reader, writer = outside[0]
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(ANSWER_SECONDS):
            assert b"HTTP/1.1 200" == (await reader.readuntil(b"\r\n\r\n"))[:12]
        provider = await _connected_from(ingress, HERE)
        await _answered(*provider)
        for _, writer in (*outside, provider):
            writer.close()


async def _answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(WHOLE)
    async with asyncio.timeout(ANSWER_SECONDS):
        assert b"HTTP/1.1 200" == (await reader.readuntil(b"\r\n\r\n"))[:12]


@pytest.mark.parametrize(
    ("count", "status"), [(90, b"200"), (150, b"400"), (5000, b"400")]
)
async def test_headers_are_limited(sqlite_url: str, count: int, status: bytes) -> None:
    """In number; how long each may be is aiohttp's limit."""
    headers = b"".join(b"X-%d: y\r\n" % number for number in range(count))
    tail = b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(CALLBACK)
    async with running_ingress(sqlite_url) as ingress:
        answer = await ingress.raw(POST + headers + tail + CALLBACK)

        assert status == answer.split(b" ")[1]
        assert 200 == (await ingress.post()).status


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
        b"Content-Length: 0\r\nContent-Length: 5\r\n",
        b"Content-Length: 0, 5\r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length: 0x5\r\n",
        b"Content-Length : 0\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Content-Length: 0\r\n X-Folded: y\r\n",
        b"X-Null: a\x00b\r\nContent-Length: 0\r\n",
    ],
)
async def test_request_that_two_could_read_differently_is_refused(
    sqlite_url: str, framing: bytes
) -> None:
    """A proxy in front could see one request where we see two."""
    async with running_ingress(sqlite_url) as ingress:
        answer = await ingress.raw(POST + framing + b"\r\n" + WHOLE)

        assert b"400" == answer.split(b" ")[1]
        assert b" 200 " not in answer
        assert 0 == await ingress.count()
        assert 200 == (await ingress.post()).status


@pytest.mark.parametrize(("depth", "status"), [(500, 200), (2000, 400)])
async def test_nesting_is_limited(sqlite_url: str, depth: int, status: int) -> None:
    """By the JSON parser, which does not recurse without end."""
    body = b'{"task_id":"t","x":' + b"[" * depth + b"]" * depth + b"}"
    async with running_ingress(sqlite_url) as ingress:
        assert status == (await ingress.post(data=body)).status


# -- tokens of operations -----------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"/callbacks/generate/{GENERAL}", 200),
        (f"/callbacks/generate/{OWN}", 401),
        (f"/callbacks/wav/{OWN}", 200),
        (f"/callbacks/wav?token={OWN}", 200),
        (f"/callbacks/wav/{OWN}-the-next", 200),
        (f"/callbacks/wav/{GENERAL}", 401),
        ("/callbacks/wav", 401),
    ],
)
async def test_operation_can_have_tokens_of_its_own(
    sqlite_url: str, path: str, status: int
) -> None:
    """Instead of the general ones, and for nothing else."""
    own = {"wav": [OWN, f"{OWN}-the-next"]}
    settings: dict[str, Any] = {"tokens": [GENERAL], "operation_tokens": own}
    async with running_ingress(sqlite_url, **settings) as ingress:
        assert status == (await ingress.post(path)).status


async def test_operation_without_a_token_is_closed_where_others_have_one(
    sqlite_url: str,
) -> None:
    """To forget one must not open it."""
    async with running_ingress(sqlite_url, operation_tokens={"wav": [OWN]}) as ingress:
        for operation in sorted(OPERATIONS):
            answer = await ingress.post(f"/callbacks/{operation}/{OWN}")

            assert (200 if operation == "wav" else 401) == answer.status


async def test_token_of_an_operation_that_is_unknown_is_a_mistake(
    sqlite_url: str,
) -> None:
    """A slip of the pen would leave an operation with the general tokens."""
    with pytest.raises(ConfigurationError, match="got genrate"):
        async with running_ingress(sqlite_url, operation_tokens={"genrate": [OWN]}):
            pass


async def test_log_names_who_calls_and_not_the_proxy(
    sqlite_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Or nobody could find out who tries their luck."""
    settings: dict[str, Any] = {"trusted_proxies": [HERE], "tokens": [GENERAL]}
    async with running_ingress(sqlite_url, **settings) as ingress:
        assert 401 == (await ingress.post(X_Forwarded_For="203.0.113.7")).status
        assert 401 == (await ingress.post(X_Forwarded_For="rubbish")).status

    refused = [
        line
        for line in capsys.readouterr().out.splitlines()
        if "callback_refused" in line
    ]
    assert "203.0.113.7" in refused[0]
    assert HERE in refused[1]
