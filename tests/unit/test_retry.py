"""The retry policy never waits shorter than before, and always ends."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.retry import DEFAULT_WAITS, RetryPolicy

waits = st.lists(st.timedeltas(timedelta(0), timedelta(days=2)), max_size=8).map(
    lambda found: tuple(sorted(found))
)


@given(waits=waits)
def test_waits_never_grow_shorter_and_come_to_an_end(
    waits: tuple[timedelta, ...],
) -> None:
    policy = RetryPolicy(waits=waits)

    given_waits = [policy.wait_after(n) for n in range(1, policy.max_attempts)]

    assert list(waits) == given_waits
    assert policy.wait_after(policy.max_attempts) is None
    assert policy.wait_after(policy.max_attempts + 1000) is None


@given(waits=waits.filter(bool), asked=st.timedeltas(timedelta(0), timedelta(days=400)))
def test_a_wait_is_at_least_what_was_asked_for(
    waits: tuple[timedelta, ...], asked: timedelta
) -> None:
    policy = RetryPolicy(waits=waits)

    wait = policy.wait_after(1, at_least=asked)

    assert max(waits[0], asked) == wait


def test_asking_for_a_wait_does_not_give_a_further_attempt() -> None:
    policy = RetryPolicy(waits=(timedelta(seconds=1),))

    assert policy.wait_after(2, at_least=timedelta(seconds=5)) is None


def test_an_attempt_before_the_first_counts_as_the_first() -> None:
    assert DEFAULT_WAITS[0] == RetryPolicy().wait_after(0)


def test_the_default_tries_seven_times_within_a_day() -> None:
    policy = RetryPolicy()

    assert policy.max_attempts == 7
    assert sum(policy.waits, timedelta(0)) < timedelta(days=1)


def test_no_waits_means_one_attempt() -> None:
    policy = RetryPolicy(waits=())

    assert policy.max_attempts == 1
    assert policy.wait_after(1) is None


def test_negative_waits_are_refused() -> None:
    with pytest.raises(ValueError, match="zero or more"):
        RetryPolicy(waits=(timedelta(seconds=-1),))


def test_shrinking_waits_are_refused() -> None:
    with pytest.raises(ValueError, match="never grow shorter"):
        RetryPolicy(waits=(timedelta(seconds=2), timedelta(seconds=1)))
