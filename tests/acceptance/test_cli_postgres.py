"""Processes that keep their ledger in PostgreSQL, as a user starts them."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from typing import TYPE_CHECKING

import pytest

from tests.command_line import PATIENT, until
from tests.postgres_node import drop_schema, make_schema

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.command_line import CommandLine
    from tests.postgres_node import PostgresNode

pytestmark = pytest.mark.postgres

SECRET = "s3cret-of-the-ledger"


@pytest.fixture
def ledger_url(cli: CommandLine, postgres_node: PostgresNode) -> Iterator[str]:
    """An empty place in a server that may be stopped; set for the commands."""
    url = asyncio.run(make_schema(postgres_node.url))
    with_secret = url.replace("postgres@", f"postgres:{SECRET}@")
    # The server trusts everybody, whatever the password.
    (cli.folder / "pipeline.toml").write_text(
        f'ledger_url = "{with_secret}"\n', encoding="utf-8"
    )
    yield with_secret
    postgres_node.restart()
    asyncio.run(drop_schema(url))


def post(base: str, task_id: str) -> int:
    body = {
        "code": 200,
        "msg": "ok",
        "data": {"callbackType": "text", "task_id": task_id},
    }
    asked = urllib.request.Request(
        f"{base}/callbacks/upload-extend",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(asked, timeout=60) as answer:
        status: int = answer.status
        return status


def test_callbacks_that_come_while_the_database_is_away_are_recorded_later(
    cli: CommandLine, ledger_url: str, postgres_node: PostgresNode
) -> None:
    """Workers wait and go on by themselves; no dead letters, no second start."""
    with cli.running("run", "--port", "0", environ=PATIENT) as run:
        base = run.ready()
        assert post(base, "before") == 200
        until(lambda: len(run.events("delivery_settled")) == 1)

        postgres_node.stop()
        assert post(base, "meanwhile") == 200
        assert post(base, "before") == 200
        until(lambda: run.events("worker_paused"))
        postgres_node.start()

        until(lambda: len(run.events("delivery_settled")) == 3)
        code = run.stop()

    assert code == 0
    assert {"done"} == {line["outcome"] for line in run.events("delivery_settled")}
    assert {"before", "meanwhile"} == {
        task["task_id"] for task in cli.json("tasks", "list")
    }
    assert not (cli.folder / "data" / "ledger.db").exists()


def test_the_password_of_the_database_is_never_shown(
    cli: CommandLine, ledger_url: str, postgres_node: PostgresNode
) -> None:
    with cli.running("run", "--port", "0") as run:
        run.address()
        run.stop()
    shown = cli("config", "show").stdout
    postgres_node.stop()
    refused = cli("tasks", "list")

    assert "postgres:***@" in shown
    assert refused.returncode == 1
    assert "the ledger is not available" in refused.stderr
    for text in (
        run.log.read_text(encoding="utf-8"),
        run.errors.read_text(encoding="utf-8"),
        shown,
        refused.stdout,
        refused.stderr,
    ):
        assert SECRET not in text


def test_an_address_without_a_database_is_refused_and_not_repeated(
    cli: CommandLine,
) -> None:
    refused = cli("tasks", "list", "--ledger-url", f"postgresql://u:{SECRET}/x@host/db")

    assert refused.returncode == 1
    assert "ledger_url" in refused.stderr
    assert SECRET not in refused.stderr + refused.stdout
