"""The judge of the loss experiment: what counts as too often."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pipeline.simulator import AskedDetails
from tests.callbacks import after
from tests.losses import most_within


@pytest.mark.parametrize(
    ("seconds", "most"),
    [
        ([], 0),
        ([3], 1),
        ([0, 5, 9.9], 3),
        ([0, 5, 10], 2),
        ([0, 9, 11, 12, 18.9, 30], 4),
        ([12, 0, 11, 9, 30, 18.9], 4),
    ],
)
def test_the_fullest_window_is_found(seconds: list[float], most: int) -> None:
    asked = [AskedDetails(task_id="a", at=after(at)) for at in seconds]

    assert most == most_within(asked, timedelta(seconds=10))
