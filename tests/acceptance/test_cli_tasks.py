"""``pipeline tasks`` as a person uses it, against the simulated provider."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from pipeline.broker import open_broker
from pipeline.errors import AssetRefused
from pipeline.events.publications import asset_requested
from pipeline.ledger import open_ledger
from pipeline.simulator import ProviderOptions, SimulatedProvider
from pipeline.task import Stage, TaskId
from pipeline.topology import DOWNLOAD, build_topology
from tests.callbacks import START, TASK, after, make_claim, make_update
from tests.command_line import WITHIN_SECONDS, until
from tests.given_up import expect_long_ago, give_up
from tests.waiting import receive_one

if TYPE_CHECKING:
    from pathlib import Path

    from tests.command_line import CommandLine


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

    assert 0 == followed.returncode, followed.stderr
    lines = [json.loads(line)["what"] for line in followed.stdout.splitlines()]
    assert any(line.startswith("callback: text") for line in lines)
    assert sum(" stored: " in line for line in lines) == 4
    whats = [entry["what"] for entry in shown["timeline"]]
    assert sum(" stored: " in what for what in whats) == 4
    assert shown["timeline"][0]["after_seconds"] == 0
    assert shown["dead_letters"] == []
    assert "  +0.0 " in plain.stdout
    assert [task["task_id"] for task in listed] == [task_id]
    assert ("complete", 4, 4, "callback", "generic") == tuple(
        listed[0][name]
        for name in ("state", "files_stored", "files_expected", "origin", "door")
    )
    assert others == []
    until(lambda: running.process.poll() is not None)


async def test_the_body_of_a_task_is_printed_as_it_came(
    cli: CommandLine, tmp_path: Path
) -> None:
    """The last one, or that of an event; nothing of it is in the JSON document."""
    url = f"sqlite:///{tmp_path}/bodies.db"
    bodies = ['{"stage" :  "first"}', '{"note":1,  "name": "caf\u00e9", "note":2}']
    claims = [
        make_claim(make_update(stage), received_at=after(n), body=bodies[n].encode())
        for n, stage in enumerate([Stage.FIRST, Stage.COMPLETE])
    ]
    async with open_ledger(url) as ledger:
        # A repeat comes last, and has none of its own.
        repeat = make_claim(make_update(Stage.FIRST), received_at=after(9))
        await ledger.record([*claims, repeat])

    def show(*arguments: str) -> str:
        done = cli("tasks", "show", TASK, "--ledger-url", url, *arguments)
        assert 0 == done.returncode, done.stderr
        return done.stdout

    last, first, document = await asyncio.gather(
        asyncio.to_thread(show, "--body"),
        asyncio.to_thread(show, "--body", "--event", claims[0].event_id),
        asyncio.to_thread(show, "--json", "--no-dead-letters"),
    )

    assert [*bodies] == [first, last]
    assert "body" not in json.loads(document)["updates"][0]


async def test_a_task_is_found_by_how_its_id_starts(
    cli: CommandLine, tmp_path: Path
) -> None:
    """As the demo shows it; what could mean several tasks is refused with them."""
    url = f"sqlite:///{tmp_path}/starts.db"
    several = [f"fda6c9-{number}" for number in range(6)]
    async with open_ledger(url) as ledger:
        for task_id in ("5c79be8e-1", "5c79be8e-12", "2fac6f1d9f72", *several):
            await expect_long_ago(ledger, TaskId(task_id))
        await give_up(ledger)
        only = make_update(Stage.FAILED, task_id="2fac6f1d9f72")
        await ledger.record([make_claim(only, body=b"as it came")])

    def show(*arguments: str) -> tuple[int, str, str]:
        options = ("--ledger-url", url, "--no-dead-letters")
        done = cli("tasks", "show", *arguments, *options)
        return done.returncode, done.stdout, " ".join(done.stderr.split())

    def shown(text: str) -> str:
        return str(json.loads(show(text, "--json")[1])["task_id"])

    assert "2fac6f1d9f72" == shown("2fac6f1d")
    assert "2fac6f1d9f72" == shown("2fac6f")
    assert "5c79be8e-1" == shown("5c79be8e-1")
    assert (0, "as it came", "") == show("2fac6f1d", "--body")
    code, followed, errors = show("2fac6f1d", "--follow")
    assert (1, True) == (code, "callback: failed" in followed)
    assert "task 2fac6f1d9f72" in errors
    for options in ((), ("--json",), ("--body",), ("--follow",)):
        code, printed, errors = show("5c79be8e", *options)
        assert (2, "") == (code, printed)
        assert errors.endswith("as 2 do: 5c79be8e-1, 5c79be8e-12")
        assert "TASK-ID" in errors
    assert f"as more than 5 do: {', '.join(several[:5])}" in show("fda6c9")[2]
    assert (1, "", "error: the ledger has no task 2fac6") == show("2fac6")
    assert (1, "", "error: the ledger has no task 2fac6%") == show("2fac6%")


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["t-1", "--body"], 1, "nothing has been heard of task t-1 yet"),
        (["t-2", "--body"], 1, "the ledger has no task t-2"),
        (["t-1", "--body", "--event", "e"], 1, "no body of event e of task t-1"),
        (["t-1", "--body", "--json"], 2, "neither --follow nor --json"),
        (["t-1", "--body", "--follow"], 2, "neither --follow nor --json"),
        (["t-1", "--event", "e"], 2, "expected --body beside it"),
    ],
)
async def test_a_body_that_is_not_there_is_said(
    cli: CommandLine, tmp_path: Path, arguments: list[str], code: int, expected: str
) -> None:
    url = f"sqlite:///{tmp_path}/no-bodies.db"
    async with open_ledger(url) as ledger:
        await expect_long_ago(ledger, TaskId("t-1"))

    done = await asyncio.to_thread(
        cli, "tasks", "show", *arguments, "--ledger-url", url
    )

    assert (code, "") == (done.returncode, done.stdout)
    assert expected in " ".join(done.stderr.replace("│", " ").split())


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


async def make_ledger(url: str) -> None:
    """Make one with a task that is submitted, one given up, and two heard of."""
    async with open_ledger(url) as ledger:
        await expect_long_ago(ledger, TaskId("lost"))
        await give_up(ledger)
        await expect_long_ago(ledger, TaskId("fresh"))
        for number, stage in enumerate([Stage.TEXT, Stage.COMPLETE]):
            update = make_update(stage, task_id=f"{stage}", operation="generate")
            at = datetime.now(UTC) - timedelta(minutes=30 - number)
            await ledger.record([make_claim(update, received_at=at)])


async def test_tasks_are_listed_by_how_they_stand(
    cli: CommandLine, tmp_path: Path
) -> None:
    """In pages, and with an error for a name that nobody knows."""
    url = f"sqlite:///{tmp_path}/listed.db"
    await make_ledger(url)

    def listed(*options: str) -> list[str]:
        tasks = cli.json("tasks", "list", "--ledger-url", url, *options)
        return [f"{task['task_id']} {task['state']}" for task in tasks]

    assert [
        "complete complete",
        "text text",
        "fresh submitted",
        "lost given_up",
    ] == listed()
    assert ["fresh submitted", "lost given_up"] == listed(
        "--state", "submitted", "--state", "given_up"
    )
    assert ["complete complete"] == listed("--missing-files", "--since", "2h")
    assert ["fresh submitted", "lost given_up"] == listed("--until", "45m")
    assert [] == listed("--since", "2999-01-01")

    first = cli("tasks", "list", "--ledger-url", url, "--limit", "2")
    place = first.stderr.rpartition("--after ")[2].strip()
    assert ["fresh submitted", "lost given_up"] == listed("--after", place)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--state", "lost"), "'given_up'"),
        (("--operation", "jazz"), "upload-extend"),
        (("--door", "back"), "sunoapi-org"),
        (("--since", "soon"), "2026-11-20T08:00Z"),
        (("--after", "there"), "the place that a page ended with"),
    ],
)
async def test_a_filter_that_nobody_knows_is_refused_with_those_that_there_are(
    cli: CommandLine, tmp_path: Path, options: tuple[str, ...], told: str
) -> None:
    url = f"sqlite:///{tmp_path}/refused.db"
    await make_ledger(url)

    done = cli("tasks", "list", "--ledger-url", url, *options)

    assert 2 == done.returncode
    words = " ".join(done.stderr.replace("│", " ").split())
    assert told in words.replace("- ", "-")


async def test_a_task_that_is_not_over_in_time_has_an_exit_code_of_its_own(
    cli: CommandLine, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/slow.db"
    await make_ledger(url)

    done = cli(
        *("tasks", "show", "fresh", "--follow", "--timeout", "500ms"),
        *("--ledger-url", url),
    )

    assert 3 == done.returncode, done.stderr
    assert "not over after 0.5 s" in done.stderr
    assert "`pipeline tasks show fresh --follow`" in done.stderr


async def test_following_ends_where_a_download_is_a_dead_letter(
    cli: CommandLine, tmp_path: Path
) -> None:
    """And says how to replay it; such tasks can be listed, too."""
    urls = {
        "ledger": f"sqlite:///{tmp_path}/dead.db",
        "broker": f"sqlite:///{tmp_path}/dead-broker.db",
    }
    links = {"audio": "https://files.example.com/1.mp3"}
    claim = make_claim(make_update(Stage.COMPLETE, links=links))
    async with (
        open_ledger(urls["ledger"]) as ledger,
        open_broker(urls["broker"], deadline=timedelta(seconds=5)) as broker,
    ):
        await broker.declare(build_topology())
        (recorded,) = await ledger.record([claim])
        (asset,) = recorded.requested
        request = asset_requested(
            asset, owner=claim.owner, stage=Stage.COMPLETE, source="/", at=START
        )
        await broker.publish(request)
        async with broker.consume(DOWNLOAD, prefetch=1) as consumer:
            delivery = await receive_one(consumer)
            await delivery.dead_letter(AssetRefused("too large"), at=START)
    places = [part for name in urls for part in (f"--{name}-url", urls[name])]

    done = cli("tasks", "show", TASK, "--follow", "--timeout", "20s", *places)
    listed = cli.json("tasks", "list", "--dead-letters", *places)
    shown = cli.json("tasks", "show", TASK, *places)

    assert 1 == done.returncode, done.stderr
    assert "1 of 1 file will not come" in done.stderr
    replay = f"`pipeline dead-letters replay --queue download --task {TASK}`"
    assert replay in done.stderr
    assert [(TASK, 1)] == [(one["task_id"], one["dead_letters"]) for one in listed]
    assert ["AssetRefused"] == [one["error_type"] for one in shown["dead_letters"]]
    assert "dead_letter" in [one["kind"] for one in shown["timeline"]]
