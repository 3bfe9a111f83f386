"""The headers of a notification, as Standard Webhooks 1.0 names them.

``webhook-id`` and ``webhook-timestamp`` are always there. The signature is a seam:
``Signer`` gets what the standard signs, and returns the headers that prove it.
https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

WEBHOOK_ID: Final = "webhook-id"
WEBHOOK_TIMESTAMP: Final = "webhook-timestamp"


class Signer(Protocol):
    """Proves to a subscriber that a request is ours."""

    def __call__(
        self, *, message_id: str, timestamp: int, body: bytes
    ) -> Mapping[str, str]:
        """Give the headers that sign ``message_id``, ``timestamp`` and ``body``."""


def unsigned(*, message_id: str, timestamp: int, body: bytes) -> Mapping[str, str]:
    """Sign nothing."""
    del message_id, timestamp, body
    return {}


def webhook_headers(
    *, message_id: str, at: datetime, body: bytes, sign: Signer = unsigned
) -> dict[str, str]:
    """Give the headers of one try; ``at`` is the time of this try.

    The id is the same for every try, so that a receiver can drop repeats.
    """
    timestamp = int(at.timestamp())
    return {
        WEBHOOK_ID: message_id,
        WEBHOOK_TIMESTAMP: str(timestamp),
        **sign(message_id=message_id, timestamp=timestamp, body=body),
    }
