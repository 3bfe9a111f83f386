"""Test a callback receiver of your own against the simulated provider.

The receiver here is naive on purpose: it counts what arrives. Put yours in its
place: all the simulator needs to know is its address. Run it with

    python examples/simulate_in_your_tests.py
"""

from __future__ import annotations

import asyncio
from collections import Counter

import aiohttp
from aiohttp import web

from pipeline.simulator import (
    ProviderOptions,
    ScenarioOptions,
    SimulatedProvider,
    plan_scenario,
)


async def main() -> None:
    """Play twelve tasks against a receiver and compare what came of them."""
    stages: Counter[str] = Counter()

    async def receive(request: web.Request) -> web.Response:
        callback = await request.json()
        data = callback.get("data") or {}
        stages[str(data.get("callbackType") or data.get("status"))] += 1
        return web.Response()

    app = web.Application()
    app.router.add_post("/callbacks/{operation}", receive)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    address = f"http://127.0.0.1:{runner.addresses[0][1]}/callbacks/{{operation}}"
    try:
        # Two hundred simulated seconds pass in one real second.
        async with SimulatedProvider(ProviderOptions(time_scale=200)) as provider:
            scenario = plan_scenario(ScenarioOptions(tasks=12, seed=7))
            report = await provider.run(scenario, callback_url=address)
            files = [file for files in report.files.values() for file in files]
            alive = next(file for file in files if file.expiry is None)
            link = provider.link(alive.path)
            async with aiohttp.ClientSession() as session, session.get(link) as answer:
                size_bytes = len(await answer.read())
    finally:
        await runner.cleanup()

    print("stages, as the receiver saw them:", dict(stages))
    print("what the provider says about it: ", report.as_dict())
    print(f"one of its {len(files)} files:", answer.content_type, size_bytes, "bytes")
    # A receiver that does not de-duplicate would have acted this often too often:
    print("repeats that must have no effect:", report.duplicates_accepted)
    if sum(stages.values()) != report.callbacks_accepted:
        message = "the receiver and the provider have counted differently"
        raise SystemExit(message)


if __name__ == "__main__":
    asyncio.run(main())
