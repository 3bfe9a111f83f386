"""How long links can be fetched from, and how much of that is over."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from pipeline.assets.link import fits, read_link
from pipeline.errors import AssetRefused
from pipeline.values import value

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from pipeline.ledger.links import UnfetchedLink


@value
class Lifetimes:
    """What is known of the lifetime of links, by where they lead."""

    #: Links to the provider's own files.
    files: timedelta = timedelta(days=14)
    #: Links to where the provider has them from.
    upstream: timedelta = timedelta(days=1)
    #: Names of the hosts of those, or ``*.`` and the end of names.
    upstream_hosts: Collection[str] = ()

    @property
    def shortest(self) -> timedelta:
        """The shorter of both."""
        return min(self.files, self.upstream) if self.upstream_hosts else self.files

    def of(self, url: str) -> timedelta:
        """Give the lifetime of a link, from when it was received."""
        try:
            host = (read_link(url).raw_host or "").lower().removesuffix(".")
        except AssetRefused:
            return self.files  # whoever fetches it says what is wrong with it
        is_upstream = any(fits(host, pattern) for pattern in self.upstream_hosts)
        return self.upstream if is_upstream else self.files


def expires_at(link: UnfetchedLink, lifetimes: Lifetimes) -> datetime:
    """Give the time from which on a link is expected to be dead."""
    if link.until is not None:
        return link.until
    return link.received_at + lifetimes.of(link.url)


def share_spent(link: UnfetchedLink, lifetimes: Lifetimes, now: datetime) -> float:
    """Give how much of a link's lifetime is over; 1 and more: all of it."""
    whole = expires_at(link, lifetimes) - link.received_at
    if whole <= timedelta(0):
        return 1.0
    return (now - link.received_at) / whole
