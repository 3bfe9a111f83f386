"""Peer: aiohttp and aio-pika with the settings that a careful person would choose.

uvloop, orjson, a plain connection and one channel for all publishes, which overlap
on it. A robust connection and several channels were measured to be slower.
"""

from __future__ import annotations

import os
import sys

import aio_pika
import orjson
import uvloop
from aiohttp import web

CHANNEL: web.AppKey[aio_pika.abc.AbstractChannel] = web.AppKey("channel")
CONNECTION: web.AppKey[aio_pika.abc.AbstractConnection] = web.AppKey("connection")
QUEUE = os.environ["BENCH_QUEUE"]


async def start(app: web.Application) -> None:
    """Connect to the broker."""
    app[CONNECTION] = await aio_pika.connect(os.environ["BENCH_BROKER_URL"])
    app[CHANNEL] = await app[CONNECTION].channel(
        publisher_confirms=True, on_return_raises=True
    )


async def stop(app: web.Application) -> None:
    """Disconnect."""
    await app[CONNECTION].close()


async def callback(request: web.Request) -> web.Response:
    """Publish the callback with its confirm, then answer."""
    body = await request.read()
    data = orjson.loads(body)["data"]
    message = aio_pika.Message(
        body,
        content_type="application/json",
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        headers={
            "task-id": data["task_id"],
            "stage": data["callbackType"],
            "operation": request.match_info["operation"],
        },
    )
    exchange = request.app[CHANNEL].default_exchange
    await exchange.publish(message, QUEUE, mandatory=True)
    return web.Response()


def main() -> None:
    """Serve on the port that is given."""
    app = web.Application()
    app.on_startup.append(start)
    app.on_cleanup.append(stop)
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
