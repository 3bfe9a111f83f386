"""The roles of a process that stays, made from settings: names every concrete class."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

from pipeline.admin import AdminRoutes, TasksView
from pipeline.assets.fetch import Fetcher, FetchRules
from pipeline.assets.store import open_store
from pipeline.audio.check import AudioCheck
from pipeline.audio.probe import require_decoder
from pipeline.bootstrap import (
    NOTIFY,
    Parts,
    Plan,
    RoleStack,
    broker_of,
    callback_address_of,
    lifetimes_of,
    open_submitter,
    spool_of,
    subscriptions_of,
    topology_of,
)
from pipeline.errors import ConfigurationError, FetchFailed
from pipeline.ingress.app import Routes, make_ingress
from pipeline.ingress.health import health_routes
from pipeline.ingress.peers import peers_of
from pipeline.ingress.tls import certificate_of
from pipeline.logs import get_logger
from pipeline.poller.poller import Limits, Poller
from pipeline.poller.rhythm import Rhythm, refuse_unknown_operations
from pipeline.provider.account import window_of_task
from pipeline.provider.door import door_of, polls_per_second, questions_per_second
from pipeline.service import (
    HttpRole,
    IdleRole,
    PollerRole,
    WorkerRole,
    declare_when_up,
)
from pipeline.settings import DedupeSettings
from pipeline.settings.polling import is_polling_alone
from pipeline.spool.forwarder import Forwarder
from pipeline.spool.outlet import Outlet
from pipeline.topology import DEDUPE, DOWNLOAD, notify_queue
from pipeline.worker import Worker, one_by_one
from pipeline.workers.confirm import Confirmation, turns_within
from pipeline.workers.dedupe import Dedupe
from pipeline.workers.download import Download
from pipeline.workers.link_watch import LinkWatch
from pipeline.workers.notify import Notify, make_session
from pipeline.workers.refresh import RECOVERY, Refresh
from pipeline.workers.urgency import by_time_left

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Callable, Sequence

    from pipeline.broker.order import Order
    from pipeline.broker.port import Broker
    from pipeline.ledger.port import Ledger
    from pipeline.service import Role
    from pipeline.settings import Settings, WorkerSettings
    from pipeline.worker import BatchHandler

log = get_logger("roles")

#: What the ledger may take to note an answer.
LEDGER_ROOM: Final = timedelta(seconds=2)


@asynccontextmanager
async def open_roles(settings: Settings, plan: Plan) -> AsyncIterator[Sequence[Role]]:
    """Open what ``plan`` needs and make its roles; they run when they are run.

    The broker may be away: roles wait for it. On leaving, the roles must have
    ended; then everything is closed in reverse order.

    Raises:
        ConfigurationError: the list of subscriptions is wrong.
        LedgerUnavailable, LedgerMismatch: the ledger cannot be opened.
    """
    topology = topology_of(settings)
    async with RoleStack(settings) as stack:
        roles: list[Role] = []
        if plan.workers or plan.polls:
            broker = await stack.enter_async_context(broker_of(settings))
            parts = Parts(broker=broker, topology=topology)
            roles += await _open_workers(stack, settings, plan, parts)
            if (port := settings.metrics.port) is not None and not plan.ingress:
                roles.append(_make_health(settings, broker, port, roles))
        if plan.ingress:
            # Its own handle: a callback waits less long than a worker may.
            handle = broker_of(settings, deadline=settings.ingress.publish_timeout)
            broker = await stack.enter_async_context(handle)
            parts = Parts(broker=broker, topology=topology)
            outlet = None
            if (spool := spool_of(settings)) is not None:
                outlet = Outlet(broker, await stack.enter_async_context(spool))
            roles.append(_make_ingress(settings, parts, roles, outlet))
            if outlet is not None:
                roles.append(Forwarder(outlet))
        if plan.admin and settings.admin.port is not None:
            roles.append(await _open_admin(stack, settings, settings.admin.port))
        yield roles


async def _open_workers(
    stack: RoleStack, settings: Settings, plan: Plan, parts: Parts
) -> list[Role]:
    refuse_unknown_operations(settings.poller)
    ledger = await stack.ledger()
    roles: list[Role] = []
    if DEDUPE in plan.workers:
        roles.append(await _open_dedupe(stack, settings, parts, ledger))
    if DOWNLOAD in plan.workers:
        download = await _open_download(stack, settings, ledger)
        handler, fetching = one_by_one(download.handle), settings.download
        order = by_time_left(
            lifetimes_of(settings),
            window=fetching.window,
            concurrency=fetching.concurrency,
            deadline=fetching.deadline,
        )
        role = _role(settings, parts, DOWNLOAD, handler, fetching, order=order)
        roles.append(role)
        roles.append(_make_link_watch(settings, ledger))
    if NOTIFY in plan.workers:
        session = await stack.enter_async_context(make_session())
        limits = settings.notify
        subscriptions = subscriptions_of(settings, plan.subscription)
        if not subscriptions:
            # No error: a service may be there before its first subscriber is.
            file = settings.subscriptions_file
            log.warning("no_subscriptions", file=None if file is None else str(file))
            roles.append(IdleRole(NOTIFY))
        for one in subscriptions:
            notify = Notify(one, ledger, session, clock=now, timeout=limits.timeout)
            fitting = limits.with_room_for(one.timeout_seconds)
            handler = one_by_one(notify.handle)
            queue = notify_queue(one.name)
            roles.append(_role(settings, parts, queue, handler, fitting))
    if plan.polls:
        roles.append(await _open_poller(stack, settings, parts, ledger))
    return roles


async def _open_dedupe(
    stack: RoleStack, settings: Settings, parts: Parts, ledger: Ledger
) -> Role:
    limits = settings.dedupe
    door, confirmation = door_of(settings), None
    if settings.provider.trust == "verify":
        # The other half is for the ledger.
        within = limits.deadline / 2
        client = await stack.provider()
        confirmation = Confirmation(client, within=within, door=door)
        turns = turns_within(
            within,
            settings.provider,
            rate_per_second=questions_per_second(settings),
            batches=limits.concurrency,
        )
        fitting = min(limits.batch_size, turns)
        limits = limits.model_copy(update={"batch_size": fitting})
    dedupe = Dedupe(
        ledger,
        clock=now,
        quiet=settings.poller.quiet_for,
        confirmation=confirmation,
        door=door,
        polls_alone=is_polling_alone(settings),
    )
    return _role(settings, parts, DEDUPE, dedupe.handle, limits)


async def _open_poller(
    stack: RoleStack, settings: Settings, parts: Parts, ledger: Ledger
) -> Role:
    limits, provider, door = settings.poller, settings.provider, door_of(settings)
    poller = Poller(
        ledger,
        await stack.provider(),
        parts.broker.publish,
        rhythm=Rhythm(interval=limits.interval, give_up_after=limits.give_up_after),
        limits=Limits(
            rate_per_second=polls_per_second(settings),
            of_task=window_of_task(door.limits),
            concurrency=provider.concurrency,
            # An answer, a confirm, and a note in the ledger, each in its own time.
            lasts=provider.timeout + settings.broker.deadline + LEDGER_ROOM,
            overdue=limits.overdue_after,
            drain=settings.drain,
        ),
        clock=now,
        chance=random.SystemRandom().random,
        door=door,
    )
    return PollerRole(poller, parts.broker, parts.topology)


async def _open_download(
    stack: RoleStack, settings: Settings, ledger: Ledger
) -> Download:
    limits = settings.download
    store = await stack.enter_async_context(
        open_store(settings.assets_url, deadline=settings.assets_deadline)
    )
    # What a killed process has left half-done; nobody works on it any more.
    try:
        await store.sweep(limits.deadline * 2)
    except FetchFailed as error:
        log.warning("assets_not_swept", error=str(error))
    rules = FetchRules(
        max_bytes=int(limits.max_bytes),
        deadline=limits.timeout,
        connect_timeout=limits.connect_timeout,
        read_timeout=limits.read_timeout,
        min_bytes_per_second=int(limits.min_bytes_per_second),
        allow_private_addresses=limits.allow_private_addresses,
        hosts=limits.hosts,
        ports=frozenset(limits.ports),
    )
    fetcher = await stack.enter_async_context(Fetcher(rules))
    check = None
    if limits.check_audio:
        require_decoder()
        check = AudioCheck().check
    refresh = await _open_refresh(stack, settings, ledger)
    return Download(
        fetcher,
        store,
        ledger,
        clock=now,
        check=check,
        refresh=None if refresh is None else refresh.links,
    )


async def _open_refresh(
    stack: RoleStack, settings: Settings, ledger: Ledger
) -> Refresh | None:
    """Open what asks the provider for fresh links, where it can be asked."""
    door = door_of(settings)
    if door.base_url is None or settings.provider.api_key is None:
        return None
    try:
        callback_url = callback_address_of(settings, RECOVERY)
    except ConfigurationError as error:
        # Then a lost file stays lost; everything else works without.
        log.info("nothing_is_recovered", reason=str(error))
        callback_url = None
    return Refresh(
        await stack.provider(),
        ledger,
        clock=now,
        minted_lifetime=door.lifetimes.minted_links,
        callback_url=callback_url,
    )


def _make_link_watch(settings: Settings, ledger: Ledger) -> LinkWatch:
    every = settings.download.link_check_interval
    return LinkWatch(ledger, lifetimes_of(settings), clock=now, every=every)


def _role(
    settings: Settings,
    parts: Parts,
    queue: str,
    handler: BatchHandler,
    limits: WorkerSettings,
    *,
    order: Order | None = None,
) -> Role:
    batch_size = limits.batch_size if isinstance(limits, DedupeSettings) else 1
    worker = Worker(
        parts.broker,
        queue,
        handler,
        deadline=limits.deadline,
        policy=limits.policy,
        concurrency=limits.concurrency,
        batch_size=batch_size,
        drain=settings.drain,
        order=order,
    )
    return WorkerRole(worker, parts.broker, parts.topology)


def _make_ingress(
    settings: Settings, parts: Parts, others: Sequence[Role], outlet: Outlet | None
) -> HttpRole:
    async def declare(stopping: asyncio.Event) -> None:
        await declare_when_up(parts.broker, parts.topology, stopping)

    ingress = settings.ingress
    return HttpRole(
        "ingress",
        make_ingress(parts.broker, ingress, outlet=outlet, checks=_checks(others)),
        host=ingress.host,
        port=ingress.port,
        max_body_bytes=int(ingress.max_body_bytes),
        peers=peers_of(ingress),
        certificate=certificate_of(ingress.tls),
        prepare=declare,
    )


def _make_health(
    settings: Settings, broker: Broker, port: int, others: Sequence[Role]
) -> HttpRole:
    checks = {"broker": lambda: broker.problem, **_checks(others)}
    return HttpRole(
        "health",
        Routes(health_routes(checks), None),
        host=settings.metrics.host,
        port=port,
    )


async def _open_admin(stack: RoleStack, settings: Settings, port: int) -> HttpRole:
    opening = open_submitter(settings, await stack.provider())
    submitter = await stack.enter_async_context(opening)
    admin = settings.admin
    return HttpRole(
        "admin",
        AdminRoutes(health_routes({}), TasksView(submitter, admin)),
        host=admin.host,
        port=port,
        max_body_bytes=int(admin.max_body_bytes),
    )


def _checks(roles: Sequence[Role]) -> dict[str, Callable[[], str | None]]:
    return {role.name: partial(getattr, role, "problem") for role in roles}


def now() -> datetime:
    """Give the present time."""
    return datetime.now(UTC)
