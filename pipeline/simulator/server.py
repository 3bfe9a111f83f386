"""A server of aiohttp on any free port, for as long as a context is open."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

#: Requests under way get this long when the server stops, in real seconds.
_SHUTDOWN_SECONDS: Final = 1.0


@asynccontextmanager
async def serve(app: web.Application, *, host: str, port: int) -> AsyncIterator[str]:
    """Serve ``app`` and give its base address, without a slash at the end.

    Raises:
        OSError: the address is in use.
    """
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        taken_port = runner.addresses[0][1]
        name = f"[{host}]" if ":" in host else host
        yield f"http://{name}:{taken_port}"
    finally:
        await runner.cleanup()
