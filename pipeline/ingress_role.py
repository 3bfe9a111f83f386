"""The ingress as a role of a process, and what forwards its spool, from settings."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pipeline.bootstrap import broker_of
from pipeline.ingress.app import make_ingress
from pipeline.ingress.peers import peers_of
from pipeline.ingress.tls import certificate_of
from pipeline.logs import get_logger
from pipeline.service import HttpRole, declare_when_up
from pipeline.settings.spooling import is_spooling
from pipeline.spool.forwarder import Forwarder
from pipeline.spool.leftover import Leftover
from pipeline.spool.outlet import Outlet
from pipeline.spool.spool import Spool, has_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AsyncExitStack

    from pipeline.broker.port import Broker
    from pipeline.ingress.health import Checks
    from pipeline.service import Role
    from pipeline.settings import Settings
    from pipeline.topology import Topology

log = get_logger("ingress")


async def open_ingress(
    stack: AsyncExitStack, settings: Settings, topology: Topology, checks: Checks
) -> Sequence[Role]:
    """Open the broker and the spool of the ingress, and make its roles.

    Args:
        stack: what is opened is closed by it.
        settings: all of them.
        topology: declared as soon as the broker is up.
        checks: further parts for ``/readyz``.

    Raises:
        TopologyMismatch: the file at ``spool.path`` is no spool.
        ConfigurationError: a setting of the ingress is wrong.
    """
    ingress = settings.ingress
    # Its own handle: a callback waits less long than a worker may.
    handle = broker_of(settings, deadline=ingress.publish_timeout)
    broker = await stack.enter_async_context(handle)
    outlet = await _open_outlet(stack, settings, broker)
    is_off = not is_spooling(settings)
    routes = make_ingress(
        broker,
        ingress,
        outlet=None if is_off else outlet,
        leftover=Leftover(outlet) if is_off and outlet is not None else None,
        checks=checks,
    )

    async def declare(stopping: asyncio.Event) -> None:
        await declare_when_up(broker, topology, stopping)

    role = HttpRole(
        "ingress",
        routes,
        host=ingress.host,
        port=ingress.port,
        max_body_bytes=int(ingress.max_body_bytes),
        peers=peers_of(ingress),
        certificate=certificate_of(ingress.tls),
        prepare=declare,
    )
    return [role] if outlet is None else [role, Forwarder(outlet)]


async def _open_outlet(
    stack: AsyncExitStack, settings: Settings, broker: Broker
) -> Outlet | None:
    """Open the spool, if callbacks are put into it or an earlier one has left a file.

    Once answered 200, a callback goes out whatever the settings are by now.
    """
    is_off = not is_spooling(settings)
    if is_off and not await asyncio.to_thread(has_file, settings.spool):
        return None
    spool = await stack.enter_async_context(Spool(settings.spool))
    if is_off and spool.messages:
        file = str(settings.spool.path)
        log.warning("spool_left_over", messages=spool.messages, file=file)
    return Outlet(broker, spool)
