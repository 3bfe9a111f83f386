"""Notifications, sent to a real server and noted in a real ledger."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import apsw
import pytest
from prometheus_client import REGISTRY

from pipeline.errors import LedgerUnavailable, NotificationFailed, Reject, Retry
from pipeline.events.publications import task_event
from pipeline.events.webhook import webhook_headers
from pipeline.ledger import open_ledger
from pipeline.message import TASK_ID, Envelope
from pipeline.subscriptions import Subscription
from pipeline.task import EventId, event_id
from pipeline.workers.notify import ANSWER_BYTES, Notify, make_session
from tests.callbacks import TASK, after, make_update
from tests.factories import make_envelope
from tests.file_server import FileServer, answer, head, silent
from tests.waiting import impatient_ledger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping
    from pathlib import Path

    import aiohttp

    from pipeline.ledger.port import Ledger

SHOP: Final = "shop"


@pytest.fixture
async def server() -> AsyncIterator[FileServer]:
    """A subscriber."""
    async with FileServer() as running:
        yield running


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    """An open ledger in a file of its own."""
    async with open_ledger(f"sqlite:///{tmp_path}/ledger.db") as opened:
        yield opened


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """The session that the workers use."""
    async with make_session() as opened:
        yield opened


@pytest.fixture
def event() -> Envelope:
    """An event as dedupe publishes it."""
    update = make_update()
    return task_event(
        update,
        event_id(update),
        late=False,
        origin="callback",
        received_at=after(0),
        source="/pipeline",
        at=after(1),
    ).envelope


@pytest.fixture
def notify(
    ledger: Ledger, session: aiohttp.ClientSession, server: FileServer
) -> Notify:
    """The handler under test; the subscriber answers 200."""
    server.add("/hook", answer(b"thanks"))
    return make_notify(ledger, session, server.url("/hook"))


def make_notify(
    ledger: Ledger,
    session: aiohttp.ClientSession,
    url: str,
    *,
    timeout: timedelta = timedelta(seconds=5),
    **subscription: Any,
) -> Notify:
    whole = {"name": SHOP, "url": url, "events": ["#"], **subscription}
    return Notify(
        Subscription.model_validate(whole),
        ledger,
        session,
        clock=lambda: after(100),
        timeout=timeout,
    )


async def test_event_is_delivered_byte_for_byte(
    notify: Notify, event: Envelope, server: FileServer
) -> None:
    """As a CloudEvent in structured mode, by POST."""
    published = await notify.handle(event)

    (request,) = server.requests
    assert published == ()
    assert request.method == "POST"
    assert event.body == request.body
    assert request.headers["content-type"] == "application/cloudevents+json"


async def test_headers_name_the_event_and_the_try(
    notify: Notify, event: Envelope, server: FileServer
) -> None:
    """The names of Standard Webhooks; the time is that of this try."""
    await notify.handle(event)

    (request,) = server.requests
    assert event.message_id == request.headers["webhook-id"]
    assert str(int(after(100).timestamp())) == request.headers["webhook-timestamp"]
    assert "webhook-signature" not in request.headers


async def test_delivery_is_noted(
    notify: Notify, event: Envelope, ledger: Ledger
) -> None:
    """For the timeline of the task."""
    await notify.handle(event)

    (noted,) = await ledger.list_notifications(TASK)
    (attempt,) = await ledger.list_attempts(TASK)
    assert (SHOP, EventId(event.message_id), "task.complete", 1, 200) == (
        noted.subscription,
        noted.event_id,
        noted.event_type,
        noted.attempts,
        noted.status,
    )
    assert after(100) == noted.delivered_at
    assert ("notify.shop", "task.complete", "ok") == (
        attempt.queue,
        attempt.subject,
        attempt.outcome,
    )


async def test_delivered_event_is_not_sent_again(
    notify: Notify, event: Envelope, server: FileServer
) -> None:
    """After a crash between the record and the acknowledgement."""
    await notify.handle(event)

    await notify.handle(event)

    assert len(server.requests) == 1


async def test_other_subscriptions_do_not_count(
    notify: Notify,
    event: Envelope,
    server: FileServer,
    ledger: Ledger,
    session: aiohttp.ClientSession,
) -> None:
    """Each subscription has its own record."""
    other = make_notify(ledger, session, server.url("/hook"), name="other")
    await notify.handle(event)

    await other.handle(event)

    assert len(server.requests) == 2


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_every_2xx_is_success(
    notify: Notify, event: Envelope, server: FileServer, status: int
) -> None:
    """As Standard Webhooks has it."""
    server.add("/hook", answer(status=status))

    assert await notify.handle(event) == ()


@pytest.mark.parametrize("status", [300, 304, 400, 401, 404, 429, 500, 503])
async def test_everything_else_is_a_failure(
    notify: Notify, event: Envelope, server: FileServer, ledger: Ledger, status: int
) -> None:
    """The policy tries again; the status is noted."""
    server.add("/hook", answer(status=status))

    with pytest.raises(Retry, match=f"NotificationFailed: shop.*{status}") as caught:
        await notify.handle(event)

    (noted,) = await ledger.list_notifications(TASK)
    assert isinstance(caught.value.__cause__, NotificationFailed)
    assert caught.value.after is None
    assert (status, None) == (noted.status, noted.delivered_at)


async def test_redirects_are_not_followed(
    notify: Notify, event: Envelope, server: FileServer
) -> None:
    """A subscriber that has moved tells us so, in its subscription."""
    server.add("/hook", answer(status=307, headers={"Location": "/moved"}))
    server.add("/moved", answer())

    with pytest.raises(Retry, match="307"):
        await notify.handle(event)
    assert ["/hook"] == [request.target for request in server.requests]


async def test_pause_that_the_subscriber_asks_for_is_kept(
    notify: Notify, event: Envelope, server: FileServer
) -> None:
    """The worker waits at least as long."""
    server.add("/hook", answer(status=429, headers={"Retry-After": "60"}))

    with pytest.raises(Retry) as caught:
        await notify.handle(event)

    assert timedelta(minutes=1) == caught.value.after


async def test_endless_patience_is_not_to_be_had(
    notify: Notify, event: Envelope, server: FileServer
) -> None:
    """A pause has a longest."""
    server.add("/hook", answer(status=503, headers={"Retry-After": "999999999"}))

    with pytest.raises(Retry) as caught:
        await notify.handle(event)

    assert timedelta(hours=6) == caught.value.after


@pytest.mark.parametrize("beginning", [b"", b"HTTP/1.1 200"])
async def test_silent_subscriber_is_given_up(
    ledger: Ledger,
    session: aiohttp.ClientSession,
    event: Envelope,
    server: FileServer,
    beginning: bytes,
) -> None:
    """After the timeout; there is no status to note."""
    url = server.add("/hook", silent(beginning))
    short = make_notify(ledger, session, url, timeout=timedelta(seconds=0.2))

    with pytest.raises(Retry, match=r"no answer within 0\.2 s"):
        await asyncio.wait_for(short.handle(event), 10)

    (noted,) = await ledger.list_notifications(TASK)
    assert noted.status is None


async def test_subscription_has_its_own_timeout(
    ledger: Ledger, session: aiohttp.ClientSession, event: Envelope, server: FileServer
) -> None:
    """It goes before that of the settings."""
    url = server.add("/hook", silent())
    short = make_notify(ledger, session, url, timeout_seconds=0.1)

    with pytest.raises(Retry, match=r"within 0\.1 s"):
        await asyncio.wait_for(short.handle(event), 10)


async def test_status_counts_although_the_body_never_ends(
    ledger: Ledger, session: aiohttp.ClientSession, event: Envelope, server: FileServer
) -> None:
    """Sending again what was taken would be a repeat for nothing."""
    url = server.add("/hook", silent(head(headers={"Content-Length": "100"}) + b"thx"))
    # The status has to come within it, on a busy machine as well.
    short = make_notify(ledger, session, url, timeout=timedelta(seconds=2))

    assert await asyncio.wait_for(short.handle(event), 10) == ()


async def test_long_answers_are_not_read_to_their_end(
    ledger: Ledger, session: aiohttp.ClientSession, event: Envelope, server: FileServer
) -> None:
    """64 KiB are more than a subscriber has to say."""
    sent = 0

    async def endless(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(head(headers={"Transfer-Encoding": "chunked"}))
        while True:
            writer.write(b"400\r\n%s\r\n" % (b"x" * 1024))
            sent += 1024
            await writer.drain()

    url = server.add("/hook", endless)
    # Read on it would be for a minute, and then taken all the same.
    patient = make_notify(ledger, session, url, timeout=timedelta(seconds=60))

    assert await asyncio.wait_for(patient.handle(event), 30) == ()
    assert sent >= ANSWER_BYTES


async def test_absent_subscriber_is_tried_again(
    ledger: Ledger, session: aiohttp.ClientSession, event: Envelope
) -> None:
    """Refused connections are failures like others."""
    async with FileServer() as gone:
        url = gone.url("/hook?token=s3cr3t")

    with pytest.raises(Retry, match="no answer") as caught:
        await make_notify(ledger, session, url).handle(event)

    assert "s3cr3t" not in str(caught.value)


async def test_tries_are_counted_over_retries_and_replays(
    notify: Notify, event: Envelope, server: FileServer, ledger: Ledger
) -> None:
    """Failed twice, replayed, delivered."""
    server.add("/hook", answer(status=500))
    for attempt in (1, 2):
        with pytest.raises(Retry):
            await notify.handle(replace(event, attempt=attempt))
    server.add("/hook", answer())

    await notify.handle(replace(event, attempt=1, replays=1))

    (noted,) = await ledger.list_notifications(TASK)
    assert noted.attempts == 3
    assert after(100) == noted.delivered_at
    assert ["NotificationFailed", "NotificationFailed", "ok"] == [
        attempt.outcome for attempt in await ledger.list_attempts(TASK)
    ]


async def test_every_try_has_the_same_id(
    notify: Notify, event: Envelope, server: FileServer
) -> None:
    """By which a receiver drops repeats."""
    server.add("/hook", answer(status=500))
    with pytest.raises(Retry):
        await notify.handle(event)
    server.add("/hook", answer())

    await notify.handle(replace(event, attempt=2))

    assert {event.message_id} == {r.headers["webhook-id"] for r in server.requests}


async def test_own_headers_are_sent(
    ledger: Ledger, session: aiohttp.ClientSession, event: Envelope, server: FileServer
) -> None:
    """Such as a token of the subscriber."""
    url = server.add("/hook", answer())
    headers = {"Authorization": "Bearer s3cr3t"}

    await make_notify(ledger, session, url, headers=headers).handle(event)

    assert server.requests[0].headers["authorization"] == "Bearer s3cr3t"


async def test_signature_covers_id_time_and_body(
    ledger: Ledger, session: aiohttp.ClientSession, event: Envelope, server: FileServer
) -> None:
    """The seam: a signer gets what the standard signs, for each try."""

    def sign(*, message_id: str, timestamp: int, body: bytes) -> Mapping[str, str]:
        return {"webhook-signature": f"v0,{message_id}.{timestamp}.{len(body)}"}

    url = server.add("/hook", answer())
    whole = {"name": SHOP, "url": url, "events": ["#"]}
    signing = Notify(
        Subscription.model_validate(whole),
        ledger,
        session,
        clock=lambda: after(100),
        sign=sign,
    )

    await signing.handle(event)

    expected = f"v0,{event.message_id}.{int(after(100).timestamp())}.{len(event.body)}"
    assert expected == server.requests[0].headers["webhook-signature"]


async def test_event_without_headers_is_read(
    notify: Notify, event: Envelope, ledger: Ledger
) -> None:
    """The body says everything as well."""
    await notify.handle(replace(event, headers={}))

    (noted,) = await ledger.list_notifications(TASK)
    assert noted.event_type == "task.complete"


async def test_what_is_no_event_is_rejected(notify: Notify, server: FileServer) -> None:
    """Nothing is sent."""
    poison = make_envelope(body=b"nonsense", headers={TASK_ID: TASK})

    with pytest.raises(Reject):
        await notify.handle(poison)
    assert server.requests == []


async def test_ledger_that_is_away_stops_before_sending(
    notify: Notify, event: Envelope, ledger: Ledger, server: FileServer
) -> None:
    """The worker waits for it; no attempt is lost."""
    await ledger.__aexit__(None, None, None)

    with pytest.raises(LedgerUnavailable):
        await notify.handle(event)
    assert server.requests == []


@pytest.mark.parametrize("status", [200, 500])
async def test_ledger_that_cannot_be_written_is_no_reason_to_send_again(
    session: aiohttp.ClientSession,
    event: Envelope,
    server: FileServer,
    tmp_path: Path,
    status: int,
) -> None:
    """Only the record waits; a later attempt to tell a failing subscriber is real."""
    path = tmp_path / "locked.db"
    lock = contextlib.ExitStack()

    async def lock_first(writer: asyncio.StreamWriter) -> None:
        if len(server.requests) == 1:
            lock.enter_context(locked(path))
        await answer(status=status)(writer)

    server.add("/hook", lock_first)

    def fails() -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext() if status == 200 else pytest.raises(Retry)

    async with impatient_ledger(path) as ledger:
        notify = make_notify(ledger, session, server.url("/hook"))
        with lock:
            for _ in range(3):
                with pytest.raises(LedgerUnavailable):
                    await notify.handle(event)
        with fails():
            await notify.handle(event)

        (noted,) = await ledger.list_notifications(TASK)
        attempts = await ledger.list_attempts(TASK)
        assert [1, 1, 1] == [noted.attempts, len(attempts), len(server.requests)]
        assert status == noted.status

        with fails():
            await notify.handle(replace(event, attempt=2))
        assert (1 if status == 200 else 2) == len(server.requests)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let a database be read, and not be written."""
    other = apsw.Connection(str(path))
    other.set_busy_timeout(20_000)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.close()


async def test_proxies_of_the_environment_are_not_used(
    notify: Notify, event: Envelope, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Subscribers are addressed directly."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")

    assert await notify.handle(event) == ()


async def test_notifications_are_counted(
    notify: Notify, event: Envelope, server: FileServer
) -> None:
    """By subscription and outcome; what is skipped is not counted."""
    before = [counted("delivered"), counted("failed")]
    server.add("/hook", answer(status=500))
    with pytest.raises(Retry):
        await notify.handle(event)
    server.add("/hook", answer())
    await notify.handle(event)
    await notify.handle(event)

    assert [before[0] + 1, before[1] + 1] == [counted("delivered"), counted("failed")]


def test_headers_of_a_webhook_are_whole_seconds() -> None:
    """Standard Webhooks 1.0: an integer."""
    headers = webhook_headers(message_id=EventId("e1"), at=after(0.9), body=b"")

    assert {
        "webhook-id": "e1",
        "webhook-timestamp": str(int(after(0).timestamp())),
    } == (headers)


def counted(outcome: str) -> float:
    labels = {"subscription": SHOP, "outcome": outcome}
    return REGISTRY.get_sample_value("pipeline_notifications_total", labels) or 0.0
