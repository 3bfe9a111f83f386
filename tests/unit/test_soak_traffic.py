"""The traffic of a soak: what is counted as accepted, and what as given up."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from pipeline.simulator import LoadOptions, plan_load
from pipeline.simulator.server import serve
from tests.soak import traffic as module
from tests.soak.traffic import Journal, Traffic

if TYPE_CHECKING:
    from collections.abc import Callable

CALLBACKS = 5


@pytest.fixture
def send(monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """Send callbacks to something that answers as it is told, with one more try."""
    monkeypatch.setattr(module, "RETRY_WAITS", (0.01,))

    async def run(status: int, *, is_calm: bool) -> Traffic:
        async def answer(_: web.BaseRequest) -> web.Response:
            return web.Response(status=status)

        app = web.Application()
        app.router.add_post("/", answer)
        async with serve(app, host="127.0.0.1", port=0) as url:
            planned = deque(plan_load(LoadOptions(callbacks=CALLBACKS)))
            found = Traffic(planned, [url], Journal(), backlog=lambda: 0, most=500)
            found.is_calm = is_calm
            try:
                await found.run(asyncio.Event())
            finally:
                await found.close()
        return found

    return run


async def test_accepted_callbacks_of_the_plan_are_counted(
    send: Callable[..., asyncio.Future[Traffic]],
) -> None:
    traffic = await send(200, is_calm=True)

    assert CALLBACKS == traffic.dispatched == traffic.delivered
    assert 0 == traffic.journal.given_up


@pytest.mark.parametrize(("is_calm", "unexplained"), [(True, CALLBACKS), (False, 0)])
async def test_what_is_given_up_is_told_apart_by_whether_something_was_broken(
    send: Callable[..., asyncio.Future[Traffic]], *, is_calm: bool, unexplained: int
) -> None:
    traffic = await send(503, is_calm=is_calm)

    assert (CALLBACKS, 0) == (traffic.dispatched, traffic.delivered)
    assert CALLBACKS == traffic.journal.given_up
    assert unexplained == traffic.journal.given_up_in_calm
    assert {503: 2 * CALLBACKS} == traffic.journal.statuses


async def test_dead_letters_do_not_slow_it_down_for_ever() -> None:
    """It once fell to the least rate for good, after a subscriber had failed."""
    on_their_way = 100
    traffic = Traffic(deque(), [], Journal(), backlog=lambda: on_their_way, most=500)
    try:
        started = traffic.rate
        traffic.adjust()
        slow = traffic.rate
        traffic.caught_up()
        traffic.adjust()
        on_their_way += 100
        fast = traffic.rate
        traffic.adjust()
    finally:
        await traffic.close()

    assert slow < started
    assert fast > slow
    assert traffic.rate < fast
