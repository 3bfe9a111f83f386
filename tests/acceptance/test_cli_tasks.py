"""``pipeline tasks`` as a person uses it, against the simulated provider."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from pipeline.ledger import open_ledger
from pipeline.simulator import ProviderOptions, SimulatedProvider
from pipeline.task import TaskId
from tests.command_line import WITHIN_SECONDS, until
from tests.given_up import expect_long_ago, give_up

if TYPE_CHECKING:
    from pathlib import Path

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


async def test_a_task_is_followed_until_it_is_given_up(
    cli: CommandLine, tmp_path: Path
) -> None:
    """From before it is known, which is said once."""
    url = f"sqlite:///{tmp_path}/given-up.db"
    async with open_ledger(url) as ledger:
        arguments = ("tasks", "show", "t-1", "--follow", "--ledger-url", url)
        with cli.running(*arguments) as running:
            await asyncio.to_thread(running.said, "task t-1 is not known yet")
            await expect_long_ago(ledger, TaskId("t-1"))
            await give_up(ledger)
            code = await asyncio.to_thread(running.process.wait, WITHIN_SECONDS)

    errors = running.errors.read_text(encoding="utf-8")
    assert 1 == code, errors
    assert 1 == errors.count("not known yet")
    assert "error: task t-1 is given up: it has not ended" in errors
    assert "given up at question 1" in running.log.read_text(encoding="utf-8")
