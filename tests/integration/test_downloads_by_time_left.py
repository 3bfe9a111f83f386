"""The download role begins with the links that die first, as its settings say."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from pipeline.bootstrap import Plan, open_parts
from pipeline.events.catalogue import AssetRequested, parse_event
from pipeline.roles import open_roles
from pipeline.service import run_roles
from pipeline.settings import load_settings
from pipeline.topology import DOWNLOAD, dead_letter_queue
from tests.callbacks import make_request
from tests.waiting import receive

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.settings import Settings

#: By when they were told of; the last leads to where the provider has its files from.
LINKS: Final = [
    "https://files.example.com/1.mp3",
    "https://files.example.com/2.mp3",
    "https://files.example.com/3.mp3",
    "https://cdn1.suno.ai/4.mp3",
]


def make_settings(folder: Path, window: int) -> Settings:
    flags = {
        "broker_url": f"sqlite:///{folder}/broker.db",
        "ledger_url": f"sqlite:///{folder}/ledger.db",
        "assets_url": f"{folder}/assets",
        "provider.door": "kie-ai",
        "download.concurrency": 1,
        # With the default a window for one file at a time has room for three.
        "download.deadline": "1m",
        "download.timeout": "30s",
        "download.window": window,
    }
    return load_settings(environ={}, flags=flags).settings


async def begun(settings: Settings) -> Sequence[str]:
    """Have all links fetched; give them in the order in which that was begun."""
    stopping = asyncio.Event()
    plan = Plan(ingress=False, workers=frozenset({DOWNLOAD}))
    async with open_parts(settings) as parts:
        await parts.broker.publish(
            *(make_request(number, url) for number, url in enumerate(LINKS))
        )
        async with open_roles(settings, plan) as roles, asyncio.TaskGroup() as group:
            group.create_task(run_roles(roles, stopping))
            letters = dead_letter_queue(DOWNLOAD)
            async with parts.broker.consume(letters, prefetch=9) as consumer:
                dead = await receive(consumer, len(LINKS))
            stopping.set()
    events = [parse_event(delivery.envelope.body) for delivery in dead]
    return [event.data.url for event in events if isinstance(event, AssetRequested)]


async def test_the_link_that_dies_first_is_begun_first(tmp_path: Path) -> None:
    """It was asked for last."""
    assert [LINKS[-1], *LINKS[:-1]] == await begun(make_settings(tmp_path, 64))


async def test_with_a_window_of_1_downloads_are_begun_as_they_were_asked_for(
    tmp_path: Path,
) -> None:
    assert await begun(make_settings(tmp_path, 1)) == LINKS
