"""``pipeline tasks`` as a person uses it, against the simulated provider."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from pipeline.simulator import ProviderOptions, SimulatedProvider
from tests.command_line import until

if TYPE_CHECKING:
    from tests.command_line import CommandLine


@pytest.mark.timeout(60)
async def test_a_task_is_followed_to_its_end(cli: CommandLine) -> None:
    """From before it is known until its files are there; then shown and listed."""
    settings = ("--set", "download.allow_private_addresses=true")
    with cli.running("run", "--port", "0", *settings) as running:
        address = await asyncio.to_thread(running.address)
        async with SimulatedProvider(ProviderOptions(time_scale=200)) as provider:
            url = f"{address}/callbacks/generate"
            task_id = await provider.submit(url, operation="generate")

            followed = await asyncio.to_thread(
                cli, "tasks", "show", task_id, "--follow", "--json"
            )

        shown = await asyncio.to_thread(cli.json, "tasks", "show", task_id)
        plain = await asyncio.to_thread(cli, "tasks", "show", task_id)
        listed = await asyncio.to_thread(
            cli.json, "tasks", "list", "--operation", "generate", "--newer-than", "1h"
        )
        others = await asyncio.to_thread(
            cli.json, "tasks", "list", "--operation", "wav"
        )
        await asyncio.to_thread(running.stop)

    lines = [json.loads(line)["what"] for line in followed.stdout.splitlines()]
    assert any(line.startswith("callback: text") for line in lines)
    assert sum(" stored: " in line for line in lines) == 4
    whats = [entry["what"] for entry in shown["timeline"]]
    assert sum(" stored: " in what for what in whats) == 4
    assert shown["timeline"][0]["after_seconds"] == 0
    assert shown["dead_letters"] == []
    assert "  +0.0 " in plain.stdout
    assert [task["task_id"] for task in listed] == [task_id]
    assert others == []
    until(lambda: running.process.poll() is not None)
