"""That more is due than may be asked is said once, and once when it is over."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from structlog.testing import capture_logs

from pipeline.poller.behind import Behind
from pipeline.poller.rhythm import Rhythm, follows

INTERVAL: Final = timedelta(seconds=30)
RHYTHM: Final = Rhythm(interval=INTERVAL, give_up_after=timedelta(minutes=30))


def test_being_behind_is_said_once_with_what_one_account_can_follow() -> None:
    behind = Behind(RHYTHM, 10)

    with capture_logs() as logs:
        behind.note(timedelta(seconds=29), tasks=290)
        for seconds in (31, 60, 90):
            behind.note(timedelta(seconds=seconds), tasks=1000)

    assert [
        {
            "component": "poller",
            "event": "poller_behind",
            "log_level": "warning",
            "late_seconds": 31,
            "tasks": 1000,
            "follows": 300,
            "rate_per_second": 10,
        }
    ] == logs


def test_that_it_is_over_is_said_once() -> None:
    behind = Behind(RHYTHM, 10)
    behind.note(timedelta(seconds=31), tasks=1000)

    with capture_logs() as logs:
        for _ in range(2):
            behind.note(timedelta(0), tasks=200)

    assert [
        {
            "component": "poller",
            "event": "poller_caught_up",
            "log_level": "info",
            "tasks": 200,
        }
    ] == logs


def test_nothing_is_due_and_nothing_is_said() -> None:
    """What is due in the future is late by less than nothing."""
    with capture_logs() as logs:
        Behind(RHYTHM, 10).note(timedelta(minutes=-3), tasks=5)

    assert [] == logs


def test_an_account_follows_as_many_tasks_as_it_may_ask_for_at_every_interval() -> None:
    assert 300 == follows(10, INTERVAL)
    assert 48 == follows(1.6, INTERVAL)
