"""How long a pipeline can stand still before something is lost for good."""

from __future__ import annotations

from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from pipeline.assets.lifetime import expires_at
from pipeline.bootstrap import ledger_of, lifetimes_of
from pipeline.doctor.finding import Finding, ok, warning
from pipeline.ledger.links import unfetched_pages
from pipeline.settings.polling import is_polling
from pipeline.settings.spooling import is_spooling

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline.ledger.links import UnfetchedLink
    from pipeline.settings import Settings

LOSSES: Final = "losses"
#: After its first call the provider tries three times more, 1, 5 and 15 minutes after
#: each failure (sunoapi.org and kie.ai, older pages of "Callbacks"; newer ones name
#: no waits, so it may be sooner).
PROVIDER_TRIES: Final = timedelta(minutes=21)
#: A usual callback on the disk, with what stands around it.
CALLBACK_BYTES: Final = 2_750


async def look_at_losses(settings: Settings) -> Sequence[Finding]:
    """Say what is lost first, and when, if things stop now.

    Raises:
        LedgerUnavailable, LedgerMismatch: it cannot be asked which links are open.
        ConfigurationError: there is no ledger.
    """
    lifetimes = lifetimes_of(settings)
    count, first = 0, None
    async with (
        ledger_of(settings, must_exist=True) as ledger,
        aclosing(unfetched_pages(ledger, received_before=datetime.now(UTC))) as pages,
    ):
        async for page in pages:
            count += len(page)
            known = page if first is None else [first, *page]
            first = min(known, key=lambda link: expires_at(link, lifetimes))
    return [
        _judge_ingress(settings),
        *_judge_spool(settings),
        ok(LOSSES, "no file is still to be fetched")
        if first is None
        else _judge_links(count, first, expires_at(first, lifetimes), settings),
    ]


def _judge_ingress(settings: Settings) -> Finding:
    minutes = PROVIDER_TRIES // timedelta(minutes=1)
    if not is_polling(settings):
        return warning(
            LOSSES,
            "if the ingress is down now, the first results are lost for good in"
            f" {minutes} minutes, or sooner",
            why="the provider gives up then, and nobody asks it: some of its pages name"
            f" waits that add up to {minutes} minutes, others none",
            todo="set provider.base_url and provider.api_key for the poller, which asks"
            " for what has not come",
        )
    first = _lasts(lifetimes_of(settings).shortest)
    return ok(
        LOSSES,
        "if the ingress is down now, the poller still finds the results of tasks that"
        f" it knows; their first links die in {first}. Of a task that was not submitted"
        f" here, and of which nothing was heard, all is lost in {minutes} minutes, or"
        " sooner",
    )


def _judge_spool(settings: Settings) -> Iterator[Finding]:
    if not is_spooling(settings):
        return
    callbacks = int(settings.spool.max_bytes) // CALLBACK_BYTES
    yield ok(
        LOSSES,
        f"if the broker is down now, the spool takes some {callbacks:,} callbacks,"
        f" for at most {_lasts(settings.spool.max_age)}",
    )


def _judge_links(
    count: int, first: UnfetchedLink, until: datetime, settings: Settings
) -> Finding:
    """Judge the links of files still to be fetched, by the one that dies first."""
    can_renew = None not in (settings.provider.base_url, settings.provider.api_key)
    left = until - datetime.now(UTC)
    when = f"in {_lasts(left)}" if left > timedelta(0) else "by now"
    name = f"{first.key.track_id}/{first.key.kind} of task {first.key.task_id}"
    files = "1 file is" if count == 1 else f"{count:,} files are"
    what = f"{files} still to be fetched; the first link, {name}, is dead {when}"
    if can_renew:
        return ok(LOSSES, f"{what}, and can be renewed")
    return warning(
        LOSSES,
        f"{what}, and cannot be renewed",
        why="without a key the provider cannot be asked for another link",
        todo="set provider.base_url and provider.api_key for the download worker, and"
        " see that one runs",
    )


def _lasts(span: timedelta) -> str:
    """Write a span for people, in its largest unit."""
    for unit, length in (
        ("days", timedelta(days=1)),
        ("hours", timedelta(hours=1)),
        ("minutes", timedelta(minutes=1)),
    ):
        if span >= 2 * length:
            return f"{span // length} {unit}"
    return f"{span.total_seconds():.0f} s"
