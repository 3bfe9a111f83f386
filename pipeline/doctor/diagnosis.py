"""All the looks together; one that fails is a finding and hinders no other."""

from __future__ import annotations

import asyncio
import platform
from functools import partial
from typing import TYPE_CHECKING, Final

from pipeline.bootstrap import provider_of
from pipeline.doctor import address, clocks, losses, places, queues, submissions
from pipeline.doctor.finding import Finding, ok, problem, warning
from pipeline.errors import PipelineError, ProviderRefused, TaskNotFound
from pipeline.task import TaskId
from pipeline.version import installed_version

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence
    from datetime import timedelta

    from pipeline.settings import Settings

SETTINGS: Final = "settings"
PROVIDER: Final = "provider"
VERSIONS: Final = "versions"
#: What is looked at, in order. ``broker`` includes what is on it.
PARTS: Final = (
    VERSIONS,
    SETTINGS,
    address.CALLBACK,
    queues.BROKER,
    places.LEDGER,
    places.ASSETS,
    places.SPOOL,
    places.DISK,
    PROVIDER,
    clocks.CLOCK,
    losses.LOSSES,
    submissions.JOBS,
)
#: A task that nobody has.
_NO_TASK: Final = TaskId("pipeline-doctor")

#: Why it matters that a part cannot be looked at at all, and what to do.
_UNREACHABLE: Final = {
    queues.BROKER: (
        (
            "nothing is handed on; callbacks go to the spool if there is one, else they"
            " are answered 503"
        ),
        (
            "start the broker, or correct broker_url; where nothing has run yet, start"
            " `pipeline run`"
        ),
    ),
    places.LEDGER: (
        "workers keep their deliveries and wait for it",
        (
            "start the database, or correct ledger_url; where nothing has run yet,"
            " start `pipeline run`"
        ),
    ),
    places.ASSETS: (
        "no file can be stored; downloads are retried, then given up",
        "correct assets_url, its credentials, or what it leads to",
    ),
    places.SPOOL: (
        (
            "while the broker is away, callbacks are answered 503; what is in the file"
            " is not forwarded"
        ),
        "look at spool.path, who owns it, and its disk",
    ),
    address.CALLBACK: (
        "the provider would be given no address that the ingress takes",
        "correct the setting",
    ),
    losses.LOSSES: (
        "what is lost first is not known without the ledger",
        "see the findings of the ledger",
    ),
    submissions.JOBS: (
        "which submissions have no answer is not known without the ledger",
        "see the findings of the ledger",
    ),
    PROVIDER: (
        'with provider.trust = "verify" callbacks wait in delays until it answers',
        "correct provider.base_url, or wait; see the provider's own state",
    ),
}


async def diagnose(
    settings: Settings, *, span: timedelta, only: Collection[str] = ()
) -> Sequence[Finding]:
    """Look at every part, or at ``only`` some, and change nothing.

    Args:
        settings: of the pipeline.
        span: between two looks at the queues.
        only: names in ``PARTS``; empty: all.
    """
    looks: dict[str, Callable[[], Awaitable[Sequence[Finding]]]] = {
        VERSIONS: _look_at_versions,
        SETTINGS: partial(_look_at_settings, settings),
        address.CALLBACK: partial(address.look_at_address, settings),
        queues.BROKER: partial(queues.look_at_broker, settings, span),
        places.LEDGER: partial(places.look_at_ledger, settings),
        places.ASSETS: partial(places.look_at_assets, settings),
        places.SPOOL: partial(places.look_at_spool, settings),
        places.DISK: partial(places.look_at_disks, settings),
        PROVIDER: partial(_look_at_provider, settings),
        clocks.CLOCK: partial(clocks.look_at_clocks, settings),
        losses.LOSSES: partial(losses.look_at_losses, settings),
        submissions.JOBS: partial(submissions.look_at_jobs, settings),
    }
    async with asyncio.TaskGroup() as group:
        looking = [
            group.create_task(_found(part, looks[part]))
            for part in PARTS
            if not only or part in only
        ]
    return [finding for look in looking for finding in look.result()]


async def _found(
    part: str, look: Callable[[], Awaitable[Sequence[Finding]]]
) -> Sequence[Finding]:
    try:
        return await look()
    except PipelineError as error:
        why, todo = _UNREACHABLE[part]
        return [problem(part, str(error), why=why, todo=todo)]


async def _look_at_versions() -> Sequence[Finding]:
    system = f"{platform.python_implementation()} {platform.python_version()}"
    return [ok(VERSIONS, f"callback-pipeline {installed_version()} on {system}")]


async def _look_at_settings(settings: Settings) -> Sequence[Finding]:
    ingress = settings.ingress
    if ingress.tokens or ingress.operation_tokens or ingress.signature.keys:
        return [ok(SETTINGS, "callbacks need a token or a signature")]
    return [
        warning(
            SETTINGS,
            "neither a token nor a key of the signature is set",
            why="anybody who reaches the address can post callbacks",
            todo="set ingress.tokens or ingress.signature.keys, unless this process"
            " has other settings than the ingress",
        )
    ]


async def _look_at_provider(settings: Settings) -> Sequence[Finding]:
    """Ask for a task that nobody has: the answer shows whether the key is taken."""
    provider = settings.provider
    if provider.trust == "verify" and provider.api_key is None:
        return [
            warning(
                PROVIDER,
                "provider.api_key is not set",
                why="the dedupe worker does not start without it",
                todo="set it for the dedupe worker; no other process needs it",
            )
        ]
    if provider.base_url is None or provider.api_key is None:
        return [ok(PROVIDER, "not asked, as the settings have it")]
    async with provider_of(settings) as client:
        try:
            await client.details(_NO_TASK, "generate")
        except TaskNotFound:
            pass
        except ProviderRefused as error:
            return [
                problem(
                    PROVIDER,
                    str(error),
                    why="nothing can be asked, so nothing can be confirmed",
                    todo="correct provider.api_key, or look at the account",
                )
            ]
    return [ok(PROVIDER, "it answers and takes our key")]
