"""How long a link can be fetched from, and how much of that is over."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import pytest

from pipeline.assets.lifetime import Lifetimes, expires_at, share_spent
from pipeline.ledger.links import UnfetchedLink
from pipeline.task import AssetKey
from tests.callbacks import START, TASK

DAY: Final = timedelta(days=1)
KNOWN: Final = Lifetimes(
    files=14 * DAY, upstream=DAY, upstream_hosts=("*.upstream.example",)
)
KEY: Final = AssetKey(task_id=TASK, track_id="8551-1", kind="audio")


def make_link(
    url: str = "https://files.example.com/1.mp3", *, until: datetime | None = None
) -> UnfetchedLink:
    return UnfetchedLink(key=KEY, url=url, received_at=START, until=until)


@pytest.mark.parametrize(
    ("url", "days"),
    [
        ("https://files.example.com/1.mp3?sig=1", 14),
        ("https://cdn1.upstream.example/1.mp3", 1),
        ("https://CDN1.Upstream.Example./1.mp3", 1),
        ("https://upstream.example/1.mp3", 14),
        ("https://upstream.example.com/1.mp3", 14),
        ("no link at all", 14),
        ("https://a@files.example.com/", 14),
    ],
)
def test_the_lifetime_of_a_link_depends_on_where_it_leads(url: str, days: int) -> None:
    assert KNOWN.of(url) == days * DAY
    assert expires_at(make_link(url), KNOWN) == START + days * DAY


def test_a_minted_link_has_a_time_of_its_own() -> None:
    link = make_link(until=START + timedelta(minutes=20))

    assert expires_at(link, KNOWN) == START + timedelta(minutes=20)
    assert share_spent(link, KNOWN, START + timedelta(minutes=10)) == 0.5


@pytest.mark.parametrize(("days", "share"), [(0, 0), (7, 0.5), (14, 1), (28, 2)])
def test_the_share_that_is_over_grows_with_time(days: int, share: float) -> None:
    assert share_spent(make_link(), KNOWN, START + days * DAY) == share


def test_of_a_link_that_was_dead_when_it_came_all_is_over() -> None:
    assert share_spent(make_link(until=START), KNOWN, START) == 1


def test_the_shortest_lifetime_is_that_of_upstream_hosts_if_there_are_any() -> None:
    assert KNOWN.shortest == DAY
    assert Lifetimes(files=2 * DAY, upstream=DAY).shortest == 2 * DAY
