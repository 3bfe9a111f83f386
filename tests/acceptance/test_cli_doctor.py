"""``pipeline doctor`` finds what is wrong, on both brokers, and changes nothing."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from pipeline.broker import open_broker
from pipeline.errors import FetchFailed
from pipeline.ledger import open_ledger
from pipeline.message import Publication, failed
from pipeline.settings import SpoolSettings
from pipeline.spool.spool import Spool
from pipeline.topology import DOWNLOAD, UNROUTED, build_topology, dead_letter
from tests.factories import make_envelope, make_publication, unique_prefix
from tests.file_server import FileServer, answer
from tests.rabbitmq_node import delete_topology

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.topology import Topology
    from tests.command_line import CommandLine

DEADLINE = timedelta(seconds=10)
QUICK = ("--seconds", "0.2")


class Site:
    """A broker and a ledger that a pipeline has used."""

    def __init__(self, cli: CommandLine, url: str, topology: Topology) -> None:
        self.cli = cli
        self.url = url
        self.topology = topology

    def publish(self, *publications: Publication) -> None:
        """Declare the topology, and publish."""

        async def main() -> None:
            async with open_broker(self.url, deadline=DEADLINE) as broker:
                await broker.declare(self.topology)
                await broker.publish(*publications)

        asyncio.run(main())

    def look(self, *options: str) -> tuple[int, list[dict[str, str]]]:
        """Run the doctor; give the exit code and the findings that are not well."""
        done = self.cli("doctor", "--json", *QUICK, *options)
        assert "" == done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        assert document["ok"] is (done.returncode == 0)
        found = [one for one in document["findings"] if one["level"] != "ok"]
        assert all(one["why"] and one["todo"] for one in found)
        return done.returncode, found


@pytest.fixture(params=["sqlite", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def site(request: pytest.FixtureRequest, cli: CommandLine) -> Iterator[Site]:
    """A pipeline in order, with a token and a ledger and nothing to do."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    topology = build_topology(prefix=unique_prefix())
    cli.environ |= {
        "PIPELINE_BROKER_URL": url,
        "PIPELINE_BROKER__PREFIX": topology.prefix,
        "PIPELINE_INGRESS__TOKENS": "a-secret-of-some-length",
        "PIPELINE_SPOOL__MIN_FREE_BYTES": "1MiB",
        "PIPELINE_POLLER__ENABLED": "true",
    }
    made = Site(cli, url, topology)
    made.publish()
    asyncio.run(_make_ledger(cli))
    yield made
    if request.param == "rabbitmq":
        asyncio.run(delete_topology(url, topology))


async def _make_ledger(cli: CommandLine) -> None:
    (cli.folder / "data").mkdir(exist_ok=True)
    async with open_ledger(f"sqlite:///{cli.folder}/data/ledger.db"):
        pass


def files(cli: CommandLine) -> set[str]:
    """Name the files there are, without those that SQLite makes beside its own."""
    found = {path.name for path in cli.folder.rglob("*")}
    return {name for name in found if not name.endswith(("-wal", "-shm"))}


def letter() -> Publication:
    """Make a dead letter of the download worker."""
    noted = failed(
        make_envelope(), queue=DOWNLOAD, error=FetchFailed("x"), at=datetime.now(UTC)
    )
    return dead_letter(DOWNLOAD, noted)


def test_pipeline_in_order_has_nothing_wrong(site: Site) -> None:
    before = files(site.cli)

    code, found = site.look()
    shown = site.cli("doctor", *QUICK)

    assert (0, []) == (code, found)
    assert 0 == shown.returncode
    assert "answers" in shown.stdout
    assert "callback-pipeline 20" in shown.stdout
    assert " on CPython 3." in shown.stdout
    assert "problem" not in shown.stdout
    assert before == files(site.cli)


def test_dead_letters_are_named_and_not_touched(site: Site) -> None:
    site.publish(letter(), letter())

    code, (found,) = site.look("--only", "broker")

    assert (1, "queues") == (code, found["part"])
    assert "dead.download: 2 dead letters" == found["what"]
    assert "pipeline dead-letters list --queue download" in found["todo"]
    listed = site.cli.json("dead-letters", "list")
    assert 2 == len(listed)


def test_work_that_nobody_takes_is_named(site: Site) -> None:
    site.publish(make_publication(), make_publication())

    code, (found,) = site.look("--only", "broker")

    assert (1, "dedupe: 2 messages and nobody takes from it") == (code, found["what"])
    assert "start `pipeline worker dedupe`" == found["todo"]


def test_callbacks_that_no_queue_wanted_are_named(site: Site) -> None:
    site.publish(make_publication(exchange=UNROUTED))

    code, (found,) = site.look("--only", "broker")

    assert 1 == code
    assert f"{UNROUTED}: 1 message that no queue wanted" == found["what"]
    assert "replay --queue unrouted" in found["todo"]


def test_topology_that_differs_is_named(site: Site) -> None:
    removed = site.cli("topology", "delete", "--queue", "dead.download", "--yes")
    assert 0 == removed.returncode

    code, found = site.look("--only", "broker")

    assert 1 == code
    assert {"topology"} == {one["part"] for one in found}
    assert any("dead.download" in one["what"] for one in found)
    assert "pipeline topology apply" in found[0]["todo"]


def test_callbacks_in_the_spool_are_counted_and_stay(site: Site) -> None:
    path = site.cli.folder / "data" / "spool.db"
    patience = timedelta(seconds=20)
    settings = SpoolSettings(path=path, min_free_bytes=0, timeout=patience)

    async def fill() -> None:
        async with Spool(settings) as spool:
            for _ in range(3):
                await spool.store(make_publication())

    asyncio.run(fill())
    options = ("--only", "spool", "--set", "spool.enabled=true")

    for _ in range(2):
        code, (found,) = site.look(*options)
        assert 1 == code
        assert found["what"].startswith("3 callbacks wait, the oldest for ")
    full, refused = site.look(*options, "--set", "spool.min_free_bytes=1EiB")

    assert 1 == full
    assert any("spool.min_free_bytes" in one["what"] for one in refused)


def test_disk_below_the_floor_is_a_problem(site: Site) -> None:
    options = ("--only", "disk", "--set", "spool.min_free_bytes=1EiB")

    code, found = site.look(*options)

    assert 1 == code
    assert {"disk"} == {one["part"] for one in found}
    assert "the floor is" in found[0]["what"]


def test_what_is_away_is_named_and_hides_nothing_else(cli: CommandLine) -> None:
    """Nor does looking make a file."""
    options = ("--broker-url", "amqp://guest:secret@127.0.0.1:1/")

    done = cli("doctor", "--json", *QUICK, *options)
    findings = json.loads(done.stdout)["findings"]

    assert 1 == done.returncode
    levels = {one["part"]: one["level"] for one in findings}
    assert "problem" == levels["broker"] == levels["ledger"]
    assert "ok" == levels["assets"] == levels["spool"] == levels["provider"]
    assert "ok" == levels["versions"] == levels["callback"] == levels["clock"]
    assert "warning" == levels["settings"]
    assert "secret" not in done.stdout + done.stderr
    assert [] == [*cli.folder.iterdir()]


def test_findings_can_be_read(cli: CommandLine) -> None:
    done = cli("doctor", *QUICK, "--only", "ledger")

    assert 1 == done.returncode
    first, why, todo = done.stdout.splitlines()
    assert first.startswith("problem  ledger    ledger_url: expected a ledger")
    assert why.strip().startswith("why: workers keep their deliveries")
    assert todo.strip().startswith("do: start the database")


def test_part_that_nobody_knows_is_wrong_usage(cli: CommandLine) -> None:
    done = cli("doctor", "--only", "moon")

    assert 2 == done.returncode
    assert "moon" in done.stderr


@pytest.mark.parametrize(
    ("code", "level", "what"),
    [
        (422, "ok", "it answers and takes our key"),
        (401, "problem", "expected our key to be taken, got code 401"),
        (500, "problem", "expected code 200 of the provider, got code 500"),
    ],
)
async def test_provider_is_asked_whether_it_takes_the_key(
    cli: CommandLine, code: int, level: str, what: str
) -> None:
    async with FileServer() as server:
        server.add("/api/v1/generate/record-info", answer(orjson.dumps({"code": code})))
        cli.environ |= {
            "PIPELINE_PROVIDER__BASE_URL": server.url(""),
            "PIPELINE_PROVIDER__API_KEY": "the-key-of-the-account",
        }

        done = await asyncio.to_thread(cli, "doctor", "--json", "--only", "provider")

    (finding,) = json.loads(done.stdout)["findings"]
    assert (level, what) == (finding["level"], finding["what"])
    assert "the-key" not in done.stdout


def test_worker_that_is_to_verify_without_a_key_does_not_start(
    cli: CommandLine,
) -> None:
    """It must not believe bodies instead."""
    cli.environ |= {
        "PIPELINE_PROVIDER__BASE_URL": "https://api.example.com",
        "PIPELINE_PROVIDER__TRUST": "verify",
    }

    worker = cli("worker", "dedupe")
    looked = cli("doctor", "--only", "provider")

    assert 1 == worker.returncode
    assert "provider.api_key: expected a value" in worker.stderr
    assert 0 == looked.returncode
    assert "warning  provider  provider.api_key is not set" in looked.stdout
