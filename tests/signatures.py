"""What the ingress says of a signature, in one call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.provider.signature import (
    Refusal,
    Scheme,
    refuse_head,
    signature_matches,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta


def refuse_signature(
    *,
    keys: Sequence[bytes],
    task_id: str,
    timestamp: str | None,
    signature: str | None,
    now: float,
    tolerance: timedelta,
    scheme: Scheme = Scheme.TASK_AND_TIME,
    body: bytes = b"",
) -> Refusal | None:
    """Say why the ingress would refuse a signature, at the head or with the body."""
    refusal = refuse_head(
        timestamp=timestamp,
        signature=signature,
        now=now,
        tolerance=tolerance,
        scheme=scheme,
    )
    if refusal is not None:
        return refusal
    matches = signature_matches(
        keys=keys,
        task_id=task_id,
        timestamp=timestamp,
        signature=signature,
        scheme=scheme,
        body=body,
    )
    return None if matches else Refusal.SIGNATURE_WRONG
