"""How a ``Retry-After`` header is read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from pipeline.retry import read_retry_after

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("30", timedelta(seconds=30)),
        (" 30 ", timedelta(seconds=30)),
        ("0", timedelta(0)),
        ("86400", HOUR),
        ("9" * 5000, HOUR),
        ("Sun, 22 Nov 2026 12:01:00 GMT", timedelta(minutes=1)),
        ("Sun, 22 Nov 2026 13:01:00 +0100", timedelta(minutes=1)),
        ("Sun, 22 Nov 2026 12:01:00 -0000", timedelta(minutes=1)),
        ("Sun, 22 Nov 2026 11:00:00 GMT", timedelta(0)),
        ("Fri, 31 Dec 9999 23:59:59 GMT", HOUR),
    ],
)
def test_seconds_and_dates_are_understood(header: str, expected: timedelta) -> None:
    """RFC 9110, 10.2.3; never negative, never longer than we are willing to wait."""
    assert expected == read_retry_after(header, now=NOW, longest=HOUR)


@pytest.mark.parametrize(
    "header", [None, "", "soon", "-5", "1.5", "٣", "²", "Sun, 99 Nov 2026 12:01:00 GMT"]
)
def test_what_makes_no_sense_is_not_there(header: str | None) -> None:
    """A wrong header leaves the wait to the retry policy."""
    assert read_retry_after(header, now=NOW, longest=HOUR) is None
