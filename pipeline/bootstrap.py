"""From settings to open parts: the broker, the ledger, the topology.

With ``roles.py`` and ``ingress_role.py``, which make the roles of a process that stays,
the only place that knows which settings make which object.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlsplit

from pipeline.broker import open_broker
from pipeline.errors import ConfigurationError
from pipeline.ledger import open_ledger
from pipeline.subscriptions import load_subscriptions, patterns
from pipeline.topology import build_topology

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from pipeline.assets.lifetime import Lifetimes
    from pipeline.broker.found import Difference
    from pipeline.broker.port import Broker
    from pipeline.ledger.port import Ledger
    from pipeline.ledger.turns import Turns
    from pipeline.provider.client import ProviderClient
    from pipeline.settings import Settings
    from pipeline.submission import Checker, Submitter
    from pipeline.subscriptions import Subscription
    from pipeline.topology import Topology

#: The worker that has a queue for each subscription.
NOTIFY: Final = "notify"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """An open broker and what is on it."""

    broker: Broker
    topology: Topology
    #: What is not as it should be and is used all the same.
    tolerated: Sequence[Difference] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Which roles a process has."""

    #: Whether callbacks are taken.
    ingress: bool
    #: Of ``dedupe``, ``download`` and ``notify``.
    workers: frozenset[str]
    #: Whether the provider is asked for tasks that are still to end.
    polls: bool = False
    #: Only this subscription is told; ``None``: all are.
    subscription: str | None = None
    #: Whether submissions are taken, where ``admin.port`` is set.
    admin: bool = False


def topology_of(settings: Settings) -> Topology:
    """List the exchanges and queues that the settings ask for.

    Raises:
        ConfigurationError: the list of subscriptions is wrong.
    """
    return build_topology(
        subscriptions=patterns(subscriptions_of(settings)),
        prefix=settings.broker.prefix,
        delays=settings.broker.delays,
    )


def broker_of(
    settings: Settings, *, deadline: timedelta | None = None, must_exist: bool = False
) -> Broker:
    """Make a handle on the broker; ``deadline``: another than in the settings.

    With ``must_exist`` no file is made: for those who look at what others have left.
    """
    url = settings.broker_url
    if urlsplit(url).scheme != "sqlite" and "heartbeat=" not in url:
        seconds = round(settings.broker.heartbeat.total_seconds())
        url += f"{'&' if '?' in url else '?'}heartbeat={seconds}"
    return open_broker(
        url, deadline=deadline or settings.broker.deadline, must_exist=must_exist
    )


def ledger_of(settings: Settings, *, must_exist: bool = False) -> Ledger:
    """Make a handle on the ledger; it opens when its context is entered.

    With ``must_exist`` none is made: for those who only look.
    """
    return open_ledger(settings.ledger_url, must_exist=must_exist)


def provider_of(settings: Settings, turns: Turns | None = None) -> ProviderClient:
    """Make a client of the provider's API; it opens when its context is entered.

    Args:
        settings: all of them.
        turns: where all processes with this account take their turns, such as their
            ledger, open before the client is; ``None``: this is the only one.

    Raises:
        ConfigurationError: its address or the key is not set.
    """
    from pipeline.provider.client import ProviderClient  # noqa: PLC0415  few ask
    from pipeline.provider.door import (  # noqa: PLC0415
        door_of,
        questions_per_second,
    )

    provider = settings.provider
    door = door_of(settings)
    base_url, api_key = door.base_url, provider.api_key
    if base_url is None or api_key is None:
        name = "api_key" if api_key is None else "base_url"
        message = (
            f"provider.{name}: expected a value where the provider is asked, as by"
            " `pipeline submit`, the poller, and the dedupe worker with provider.trust"
            ' = "verify"; got none'
        )
        raise ConfigurationError(message)
    return ProviderClient(
        base_url,
        api_key,
        door=door,
        timeout=provider.timeout,
        concurrency=provider.concurrency,
        rate_per_second=questions_per_second(settings),
        submit_timeout=settings.submit.timeout,
        submit_waits=settings.submit.waits,
        turns=turns,
    )


class RoleStack(AsyncExitStack):
    """What the roles of a process have open."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._settings = settings
        self._ledger: Ledger | None = None
        self._client: ProviderClient | None = None

    async def ledger(self) -> Ledger:
        """Give the one handle on the ledger of the process.

        Raises:
            ConfigurationError: its address cannot be understood.
            LedgerUnavailable, LedgerMismatch: it cannot be opened.
        """
        if self._ledger is None:
            self._ledger = await self.enter_async_context(ledger_of(self._settings))
        return self._ledger

    async def provider(self) -> ProviderClient:
        """Give the one client of the process, so that its limits hold for all roles.

        Those of the account hold for all processes on the ledger.

        Raises:
            ConfigurationError: the provider's address or the key is not set.
            LedgerUnavailable, LedgerMismatch: the ledger cannot be opened.
        """
        if self._client is None:
            client = provider_of(self._settings, await self.ledger())
            self._client = await self.enter_async_context(client)
        return self._client


def lifetimes_of(settings: Settings) -> Lifetimes:
    """Say how long the links of the door in use can be fetched from."""
    from pipeline.assets.lifetime import Lifetimes  # noqa: PLC0415  few ask
    from pipeline.provider.door import door_of  # noqa: PLC0415

    known = door_of(settings).lifetimes
    return Lifetimes(
        files=known.files,
        upstream=known.upstream_links,
        upstream_hosts=known.upstream_hosts,
    )


@asynccontextmanager
async def open_parts(
    settings: Settings, *, declaring: bool = True, must_exist: bool = False
) -> AsyncIterator[Parts]:
    """Open the broker for a command that does its work and ends.

    With ``must_exist`` an embedded broker is not made.

    Raises:
        BrokerUnavailable: it does not answer.
        TopologyMismatch: something exists with other arguments.
        ConfigurationError: the list of subscriptions is wrong, or there is no file.
    """
    topology = topology_of(settings)
    async with broker_of(settings, must_exist=must_exist) as broker:
        tolerated = await broker.declare(topology) if declaring else ()
        yield Parts(broker=broker, topology=topology, tolerated=tolerated)


def subscriptions_of(
    settings: Settings, only: str | None = None
) -> Sequence[Subscription]:
    """Read the list of subscriptions; none without a file.

    Raises:
        ConfigurationError: it is wrong, there is no such file, or no ``only`` in it.
    """
    found: Sequence[Subscription] = ()
    if settings.subscriptions_file is not None:
        from pipeline.events.catalogue import PUBLIC_TYPES  # noqa: PLC0415  slow too

        found = load_subscriptions(
            settings.subscriptions_file, event_types=PUBLIC_TYPES
        )
    if only is None:
        return found
    chosen = [one for one in found if one.name == only]
    if not chosen:
        known = ", ".join(one.name for one in found) or "none"
        message = f"expected a subscription that there is ({known}), got {only!r}"
        raise ConfigurationError(message)
    return chosen


def callback_address_of(settings: Settings, operation: str) -> str:
    """Give the address that the provider posts results of an operation to.

    It ends in the first token of the ingress' settings, if there is any: keep it as
    secret as that.

    Raises:
        ConfigurationError: there is no public address, or no token where some are.
    """
    base, ingress = settings.provider.callback_url, settings.ingress
    if base is None:
        message = (
            "provider.callback_url: expected the public address of the ingress, such"
            " as https://hooks.example.com, got none; without one, for polling alone,"
            " set one that leads nowhere, such as https://callbacks.invalid"
        )
        raise ConfigurationError(message)
    address = f"{base}/callbacks/{operation}"
    tokens = ingress.operation_tokens.get(operation, ingress.tokens)
    if tokens:
        return f"{address}/{quote(tokens[0].get_secret_value(), safe='')}"
    if ingress.operation_tokens:
        message = (
            f"ingress.operation_tokens: expected a token for {operation}, got none, so"
            " the ingress would refuse its callbacks"
        )
        raise ConfigurationError(message)
    return address


@asynccontextmanager
async def open_checker(
    settings: Settings, *, once: bool = False
) -> AsyncIterator[Checker]:
    """Open what submissions are checked with.

    Args:
        settings: all of them.
        once: look at each source once, for a batch.

    Raises:
        ConfigurationError: there is nothing to decode the source audio with.
    """
    from pipeline.assets.fetch import Fetcher, FetchRules  # noqa: PLC0415  few ask
    from pipeline.audio.probe import require_decoder  # noqa: PLC0415
    from pipeline.provider.door import door_of  # noqa: PLC0415
    from pipeline.submission import Checker, SourceCheck  # noqa: PLC0415

    submit = settings.submit
    rules = FetchRules(
        max_bytes=int(submit.max_source_bytes),
        deadline=submit.source_timeout,
        allow_private_addresses=submit.allow_private_addresses,
    )
    async with Fetcher(rules) as fetcher:
        sources = None
        if submit.check_source:
            require_decoder("submit.check_source")
            sources = SourceCheck(fetcher)
        yield Checker(
            door_of(settings),
            partial(callback_address_of, settings),
            sources=sources,
            private=submit.allow_private_addresses,
            once=once,
        )


@asynccontextmanager
async def open_submitter(
    settings: Settings, client: ProviderClient | None = None, *, once: bool = False
) -> AsyncIterator[Submitter]:
    """Open what tasks are submitted with: the provider, the ledger, the checks.

    Args:
        settings: all of them.
        client: an open one to share; ``None``: one of its own.
        once: look at each source once, for a batch.

    Raises:
        ConfigurationError: a setting is missing, or there is no decoder.
        LedgerUnavailable, LedgerMismatch: the ledger cannot be opened.
    """
    from pipeline.provider.door import door_of  # noqa: PLC0415  few ask
    from pipeline.submission import Submitter  # noqa: PLC0415

    async with AsyncExitStack() as stack:
        ledger = ledger_of(settings)
        own = provider_of(settings, ledger) if client is None else None
        checker = await stack.enter_async_context(open_checker(settings, once=once))
        await stack.enter_async_context(ledger)
        if own is not None:
            client = await stack.enter_async_context(own)
        assert client is not None  # noqa: S101  one of the two is there
        yield Submitter(
            checker,
            client,
            ledger,
            clock=partial(datetime.now, UTC),
            quiet=settings.poller.quiet_for,
            door=door_of(settings).name,
        )
