"""Routing follows AMQP 0-9-1, and every queue has its place in the topology."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.message import Envelope, MessageId, failed
from pipeline.topology import (
    CALLBACKS,
    DEAD,
    DEDUPE,
    DEFAULT_DELAYS,
    EVENTS,
    UNROUTED,
    WORK,
    QueueKind,
    build_topology,
    dead_letter,
    dead_letter_queue,
    delay_name,
    hand_to,
    matches,
    notify_queue,
    replay,
    routed,
)

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
ENVELOPE = Envelope(
    body=b"{}", routing_key="task.complete", message_id=MessageId("m1"), attempt=3
)
SUBSCRIPTIONS = {"studio": ["task.*", "asset.#"], "audit": ["#"]}

words = st.sampled_from(["a", "b", ""])
keys = st.lists(words, min_size=1, max_size=6).map(".".join)
patterns = st.lists(words | st.sampled_from(["*", "#"]), min_size=1, max_size=6).map(
    ".".join
)


def slow_matches(pattern: list[str], key: list[str]) -> bool:
    """Match by trying everything, straight from the words of AMQP 0-9-1."""
    if not pattern:
        return not key
    first, *rest = pattern
    if first == "#":
        return any(slow_matches(rest, key[n:]) for n in range(len(key) + 1))
    return bool(key) and first in ("*", key[0]) and slow_matches(rest, key[1:])


@given(pattern=patterns, key=keys)
def test_matching_agrees_with_the_slow_reference(pattern: str, key: str) -> None:
    expected = slow_matches(pattern.split("."), key.split("."))

    assert expected == matches(pattern, key)


@pytest.mark.parametrize(
    ("pattern", "key", "expected"),
    [
        ("callback.#", "callback.upload-extend.complete", True),
        ("callback.#", "callback", True),
        ("callback.*.complete", "callback.wav.complete", True),
        ("callback.*", "callback.wav.complete", False),
        ("#", "anything.at.all", True),
        ("*", "two.words", False),
        ("task.complete", "task.complete", True),
        ("task.complete", "task.first", False),
        ("#.a.#.b", "a.x.y.b", True),
    ],
)
def test_patterns_match_as_documented(
    pattern: str, key: str, *, expected: bool
) -> None:
    assert expected == matches(pattern, key)


def test_a_hostile_pattern_takes_no_exponential_time() -> None:
    pattern = ".".join(["#", "a"] * 200)

    assert not matches(pattern, ".".join(["a"] * 400 + ["b"]))


def test_a_callback_goes_to_dedupe() -> None:
    queues = routed(build_topology(), CALLBACKS, "callback.upload-extend.complete")

    assert list(queues) == ["dedupe"]


def test_a_callback_goes_to_dedupe_whatever_its_routing_key() -> None:
    """Somebody else may hand one in, and spell the key as he likes."""
    queues = routed(build_topology(), CALLBACKS, "something.else")

    assert list(queues) == [DEDUPE]


def test_a_callback_that_nobody_wants_is_kept() -> None:
    topology = replace(build_topology(), bindings=build_topology().bindings[-1:])

    queues = routed(topology, CALLBACKS, "callback.upload-extend.complete")

    assert list(queues) == [UNROUTED]


def test_an_event_goes_to_each_subscription_that_asked_once() -> None:
    topology = build_topology(subscriptions={"s": ["task.*", "task.#"], "t": ["x"]})

    queues = routed(topology, EVENTS, "task.complete")

    assert list(queues) == ["notify.s"]


def test_an_event_that_nobody_wants_goes_nowhere() -> None:
    assert not list(routed(build_topology(), EVENTS, "task.complete"))


@pytest.mark.parametrize("queue", ["dedupe", "download", "notify.studio"])
def test_every_work_queue_can_be_reached_and_has_a_dead_letter_queue(
    queue: str,
) -> None:
    topology = build_topology(subscriptions=SUBSCRIPTIONS)

    assert [queue] == list(routed(topology, WORK, queue))
    assert [dead_letter_queue(queue)] == list(routed(topology, DEAD, queue))


def test_work_queues_are_listed_without_their_helpers() -> None:
    topology = build_topology(subscriptions=SUBSCRIPTIONS)

    expected = ("dedupe", "download", "notify.studio", "notify.audit")
    assert expected == topology.work_queues


def test_a_retry_waits_in_the_shortest_delay_that_is_long_enough() -> None:
    topology = build_topology()

    publication = topology.retry("download", ENVELOPE, timedelta(seconds=6))

    assert publication.exchange == "delay.30s"
    assert publication.wire_key == "download"
    assert publication.envelope.attempt == 4
    assert list(routed(topology, "delay.30s", "download")) == ["delay.30s"]


@given(wait=st.timedeltas(timedelta(0), timedelta(days=3)))
def test_a_delay_is_never_too_short_unless_there_is_no_longer_one(
    wait: timedelta,
) -> None:
    delay = build_topology().delay_for(wait).delay

    assert delay is not None
    assert delay >= min(wait, max(DEFAULT_DELAYS))
    assert not any(wait <= shorter < delay for shorter in DEFAULT_DELAYS)


def test_a_dead_letter_keeps_its_routing_key_and_goes_by_queue() -> None:
    noted = failed(ENVELOPE, queue="download", error=ValueError("x"), at=NOON)

    publication = dead_letter("download", noted)

    assert publication.exchange == DEAD
    assert publication.wire_key == "download"
    assert publication.envelope == noted


def test_a_replay_goes_to_its_own_queue_and_to_no_other() -> None:
    topology = build_topology(subscriptions=SUBSCRIPTIONS)
    noted = failed(ENVELOPE, queue="notify.audit", error=ValueError("x"), at=NOON)

    publication = replay("notify.audit", noted)

    reached = routed(topology, publication.exchange, publication.wire_key)
    assert list(reached) == ["notify.audit"]
    assert publication.envelope.attempt == 1
    assert publication.envelope.replays == 1
    assert publication.envelope.failure is None


def test_handing_over_ignores_the_routing_key() -> None:
    publication = hand_to("download", ENVELOPE)

    assert publication.wire_key == "download"
    assert publication.envelope.routing_key == "task.complete"


def test_what_goes_back_as_new_waits_the_shortest_delay_and_no_attempt_counts() -> None:
    topology = build_topology(delays=(timedelta(minutes=1), timedelta(seconds=2)))

    publication = topology.as_new("download", ENVELOPE)

    assert publication.exchange == "delay.2s"
    assert publication.wire_key == "download"
    assert publication.envelope == ENVELOPE


def test_public_names_carry_no_version_and_others_do() -> None:
    topology = build_topology(prefix="acme")

    assert topology.exchange_name(EVENTS) == "acme.events"
    assert topology.exchange_name(CALLBACKS) == "acme.callbacks"
    assert topology.exchange_name(WORK) == "acme.v1.work"
    assert topology.queue_name("dedupe") == "acme.v1.dedupe"


@pytest.mark.parametrize(
    ("delay", "expected"),
    [
        (timedelta(milliseconds=250), "delay.250ms"),
        (timedelta(seconds=5), "delay.5s"),
        (timedelta(seconds=90), "delay.90s"),
        (timedelta(minutes=2), "delay.2m"),
        (timedelta(hours=6), "delay.6h"),
        (timedelta(0), "delay.0ms"),
    ],
)
def test_a_delay_is_named_in_its_largest_whole_unit(
    delay: timedelta, expected: str
) -> None:
    assert expected == delay_name(delay)


def test_equal_delays_are_one_queue() -> None:
    topology = build_topology(delays=[timedelta(seconds=60), timedelta(minutes=1)])

    delays = [q.name for q in topology.queues if q.kind is QueueKind.DELAY]
    assert delays == ["delay.1m"]


@pytest.mark.parametrize("delays", [[], [timedelta(0)], [timedelta(microseconds=5)]])
def test_a_topology_without_usable_delays_is_refused(delays: list[timedelta]) -> None:
    with pytest.raises(ValueError, match="expected delays of a millisecond or more"):
        build_topology(delays=delays)


def test_every_name_is_used_once_and_every_binding_has_both_ends() -> None:
    topology = build_topology(subscriptions=SUBSCRIPTIONS)

    queues = [q.name for q in topology.queues]
    exchanges = [e.name for e in topology.exchanges]
    assert len(queues) == len(set(queues))
    assert len(exchanges) == len(set(exchanges))
    assert {b.queue for b in topology.bindings} == set(queues)
    assert {b.exchange for b in topology.bindings} <= set(exchanges)


def test_a_subscription_has_its_own_queue() -> None:
    assert notify_queue("studio") == "notify.studio"
