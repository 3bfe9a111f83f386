"""SIGTERM while everything around hangs: under 30 s, and nothing is lost."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

import pytest

from tests.file_server import silent
from tests.tcp_proxy import TcpProxy
from tests.waiting import eventually
from tests.whole_pipeline import (
    STUDIO,
    WholePipeline,
    good,
    whole_pipeline,
    write_subscriptions,
)

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

#: Set here; it may be 25 s, which leaves five for everything else. Those are not
#: enough for a machine that others keep busy; who waited for what hangs would take
#: longer than these: a subscriber may take 15 s, and the black hole never answers.
DRAIN_SECONDS: Final = 2
REST_SECONDS: Final = 12


async def test_sigterm_while_a_subscriber_does_not_answer(
    broker_url: str, tmp_path: Path
) -> None:
    """Work that does not finish is given back, and done after the next start."""
    async with whole_pipeline(
        broker_url, tmp_path, drain=f"{DRAIN_SECONDS}s"
    ) as pipeline:
        write_subscriptions(tmp_path, pipeline.files.add("/hook", silent()))
        async with pipeline.running() as run:
            await pipeline.call("task-0")
            await eventually(lambda: _has_told(pipeline), within=30)
            began = time.monotonic()
            code = await asyncio.to_thread(run.stop)
            seconds = time.monotonic() - began
        write_subscriptions(tmp_path, pipeline.subscriber.url(STUDIO))
        await pipeline.finish()
        verdict = await pipeline.verdict()

    assert 0 == code
    assert seconds < DRAIN_SECONDS + REST_SECONDS
    assert good(1) == verdict


@pytest.mark.rabbitmq
async def test_sigterm_while_the_broker_is_a_black_hole(
    rabbitmq_url: str, tmp_path: Path
) -> None:
    """Nobody waits for an answer of the broker for longer than its deadline."""
    async with (
        TcpProxy.to(rabbitmq_url) as proxy,
        whole_pipeline(
            rabbitmq_url,
            tmp_path,
            address=proxy.url_for(rabbitmq_url),
            drain=f"{DRAIN_SECONDS}s",
            broker__deadline=f"{DRAIN_SECONDS}s",
        ) as pipeline,
    ):
        async with pipeline.running() as run:
            await pipeline.call("task-0")
            await pipeline.until_done()
            proxy.hold()
            await pipeline.call("task-1")
            began = time.monotonic()
            code = await asyncio.to_thread(run.stop)
            seconds = time.monotonic() - began
        proxy.resume()
        # What was sent into the black hole arrives, beside what the spool has.
        await eventually(lambda: _is_unused(proxy))
        await pipeline.finish(2)
        verdict = await pipeline.verdict()

    assert 0 == code
    assert seconds < DRAIN_SECONDS + REST_SECONDS
    assert good(2) == verdict


async def _has_told(pipeline: WholePipeline) -> bool:
    """Tell whether a notification is waiting for its answer."""
    return any(request.method == "POST" for request in pipeline.files.requests)


async def _is_unused(proxy: TcpProxy) -> bool:
    return proxy.open_connections == 0
