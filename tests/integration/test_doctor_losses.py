"""The doctor says what is lost first, and whose clock is wrong."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import pytest

from pipeline.doctor.clocks import judge_clock, look_at_clocks
from pipeline.doctor.losses import look_at_losses
from pipeline.ledger import open_ledger
from pipeline.settings import load_settings
from pipeline.task import Stage
from tests.callbacks import make_claim, make_update
from tests.file_server import FileServer, answer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pipeline.doctor import Finding
    from pipeline.settings import Settings

KEY: Final = {"provider.base_url": "https://a.example", "provider.api_key": "the-key"}
#: Dies a day after it was received.
LINK: Final = "https://cdn.suno.ai/1.mp3?token=secret"


async def losses(
    folder: Path, flags: Mapping[str, str] | None = None, age: timedelta | None = None
) -> list[Finding]:
    """Look at a ledger, with one file whose link is so old and that nobody fetched."""
    url = f"sqlite:///{folder}/ledger.db"
    async with open_ledger(url) as ledger:
        if age is not None:
            update = make_update(Stage.COMPLETE, links={"audio": LINK})
            received_at = datetime.now(UTC) - age
            await ledger.record([make_claim(update, received_at=received_at)])
    given = {"ledger_url": url, **(flags or {})}
    found = await look_at_losses(load_settings(environ={}, flags=given).settings)
    assert "secret" not in str(found)
    return [*found]


async def test_without_a_poller_an_ingress_that_is_down_loses_results(
    tmp_path: Path,
) -> None:
    first, _ = await losses(tmp_path)

    assert "warning" == first.level
    assert "lost for good in 21 minutes, or sooner" in first.what
    assert "provider.api_key" in first.todo


async def test_with_a_poller_the_life_of_links_is_the_limit(tmp_path: Path) -> None:
    first, _ = await losses(tmp_path, KEY)

    assert "ok" == first.level
    assert "their first links die in 24 hours" in first.what


async def test_the_spool_tells_what_it_takes(tmp_path: Path) -> None:
    _, spool, _ = await losses(
        tmp_path, {"spool.enabled": "true", "spool.max_bytes": "275MB"}
    )

    assert "ok" == spool.level
    assert "takes some 100,000 callbacks, for at most 7 days" in spool.what


@pytest.mark.parametrize(
    ("age", "flags", "level", "what"),
    [
        (timedelta(hours=4), KEY, "ok", "is dead in 19 hours, and can be renewed"),
        (timedelta(hours=4), {}, "warning", "in 19 hours, and cannot be renewed"),
        (timedelta(days=2), {}, "warning", "is dead by now, and cannot be renewed"),
    ],
)
async def test_the_link_that_dies_first_is_named(
    tmp_path: Path, age: timedelta, flags: dict[str, str], level: str, what: str
) -> None:
    *_, link = await losses(tmp_path, flags, age)

    assert level == link.level
    assert link.what.startswith("1 file is still to be fetched; the first link, ")
    assert what in link.what


@pytest.mark.parametrize(
    ("off", "level", "what"),
    [
        (timedelta(seconds=4), "ok", "agrees with ours"),
        (timedelta(seconds=-30), "warning", "is 30 s behind ours"),
        (timedelta(minutes=6), "problem", "is 360 s ahead of ours"),
    ],
)
def test_a_clock_that_differs_is_told(off: timedelta, level: str, what: str) -> None:
    """Past the tolerance of signatures it is a problem."""
    here = datetime.now(UTC)

    found = judge_clock("the ledger", here + off, here, _settings())

    assert level == found.level
    assert what in found.what


async def test_the_providers_clock_is_compared() -> None:
    async with FileServer() as server:
        url = server.url("")
        server.add("/", answer(headers={"Date": "Tue, 03 Nov 2026 08:00:00 GMT"}))

        (found,) = await look_at_clocks(_settings(**{"provider.base_url": url}))

    assert "problem" == found.level
    assert found.what.startswith("that of the provider is ")
    assert "NTP" in found.todo


@pytest.mark.parametrize("date", ["", "yesterday", "Tue, 03 Nov 2026 08:00:00 -0000"])
async def test_a_provider_that_tells_no_time_is_left_alone(date: str) -> None:
    async with FileServer() as server:
        server.add("/", answer(headers={"Date": date} if date else {}))
        flags = {"provider.base_url": server.url("")}

        (found,) = await look_at_clocks(_settings(**flags))

    assert ("ok", "the provider tells no time") == (found.level, found.what)


def _settings(**flags: str) -> Settings:
    return load_settings(environ={}, flags=flags).settings
