"""Clocks that differ: a signature that is right is refused, a link counts as dead."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import aiohttp

from pipeline.doctor.finding import Finding, ok, problem, warning
from pipeline.doctor.reach import PROVIDER_SECONDS, read_clock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.settings import Settings

CLOCK: Final = "clock"
#: Less is what a clock that is set by the network may be off, and what an answer takes.
TOLERATED: Final = timedelta(seconds=5)


async def look_at_clocks(settings: Settings) -> Sequence[Finding]:
    """Compare this machine's clock with the provider's; that needs no key.

    The clocks of database and ingress are compared where those are looked at.
    """
    base_url = settings.provider.base_url
    if base_url is None:
        return [ok(CLOCK, "the provider is not asked, as the settings have it")]
    timeout = aiohttp.ClientTimeout(total=PROVIDER_SECONDS)
    sent_at = datetime.now(UTC)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.head(str(base_url), allow_redirects=False) as response,
        ):
            clocks = read_clock(response.headers.get("Date"), sent_at)
    except (aiohttp.ClientError, OSError):
        # That it does not answer is said of the provider.
        clocks = None
    if clocks is None:
        return [ok(CLOCK, "the provider tells no time")]
    return [judge_clock("the provider", *clocks, settings)]


def judge_clock(
    whose: str, there: datetime, here: datetime, settings: Settings
) -> Finding:
    """Judge how far a clock is from ours.

    Args:
        whose: such as ``the database``.
        there: its time.
        here: ours at the same moment.
        settings: have the tolerance of signatures.
    """
    off = abs(there - here)
    seconds = off.total_seconds()
    if off <= TOLERATED:
        return ok(CLOCK, f"that of {whose} agrees with ours")
    direction = "ahead of" if there > here else "behind"
    what = f"that of {whose} is {seconds:,.0f} s {direction} ours"
    tolerance = settings.ingress.signature.tolerance
    judge = problem if off > tolerance else warning
    return judge(
        CLOCK,
        what,
        why="signatures count for"
        f" {tolerance.total_seconds():g} s around their time, and links die by theirs",
        todo="set both clocks by the network (NTP)",
    )
