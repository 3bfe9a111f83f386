"""The ingress and its callers over time: slow ones, lost ones, and how it stops."""

from __future__ import annotations

import asyncio
import io
import logging
import socket
import struct
import time
from datetime import timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import aio_pika
import orjson
import pytest
import structlog
from aiohttp import web

from pipeline.errors import ConfigurationError
from pipeline.ingress import app, connection, server
from pipeline.ingress.peers import Peers
from pipeline.logs import configure_logs
from pipeline.topology import DEDUPE, UNROUTED
from tests.deadlines import set_deadline
from tests.factories import make_topology
from tests.ingress import CALLBACK, running_ingress
from tests.rabbitmq_node import delete_topology
from tests.tcp_proxy import TcpProxy
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from pipeline.topology import Topology
    from tests.ingress import Ingress

pytestmark = pytest.mark.usefixtures("nothing_unhandled")

MIB = 2**20
TOKEN = "a-very-secret-token"
POST = b"POST /callbacks/upload-extend HTTP/1.1\r\nHost: x\r\n"
WHOLE = POST + b"Content-Length: %d\r\n\r\n" % len(CALLBACK) + CALLBACK
#: Far more than an answer takes, with the commit that it may need.
ANSWER_SECONDS = 20.0
#: Far more than a connection takes to be closed, or an ingress to stop, and less than
#: the limits that these tests shorten, or do not want to be waited for: 8 s and more.
CLOSE_SECONDS = 7.0


@pytest.fixture
async def ingress(sqlite_url: str) -> AsyncIterator[Ingress]:
    """An ingress that gives a slow body half a second."""
    async with running_ingress(sqlite_url, body_timeout="500ms") as made:
        yield made


async def _connected(
    ingress: Ingress,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(ingress.host, ingress.port)


async def _until_published(ingress: Ingress, count: int = 1) -> None:
    async def is_published() -> bool:
        return await ingress.count() == count

    await eventually(is_published)


# -- slow and lost callers ----------------------------------------------------------


async def test_slow_body_is_given_up(
    ingress: Ingress, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is closed: half a body is of no more use."""
    monkeypatch.setattr(server, "LINGERING_SECONDS", 0.1)
    reader, writer = await _connected(ingress)
    began = time.monotonic()
    writer.write(POST + b"Content-Length: 1000\r\n\r\n" + CALLBACK[:20])

    async with asyncio.timeout(CLOSE_SECONDS):
        answer = await reader.read()

    assert time.monotonic() - began > 0.4
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"body_too_slow" in answer
    assert 0 == await ingress.count()
    writer.close()


async def test_body_that_trickles_is_given_up_too(ingress: Ingress) -> None:
    """The limit is for the whole body, not for each piece."""
    reader, writer = await _connected(ingress)
    writer.write(POST + b"Content-Length: 1000\r\n\r\n")

    async def trickle() -> None:
        while True:
            writer.write(b" ")
            await asyncio.sleep(0.05)

    trickling = asyncio.create_task(trickle())
    async with asyncio.timeout(CLOSE_SECONDS):
        answer = await reader.readuntil(b"}")
    trickling.cancel()

    assert answer.startswith(b"HTTP/1.1 408 ")
    writer.close()


async def test_little_is_kept_of_a_body_that_nobody_reads_yet() -> None:
    """A thousand callers who send as fast as they can must not fill the memory."""
    requests: list[web.BaseRequest] = []
    may_end = asyncio.Event()

    async def hold(request: web.BaseRequest) -> web.StreamResponse:
        requests.append(request)
        await may_end.wait()
        return web.Response()

    made = server.Server(
        hold,
        request_factory=app._request_factory(MIB),
        keepalive_timeout=5,
        head_timeout=5,
        peers=Peers(),
    )
    loop = asyncio.get_running_loop()
    async with await loop.create_server(made, "127.0.0.1", 0) as listening:
        address = listening.sockets[0].getsockname()
        _, writer = await asyncio.open_connection(*address)
        writer.write(POST + b"Content-Length: %d\r\n\r\n" % (8 * MIB) + bytes(8 * MIB))

        async def is_held_up() -> bool:
            return bool(requests) and requests[0].protocol._reading_paused

        await eventually(is_held_up)
        assert requests[0].content._size <= 2 * connection.RECEIVED_BYTES
        writer.transport.abort()
        may_end.set()
        await made.shutdown(5)


async def test_slow_headers_are_given_up(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever never finishes a request does not hold a connection for ever."""
    monkeypatch.setattr(app, "KEEPALIVE_SECONDS", 0.3)
    async with running_ingress(sqlite_url) as ingress:
        # After a first request the clock is running.
        reader, writer = await _connected(ingress)
        writer.write(WHOLE)
        async with asyncio.timeout(ANSWER_SECONDS):
            await reader.readuntil(b"\r\n\r\n")
        writer.write(b"POST /callbacks/")
        async with asyncio.timeout(CLOSE_SECONDS):
            assert b"" == await reader.read()
        writer.close()


async def test_headers_that_trickle_are_given_up(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the first request on; another byte does not put off the end."""
    monkeypatch.setattr(app, "KEEPALIVE_SECONDS", 0.3)
    async with running_ingress(sqlite_url) as ingress:
        reader, writer = await _connected(ingress)
        writer.write(POST)

        async def trickle() -> None:
            while True:
                writer.write(b"X-More: and more\r\n")
                await asyncio.sleep(0.02)

        trickling = asyncio.create_task(trickle())
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                assert b"" == await reader.read()
        except ConnectionResetError:
            pass
        trickling.cancel()
        writer.close()


async def test_new_connection_has_less_time_for_its_first_request(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that has sent a request before is kept: its caller has shown what it is."""
    monkeypatch.setattr(app, "HEAD_SECONDS", 0.3)
    async with running_ingress(sqlite_url) as ingress:
        known_reader, known_writer = await _connected(ingress)
        known_writer.write(WHOLE)
        async with asyncio.timeout(ANSWER_SECONDS):
            await known_reader.readuntil(b"\r\n\r\n")
        silent_reader, silent_writer = await _connected(ingress)
        slow_reader, slow_writer = await _connected(ingress)
        slow_writer.write(POST)

        async with asyncio.timeout(CLOSE_SECONDS):
            assert b"" == await silent_reader.read()
            assert b"" == await slow_reader.read()

        known_writer.write(WHOLE)
        async with asyncio.timeout(ANSWER_SECONDS):
            assert b"HTTP/1.1 200" == (await known_reader.readuntil(b"\r\n\r\n"))[:12]
        for writer in (known_writer, silent_writer, slow_writer):
            writer.close()


async def test_slow_body_is_not_cut_off_by_the_time_for_the_head(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has its own."""
    monkeypatch.setattr(app, "HEAD_SECONDS", 0.1)
    async with running_ingress(sqlite_url, body_timeout="700ms") as ingress:
        answer = await ingress.raw(
            POST + b"Connection: close\r\nContent-Length: 1000\r\n\r\n{"
        )

    assert b"408" == answer.split(b" ")[1]


@pytest.mark.parametrize("how", ["close", "half-close", "reset"])
async def test_callback_of_a_caller_that_has_left_is_published(
    ingress: Ingress, how: str
) -> None:
    """It was sent whole; that nobody waits for the answer changes nothing."""
    _, writer = await _connected(ingress)
    writer.write(WHOLE)
    if how == "close":
        writer.close()
    elif how == "half-close":
        writer.write_eof()
    else:
        await writer.drain()
        writer.transport.abort()

    await _until_published(ingress)

    assert CALLBACK == (await ingress.published())[0].envelope.body
    writer.close()
    assert 200 == (await ingress.post()).status


async def test_half_a_callback_is_not_published(ingress: Ingress) -> None:
    """A caller that leaves in the middle of a body has sent nothing."""
    for cut in (len(WHOLE) - 1, len(WHOLE) - 50, len(POST) + 5):
        _, writer = await _connected(ingress)
        writer.write(WHOLE[:cut])
        await writer.drain()
        writer.close()

    assert 200 == (await ingress.post()).status
    await _until_published(ingress, 1)


async def test_several_requests_on_one_connection(ingress: Ingress) -> None:
    """Sent at once, answered in their order."""
    reader, writer = await _connected(ingress)
    bad = POST + b"Content-Length: 2\r\n\r\n[]"

    writer.write(WHOLE + bad + WHOLE)

    statuses = []
    async with asyncio.timeout(ANSWER_SECONDS):
        for _ in range(3):
            head = await reader.readuntil(b"\r\n\r\n")
            statuses.append(head.split(b" ")[1])
            length = head.lower().partition(b"content-length: ")[2]
            await reader.readexactly(int(length.partition(b"\r")[0]))
    assert [b"200", b"400", b"200"] == statuses
    assert 2 == await ingress.count()
    writer.close()


async def test_accepted_callback_is_answered_with_the_time_and_nothing_else(
    ingress: Ingress,
) -> None:
    """An empty 200; the date is of this second, however often it was sent before."""
    await ingress.post()
    began = int(time.time())

    answer = await ingress.post()

    assert (200, b"") == (answer.status, answer.body)
    assert {"content-length", "date"} == set(answer.headers)
    sent_at = parsedate_to_datetime(answer.headers["date"]).timestamp()
    assert began <= sent_at <= time.time()


@pytest.mark.parametrize(
    "request_line_and_wish",
    [
        pytest.param(POST + b"Connection: close\r\n", id="HTTP/1.1"),
        pytest.param(b"POST /callbacks/upload-extend HTTP/1.0\r\n", id="HTTP/1.0"),
    ],
)
async def test_caller_that_wants_the_connection_closed_sees_it_closed(
    ingress: Ingress, request_line_and_wish: bytes
) -> None:
    """After the answer, not after the time for idle connections."""
    rest = b"Content-Length: %d\r\n\r\n" % len(CALLBACK) + CALLBACK

    answer = await ingress.raw(request_line_and_wish + rest)

    assert b"200" == answer.split(b" ")[1]
    assert answer.endswith(b"\r\n\r\n")
    assert 1 == await ingress.count()


async def test_caller_of_http_1_0_may_keep_the_connection(ingress: Ingress) -> None:
    """It is told so, for in that version the default is to close."""
    reader, writer = await _connected(ingress)
    request = (
        b"POST /callbacks/upload-extend HTTP/1.0\r\nConnection: keep-alive\r\n"
        b"Content-Length: %d\r\n\r\n" % len(CALLBACK) + CALLBACK
    )

    async with asyncio.timeout(ANSWER_SECONDS):
        for _ in range(2):
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.0 200 ")
            assert b"connection: keep-alive" in head.lower()
    writer.close()


async def test_caller_that_asks_first_is_told_to_go_on(ingress: Ingress) -> None:
    """The body is sent only after the word to go on."""
    reader, writer = await _connected(ingress)
    writer.write(
        POST
        + b"Expect: 100-continue\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
        % len(CALLBACK)
    )

    async with asyncio.timeout(ANSWER_SECONDS):
        assert b"HTTP/1.1 100 Continue\r\n\r\n" == await reader.readuntil(b"\r\n\r\n")
        writer.write(CALLBACK)
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
    writer.close()


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"hello\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /callbacks/generate HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
        b"\r\n" * 1000,
        bytes(range(256)),
    ],
)
async def test_what_is_no_http_is_refused(ingress: Ingress, garbage: bytes) -> None:
    """With a problem document, and the next caller is served."""
    reader, writer = await _connected(ingress)
    writer.write(garbage)
    writer.write(b"\r\n\r\n")
    try:
        async with asyncio.timeout(1):
            answer = await reader.read()
    except TimeoutError:
        answer = b""
    finally:
        writer.close()

    if answer:
        assert answer.split(b" ")[1] in (b"400", b"404", b"414", b"431")
        document = orjson.loads(answer.partition(b"\r\n\r\n")[2])
        assert {"type", "title", "status", "detail", "code"} == set(document)
    assert 200 == (await ingress.post()).status


# -- stopping -----------------------------------------------------------------------


@pytest.mark.rabbitmq
async def test_requests_in_progress_finish_when_it_stops(
    rabbitmq_url: str, rabbit_topology: Topology
) -> None:
    """No new caller is let in; who was in gets the answer."""
    async with TcpProxy.to(rabbitmq_url) as proxy:
        running = running_ingress(proxy.url_for(rabbitmq_url), topology=rabbit_topology)
        ingress = await running.__aenter__()
        assert 200 == (await ingress.post()).status
        proxy.hold()
        reader, writer = await _connected(ingress)
        writer.write(WHOLE)
        silent = await _connected(ingress)

        stopping = asyncio.create_task(running.__aexit__(None, None, None))

        async def is_closed() -> bool:
            try:
                _, late = await _connected(ingress)
            except OSError:
                return True
            late.close()
            return False

        await eventually(is_closed)
        proxy.resume()
        async with asyncio.timeout(8):
            assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
            await stopping
        writer.close()
        silent[1].close()


async def test_idle_connections_do_not_delay_the_stop(sqlite_url: str) -> None:
    """A caller that keeps its connection open is not waited for."""
    async with running_ingress(sqlite_url) as ingress:
        reader, writer = await _connected(ingress)
        writer.write(WHOLE)
        async with asyncio.timeout(ANSWER_SECONDS):
            await reader.readuntil(b"\r\n\r\n")
        began = time.monotonic()

    assert time.monotonic() - began < CLOSE_SECONDS
    writer.close()


async def test_address_that_is_taken_is_a_mistake_in_the_settings(
    ingress: Ingress, sqlite_url: str
) -> None:
    """The message names it and says what to do."""
    taken = app.serve(app.Routes({}, None), host=ingress.host, port=ingress.port)

    with pytest.raises(ConfigurationError, match=str(ingress.port)):
        await taken.__aenter__()


# -- what is logged -----------------------------------------------------------------


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """Everything that is logged, by us and by libraries."""
    stream = io.StringIO()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    configure_logs(level="DEBUG", form="json", stream=stream)
    root.setLevel(logging.DEBUG)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_caller_that_leaves_in_the_middle_is_no_error_of_ours(
    ingress: Ingress, logged: io.StringIO, *, reset: bool
) -> None:
    """Anybody could fill the log otherwise, with what operators are told to report."""
    _, writer = await _connected(ingress)
    if reset:
        linger = struct.pack("ii", 1, 0)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.write(WHOLE[:-1])
    await writer.drain()
    writer.close()

    async def is_refused() -> bool:
        return "callback_refused" in logged.getvalue()

    await eventually(is_refused)
    lines = [orjson.loads(line) for line in logged.getvalue().splitlines()]
    assert {"debug", "info"} >= {line["level"] for line in lines}
    assert "Traceback" not in logged.getvalue()


async def test_secrets_are_never_logged(sqlite_url: str, logged: io.StringIO) -> None:
    """Not in what is accepted, refused, unknown or no HTTP at all."""
    query, path = f"?token={TOKEN}&x=query-string", f"/{TOKEN}"
    requests = [
        f"POST /callbacks/{operation}{where} {version}\r\nHost: x\r\n{headers}"
        f"Content-Length: {len(CALLBACK)}\r\n\r\n"
        for where in (query, path, query + "%FF", path + "-wrong")
        for operation in ("generate", "paint", "%FF")
        for version in ("HTTP/1.1", "HTTP/9", "")
        for headers in ("", "no colon\r\n", "X-Webhook-Signature: secret-signature\r\n")
    ]
    async with running_ingress(sqlite_url, tokens=[TOKEN]) as ingress:
        for request in requests:
            reader, writer = await _connected(ingress)
            writer.write(request.encode() + CALLBACK)
            async with asyncio.timeout(ANSWER_SECONDS):
                await reader.readuntil(b"\r\n\r\n")
            writer.close()
        assert 401 == (await ingress.post()).status

    text = logged.getvalue()
    assert "callback_refused" in text
    assert "request_malformed" in text
    for secret in (TOKEN, "query-string", "secret-signature", "5c79be8e"):
        assert secret not in text


# -- on RabbitMQ --------------------------------------------------------------------


@pytest.mark.rabbitmq
async def test_many_callers_at_once_on_rabbitmq(
    rabbitmq_url: str, rabbit_topology: Topology
) -> None:
    """Each answer of 200 stands for one message; refused ones stand for none."""
    async with running_ingress(rabbitmq_url, topology=rabbit_topology) as ingress:
        bodies = [b'{"task_id":"%d"}' % number for number in range(300)]
        calls = [
            *(ingress.post(data=body) for body in bodies),
            *(ingress.post(data=b"{}") for _ in range(20)),
        ]

        answers = await asyncio.gather(*calls)

        assert [200] * 300 + [400] * 20 == [answer.status for answer in answers]
        deliveries = await ingress.published(count=300)
        assert set(bodies) == {d.envelope.body for d in deliveries}
        assert 0 == await ingress.count()


@pytest.mark.rabbitmq
async def test_large_callback_on_rabbitmq(
    rabbitmq_url: str, rabbit_topology: Topology
) -> None:
    """More than a frame, and as much as is allowed."""
    filler = b" " * (2**20 - len(CALLBACK))
    async with running_ingress(rabbitmq_url, topology=rabbit_topology) as ingress:
        answer = await ingress.post(data=io.BytesIO(CALLBACK + filler))

        assert 200 == answer.status
        assert CALLBACK + filler == (await ingress.published())[0].envelope.body


@pytest.mark.rabbitmq
async def test_answer_comes_in_time_when_rabbitmq_does_not(
    rabbitmq_url: str, rabbit_topology: Topology
) -> None:
    """The provider waits for 15 seconds; a broker that hangs must not take them."""
    patient, short = timedelta(seconds=10), timedelta(seconds=0.5)
    async with TcpProxy.to(rabbitmq_url) as proxy:
        url = proxy.url_for(rabbitmq_url)
        async with running_ingress(
            url, topology=rabbit_topology, deadline=patient
        ) as ingress:
            assert 200 == (await ingress.post()).status
            set_deadline(ingress.broker, short)
            proxy.hold()

            held = await _timed(ingress)
            await proxy.refuse()
            proxy.cut()
            proxy.resume()
            away = await _timed(ingress)

            for status, seconds in (*held, *away):
                assert 503 == status
                # One after the other, they would take 10 s.
                assert seconds < 9
            assert 503 == (await ingress.get("/readyz")).status
            set_deadline(ingress.broker, patient)
            await proxy.accept()

            async def works() -> bool:
                return (await ingress.post()).status == 200

            await eventually(works, within=30)
            assert 200 == (await ingress.get("/readyz")).status


async def _timed(ingress: Ingress) -> list[tuple[int, float]]:
    """Post some callbacks at once; give the status and the time of each."""

    async def one() -> tuple[int, float]:
        began = time.monotonic()
        answer = await ingress.post()
        assert answer.headers["retry-after"].isdigit()
        assert "not_stored" == answer.problem["code"]
        return answer.status, time.monotonic() - began

    return await asyncio.gather(*(one() for _ in range(20)))


@pytest.mark.rabbitmq
async def test_callback_without_any_queue_is_not_accepted(rabbitmq_url: str) -> None:
    """Somebody has deleted what it should go to: the provider has to send again."""
    topology = make_topology()
    async with running_ingress(rabbitmq_url, topology=topology) as ingress:
        async with await aio_pika.connect(rabbitmq_url) as amqp:
            channel = await (await amqp.channel()).get_underlay_channel()
            for queue in (DEDUPE, UNROUTED):
                await channel.queue_delete(topology.queue_name(queue))

        answer = await ingress.post()

        assert 503 == answer.status
        assert "not_stored" == answer.problem["code"]
    await delete_topology(rabbitmq_url, topology)
