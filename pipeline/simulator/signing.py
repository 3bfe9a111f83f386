"""The provider's two kinds of signature: on callbacks and on links."""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import count
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

    from pipeline.simulator.clock import SimulatedClock

TIMESTAMP_HEADER: Final = "X-Webhook-Timestamp"
SIGNATURE_HEADER: Final = "X-Webhook-Signature"


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

    def sign(self, path: str, *, lifetime: timedelta | None = None) -> str:
        """Give path and query; a negative lifetime makes it dead already."""
        until = self.clock.now() + (self.lifetime if lifetime is None else lifetime)
        expires = str(int(until.timestamp()))
        number = str(next(self._numbers))
        signature = self._signature(path, expires, number)
        query = f"Expires={expires}&Number={number}&Signature={signature}"
        return f"{path}?{query}"

    def check(self, path: str, query: Mapping[str, str]) -> LinkState:
        """Say what the link is worth now; ``path`` is decoded."""
        expires, number = query.get("Expires", ""), query.get("Number", "")
        given = query.get("Signature", "").encode()
        expected = self._signature(path, expires, number).encode()
        if not hmac.compare_digest(expected, given):
            return LinkState.FORGED
        is_over = self.clock.now().timestamp() >= int(expires)
        return LinkState.EXPIRED if is_over else LinkState.VALID

    def _signature(self, path: str, expires: str, number: str) -> str:
        text = f"{path}\n{expires}\n{number}".encode()
        return hmac.new(self.key, text, hashlib.sha256).hexdigest()[:32]
