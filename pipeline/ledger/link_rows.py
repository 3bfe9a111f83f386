"""Between the ledger's rows and links that expire: the same for every database."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from pipeline.ledger.leasing import key_bindings
from pipeline.ledger.links import Recovery, Renewal, UnfetchedLink
from pipeline.message import from_milliseconds, to_milliseconds
from pipeline.task import AssetKey, TaskId, derived_id

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from pipeline.ledger.lease import Lease
    from pipeline.ledger.rows import Row

_MILLISECOND: Final = timedelta(milliseconds=1)


def renew_bindings(renewal: Renewal, lease: Lease) -> Row:
    """Write the bindings of ``RENEW_LINK``."""
    at = to_milliseconds(renewal.renewed_at)
    return (renewal.new_url, at, at, *key_bindings(renewal.key), lease.token)


def renewal_bindings(renewal: Renewal) -> Row:
    """Write the bindings of ``PUT_RENEWAL``."""
    return (
        *key_bindings(renewal.key),
        derived_id(renewal.new_url),
        renewal.old_url,
        renewal.new_url,
        renewal.source,
        None if renewal.until is None else to_milliseconds(renewal.until),
        to_milliseconds(renewal.renewed_at),
    )


def renewals(found: Iterable[Row]) -> list[Renewal]:
    """Read rows of ``SELECT_RENEWALS``."""
    return [
        Renewal(
            key=AssetKey(task_id=TaskId(row[0]), track_id=row[1], kind=row[2]),
            old_url=row[3],
            new_url=row[4],
            source=row[5],
            until=_time(row[6]),
            renewed_at=from_milliseconds(row[7]),
        )
        for row in found
    ]


def unfetched_bindings(
    received_before: datetime, after: UnfetchedLink | None, limit: int
) -> Row:
    """Write the bindings of ``SELECT_UNFETCHED``."""
    before = to_milliseconds(received_before)
    if after is None:
        return (before, -1, -1, "", "", "", limit)
    at = to_milliseconds(after.received_at)
    return (before, at, at, *key_bindings(after.key), limit)


def unfetched(found: Iterable[Row]) -> list[UnfetchedLink]:
    """Read rows of ``SELECT_UNFETCHED``."""
    return [
        UnfetchedLink(
            key=AssetKey(task_id=TaskId(row[0]), track_id=row[1], kind=row[2]),
            url=row[3],
            received_at=from_milliseconds(row[4]),
            until=_time(row[5]),
        )
        for row in found
    ]


def warning_bindings(link: UnfetchedLink, share: int) -> Row:
    """Write the bindings of ``NOTE_WARNING``, which gives them back if they are new."""
    return (*key_bindings(link.key), derived_id(link.url), share)


def claim_bindings(task_id: TaskId, again_after: timedelta) -> Row:
    """Write the bindings of ``CLAIM_RECOVERY``."""
    return (task_id, again_after // _MILLISECOND)


def recovery(found: Iterable[Row]) -> Recovery | None:
    """Read the row of ``SELECT_RECOVERY``."""
    for name, asked_at in found:
        known = None if name is None else TaskId(name)
        return Recovery(recovery_id=known, asked_at=from_milliseconds(asked_at))
    return None


def _time(value: int | None) -> datetime | None:
    return None if value is None else from_milliseconds(value)
