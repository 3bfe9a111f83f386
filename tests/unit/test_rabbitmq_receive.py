"""When a consumer on RabbitMQ hands out what has arrived."""

from __future__ import annotations

import asyncio
import itertools
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from pipeline.broker import rabbitmq_arrivals
from pipeline.broker.rabbitmq_consumer import RabbitConsumer
from pipeline.broker.rabbitmq_unacked import Unacked
from pipeline.topology import DOWNLOAD, build_topology

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import pytest
    from aio_pika.abc import AbstractConnection
    from aiormq.abc import AbstractChannel

    from pipeline.broker.port import Delivery


async def nothing(*_: object) -> None: ...


async def test_time_to_gather_that_runs_out_in_between_is_no_reason_to_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However the clock goes on between two looks at it."""
    consumer = RabbitConsumer(
        queue=DOWNLOAD,
        prefetch=8,
        order=None,
        topology=build_topology(prefix="test", subscriptions={}),
        connect=cast("Callable[[], Awaitable[AbstractConnection]]", nothing),
        redeclare=nothing,
        publish=nothing,
        renew=cast("Callable[..., Awaitable[bool]]", nothing),
        deadline_seconds=1,
        require_open=lambda: None,
        on_closed=lambda _: None,
    )
    for looks in range(1, 6):
        ticks = itertools.chain([0.0] * looks, itertools.repeat(1.0))
        clock = SimpleNamespace(monotonic=ticks.__next__)
        monkeypatch.setattr(rabbitmq_arrivals, "time", clock)
        delivery = cast("Delivery", object())
        consumer._unacked = Unacked(cast("AbstractChannel", None), None)
        consumer._unacked.add(1)
        consumer._arrived.add(delivery, is_suspect=True)

        async with asyncio.timeout(2):
            taken = await consumer.receive(1)

        assert [delivery] == [*taken]
        consumer._arrived.clear()
