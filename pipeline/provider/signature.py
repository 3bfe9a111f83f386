"""Proof that a callback comes from the provider: signatures and address tokens.

The provider's doors sign in three ways, see ``Scheme``; some sign nothing, and then a
secret token in the callback address is all there is.

Everything is compared as bytes in constant time. Pure: the time is given.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from enum import StrEnum
from typing import TYPE_CHECKING, Final, assert_never

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import timedelta

TIMESTAMP_HEADER: Final = "X-Webhook-Timestamp"
SIGNATURE_HEADER: Final = "X-Webhook-Signature"
BODY_SIGNATURE_HEADER: Final = "X-Signature"

#: Stands before the digits where a signature is hexadecimal.
_HEX_PREFIX: Final = "sha256="
#: Unix seconds have ten digits until the year 2286.
_TIMESTAMP_DIGITS: Final = 12


class Scheme(StrEnum):
    """What is signed, always with HMAC-SHA256, and how it is written."""

    #: ``{task id}.{timestamp}``, in standard base64 (kie.ai, "Webhook Verification").
    #: The body is not covered.
    TASK_AND_TIME = "task-and-time"
    #: ``{timestamp}.{body}``, as ``sha256=`` and lower-case hexadecimal (musicapi.ai).
    TIME_AND_BODY = "time-and-body"
    #: The body, in ``X-Signature`` (sunoapi.com). Its encoding is not documented, so
    #: hexadecimal with and without ``sha256=`` and base64 are all taken: who can make
    #: one of them has the key. There is no time in it, so it can be replayed for ever.
    BODY = "body"

    @property
    def header(self) -> str:
        """The header that holds the signature."""
        return BODY_SIGNATURE_HEADER if self is Scheme.BODY else SIGNATURE_HEADER

    @property
    def is_timed(self) -> bool:
        """Whether a timestamp belongs to it."""
        return self is not Scheme.BODY


class Refusal(StrEnum):
    """Why a callback was refused; also the label of the metric."""

    TOKEN = "token"  # noqa: S105  the name of a cause, not a secret
    SIGNATURE_MISSING = "signature_missing"
    TIMESTAMP_UNREADABLE = "timestamp_unreadable"
    TIMESTAMP_OUTSIDE_TOLERANCE = "timestamp_outside_tolerance"
    SIGNATURE_WRONG = "signature_wrong"


def sign(key: bytes, task_id: str, timestamp: str) -> str:
    """Make the signature of the scheme ``task-and-time``."""
    text = f"{task_id}.{timestamp}".encode("utf-8", "replace")
    return base64.b64encode(hmac.digest(key, text, hashlib.sha256)).decode()


def sign_body(key: bytes, body: bytes, timestamp: str | None = None) -> str:
    """Make the signature of the schemes that cover the body, in hexadecimal."""
    signed = body if timestamp is None else timestamp.encode() + b"." + body
    return _HEX_PREFIX + hmac.digest(key, signed, hashlib.sha256).hex()


def refuse_head(
    *,
    timestamp: str | None,
    signature: str | None,
    now: float,
    tolerance: timedelta,
    scheme: Scheme,
) -> Refusal | None:
    """Say what is wrong with a signature without the body; ``None``: nothing yet.

    Args:
        timestamp: the header, or ``None`` where it is missing.
        signature: the header, or ``None`` where it is missing.
        now: Unix seconds.
        tolerance: how far the timestamp may lie from ``now``.
        scheme: what is signed, and how.
    """
    if signature is None:
        return Refusal.SIGNATURE_MISSING
    return _refuse_timestamp(timestamp, now, tolerance) if scheme.is_timed else None


def signature_matches(
    *,
    keys: Sequence[bytes],
    task_id: str,
    timestamp: str | None,
    signature: str | None,
    scheme: Scheme,
    body: bytes,
) -> bool:
    """Tell whether any of the keys has signed this, at whatever time.

    What ``refuse_head`` refuses is not looked at again.

    Args:
        keys: any of them may have signed, so that keys can be changed.
        task_id: the one that the callback takes effect on. A body can name others,
            and a signature for one of those must not open the way for this one.
        timestamp: as for ``refuse_head``.
        signature: as for ``refuse_head``.
        scheme: what is signed, and how.
        body: as it was sent, but not compressed; for the schemes that cover it.
    """
    given = (signature or "").encode("utf-8", "replace")
    # Every key is tried, so that the time taken tells nothing.
    matches = [
        hmac.compare_digest(good, given)
        for key in keys
        for good in _signatures(scheme, key, task_id, timestamp or "", body)
    ]
    return any(matches)


def token_matches(token: str, accepted: Iterable[bytes]) -> bool:
    """Tell whether a token of the address is one of those accepted."""
    given = token.encode("utf-8", "replace")
    matches = False
    for known in accepted:  # every one, so that the time taken tells nothing
        matches |= hmac.compare_digest(given, known)
    return matches


def _refuse_timestamp(
    timestamp: str | None, now: float, tolerance: timedelta
) -> Refusal | None:
    if timestamp is None:
        return Refusal.SIGNATURE_MISSING
    if not (
        timestamp.isascii()
        and timestamp.isdigit()
        and len(timestamp) <= _TIMESTAMP_DIGITS
    ):
        return Refusal.TIMESTAMP_UNREADABLE
    if abs(now - int(timestamp)) > tolerance.total_seconds():
        return Refusal.TIMESTAMP_OUTSIDE_TOLERANCE
    return None


def _signatures(
    scheme: Scheme, key: bytes, task_id: str, timestamp: str, body: bytes
) -> Sequence[bytes]:
    """Give every spelling of the right signature that is accepted."""
    match scheme:
        case Scheme.TASK_AND_TIME:
            return (sign(key, task_id, timestamp).encode(),)
        case Scheme.TIME_AND_BODY:
            return (sign_body(key, body, timestamp).encode(),)
        case Scheme.BODY:
            digest = hmac.digest(key, body, hashlib.sha256)
            digits = digest.hex()
            return (
                f"{_HEX_PREFIX}{digits}".encode(),
                digits.encode(),
                digits.upper().encode(),
                base64.b64encode(digest),
            )
        case _:
            assert_never(scheme)
