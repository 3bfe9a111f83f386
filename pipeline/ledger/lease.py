"""Leases: the right to do what shows outside, with a token that fences off the late.

Whoever fetches a file or tells a subscriber takes a lease first, and records what
came of it with the token of that lease. A process that was frozen meanwhile holds
an older token than the one that took over, so its record is refused.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final, TypeAlias

from pipeline.task import AssetKey
from pipeline.values import key, value

if TYPE_CHECKING:
    from pipeline.task import Asset, EventId

#: How long a lease holds after it was taken or renewed: the longest that work waits
#: for a process that died. Its holder renews it while it works.
LEASE: Final = timedelta(seconds=5)


@key
class NotificationKey:
    """Names one event for one subscription."""

    subscription: str
    event_id: EventId


#: What a lease can be on.
Work: TypeAlias = AssetKey | NotificationKey


@value
class Lease:
    """The right to work on something, until it runs out and another takes over."""

    work: Work
    #: Higher than that of every lease before it on the same work.
    token: int


@value
class BegunAsset:
    """A file, and the right to fetch it."""

    asset: Asset
    #: ``None``: the file is settled, there is nothing to do.
    lease: Lease | None


@value
class BegunNotification:
    """What is known of a notification, and the right to send it."""

    #: How many requests were sent and recorded so far.
    attempts: int
    #: ``None``: it is delivered, there is nothing to do.
    lease: Lease | None
