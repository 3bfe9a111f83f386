"""A probe is let in and answered like a callback, and nothing is stored."""

from __future__ import annotations

import pytest

from pipeline.ingress.probe import PROBE_BODY, PROBE_HEADER
from pipeline.topology import DEDUPE
from tests.ingress import CALLBACK, running_ingress

PROBE = {PROBE_HEADER: "1"}


@pytest.mark.parametrize(
    "extra", [{}, {"Expect": "100-continue"}], ids=["quick", "usual"]
)
async def test_a_probe_is_answered_200_and_not_stored(
    sqlite_url: str, extra: dict[str, str]
) -> None:
    async with running_ingress(sqlite_url) as ingress:
        answer = await ingress.post(data=PROBE_BODY, **PROBE, **extra)

        assert (200, b"") == (answer.status, answer.body)
        assert PROBE_HEADER.lower() in {name.lower() for name in answer.headers}
        assert 0 == await ingress.count(DEDUPE)


@pytest.mark.parametrize(
    ("body", "headers"), [(CALLBACK, PROBE), (PROBE_BODY, {})], ids=["body", "header"]
)
async def test_what_is_only_half_a_probe_is_a_callback(
    sqlite_url: str, body: bytes, headers: dict[str, str]
) -> None:
    """Nobody can have a real callback dropped by a header."""
    async with running_ingress(sqlite_url) as ingress:
        answer = await ingress.post(data=body, **headers)

        assert 200 == answer.status
        assert 1 == await ingress.count(DEDUPE)


async def test_a_probe_without_the_token_is_refused(sqlite_url: str) -> None:
    tokens = ["a-secret-of-some-length"]
    async with running_ingress(sqlite_url, tokens=tokens) as ingress:
        answer = await ingress.post(data=PROBE_BODY, **PROBE)

    assert 401 == answer.status
