"""The ingress: every answer that a caller can get, and what is published."""

from __future__ import annotations

import gzip
import io
import json
import time
import zlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigurationError
from pipeline.provider.callback import OPERATIONS
from pipeline.provider.signature import sign
from tests.ingress import CALLBACK, running_ingress

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.ingress import Answer, Ingress

MIB = 1024 * 1024
KEY = "webhook-key"
TOKENS = ("first-secret-token", "second/secret&token ü")


@pytest.fixture
async def ingress(sqlite_url: str) -> AsyncIterator[Ingress]:
    """An ingress without any secret."""
    async with running_ingress(sqlite_url) as made:
        yield made


def _body(
    stage: str | None = "complete", task_id: object = "5c79be8e", **more: object
) -> bytes:
    data = {"task_id": task_id, "callbackType": stage, **more}
    return orjson.dumps({"code": 200, "msg": "ok", "data": data})


# -- accepted -----------------------------------------------------------------------


@pytest.mark.parametrize("operation", sorted(OPERATIONS))
async def test_callback_of_each_operation_is_published_unchanged(
    ingress: Ingress, operation: str
) -> None:
    """Byte for byte, under the key and with the headers that say what it is."""
    body = b' {"code":200, "data":{"taskId":"T-1","callbackType":"First"} }\n'
    began = datetime.now(UTC).replace(microsecond=0)

    answer = await ingress.post(f"/callbacks/{operation}", body)

    assert (200, b"") == (answer.status, answer.body)
    envelope = (await ingress.published())[0].envelope
    assert body == envelope.body
    assert f"callback.{operation}.first" == envelope.routing_key
    expected = {
        "task-id": "T-1",
        "operation": operation,
        "stage": "first",
        "origin": "callback",
    }
    assert expected == dict(envelope.headers)
    assert "application/json" == envelope.content_type
    assert envelope.published_at is not None
    assert began <= envelope.published_at <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("body", "stage", "task_id"),
    [
        (_body("text"), "text", "5c79be8e"),
        (_body("COMPLETE"), "complete", "5c79be8e"),
        (_body("error"), "failed", "5c79be8e"),
        (_body("failed"), "failed", "5c79be8e"),
        (_body("task_completed"), "unknown", "5c79be8e"),
        (_body(None), "unknown", "5c79be8e"),
        (b'{"task_id":"top"}', "unknown", "top"),
        (b'{"taskId":"top","data":null}', "unknown", "top"),
        (b'{"code":501,"data":{"taskId":"t"}}', "failed", "t"),
        (_body(task_id=123), "complete", "123"),
        (_body(task_id="ü" * 20), "complete", "ü" * 20),
        (_body("complete" * 100), "unknown", "5c79be8e"),
    ],
)
async def test_stage_and_task_are_read_tolerantly(
    ingress: Ingress, body: bytes, stage: str, task_id: str
) -> None:
    """What is readable is accepted; what is not understood is kept as unknown."""
    answer = await ingress.post(data=body)

    assert 200 == answer.status
    envelope = (await ingress.published())[0].envelope
    assert body == envelope.body
    assert (stage, task_id) == (envelope.headers["stage"], envelope.headers["task-id"])
    assert f"callback.upload-extend.{stage}" == envelope.routing_key


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON; charset=utf-8",
        "application/vnd.provider+json",
        "application/json;",
    ],
)
async def test_json_has_many_names(ingress: Ingress, content_type: str) -> None:
    assert 200 == (await ingress.post(Content_Type=content_type)).status


async def test_missing_content_type_is_forgiven(ingress: Ingress) -> None:
    """The body says itself whether it is JSON."""
    request = (
        b"POST /callbacks/generate HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        b"Content-Length: %d\r\n\r\n" % len(CALLBACK)
    )

    answer = await ingress.raw(request + CALLBACK)

    assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_compressed_body_is_published_as_it_was_meant(
    ingress: Ingress, encoding: str
) -> None:
    """A worker need not know how the body travelled."""
    packed = gzip.compress(CALLBACK) if encoding == "gzip" else zlib.compress(CALLBACK)

    answer = await ingress.post(data=packed, Content_Encoding=encoding)

    assert 200 == answer.status
    assert CALLBACK == (await ingress.published())[0].envelope.body


async def test_body_in_chunks_is_accepted(ingress: Ingress) -> None:
    """Its length need not be known beforehand."""

    async def chunks() -> AsyncIterator[bytes]:
        yield CALLBACK[:10]
        yield CALLBACK[10:]

    answer = await ingress.post(data=chunks())

    assert 200 == answer.status
    assert CALLBACK == (await ingress.published())[0].envelope.body


async def test_caller_that_waits_to_be_asked_is_asked(ingress: Ingress) -> None:
    """``Expect: 100-continue``: some clients send no body before."""
    answer = await ingress.post(Expect="100-continue")

    assert 200 == answer.status
    assert CALLBACK == (await ingress.published())[0].envelope.body


# -- unreadable ---------------------------------------------------------------------

HOSTILE = {
    "empty": b"",
    "no json": b"hello",
    "half": b'{"data":{"task_id":"1"',
    "array": b'[{"task_id":"1"}]',
    "string": b'"task"',
    "null": b"null",
    "no id": b'{"code":200,"data":{"callbackType":"text"}}',
    "empty id": b'{"data":{"task_id":""}}',
    "blank id": b'{"data":{"task_id":"  "}}',
    "id is an object": b'{"data":{"task_id":{"a":1}}}',
    "id is true": b'{"task_id":true}',
    "id is a float": b'{"task_id":1.5}',
    "long id": _body(task_id="x" * 10_000),
    "id with a newline": _body(task_id="a\nb"),
    "id with a null": _body(task_id="a\x00b"),
    "NaN": b'{"task_id":"1","code":NaN}',
    "infinity": b'{"task_id":"1","code":-Infinity}',
    "100,000 brackets": b'{"task_id":"1","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "100,000 open brackets": b"[" * 100_000,
    "lone surrogate": b'{"task_id":"\\ud800"}',
    "surrogate in a name": b'{"task_id":"1","\\udc00":1}',
    "not UTF-8": b'{"task_id":"\xff\xfe"}',
    "UTF-16": '{"task_id":"1"}'.encode("utf-16"),
    "byte order mark": b'\xef\xbb\xbf{"task_id":"1"}',
    "two objects": b'{"task_id":"1"}{"task_id":"2"}',
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
async def test_unreadable_body_is_refused(ingress: Ingress, body: bytes) -> None:
    """With a reason that helps, and never with a failure of ours."""
    answer = await ingress.post(data=body)

    assert 400 == answer.status
    assert "unreadable" == answer.problem["code"]
    assert "expected" in answer.problem["detail"]
    assert 0 == await ingress.count()


async def test_number_of_5000_digits_is_no_trouble(ingress: Ingress) -> None:
    """Refused or kept, but answered; the next callback is taken as ever."""
    answer = await ingress.post(data=b'{"task_id":"1","x":' + b"9" * 5000 + b"}")

    assert answer.status in (200, 400)
    assert 200 == (await ingress.post()).status


async def test_any_body_is_answered(ingress: Ingress) -> None:
    """200 or 400, whatever is sent."""
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=8,
    )
    names = st.sampled_from(["data", "task_id", "taskId", "code", "callbackType"])
    seen: set[int] = set()

    bodies: list[bytes] = []

    # However long one takes: the machine may be busy.
    health = [HealthCheck.too_slow]

    @settings(max_examples=60, deadline=None, suppress_health_check=health)
    @given(content=st.dictionaries(names | st.text(), values) | st.binary())
    def collect(content: object) -> None:
        is_raw = isinstance(content, bytes)
        bodies.append(content if is_raw else _dumped(content))  # type: ignore[arg-type]

    collect()
    for body in bodies:
        seen.add((await ingress.post(data=body)).status)

    assert seen <= {200, 400}


def _dumped(content: object) -> bytes:
    """Encode it as others would; orjson refuses NaN and large integers."""
    return json.dumps(content).encode()


# -- refused ------------------------------------------------------------------------


async def test_unknown_operation_is_named_with_those_there_are(
    ingress: Ingress,
) -> None:
    answer = await ingress.post("/callbacks/paint")

    assert 404 == answer.status
    assert "unknown_operation" == answer.problem["code"]
    assert "'paint'" in answer.problem["detail"]
    assert "upload-extend" in answer.problem["detail"]


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/callback/upload-extend",
        "/callbacks",
        "/healthz/",
        "//callbacks/generate",
        "/callbacks/../callbacks",
    ],
)
async def test_unknown_address_is_not_found(ingress: Ingress, path: str) -> None:
    request = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    )

    answer = await ingress.raw(request.encode())

    assert answer.startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/callbacks/upload-extend", "POST"),
        ("PUT", "/callbacks/upload-extend", "POST"),
        ("DELETE", "/callbacks/upload-extend/token", "POST"),
        ("OPTIONS", "/callbacks/anything", "POST"),
        ("POST", "/healthz", "GET, HEAD"),
        ("DELETE", "/metrics", "GET, HEAD"),
    ],
)
async def test_other_methods_are_not_allowed(
    ingress: Ingress, method: str, path: str, allowed: str
) -> None:
    answer = await ingress.post(path, method=method)

    assert 405 == answer.status
    assert "method_not_allowed" == answer.problem["code"]
    assert allowed == answer.headers["allow"]


async def test_head_of_a_callback_address_has_no_body(ingress: Ingress) -> None:
    answer = await ingress.get("/callbacks/generate", method="HEAD")

    assert (405, b"") == (answer.status, answer.body)


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "text/json",
        "application/jsonp",
        "",
        "json",
    ],
)
async def test_other_media_types_are_refused(
    ingress: Ingress, content_type: str
) -> None:
    answer = await ingress.post(Content_Type=content_type)

    assert 415 == answer.status
    assert "unsupported_media_type" == answer.problem["code"]


@pytest.mark.parametrize(
    "head",
    [
        b"POST /callbacks/generate HTTP/1.1\r\nContent-Type: \xff\xfe\r\n",
        b"POST /callbacks/generate HTTP/1.1\r\nContent-Type: text/\xc3\xbc\r\n",
        b"POST /callbacks/%FF%FE HTTP/1.1\r\n",
        b"POST /callbacks/%ED%A0%80 HTTP/1.1\r\n",
        b"POST /callbacks/\xff\xfe HTTP/1.1\r\n",
        b"POST /callbacks/generate/%FF HTTP/1.1\r\n",
        b"POST /callbacks/generate?token=%FF&%FF=%ED%A0%80 HTTP/1.1\r\n",
        b"POST /callbacks/generate?\xff HTTP/1.1\r\n",
        b"POST /callbacks/%00 HTTP/1.1\r\n",
        b"POST /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\n",
        b"POST http://[/callbacks/generate HTTP/1.1\r\n",
        b"POST http://other/callbacks/generate HTTP/1.1\r\n",
        b"POST * HTTP/1.1\r\n",
        b"P\xd6ST /callbacks/generate HTTP/1.1\r\n",
        b"POST /callbacks/generate HTTP/1.1\r\nContent-Encoding: br\r\n",
        b"POST /callbacks/generate HTTP/1.1\r\nContent-Encoding: nonsense\r\n",
        b"POST /callbacks/generate HTTP/1.1\r\nContent-Encoding: gzip\r\n",
        b"POST /callbacks/generate HTTP/1.1\r\nExpect: \xff\r\n",
        b"POST /callbacks/generate HTTP/1.1\r\nX-Webhook-Signature: \xff\r\n",
        b"POST /callbacks/generate HTTP/1.1\r\nX-Webhook-Timestamp: \xff\r\n",
        b"POST /callbacks/generate HTTP/1.1\r\nContent-Length: -1\r\n",
        b"POST /callbacks/generate HTTP/1.1\r\nTransfer-Encoding: nonsense\r\n",
    ],
)
async def test_hostile_requests_are_never_our_failure(
    sqlite_url: str, head: bytes
) -> None:
    """Bytes that are no text, addresses that are none: refused, with or without
    secrets to compare them to.
    """
    tail = b"Host: x\r\nConnection: close\r\n"
    if b"Content-Length" not in head:
        tail += b"Content-Length: %d\r\n" % len(CALLBACK)
    for secrets in ({}, {"tokens": TOKENS}, {"signature": {"keys": [KEY]}}):
        async with running_ingress(sqlite_url, **secrets) as ingress:
            answer = await ingress.raw(head + tail + b"\r\n" + CALLBACK)

            status = answer.split(b" ", 2)[1:2]
            assert status, answer
            assert 200 <= int(status[0]) < 500, answer
            assert 200 == (await ingress.get("/healthz")).status


# -- secrets ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/callbacks/generate/first-secret-token", 200),
        ("/callbacks/generate?token=first-secret-token", 200),
        ("/callbacks/generate?a=b&token=first-secret-token", 200),
        ("/callbacks/generate/second%2Fsecret%26token%20%C3%BC", 200),
        ("/callbacks/generate/second/secret&token%20%C3%BC", 200),
        ("/callbacks/generate?token=second/secret%26token+%C3%BC", 200),
        ("/callbacks/generate/?token=first-secret-token", 200),
        ("/callbacks/generate", 401),
        ("/callbacks/generate/", 401),
        ("/callbacks/generate?token=", 401),
        ("/callbacks/generate?token=first-secret-toke", 401),
        ("/callbacks/generate?TOKEN=first-secret-token", 401),
        ("/callbacks/generate?token=wrong&token=first-secret-token", 401),
        ("/callbacks/generate/first-secret-token/", 401),
        ("/callbacks/generate/FIRST-SECRET-TOKEN", 401),
        ("/callbacks/generate/wrong?token=first-secret-token", 401),
    ],
)
async def test_token_opens_the_address(sqlite_url: str, path: str, status: int) -> None:
    """In the path or in the query, the old one as well as the new one."""
    async with running_ingress(sqlite_url, tokens=TOKENS) as ingress:
        # As it is: a client would write the address in its own way.
        request = (
            f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            f"Content-Length: {len(CALLBACK)}\r\n\r\n"
        )
        answer = await ingress.raw(request.encode() + CALLBACK)

        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert (1 if status == 200 else 0) == await ingress.count()


async def test_refused_token_gets_no_hint(sqlite_url: str) -> None:
    """The answer is the same whatever is wrong, and before the body is read."""
    async with running_ingress(sqlite_url, tokens=TOKENS) as ingress:
        answers = [
            await ingress.post("/callbacks/generate"),
            await ingress.post("/callbacks/generate/first-secret-toke"),
            await ingress.post("/callbacks/generate", data=b"no json"),
        ]

    assert [401] * 3 == [answer.status for answer in answers]
    assert 1 == len({answer.body for answer in answers})
    assert "unauthorised" == answers[0].problem["code"]


async def test_health_needs_no_token(sqlite_url: str) -> None:
    """Whoever watches the process does not know the provider's secret."""
    async with running_ingress(sqlite_url, tokens=TOKENS) as ingress:
        for path in ("/healthz", "/readyz", "/metrics"):
            assert 200 == (await ingress.get(path)).status


def _signed(
    task_id: str = "5c79be8e", *, key: str = KEY, age_seconds: int = 0
) -> dict[str, str]:
    timestamp = str(int(time.time()) - age_seconds)
    return {
        "X_Webhook_Timestamp": timestamp,
        "X_Webhook_Signature": sign(key.encode(), task_id, timestamp),
    }


# Signed when the test runs, which may be long after it was collected.
@pytest.mark.parametrize(
    ("sign_now", "status"),
    [
        (_signed, 200),
        (lambda: _signed(key="old-key"), 200),
        (lambda: _signed(age_seconds=100), 200),
        (lambda: _signed(age_seconds=-100), 200),
        (lambda: _signed(key="wrong"), 401),
        (lambda: _signed("another"), 401),
        (lambda: _signed(age_seconds=1000), 401),
        (lambda: _signed(age_seconds=-1000), 401),
        (dict, 401),
        (lambda: {"X_Webhook_Timestamp": "1763000000"}, 401),
        (lambda: {"X_Webhook_Signature": _signed()["X_Webhook_Signature"]}, 401),
        (lambda: {**_signed(), "X_Webhook_Timestamp": "soon"}, 401),
        (lambda: {**_signed(), "X_Webhook_Signature": "ü"}, 401),
    ],
)
async def test_signature_of_the_provider_is_checked(
    sqlite_url: str, sign_now: Callable[[], dict[str, str]], status: int
) -> None:
    """Key, id and time have to fit; one of several keys is enough."""
    signature = {"keys": [KEY, "old-key"], "tolerance": "5m"}
    async with running_ingress(sqlite_url, signature=signature) as ingress:
        answer = await ingress.post(**sign_now())

        assert status == answer.status
        assert (1 if status == 200 else 0) == await ingress.count()


@pytest.mark.parametrize(
    "body",
    [
        b'{"data":{"task_id":"signed"}}',
        b'{"data":{"taskId":"signed"}}',
        b'{"task_id":"signed"}',
        b'{"taskId":"signed"}',
        b'{"taskId":"signed","data":{"task_id":"signed"}}',
        b'{"task_id":"other","data":{"taskId":"signed"}}',
    ],
)
async def test_id_that_takes_effect_is_the_one_that_is_signed(
    sqlite_url: str, body: bytes
) -> None:
    async with running_ingress(sqlite_url, signature={"keys": [KEY]}) as ingress:
        assert 200 == (await ingress.post(data=body, **_signed("signed"))).status


@pytest.mark.parametrize(
    "body",
    [
        b'{"taskId":"signed","data":{"task_id":"victim"}}',
        b'{"data":{"taskId":"signed","task_id":"victim"}}',
        b'{"task_id":"signed","data":{"taskId":"victim"}}',
    ],
)
async def test_signature_for_one_task_opens_no_way_for_another(
    sqlite_url: str, body: bytes
) -> None:
    """Who has seen one signed callback may put its id beside any other."""
    async with running_ingress(sqlite_url, signature={"keys": [KEY]}) as ingress:
        assert 401 == (await ingress.post(data=body, **_signed("signed"))).status
        assert 0 == await ingress.count()


# -- health -------------------------------------------------------------------------


async def test_health_is_for_get_and_head(ingress: Ingress) -> None:
    got = await ingress.get("/healthz")
    headed = await ingress.get("/healthz", method="HEAD")

    assert (200, {"status": "ok"}) == (got.status, orjson.loads(got.body))
    assert (200, b"") == (headed.status, headed.body)
    assert got.headers["content-length"] == headed.headers["content-length"]


async def test_readiness_says_that_all_is_well(sqlite_url: str) -> None:
    checks = {"worker dedupe": lambda: None}
    async with running_ingress(sqlite_url, checks=checks) as ingress:
        answer = await ingress.get("/readyz")

    document = orjson.loads(answer.body)
    assert 200 == answer.status
    assert "ready" == document["status"]
    assert {"broker": "ok", "worker dedupe": "ok"} == document["checks"]


async def test_readiness_says_what_is_wrong(sqlite_url: str) -> None:
    checks = {"worker dedupe": lambda: "queue dedupe has no consumer"}
    async with running_ingress(sqlite_url, checks=checks) as ingress:
        answer = await ingress.get("/readyz")

    document = orjson.loads(answer.body)
    assert 503 == answer.status
    assert "not ready" == document["status"]
    expected = {"broker": "ok", "worker dedupe": "queue dedupe has no consumer"}
    assert expected == document["checks"]


async def test_metrics_count_by_operation_and_status(ingress: Ingress) -> None:
    """What nobody knows is counted as ``other``: labels are bounded."""

    async def counted(operation: str, status: int) -> float:
        text = (await ingress.get("/metrics")).body.decode()
        name = f'pipeline_callbacks_total{{operation="{operation}",status="{status}"}} '
        lines = [line for line in text.splitlines() if line.startswith(name)]
        return float(lines[0].removeprefix(name)) if lines else 0.0

    before = [
        await counted("wav", 200),
        await counted("wav", 400),
        await counted("wav", 405),
        await counted("other", 404),
    ]

    await ingress.post("/callbacks/wav")
    await ingress.post("/callbacks/wav")
    await ingress.post("/callbacks/wav", b"no")
    await ingress.get("/callbacks/wav")
    await ingress.post("/callbacks/paint-1")

    after = [
        await counted("wav", 200),
        await counted("wav", 400),
        await counted("wav", 405),
        await counted("other", 404),
    ]
    assert [2, 1, 1, 1] == [a - b for a, b in zip(after, before, strict=True)]
    assert "paint-1" not in (await ingress.get("/metrics")).body.decode()


async def test_refusals_are_counted_by_cause(sqlite_url: str) -> None:
    """The answer does not say why; the metric does."""
    async with running_ingress(
        sqlite_url, tokens=TOKENS, signature={"keys": [KEY]}
    ) as ingress:

        async def counted(cause: str) -> float:
            text = (await ingress.get("/metrics")).body.decode()
            name = f'pipeline_refusals_total{{cause="{cause}"}} '
            lines = [line for line in text.splitlines() if line.startswith(name)]
            return float(lines[0].removeprefix(name)) if lines else 0.0

        causes = (
            "token",
            "signature_missing",
            "signature_wrong",
            "timestamp_unreadable",
            "timestamp_outside_tolerance",
        )
        before = {cause: await counted(cause) for cause in causes}
        path = f"/callbacks/generate/{TOKENS[0]}"

        await ingress.post("/callbacks/generate", **_signed())
        await ingress.post(path)
        await ingress.post(path, **_signed(key="wrong"))
        await ingress.post(path, **{**_signed(), "X_Webhook_Timestamp": "soon"})
        await ingress.post(path, **_signed(age_seconds=9999))

        for cause in causes:
            assert before[cause] + 1 == await counted(cause), cause


# -- sizes --------------------------------------------------------------------------


async def test_body_of_exactly_the_limit_is_accepted(sqlite_url: str) -> None:
    limit = len(CALLBACK)
    async with running_ingress(sqlite_url, max_body_bytes=limit) as ingress:
        assert 200 == (await ingress.post()).status
        answer = await ingress.post(data=CALLBACK + b" ")

    assert 413 == answer.status
    assert "body_too_large" == answer.problem["code"]
    assert str(limit) in answer.problem["detail"]


async def in_pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 5000):
        yield body[start : start + 5000]


@pytest.mark.parametrize("form", ["length", "chunked", "gzip", "gzip chunked"])
@pytest.mark.parametrize("size_bytes", [20_000, 3_000_000])
async def test_large_body_is_refused_however_it_comes(
    sqlite_url: str, form: str, size_bytes: int
) -> None:
    """A compressed one counts as what it unpacks to."""
    body = b'{"task_id":"1","x":"' + b"x" * size_bytes + b'"}'
    headers = {}
    if "gzip" in form:
        body, headers = gzip.compress(body), {"Content_Encoding": "gzip"}

    async with running_ingress(sqlite_url, max_body_bytes=10_000) as ingress:
        data = in_pieces(body) if "chunked" in form else io.BytesIO(body)
        answer = await ingress.post(data=data, **headers)

        assert 413 == answer.status
        assert "body_too_large" == answer.problem["code"]
        assert 0 == await ingress.count()
        assert 200 == (await ingress.post()).status


def midi_of(size_bytes: int) -> bytes:
    """Write a MIDI callback of some size."""
    start, end = b'{"code":200,"data":{"taskId":"t-1","instruments":["', b'"]}}'
    return start + b"x" * (size_bytes - len(start) - len(end)) + end


@pytest.mark.parametrize("form", ["length", "chunked", "gzip"])
async def test_large_body_of_midi_is_taken_up_to_its_own_limit(
    sqlite_url: str, form: str
) -> None:
    """Its notes are in it; at every other address it would be too large."""
    two = 2 * MIB

    async def answered(ingress: Ingress, operation: str, body: bytes) -> Answer:
        headers = {"Content_Encoding": "gzip"} if form == "gzip" else {}
        data = gzip.compress(body) if form == "gzip" else body
        sent = in_pieces(data) if form == "chunked" else io.BytesIO(data)
        return await ingress.post(f"/callbacks/{operation}", data=sent, **headers)

    async with running_ingress(sqlite_url) as ingress:
        taken = await answered(ingress, "midi", midi_of(two))
        too_large = await answered(ingress, "midi", midi_of(two + 1))
        elsewhere = await answered(ingress, "wav", midi_of(two))
        (delivery,) = await ingress.published()

    assert [200, 413, 413] == [a.status for a in (taken, too_large, elsewhere)]
    assert f"{two} bytes" in too_large.problem["detail"]
    assert f"{MIB} bytes" in elsewhere.problem["detail"]
    assert midi_of(two) == delivery.envelope.body


@pytest.mark.parametrize(
    ("general", "own", "operation", "limit"),
    [
        (1000, {"midi": 600}, "midi", 600),
        (1000, {"wav": 300}, "wav", 300),
        (1000, {"wav": 300}, "lyrics", 1000),
        (300, {"wav": 9000}, "wav", 9000),
        (300, {"wav": 9000}, "lyrics", 300),
        (300, {}, "midi", 2 * MIB),
        (9 * MIB, {}, "midi", 9 * MIB),
    ],
)
async def test_operation_has_the_limit_that_is_set_for_it(
    sqlite_url: str, general: int, own: dict[str, int], operation: str, limit: int
) -> None:
    async with running_ingress(
        sqlite_url, max_body_bytes=general, operation_max_body_bytes=own
    ) as ingress:
        path = f"/callbacks/{operation}"
        whole = await ingress.post(path, data=io.BytesIO(midi_of(limit)))
        larger = await ingress.post(path, data=io.BytesIO(midi_of(limit + 1)))

    assert [200, 413] == [whole.status, larger.status]


async def test_limit_of_an_operation_that_there_is_not_is_a_mistake(
    sqlite_url: str,
) -> None:
    limits = {"genrate": 300}

    with pytest.raises(ConfigurationError, match=r"operation_max_body_bytes.*genrate"):
        async with running_ingress(sqlite_url, operation_max_body_bytes=limits):
            pass


async def test_broken_compression_is_unreadable(ingress: Ingress) -> None:
    whole = gzip.compress(CALLBACK)
    for body in (b"no gzip at all", whole[: len(whole) // 2], b""):
        answer = await ingress.post(data=body, Content_Encoding="gzip")

        assert 400 == answer.status
        assert answer.problem["code"] in ("broken_body", "unreadable")
        assert 0 == await ingress.count()


# -- where it goes ------------------------------------------------------------------


async def test_unknown_stage_is_kept(ingress: Ingress) -> None:
    """It is routed like any other: dedupe has the last word."""
    await ingress.post(data=_body("nobody-knows"))

    (delivery,) = await ingress.published()
    assert "callback.upload-extend.unknown" == delivery.envelope.routing_key


async def test_each_callback_has_an_id_of_its_own(ingress: Ingress) -> None:
    """Two equal callbacks are two messages: what is a duplicate is decided later."""
    await ingress.post()
    await ingress.post()

    deliveries = await ingress.published(count=2)
    assert 2 == len({d.envelope.message_id for d in deliveries})


async def test_broker_that_is_full_or_gone_is_a_503(sqlite_url: str) -> None:
    """Without a broker nothing was stored: the provider has to send it again."""
    url = "amqp://guest:guest@127.0.0.1:1/"
    async with running_ingress(
        url, deadline=timedelta(seconds=0.5), is_declared=False
    ) as ingress:
        answer = await ingress.post()

        assert 503 == answer.status
        assert "not_stored" == answer.problem["code"]
        assert answer.headers["retry-after"].isdigit()
        ready = await ingress.get("/readyz")
        assert 503 == ready.status
        assert orjson.loads(ready.body)["checks"]["broker"] != "ok"
        assert b"guest" not in ready.body
        assert 200 == (await ingress.get("/healthz")).status
