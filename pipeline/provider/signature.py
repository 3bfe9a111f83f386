"""Proof that a callback comes from the provider: signatures and address tokens.

Door K signs task id and time, not the body (its page "Webhook Verification"):
HMAC-SHA256 over ``{task_id}.{timestamp}``, in standard base64, with the headers
``X-Webhook-Timestamp`` (Unix seconds) and ``X-Webhook-Signature``. Doors S and B
sign nothing: a secret token in the callback address is all there is.

Everything is compared as bytes in constant time. Pure: the time is given.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import timedelta

TIMESTAMP_HEADER: Final = "X-Webhook-Timestamp"
SIGNATURE_HEADER: Final = "X-Webhook-Signature"

#: Unix seconds have ten digits until the year 2286.
_TIMESTAMP_DIGITS: Final = 12


class Refusal(StrEnum):
    """Why a callback was refused; also the label of the metric."""

    TOKEN = "token"  # noqa: S105  the name of a cause, not a secret
    SIGNATURE_MISSING = "signature_missing"
    TIMESTAMP_UNREADABLE = "timestamp_unreadable"
    TIMESTAMP_OUTSIDE_TOLERANCE = "timestamp_outside_tolerance"
    SIGNATURE_WRONG = "signature_wrong"


def sign(key: bytes, task_id: str, timestamp: str) -> str:
    """Make the signature that door K sends."""
    text = f"{task_id}.{timestamp}".encode("utf-8", "replace")
    return base64.b64encode(hmac.digest(key, text, hashlib.sha256)).decode()


def refuse_signature(
    *,
    keys: Sequence[bytes],
    task_id: str,
    timestamp: str | None,
    signature: str | None,
    now: float,
    tolerance: timedelta,
) -> Refusal | None:
    """Say why a signature is not good enough; ``None``: it is.

    Args:
        keys: any of them may have signed, so that keys can be changed.
        task_id: the one that the callback takes effect on. A body can name others,
            and a signature for one of those must not open the way for this one.
        timestamp: the header, or ``None`` where it is missing.
        signature: the header, or ``None`` where it is missing.
        now: Unix seconds.
        tolerance: how far the timestamp may lie from ``now``.
    """
    if timestamp is None or signature is None:
        return Refusal.SIGNATURE_MISSING
    if not (
        timestamp.isascii()
        and timestamp.isdigit()
        and len(timestamp) <= _TIMESTAMP_DIGITS
    ):
        return Refusal.TIMESTAMP_UNREADABLE
    if abs(now - int(timestamp)) > tolerance.total_seconds():
        return Refusal.TIMESTAMP_OUTSIDE_TOLERANCE
    given = signature.encode("utf-8", "replace")
    # Every key is tried, so that the time taken tells nothing.
    matches = [
        hmac.compare_digest(sign(key, task_id, timestamp).encode(), given)
        for key in keys
    ]
    return None if any(matches) else Refusal.SIGNATURE_WRONG


def token_matches(token: str, accepted: Iterable[bytes]) -> bool:
    """Tell whether a token of the address is one of those accepted."""
    given = token.encode("utf-8", "replace")
    matches = [hmac.compare_digest(given, known) for known in accepted]
    return any(matches)
