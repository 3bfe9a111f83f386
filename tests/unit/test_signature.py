"""Proof that a callback comes from the provider: the signature of door K, tokens."""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.provider import signature
from pipeline.provider.signature import (
    Refusal,
    Scheme,
    sign,
    sign_body,
    token_matches,
)
from tests.signatures import refuse_signature

if TYPE_CHECKING:
    from collections.abc import Sequence

KEY: Final = b"webhook-key"
TASK: Final = "5c79be8e"
NOW: Final = 1_763_000_000
TOLERANCE: Final = timedelta(minutes=5)


def _refusal(
    *,
    keys: Sequence[bytes] = (KEY,),
    task_id: str = TASK,
    timestamp: str | None = str(NOW),
    given: str | None = None,
    now: float = NOW,
) -> Refusal | None:
    """Judge a callback that is signed well, but for what is said otherwise."""
    made = sign(KEY, TASK, timestamp or "") if given is None else given
    return refuse_signature(
        keys=keys,
        task_id=task_id,
        timestamp=timestamp,
        signature=made,
        now=now,
        tolerance=TOLERANCE,
    )


def test_signature_is_made_as_the_provider_documents_it() -> None:
    """HMAC-SHA256 over ``id.timestamp``, in standard base64 with padding."""
    text = f"{TASK}.{NOW}".encode()
    expected = base64.b64encode(hmac.new(KEY, text, hashlib.sha256).digest()).decode()

    made = sign(KEY, TASK, str(NOW))

    assert expected == made
    assert 44 == len(made)


def test_good_signature_is_accepted() -> None:
    assert _refusal() is None


def test_any_key_may_have_signed() -> None:
    """So that a key can be changed without losing a callback."""
    assert _refusal(keys=(b"new", KEY)) is None
    assert _refusal(keys=(KEY, b"old")) is None
    assert Refusal.SIGNATURE_WRONG == _refusal(keys=(b"new", b"old"))


@pytest.mark.parametrize(
    "given",
    [
        "",
        "AAAA",
        sign(KEY, TASK, str(NOW)).rstrip("="),
        sign(KEY, TASK, str(NOW)).lower(),
        sign(KEY, TASK, str(NOW)) + " ",
        f"sha256={sign(KEY, TASK, str(NOW))}",
        sign(b"other", TASK, str(NOW)),
        sign(KEY, "other", str(NOW)),
        sign(KEY, TASK, str(NOW - 1)),
        "Ünterschrift",
        "\udcff\ud800",
        "\x00" * 44,
    ],
)
def test_wrong_signature_is_refused(given: str) -> None:
    """Also one that is no ASCII: that must not end in an exception."""
    assert Refusal.SIGNATURE_WRONG == _refusal(given=given)


def test_missing_headers_are_refused() -> None:
    """Headers come only when the provider's customer has switched them on."""
    missing = Refusal.SIGNATURE_MISSING
    assert missing == _refusal(timestamp=None)
    assert missing == refuse_signature(
        keys=(KEY,),
        task_id=TASK,
        timestamp=str(NOW),
        signature=None,
        now=NOW,
        tolerance=TOLERANCE,
    )


@pytest.mark.parametrize(
    "timestamp",
    [
        "",
        " ",
        "now",
        "1763000000.5",
        "-1763000000",
        "+1763000000",
        " 1763000000",
        "1763000000\n",
        "1_763_000_000",
        "0x69157a00",
        "١٧٦٣٠٠٠٠٠٠",
        "²",
        "9" * 5000,
        "\udcff",
    ],
)
def test_timestamp_that_is_no_number_is_refused(timestamp: str) -> None:
    """Even where somebody signed it well."""
    assert Refusal.TIMESTAMP_UNREADABLE == _refusal(timestamp=timestamp)


@pytest.mark.parametrize(
    ("seconds", "refusal"),
    [
        (0, None),
        (300, None),
        (-300, None),
        (301, Refusal.TIMESTAMP_OUTSIDE_TOLERANCE),
        (-301, Refusal.TIMESTAMP_OUTSIDE_TOLERANCE),
        (10**9, Refusal.TIMESTAMP_OUTSIDE_TOLERANCE),
    ],
)
def test_time_may_differ_both_ways(seconds: int, refusal: Refusal | None) -> None:
    """Clocks go wrong in either direction; a replay is always old."""
    assert refusal == _refusal(now=NOW + seconds)


@given(key=st.binary(min_size=1), task_id=st.text(), timestamp=st.text())
def test_nothing_that_is_signed_raises(
    key: bytes, task_id: str, timestamp: str
) -> None:
    """What comes from outside may be anything."""
    assert 44 == len(sign(key, task_id, timestamp))
    assert _refusal(task_id=task_id, timestamp=timestamp, given=timestamp)


@pytest.mark.parametrize("scheme", Scheme)
@given(
    timestamp=st.none() | st.text() | st.integers(0, 2**40).map(str),
    signature=st.none() | st.text(),
    body=st.binary(),
    task_id=st.text(),
)
def test_no_header_opens_without_the_key(
    scheme: Scheme,
    timestamp: str | None,
    signature: str | None,
    *,
    body: bytes,
    task_id: str,
) -> None:
    """Nor does any make it fail, in any scheme."""
    refusal = refuse_signature(
        keys=(KEY,),
        task_id=task_id,
        timestamp=timestamp,
        signature=signature,
        now=NOW,
        tolerance=timedelta.max,
        scheme=scheme,
        body=body,
    )

    assert isinstance(refusal, Refusal)


def test_signatures_of_bodies_are_made_as_documented() -> None:
    """Lower-case hexadecimal over the body, with or without the time before it."""
    body = b'{"task_id":"t"}'
    alone = hmac.new(KEY, body, hashlib.sha256).hexdigest()
    timed = hmac.new(KEY, b"1763000000." + body, hashlib.sha256).hexdigest()

    assert f"sha256={alone}" == sign_body(KEY, body)
    assert f"sha256={timed}" == sign_body(KEY, body, "1763000000")


def test_everything_is_compared_in_constant_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every key, whether an earlier one has matched or not."""
    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return hmac.compare_digest(one, other)

    class Watched:
        digest = staticmethod(hmac.digest)
        compare_digest = staticmethod(compare)

    monkeypatch.setattr(signature, "hmac", Watched)

    assert _refusal(keys=(KEY, b"b", b"c"), task_id=TASK) is None
    assert 3 == len(compared)
    compared.clear()
    assert token_matches("first", (b"first", b"second", b"third"))
    assert 3 == len(compared)


@pytest.mark.parametrize(
    ("token", "matches"),
    [
        ("sixteen-letters-1", True),
        ("töken-mit-ümlaut", True),
        ("", False),
        ("sixteen-letters-", False),
        ("sixteen-letters-12", False),
        ("SIXTEEN-LETTERS-1", False),
        ("\udcff", False),
        ("x" * 100_000, False),
    ],
)
def test_token_has_to_be_the_same(token: str, matches: bool) -> None:  # noqa: FBT001
    """Byte for byte; no form of text makes it fail."""
    accepted = (b"another", "töken-mit-ümlaut".encode(), b"sixteen-letters-1")

    assert matches == token_matches(token, accepted)


def test_without_accepted_tokens_none_matches() -> None:
    """The caller decides what that means."""
    assert not token_matches("", ())
