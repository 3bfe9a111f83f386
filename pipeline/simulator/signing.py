"""The provider's signatures: on callbacks, three kinds of them, and on links."""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import count
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

    from pipeline.simulator.clock import SimulatedClock

TIMESTAMP_HEADER: Final = "X-Webhook-Timestamp"
SIGNATURE_HEADER: Final = "X-Webhook-Signature"
BODY_SIGNATURE_HEADER: Final = "X-Signature"
#: Names an event, the same for every try of it.
ID_HEADER: Final = "X-Webhook-Id"
EVENT_HEADER: Final = "X-Webhook-Event"

#: What is signed: the task's id and the time, the time and the body, or the body.
SignedText: TypeAlias = Literal["task-and-time", "time-and-body", "body"]


def callback_headers(task_id: str, *, key: str, timestamp: int) -> dict[str, str]:
    """Sign a callback as the provider's page on webhook verification says.

    ``timestamp`` is in real seconds since 1970, of the moment of sending. The body
    is not signed: only the task's id and the time are.
    """
    text = f"{task_id}.{timestamp}".encode()
    digest = hmac.new(key.encode(), text, hashlib.sha256).digest()
    return {
        TIMESTAMP_HEADER: str(timestamp),
        SIGNATURE_HEADER: base64.b64encode(digest).decode(),
    }


def time_and_body_headers(body: bytes, *, key: str, timestamp: int) -> dict[str, str]:
    """Sign a callback as musicapi.ai's page on webhooks says: time and body, in hex."""
    digest = _hex(key, f"{timestamp}.".encode() + body)
    return {TIMESTAMP_HEADER: str(timestamp), SIGNATURE_HEADER: f"sha256={digest}"}


def body_headers(body: bytes, *, key: str) -> dict[str, str]:
    """Sign a callback as sunoapi.com's page on webhooks says: the body alone.

    The page does not say how the digest is written: here it is bare hexadecimal.
    """
    return {BODY_SIGNATURE_HEADER: _hex(key, body)}


def _hex(key: str, text: bytes) -> str:
    return hmac.new(key.encode(), text, hashlib.sha256).hexdigest()


class LinkState(Enum):
    """What a signed link is worth."""

    VALID = auto()
    EXPIRED = auto()
    #: Not signed by us, or not for this path.
    FORGED = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSigner:
    """Signs paths for a while, on the simulated clock, and checks them again.

    Two links of the same path always differ in their query string.
    """

    key: bytes
    clock: SimulatedClock
    lifetime: timedelta
    _numbers: count[int] = field(default_factory=count)
    #: The first number of links that are still good, by path.
    _good_from: dict[str, int] = field(default_factory=dict)

    def sign(self, path: str, *, lifetime: timedelta | None = None) -> str:
        """Give path and query; a negative lifetime makes it dead already."""
        until = self.clock.now() + (self.lifetime if lifetime is None else lifetime)
        expires = str(int(until.timestamp()))
        number = str(next(self._numbers))
        signature = self._signature(path, expires, number)
        query = f"Expires={expires}&Number={number}&Signature={signature}"
        return f"{path}?{query}"

    def revoke(self, path: str) -> None:
        """Let every link of the path that there is be dead from now on."""
        self._good_from[path] = next(self._numbers)

    def check(self, path: str, query: Mapping[str, str]) -> LinkState:
        """Say what the link is worth now; ``path`` is decoded."""
        expires, number = query.get("Expires", ""), query.get("Number", "")
        given = query.get("Signature", "").encode()
        expected = self._signature(path, expires, number).encode()
        if not hmac.compare_digest(expected, given):
            return LinkState.FORGED
        is_over = self.clock.now().timestamp() >= int(expires)
        is_over |= int(number) < self._good_from.get(path, 0)
        return LinkState.EXPIRED if is_over else LinkState.VALID

    def _signature(self, path: str, expires: str, number: str) -> str:
        text = f"{path}\n{expires}\n{number}".encode()
        return hmac.new(self.key, text, hashlib.sha256).hexdigest()[:32]
