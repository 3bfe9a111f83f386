"""Leases in the SQLite ledger: taken, renewed and ended within a transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.ledger import leasing
from pipeline.ledger import statements as sql
from pipeline.task import AssetKey

if TYPE_CHECKING:
    from datetime import timedelta

    import apsw

    from pipeline.ledger.lease import BegunAsset, BegunNotification, Lease
    from pipeline.ledger.port import Notification


def begin_file(
    connection: apsw.Connection, key: AssetKey, owner: str, lasts: timedelta
) -> BegunAsset | None:
    """Take the lease on a file."""
    bindings = leasing.begin_asset_bindings(key, owner, lasts)
    begun = leasing.begun_asset(list(connection.execute(sql.BEGIN_ASSET, bindings)))
    if begun is not None:
        return begun
    bindings = leasing.key_bindings(key)
    found = connection.execute(sql.SELECT_HELD_ASSET, bindings)
    return leasing.held_asset(list(found))


def begin_telling(
    connection: apsw.Connection, one: Notification, owner: str, lasts: timedelta
) -> BegunNotification:
    """Take the lease on a notification."""
    bindings = leasing.begin_notification_bindings(one, owner, lasts)
    taken = connection.execute(sql.BEGIN_NOTIFICATION, bindings)
    begun = leasing.begun_notification(list(taken), one)
    if begun is not None:
        return begun
    bindings = (one.subscription, one.event_id)
    found = connection.execute(sql.SELECT_HELD_NOTIFICATION, bindings)
    return leasing.held_notification(list(found), one)


def note_telling(connection: apsw.Connection, one: Notification, lease: Lease) -> None:
    """Note a try, and end its lease."""
    bindings = leasing.note_bindings(one, lease)
    leasing.require(list(connection.execute(sql.NOTE_NOTIFICATION, bindings)), lease)


def renew_lease(connection: apsw.Connection, lease: Lease, lasts: timedelta) -> None:
    """Let a lease hold for some time from now."""
    is_asset = isinstance(lease.work, AssetKey)
    statement = sql.RENEW_ASSET if is_asset else sql.RENEW_NOTIFICATION
    bindings = leasing.renew_bindings(lease, lasts)
    leasing.require(list(connection.execute(statement, bindings)), lease)
