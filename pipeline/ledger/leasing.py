"""Between the ledger's rows and leases: the same for every database.

For each kind of work its statements with their bindings, and what their rows say.
An adapter executes them as they come.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from pipeline.errors import LeaseHeld, LeaseLost
from pipeline.ledger import rows
from pipeline.ledger.lease import (
    BegunAsset,
    BegunNotification,
    Lease,
    NotificationKey,
)
from pipeline.message import to_milliseconds
from pipeline.task import AssetKey, AssetState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.ledger.lease import Work
    from pipeline.ledger.port import Notification
    from pipeline.ledger.rows import Row

_MILLISECOND: Final = timedelta(milliseconds=1)
#: One that ran out a moment ago may be somebody else's by now: who waits, waits.
SHORTEST_LEFT: Final = timedelta(milliseconds=50)


def key_bindings(work: Work) -> Row:
    """Write what identifies the row of some work."""
    if isinstance(work, AssetKey):
        return (work.task_id, work.track_id, work.kind)
    return (work.subscription, work.event_id)


def begin_asset_bindings(key: AssetKey, owner: str, lasts: timedelta) -> Row:
    """Write the bindings of ``BEGIN_ASSET``."""
    return (owner, lasts // _MILLISECOND, *key_bindings(key), owner)


def renew_bindings(lease: Lease, lasts: timedelta) -> Row:
    """Write the bindings of ``RENEW_ASSET`` and ``RENEW_NOTIFICATION``."""
    return (lasts // _MILLISECOND, *key_bindings(lease.work), lease.token)


def begin_notification_bindings(one: Notification, owner: str, lasts: timedelta) -> Row:
    """Write the bindings of ``BEGIN_NOTIFICATION``."""
    return (
        one.subscription,
        one.event_id,
        one.event_type,
        one.task_id,
        owner,
        lasts // _MILLISECOND,
    )


def note_bindings(one: Notification, lease: Lease) -> Row:
    """Write the bindings of ``NOTE_NOTIFICATION``."""
    at = None if one.delivered_at is None else to_milliseconds(one.delivered_at)
    return (
        one.attempts,
        at,
        one.status,
        *key_bindings(lease.work),
        lease.token,
        at,
    )


def begun_asset(taken: Sequence[Row]) -> BegunAsset | None:
    """Read the row of ``BEGIN_ASSET``; ``None``: there is none."""
    for *row, token in taken:
        asset = rows.asset_row(tuple(row)).asset()
        return BegunAsset(asset=asset, lease=Lease(work=asset.key, token=token))
    return None


def held_asset(found: Sequence[Row]) -> BegunAsset | None:
    """Read the row of ``SELECT_HELD_ASSET``; ``None``: there is none.

    Raises:
        LeaseHeld: the file is pending.
    """
    for *row, left in found:
        asset = rows.asset_row(tuple(row)).asset()
        if asset.state is AssetState.PENDING:
            raise _held(asset.key, left)
        return BegunAsset(asset=asset, lease=None)
    return None


def begun_notification(
    taken: Sequence[Row], one: Notification
) -> BegunNotification | None:
    """Read the row of ``BEGIN_NOTIFICATION``; ``None``: there is none."""
    work = NotificationKey(subscription=one.subscription, event_id=one.event_id)
    for attempts, token in taken:
        lease = Lease(work=work, token=token)
        return BegunNotification(attempts=attempts, lease=lease)
    return None


def held_notification(found: Sequence[Row], one: Notification) -> BegunNotification:
    """Read the row of ``SELECT_HELD_NOTIFICATION``.

    Raises:
        LeaseHeld: it is not delivered, or was forgotten a moment ago.
    """
    attempts, delivered_at, left = next(iter(found), (0, None, 0))
    if delivered_at is not None:
        return BegunNotification(attempts=attempts, lease=None)
    work = NotificationKey(subscription=one.subscription, event_id=one.event_id)
    raise _held(work, left)


def require(taken: Sequence[Row], lease: Lease) -> None:
    """Make sure that a statement has found the lease as it was taken.

    Raises:
        LeaseLost: it has not.
    """
    if not taken:
        message = f"expected to hold lease {lease.token} on {_name(lease.work)} still"
        raise LeaseLost(message)


def _held(work: Work, left_milliseconds: int) -> LeaseHeld:
    left = max(left_milliseconds * _MILLISECOND, SHORTEST_LEFT)
    message = f"expected {_name(work)} to be free, another worker holds its lease"
    return LeaseHeld(message, left=left)


def _name(work: Work) -> str:
    return "/".join(key_bindings(work))
