"""Envelopes keep their contents through headers, and headers never break us."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import LinkExpired
from pipeline.message import (
    ERROR_TEXT_LIMIT,
    RESERVED_HEADERS,
    Envelope,
    Failure,
    MessageId,
    Publication,
    decode_headers,
    encode_headers,
    failed,
    from_milliseconds,
    new_message_id,
    next_attempt,
    replayed,
    to_milliseconds,
)

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)

times = st.integers(min_value=0, max_value=4_102_444_800_000).map(from_milliseconds)
texts = st.text(max_size=40)
names = st.text(min_size=1, max_size=40)
header_names = names.filter(lambda name: name not in RESERVED_HEADERS)
header_values = st.one_of(texts, st.integers(-(2**63), 2**63 - 1), st.booleans())

failures = st.builds(
    Failure,
    queue=names,
    error_type=names,
    error_text=texts,
    first_failed_at=times,
    last_failed_at=times,
)
envelopes = st.builds(
    Envelope,
    body=st.binary(max_size=100),
    routing_key=names,
    message_id=names.map(MessageId),
    content_type=names,
    headers=st.dictionaries(header_names, header_values, max_size=5),
    published_at=st.none() | times,
    attempt=st.integers(1, 2**31),
    replays=st.integers(0, 2**31),
    failure=st.none() | failures,
)
foreign_values = st.one_of(
    header_values,
    st.none(),
    st.floats(),
    st.binary(max_size=5),
    st.lists(texts, max_size=2),
    st.integers(),
)
foreign_headers = st.dictionaries(
    st.sampled_from(sorted(RESERVED_HEADERS)) | texts, foreign_values, max_size=12
)


def make_envelope(**changes: object) -> Envelope:
    envelope = Envelope(
        body=b"{}", routing_key="task.complete", message_id=MessageId("m1")
    )
    return replace(envelope, **changes)  # type: ignore[arg-type]


@given(envelope=envelopes, key=st.none() | names)
def test_an_envelope_survives_its_headers(envelope: Envelope, key: str | None) -> None:
    publication = Publication(exchange="events", envelope=envelope, key=key)

    headers = encode_headers(publication)
    decoded = decode_headers(
        headers,
        body=envelope.body,
        wire_key=publication.wire_key,
        content_type=envelope.content_type,
    )

    assert envelope == decoded


@given(headers=foreign_headers, wire_key=texts, fallback=st.none() | texts)
def test_foreign_headers_never_raise(
    headers: dict[str, object], wire_key: str, fallback: str | None
) -> None:
    envelope = decode_headers(
        headers, body=b"", wire_key=wire_key, fallback_id=fallback
    )

    assert envelope.attempt >= 1
    assert envelope.replays >= 0
    assert envelope.message_id
    assert not RESERVED_HEADERS & set(envelope.headers)


def test_defaults_cost_no_header() -> None:
    publication = Publication(exchange="events", envelope=make_envelope())

    headers = encode_headers(publication)

    expected = {"message-id": "m1"}
    assert expected == headers


def test_a_key_equal_to_the_routing_key_costs_no_header() -> None:
    publication = Publication(
        exchange="events", envelope=make_envelope(), key="task.complete"
    )

    headers = encode_headers(publication)

    expected = {"message-id": "m1"}
    assert expected == headers


def test_a_message_without_an_id_gets_the_fallback() -> None:
    envelope = decode_headers({}, body=b"", wire_key="k", fallback_id="property-id")

    assert envelope.message_id == "property-id"
    assert envelope.content_type == "application/octet-stream"


def test_a_message_without_any_id_gets_a_new_one_each_time() -> None:
    first = decode_headers({}, body=b"", wire_key="k")
    second = decode_headers({}, body=b"", wire_key="k")

    assert first.message_id != second.message_id


@pytest.mark.parametrize(
    "missing",
    ["failed-queue", "error-type", "first-failed-at", "last-failed-at"],
)
def test_half_a_failure_is_none(missing: str) -> None:
    broken = failed(make_envelope(), queue="dedupe", error=ValueError("x"), at=NOON)
    headers = encode_headers(Publication(exchange="dead", envelope=broken))

    del headers[missing]
    envelope = decode_headers(headers, body=b"", wire_key="k")

    assert envelope.failure is None


def test_the_first_failure_time_is_kept_and_the_last_one_moves() -> None:
    later = NOON + timedelta(hours=1)

    once = failed(make_envelope(), queue="download", error=KeyError("a"), at=NOON)
    twice = failed(once, queue="download", error=LinkExpired("gone"), at=later)

    expected = Failure(
        queue="download",
        error_type="LinkExpired",
        error_text="gone",
        first_failed_at=NOON,
        last_failed_at=later,
    )
    assert expected == twice.failure
    assert twice.attempt == 1


def test_an_error_without_text_shows_its_type() -> None:
    envelope = failed(make_envelope(), queue="q", error=ValueError(), at=NOON)

    assert envelope.failure is not None
    assert envelope.failure.error_text == "ValueError()"


def test_a_long_error_text_is_cut() -> None:
    envelope = failed(make_envelope(), queue="q", error=ValueError("x" * 5000), at=NOON)

    assert envelope.failure is not None
    assert len(envelope.failure.error_text) == ERROR_TEXT_LIMIT


def test_an_error_text_can_always_be_sent() -> None:
    error = ValueError("title \ud800 is odd")

    envelope = failed(make_envelope(), queue="q", error=error, at=NOON)

    assert envelope.failure is not None
    assert envelope.failure.error_text == "title ? is odd"


def test_a_replay_starts_again_and_counts() -> None:
    dead = failed(
        make_envelope(attempt=7, replays=1), queue="q", error=ValueError("x"), at=NOON
    )

    again = replayed(dead)

    assert make_envelope(attempt=1, replays=2) == again


def test_a_retry_counts_an_attempt() -> None:
    assert make_envelope(attempt=2) == next_attempt(make_envelope())


def test_new_ids_differ_and_have_32_digits() -> None:
    ids = {new_message_id() for _ in range(100)}

    assert len(ids) == 100
    assert {len(message_id) for message_id in ids} == {32}


def test_whole_milliseconds_survive() -> None:
    at = NOON + timedelta(milliseconds=123)

    assert at == from_milliseconds(to_milliseconds(at))


@given(milliseconds=st.integers(-62_135_596_800_000, 253_402_300_799_000))
def test_every_millisecond_is_the_same_after_the_round_trip(milliseconds: int) -> None:
    assert milliseconds == to_milliseconds(from_milliseconds(milliseconds))


@pytest.mark.parametrize("value", [10**18, "yesterday"])
def test_a_time_that_makes_no_sense_is_left_out(value: object) -> None:
    envelope = decode_headers({"published-at": value}, body=b"", wire_key="k")

    assert envelope.published_at is None


@pytest.mark.parametrize("value", [10**18, -(10**18), 10**400])
def test_times_beyond_the_calendar_are_refused(value: int) -> None:
    with pytest.raises(ValueError, match="expected milliseconds since 1970"):
        from_milliseconds(value)
