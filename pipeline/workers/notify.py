"""Tell one subscriber of one event, by a POST.

Each subscription has its own queue and its own handler, so a subscriber that is
slow or dead keeps nobody else waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, TypeAlias

import aiohttp

from pipeline.errors import (
    LeaseLost,
    NotificationFailed,
    Reject,
    Retry,
    SubscriberGone,
)
from pipeline.events.catalogue import CONTENT_TYPE, parse_event
from pipeline.events.webhook import unsigned, webhook_headers
from pipeline.failpoints import reach
from pipeline.ledger.lease import LEASE
from pipeline.ledger.port import Attempt, Notification
from pipeline.logs import get_logger
from pipeline.message import EVENT_TYPE, TASK_ID
from pipeline.metrics import NOTIFICATIONS, SUBSCRIPTION_DISABLED
from pipeline.retry import read_retry_after
from pipeline.task import EventId, TaskId
from pipeline.topology import notify_queue
from pipeline.workers.leases import Leases
from pipeline.workers.unrecorded import Unrecorded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.events.webhook import Signer
    from pipeline.ledger.lease import Lease
    from pipeline.ledger.port import Ledger
    from pipeline.message import Envelope, Publication
    from pipeline.subscriptions import Subscription

log = get_logger("notify")

#: Gives the present time, aware.
Clock: TypeAlias = Callable[[], datetime]

DEFAULT_TIMEOUT: Final = timedelta(seconds=15)
#: What is read of an answer, so that its connection can be used again.
ANSWER_BYTES: Final = 64 * 1024
#: A subscriber that asks for more patience than this does not get it.
LONGEST_AFTER: Final = timedelta(hours=6)
USER_AGENT: Final = "callback-pipeline (notification)"
#: The subscriber is gone for good and wants to hear nothing more (RFC 9110, 15.5.11).
GONE: Final = 410


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    #: ``None``: there was none.
    status: int | None
    #: What came, for people.
    got: str
    #: How long the subscriber asked to be left alone.
    after: timedelta | None = None

    @property
    def is_success(self) -> bool:
        return self.status is not None and self.status // 100 == 2  # noqa: PLR2004


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sent:
    """A request that was sent, and what came of it."""

    #: The right under which it was sent.
    lease: Lease
    #: 1 for the first one to this subscription with this event.
    number: int
    answer: _Answer
    started_at: datetime
    ended_at: datetime


def make_session() -> aiohttp.ClientSession:
    """Make a session for notifications, to be closed by the caller.

    It keeps connections and no cookies, follows no proxy of the environment, and
    does not limit how many subscribers are told at once: each ``Notify`` has a
    limit of its own, and a common one would let the slow hold up the others.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": USER_AGENT},
        # ``Notify`` has its own, for everything together.
        timeout=aiohttp.ClientTimeout(total=None),
        trust_env=False,
    )


class Notify:
    """The handler of the queue of one subscription.

    Idempotent as far as can be: what the ledger knows as delivered is not sent
    again, and what another worker holds the lease on is not sent at the same time.
    After a crash between the answer and the record it is sent again, with the same
    ``webhook-id``.

    A subscriber that has answered 410 is sent nothing more by this handler: what is
    for it becomes dead letters at once. A replay of one is sent all the same; 2xx
    ends it.

    Args:
        subscription: whom to tell.
        ledger: an open handle.
        session: an open session, which several handlers may share.
        clock: gives the present time, aware.
        timeout: the longest for one request, unless the subscription says other.
        sign: gives the headers that prove the request to be ours.
        lease: how long others wait for this process if it dies.
    """

    def __init__(
        self,
        subscription: Subscription,
        ledger: Ledger,
        session: aiohttp.ClientSession,
        *,
        clock: Clock,
        timeout: timedelta = DEFAULT_TIMEOUT,
        sign: Signer = unsigned,
        lease: timedelta = LEASE,
    ) -> None:
        self._subscription = subscription
        self._ledger = ledger
        self._session = session
        self._clock = clock
        own = subscription.timeout_seconds
        self._seconds = timeout.total_seconds() if own is None else own
        self._sign = sign
        self._unrecorded: Unrecorded[_Sent] = Unrecorded()
        self._leases = Leases(ledger, lasts=lease)
        self._is_gone = False
        self._headers = {
            **{k: v.get_secret_value() for k, v in subscription.headers.items()},
            "Content-Type": CONTENT_TYPE,
        }

    async def handle(self, envelope: Envelope) -> Sequence[Publication]:
        """Send the event, unless it is delivered; there is nothing to publish.

        Raises:
            Reject: this is no event, or the subscriber is gone.
            Retry: the subscriber did not answer 2xx in time.
            LedgerUnavailable: as the ledger; the event may have been sent, and is not
                sent again by this handler when it is handled again.
            LeaseHeld: another worker is sending it.
        """
        # Two copies of one event at the same time: the second waits and sees that
        # the first was delivered.
        async with self._leases.turn(envelope):
            try:
                return await self._tell(envelope)
            except LeaseLost as error:
                # Whoever took over has a delivery of its own, and tells everything.
                log.warning(
                    "lease_lost", message_id=envelope.message_id, error=str(error)
                )
                self._unrecorded.drop(envelope)
                return ()

    async def _tell(self, envelope: Envelope) -> Sequence[Publication]:
        fresh = self._notification(envelope)
        sent = self._unrecorded.find(envelope)
        if sent is None:
            begun = await self._ledger.begin_notification(
                fresh, owner=self._leases.owner(envelope), lasts=self._leases.lasts
            )
            if begun.lease is None:
                return ()
            await self._require_there(envelope, begun.lease)
            async with self._leases.kept(begun.lease):
                sent = await self._send(envelope, begun.lease, begun.attempts + 1)
        await reach("notify.after_answer")
        await self._note(envelope, fresh, sent)
        await reach("notify.after_record")
        self._unrecorded.drop(envelope)
        self._conclude(sent.answer)
        return ()

    async def _require_there(self, envelope: Envelope, lease: Lease) -> None:
        """Raise for a subscriber that has answered 410, unless this is a replay."""
        if self._is_gone and not envelope.replays:
            await self._ledger.release(lease)
            name = self._subscription.name
            message = f"{name}: it has answered 410, so it was not asked"
            raise Reject(message) from SubscriberGone(message)

    def _conclude(self, answer: _Answer) -> None:
        """Raise what an answer means, unless it is success."""
        name = self._subscription.name
        outcome = "delivered" if answer.is_success else "failed"
        NOTIFICATIONS.labels(name, outcome).inc()
        if answer.is_success:
            self._set_gone(is_gone=False)
            return
        message = f"{name}: expected 2xx, got {answer.got}"
        if answer.status == GONE:
            self._set_gone(is_gone=True)
            raise Reject(message) from SubscriberGone(message)
        error = NotificationFailed(message)
        raise Retry(f"{type(error).__name__}: {error}", after=answer.after) from error

    def _set_gone(self, *, is_gone: bool) -> None:
        if is_gone == self._is_gone:
            return
        self._is_gone = is_gone
        name = self._subscription.name
        SUBSCRIPTION_DISABLED.labels(name).set(is_gone)
        if is_gone:
            log.warning("subscription_disabled", subscription=name)
        else:
            log.info("subscription_enabled", subscription=name)

    def _notification(self, envelope: Envelope) -> Notification:
        """Say whom to tell of what, before the first try."""
        event_type, task_id = _what(envelope)
        return Notification(
            subscription=self._subscription.name,
            event_id=EventId(envelope.message_id),
            event_type=event_type,
            task_id=task_id,
            attempts=0,
            delivered_at=None,
            status=None,
        )

    async def _send(self, envelope: Envelope, lease: Lease, number: int) -> _Sent:
        """Post the event, and keep what came of it until the ledger has it."""
        started_at = self._clock()
        answer = await self._post(envelope, started_at)
        sent = _Sent(
            lease=lease,
            number=number,
            answer=answer,
            started_at=started_at,
            ended_at=self._clock(),
        )
        self._unrecorded.keep(envelope, sent, is_final=answer.is_success)
        return sent

    async def _note(self, envelope: Envelope, fresh: Notification, sent: _Sent) -> None:
        """Record what came of a request: for the next attempt, and for people."""
        is_success = sent.answer.is_success
        await self._ledger.note_notification(
            replace(
                fresh,
                attempts=sent.number,
                delivered_at=sent.ended_at if is_success else None,
                status=sent.answer.status,
            ),
            lease=sent.lease,
        )
        attempt = Attempt(
            queue=notify_queue(fresh.subscription),
            message_id=envelope.message_id,
            task_id=fresh.task_id,
            subject=fresh.event_type,
            number=envelope.attempt,
            outcome="ok" if is_success else NotificationFailed.__name__,
            detail=sent.answer.got,
            duration_seconds=(sent.ended_at - sent.started_at).total_seconds(),
            finished_at=sent.ended_at,
            replays=envelope.replays,
        )
        await self._ledger.add_attempts([attempt])

    async def _post(self, envelope: Envelope, at: datetime) -> _Answer:
        headers = self._headers | webhook_headers(
            message_id=envelope.message_id, at=at, body=envelope.body, sign=self._sign
        )
        answer = None
        try:
            async with (
                asyncio.timeout(self._seconds),
                self._session.post(
                    self._subscription.url,
                    data=envelope.body,
                    headers=headers,
                    allow_redirects=False,
                ) as response,
            ):
                answer = _answer(response, at)
                await _drain(response)
        except TimeoutError:
            late = _Answer(status=None, got=f"no answer within {self._seconds:g} s")
            return answer or late
        except (aiohttp.ClientError, OSError) as error:
            # Not its text: addresses may carry a token.
            broken = _Answer(status=None, got=f"no answer ({type(error).__name__})")
            return answer or broken
        return answer


def _answer(response: aiohttp.ClientResponse, at: datetime) -> _Answer:
    """Take the status, which decides; a body that breaks off changes nothing."""
    after = read_retry_after(
        response.headers.get("Retry-After"), now=at, longest=LONGEST_AFTER
    )
    return _Answer(status=response.status, got=str(response.status), after=after)


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Read the body; one that is too long is dropped with its connection."""
    left = ANSWER_BYTES
    while left > 0 and (piece := await response.content.read(left)):
        left -= len(piece)


def _what(envelope: Envelope) -> tuple[str, TaskId]:
    """Give the type and the task of an event, from headers if they are there."""
    event_type = envelope.headers.get(EVENT_TYPE)
    task_id = envelope.headers.get(TASK_ID)
    if isinstance(event_type, str) and isinstance(task_id, str):
        return event_type, TaskId(task_id)
    event = parse_event(envelope.body)
    return event.type, TaskId(event.subject)
