"""Ceiling: an aiohttp application that reads the body and answers, on uvloop."""

from __future__ import annotations

import sys

import uvloop
from aiohttp import web


async def callback(request: web.Request) -> web.Response:
    """Read and answer."""
    await request.read()
    return web.Response()


def main() -> None:
    """Serve on the port that is given."""
    app = web.Application()
    app.router.add_post("/callbacks/{operation}", callback)
    web.run_app(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        access_log=None,
        print=None,
        loop=uvloop.new_event_loop(),
    )


if __name__ == "__main__":
    main()
