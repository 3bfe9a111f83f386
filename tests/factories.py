"""Makes values for tests; every argument has a valid default."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from pipeline.message import Envelope, MessageId, Publication, new_message_id
from pipeline.topology import CALLBACKS, Topology, build_topology

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.message import HeaderValue

#: The delay queues of test topologies: short, and far enough apart to tell.
SHORT_DELAY: Final = timedelta(milliseconds=100)
LONG_DELAY: Final = timedelta(milliseconds=900)

#: The one subscription of test topologies; its queue is ``notify.orders``.
SUBSCRIPTION: Final = "orders"


def make_envelope(
    *,
    body: bytes = b'{"code": 200}',
    routing_key: str = "callback.upload-extend.complete",
    message_id: str | None = None,
    headers: Mapping[str, HeaderValue] | None = None,
    attempt: int = 1,
) -> Envelope:
    """Make a callback as the ingress would publish it."""
    return Envelope(
        body=body,
        routing_key=routing_key,
        message_id=new_message_id() if message_id is None else MessageId(message_id),
        headers=headers or {},
        attempt=attempt,
    )


def make_publication(
    envelope: Envelope | None = None,
    *,
    exchange: str = CALLBACKS,
    key: str | None = None,
) -> Publication:
    """Make a publication that the queue ``dedupe`` gets."""
    return Publication(exchange=exchange, envelope=envelope or make_envelope(), key=key)


def make_publications(count: int) -> list[Publication]:
    """Make publications whose bodies are their numbers, from 0."""
    return [
        make_publication(make_envelope(body=str(number).encode()))
        for number in range(count)
    ]


def make_topology(
    *,
    prefix: str | None = None,
    delays: Sequence[timedelta] = (SHORT_DELAY, LONG_DELAY),
    patterns: Sequence[str] = ("task.complete",),
) -> Topology:
    """Make a topology under a prefix of its own."""
    return build_topology(
        prefix=unique_prefix() if prefix is None else prefix,
        subscriptions={SUBSCRIPTION: patterns},
        delays=delays,
    )


def unique_prefix() -> str:
    """Make a prefix that nobody else uses."""
    return f"test-{uuid.uuid4().hex[:12]}"
