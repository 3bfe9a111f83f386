"""Peer: FastAPI, uvicorn and FastStream's RabbitMQ router."""

from __future__ import annotations

import os
import sys
from typing import Any

import uvicorn
from fastapi import FastAPI
from faststream.rabbit.fastapi import RabbitRouter

router = RabbitRouter(os.environ["BENCH_BROKER_URL"])


@router.post("/callbacks/{operation}")
async def callback(operation: str, document: dict[str, Any]) -> dict[str, str]:
    """Publish the callback with its confirm, then answer."""
    data = document["data"]
    await router.broker.publish(
        document,
        routing_key=os.environ["BENCH_QUEUE"],
        mandatory=True,
        persist=True,
        headers={
            "task-id": data["task_id"],
            "stage": data["callbackType"],
            "operation": operation,
        },
    )
    return {}


app = FastAPI(lifespan=router.lifespan_context)
app.include_router(router)


if __name__ == "__main__":
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_level="warning",
        access_log=False,
    )
