"""The simulated subscriber behaves as told, and remembers what came."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import aiohttp
import pytest

from pipeline.simulator import SimulatedSubscriber


async def post(url: str, webhook_id: str, body: bytes = b"{}") -> int:
    headers = {"webhook-id": webhook_id}
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=body, headers=headers) as answer,
    ):
        return answer.status


async def test_requests_are_remembered_by_endpoint() -> None:
    async with SimulatedSubscriber() as subscriber:
        await post(subscriber.url("one"), "a", b'{"n": 1}')
        await post(subscriber.url("two"), "b")

        (request,) = subscriber.requests("one")
        assert request.json() == {"n": 1}
        assert request.webhook_id == "a"
        assert request.status == 200
        assert request.endpoint == "one"
        assert len(subscriber.requests("two")) == 1
        assert subscriber.requests("three") == ()


async def test_the_same_webhook_id_has_one_effect() -> None:
    """A repeat is answered 200 again, and counted."""
    async with SimulatedSubscriber() as subscriber:
        statuses = [await post(subscriber.url("one"), "a") for _ in range(3)]

        assert statuses == [200, 200, 200]
        assert len(subscriber.effects("one")) == 1
        assert subscriber.repeats("one") == 2
        assert len(subscriber.requests("one")) == 3


async def test_requests_without_an_id_each_have_an_effect() -> None:
    async with SimulatedSubscriber() as subscriber:
        for _ in range(2):
            await post(subscriber.url("one"), "")

        assert len(subscriber.effects("one")) == 2


async def test_an_endpoint_fails_as_often_as_told() -> None:
    async with SimulatedSubscriber() as subscriber:
        subscriber.fail("one", times=2, status=503, headers={"Retry-After": "7"})

        statuses = [await post(subscriber.url("one"), "a") for _ in range(3)]

        assert statuses == [503, 503, 200]
        assert subscriber.repeats("one") == 0
        assert len(subscriber.effects("one")) == 1


async def test_an_endpoint_fails_until_it_is_healed() -> None:
    async with SimulatedSubscriber() as subscriber:
        subscriber.fail("one")
        before = [await post(subscriber.url("one"), "a") for _ in range(5)]
        subscriber.heal("one")
        after = await post(subscriber.url("one"), "a")

        assert before == [500] * 5
        assert after == 200


async def test_a_slow_endpoint_keeps_nobody_else_waiting() -> None:
    async with SimulatedSubscriber() as subscriber:
        subscriber.slow_down("slow", timedelta(seconds=3))
        slow = asyncio.create_task(post(subscriber.url("slow"), "a"))

        quick = await post(subscriber.url("quick"), "a")

        assert quick == 200
        assert not slow.done()
        assert await slow == 200


async def test_waiting_ends_when_the_condition_holds() -> None:
    async with SimulatedSubscriber() as subscriber, asyncio.TaskGroup() as group:
        for name in "abc":
            group.create_task(post(subscriber.url("one"), name))

        await subscriber.wait_for(lambda: len(subscriber.effects("one")) == 3)


async def test_waiting_in_vain_says_what_came_instead() -> None:
    async with SimulatedSubscriber() as subscriber:
        await post(subscriber.url("one"), "a")

        with pytest.raises(TimeoutError, match="'one': '1 requests, 1 ok'"):
            await subscriber.wait_for(
                lambda: len(subscriber.effects("one")) == 2, deadline_seconds=0.05
            )
