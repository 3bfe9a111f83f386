"""Peer: what aiohttp and aio-pika give when used as their tutorials show."""

from __future__ import annotations

import json
import os
import sys

import aio_pika
from aiohttp import web


async def start(app: web.Application) -> None:
    """Connect to the broker."""
    connection = await aio_pika.connect_robust(os.environ["BENCH_BROKER_URL"])
    channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
    app["exchange"] = channel.default_exchange
    app["connection"] = connection


async def stop(app: web.Application) -> None:
    """Disconnect."""
    await app["connection"].close()


async def callback(request: web.Request) -> web.Response:
    """Publish the callback with its confirm, then answer."""
    body = await request.read()
    document = json.loads(body)
    data = document["data"]
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
    await request.app["exchange"].publish(
        message, os.environ["BENCH_QUEUE"], mandatory=True
    )
    return web.Response()


def main() -> None:
    """Serve on the port that is given."""
    app = web.Application()
    app.on_startup.append(start)
    app.on_cleanup.append(stop)
    app.router.add_post("/callbacks/{operation}", callback)
    web.run_app(
        app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None
    )


if __name__ == "__main__":
    main()
