"""What travels through the broker: envelopes, and the headers that carry them.

Pure values and functions. This module must not know a broker, a clock or the
provider. Both broker adapters carry an envelope with the same headers, so that a
message means the same whichever broker held it (``docs/architecture.md``).
"""

from __future__ import annotations

import re
import secrets
from dataclasses import field, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING, Any, Final, NewType, TypeAlias

from pipeline.values import value

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Any value that ``orjson.loads`` can return.
JSONValue: TypeAlias = Any
#: What a header may hold. Both AMQP and JSON carry these without loss.
HeaderValue: TypeAlias = str | int | bool
#: Names one message for ever: kept over retries, dead-lettering and replay.
MessageId = NewType("MessageId", str)

# Header names of ours have no "x-" prefix: RabbitMQ rewrites those.
MESSAGE_ID: Final = "message-id"
ROUTING_KEY: Final = "routing-key"
PUBLISHED_AT: Final = "published-at"
ATTEMPT: Final = "attempt"
REPLAYS: Final = "replays"
FAILED_QUEUE: Final = "failed-queue"
ERROR_TYPE: Final = "error-type"
ERROR_TEXT: Final = "error-text"
FIRST_FAILED_AT: Final = "first-failed-at"
LAST_FAILED_AT: Final = "last-failed-at"

# Headers that say what a body is about, so that messages can be filtered without
# reading it. Not reserved: whoever publishes sets those that apply.
#: The provider's task id.
TASK_ID: Final = "task-id"
#: Of a callback: as the ingress saw it at a glance; dedupe has the last word.
STAGE: Final = "stage"
OPERATION: Final = "operation"
#: Of an event: its CloudEvents type, which is also its routing key.
EVENT_TYPE: Final = "event-type"
#: Of a callback: ``callback`` or ``poll``.
ORIGIN: Final = "origin"
#: Of a callback: when it came in, in milliseconds since 1970.
RECEIVED_AT: Final = "received-at"
#: Of a callback: the mark of the job that its address names.
JOB: Final = "job"
#: What such a mark looks like; it names a job and cannot be guessed.
JOB_MARK: Final = re.compile("[0-9a-f]{32}")

RESERVED_HEADERS: Final = frozenset(
    {
        MESSAGE_ID,
        ROUTING_KEY,
        PUBLISHED_AT,
        ATTEMPT,
        REPLAYS,
        FAILED_QUEUE,
        ERROR_TYPE,
        ERROR_TEXT,
        FIRST_FAILED_AT,
        LAST_FAILED_AT,
    }
)

_PROCESS: Final = secrets.token_hex(10)
_COUNT: Final = count(secrets.randbelow(1 << 32))

#: Longer error texts are cut, so that headers stay within one AMQP frame.
ERROR_TEXT_LIMIT: Final = 1000

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)


@value
class Failure:
    """Why a message was retried or dead-lettered."""

    #: The queue whose handler failed; a replay goes back to it.
    queue: str
    #: Class name of the error, such as ``LinkExpired``.
    error_type: str
    #: Its text, at most ``ERROR_TEXT_LIMIT`` characters.
    error_text: str
    #: When the message failed for the first time.
    first_failed_at: datetime
    #: When it failed for the last time.
    last_failed_at: datetime


@value
class Envelope:
    """One message: raw body bytes and what we know about them."""

    #: The body, byte for byte as it was published.
    body: bytes
    #: Topic key, such as ``callback.upload-extend.complete`` or ``task.complete``.
    routing_key: str
    #: Stable id: the same over retries, dead-lettering and replay.
    message_id: MessageId
    #: Media type of the body.
    content_type: str = "application/json"
    #: Further headers; names in ``RESERVED_HEADERS`` are not allowed here.
    headers: Mapping[str, HeaderValue] = field(default_factory=dict)
    #: When it was first published, in whole milliseconds.
    published_at: datetime | None = None
    #: 1 for the first try; a retry adds one, a replay starts again.
    attempt: int = 1
    #: How often it was replayed from a dead-letter queue.
    replays: int = 0
    #: The last failure, if there was one.
    failure: Failure | None = None


@value
class Publication:
    """An envelope and where it goes.

    ``exchange`` and ``key`` are names of our topology without the prefix. ``key``
    is given only where the message is routed by something else than its own
    routing key, as on the way through a delay queue back to one work queue.
    """

    exchange: str
    envelope: Envelope
    key: str | None = None

    @property
    def wire_key(self) -> str:
        """The routing key that the broker sees."""
        return self.envelope.routing_key if self.key is None else self.key


def new_message_id() -> MessageId:
    """Make an id that no other process makes, as 32 hexadecimal digits.

    80 random bits drawn once for the process, then a count: a system call for
    each message would cost more than the rest of its headers.
    """
    return MessageId(f"{_PROCESS}{next(_COUNT):012x}")


def failed(
    envelope: Envelope, *, queue: str, error: BaseException, at: datetime
) -> Envelope:
    """Note a failure on ``envelope``; the attempt count is left alone."""
    earlier = envelope.failure
    text = (str(error) or repr(error))[:ERROR_TEXT_LIMIT]
    return replace(
        envelope,
        failure=Failure(
            queue=queue,
            error_type=type(error).__name__,
            # A lone surrogate could not be sent, and the dead letter would be stuck.
            error_text=text.encode(errors="replace").decode(),
            first_failed_at=at if earlier is None else earlier.first_failed_at,
            last_failed_at=at,
        ),
    )


def next_attempt(envelope: Envelope) -> Envelope:
    """Count one more attempt."""
    return replace(envelope, attempt=envelope.attempt + 1)


def replayed(envelope: Envelope) -> Envelope:
    """Start again at attempt 1 without the failure, and count the replay."""
    return replace(envelope, attempt=1, replays=envelope.replays + 1, failure=None)


def encode_headers(publication: Publication) -> dict[str, HeaderValue]:
    """Write an envelope's headers; what has its default value is left out.

    The body, the content type and the wire key travel beside the headers.
    """
    envelope = publication.envelope
    headers = dict(envelope.headers)
    headers[MESSAGE_ID] = envelope.message_id
    if publication.key is not None and publication.key != envelope.routing_key:
        headers[ROUTING_KEY] = envelope.routing_key
    if envelope.published_at is not None:
        headers[PUBLISHED_AT] = to_milliseconds(envelope.published_at)
    if envelope.attempt != 1:
        headers[ATTEMPT] = envelope.attempt
    if envelope.replays:
        headers[REPLAYS] = envelope.replays
    if (failure := envelope.failure) is not None:
        headers[FAILED_QUEUE] = failure.queue
        headers[ERROR_TYPE] = failure.error_type
        headers[ERROR_TEXT] = failure.error_text
        headers[FIRST_FAILED_AT] = to_milliseconds(failure.first_failed_at)
        headers[LAST_FAILED_AT] = to_milliseconds(failure.last_failed_at)
    return headers


def decode_headers(
    headers: Mapping[str, object],
    *,
    body: bytes,
    wire_key: str,
    content_type: str | None = None,
    fallback_id: str | None = None,
) -> Envelope:
    """Read what ``encode_headers`` wrote. Never raises.

    Messages of foreign publishers are read as well as can be: headers of other
    types are left out, a missing id is taken from ``fallback_id`` or made up.
    """
    own: dict[str, HeaderValue] = {}
    others: dict[str, HeaderValue] = {}
    for name, found in headers.items():
        if isinstance(found, (str, int)):  # a bool is an int
            (own if name in RESERVED_HEADERS else others)[name] = found
    message_id = _text(own, MESSAGE_ID) or fallback_id or new_message_id()
    return Envelope(
        body=body,
        routing_key=_text(own, ROUTING_KEY) or wire_key,
        message_id=MessageId(message_id),
        content_type=content_type or "application/octet-stream",
        headers=others,
        published_at=_time(own, PUBLISHED_AT),
        attempt=max(1, _count(own, ATTEMPT, 1)),
        replays=max(0, _count(own, REPLAYS, 0)),
        failure=_failure(own),
    )


def to_milliseconds(at: datetime) -> int:
    """Give milliseconds since 1970 for an aware time."""
    return (at - _EPOCH) // _MILLISECOND


def from_milliseconds(value: int) -> datetime:
    """Give the aware UTC time for milliseconds since 1970.

    Raises:
        ValueError: the value lies outside the years 1 to 9999.
    """
    try:
        return _EPOCH + timedelta(milliseconds=value)
    except OverflowError as error:
        message = f"expected milliseconds since 1970, got {value}"
        raise ValueError(message) from error


def _failure(own: Mapping[str, HeaderValue]) -> Failure | None:
    if FAILED_QUEUE not in own:
        return None
    queue = _text(own, FAILED_QUEUE)
    error_type = _text(own, ERROR_TYPE)
    first, last = _time(own, FIRST_FAILED_AT), _time(own, LAST_FAILED_AT)
    if not queue or not error_type or first is None or last is None:
        return None
    return Failure(
        queue=queue,
        error_type=error_type,
        error_text=_text(own, ERROR_TEXT) or "",
        first_failed_at=first,
        last_failed_at=last,
    )


def _text(own: Mapping[str, HeaderValue], name: str) -> str | None:
    value = own.get(name)
    return value if isinstance(value, str) else None


def _count(own: Mapping[str, HeaderValue], name: str, default: int) -> int:
    value = own.get(name, default)
    return value if isinstance(value, int) else default


def _time(own: Mapping[str, HeaderValue], name: str) -> datetime | None:
    value = own.get(name)
    if not isinstance(value, int):
        return None
    try:
        return from_milliseconds(value)
    except ValueError:
        return None
