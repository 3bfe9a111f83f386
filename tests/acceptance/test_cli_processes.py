"""The processes that stay: they start without a broker and stop in order."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from dataclasses import replace
from datetime import timedelta
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from pipeline.broker import open_broker
from pipeline.topology import build_topology
from tests.command_line import PATIENT, until
from tests.factories import unique_prefix
from tests.rabbitmq_node import delete_topology

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.command_line import CommandLine

TEXT = {"code": 200, "msg": "ok", "data": {"callbackType": "text", "task_id": "t1"}}


def request(url: str, body: object = None) -> tuple[int, bytes]:
    """GET, or POST JSON; give status and body."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, data, headers), timeout=60
        ) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


class Subscriber:
    """Takes notifications; answers them once its gate is open."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.told = threading.Event()
        self.events: list[dict[str, object]] = []
        subscriber = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                subscriber.events.append(json.loads(body))
                subscriber.told.set()
                subscriber.gate.wait(30)
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/"


@pytest.fixture
def subscriber(cli: CommandLine) -> Iterator[Subscriber]:
    """A subscriber to everything, in the configuration of the test."""
    made = Subscriber()
    (cli.folder / "subscriptions.toml").write_text(
        f'[[subscriptions]]\nname = "studio"\nurl = "{made.url}"\nevents = ["#"]\n',
        encoding="utf-8",
    )
    (cli.folder / "pipeline.toml").write_text(
        'subscriptions_file = "subscriptions.toml"\n', encoding="utf-8"
    )
    thread = threading.Thread(target=made.server.serve_forever, daemon=True)
    thread.start()
    yield made
    made.gate.set()
    made.server.shutdown()
    made.server.server_close()
    thread.join()


def test_run_takes_a_callback_tells_the_subscriber_and_stops_in_order(
    cli: CommandLine, subscriber: Subscriber
) -> None:
    """From the callback to the notification in one process, on no server."""
    subscriber.gate.set()

    with cli.running("run", "--port", "0", environ=PATIENT) as run:
        base = run.ready()
        status, body = request(f"{base}/callbacks/upload-extend", TEXT)
        until(lambda: subscriber.events)
        code = run.stop()

    assert (status, body) == (200, b"")
    assert code == 0
    assert subscriber.events[0]["type"] == "task.text"
    assert run.errors.read_text(encoding="utf-8") == ""
    assert run.events("roles_stopped")
    task = cli.json("tasks", "show", "t1")
    assert task["stage"] == "text"
    assert [note["subscription"] for note in task["notifications"]] == ["studio"]
    assert "studio has been told task.text" in cli("tasks", "show", "t1").stdout
    assert "t1" in cli("tasks", "list").stdout


def test_the_first_line_says_what_is_set_without_secrets(cli: CommandLine) -> None:
    environ = {"PIPELINE_INGRESS__TOKENS": "a-secret-of-some-length"}

    with cli.running("ingress", "--port", "0", environ=environ) as run:
        run.address()
        run.stop()

    first = json.loads(run.log.read_text(encoding="utf-8").splitlines()[0])
    assert first["event"] == "settings_loaded"
    assert first["ingress.tokens"] == "set"
    assert first["broker.deadline"] == "5s"
    assert "a-secret" not in run.log.read_text(encoding="utf-8")


def test_work_in_progress_is_finished_before_the_end(
    cli: CommandLine, subscriber: Subscriber
) -> None:
    with cli.running("run", "--port", "0", environ=PATIENT) as run:
        base = run.ready()
        status, _ = request(f"{base}/callbacks/upload-extend", TEXT)
        assert status == 200
        assert subscriber.told.wait(60)
        run.process.send_signal(signal.SIGTERM)
        until(lambda: run.events("stop_requested"))
        subscriber.gate.set()
        code = run.process.wait(30)

    assert code == 0
    settled = [e for e in run.events("delivery_settled") if "notify" in e["queue"]]
    assert [e["outcome"] for e in settled] == ["done"]


def test_a_second_signal_stops_at_once_and_gives_back(
    cli: CommandLine, subscriber: Subscriber
) -> None:
    with cli.running("run", "--port", "0", environ=PATIENT) as run:
        base = run.ready()
        status, _ = request(f"{base}/callbacks/upload-extend", TEXT)
        assert status == 200
        assert subscriber.told.wait(60)
        run.process.send_signal(signal.SIGINT)
        until(lambda: run.events("stop_requested"))
        started = time.monotonic()
        code = run.stop(signal.SIGINT)

    assert code == 1
    # Not even what is in progress is finished, which may take 20 s.
    assert time.monotonic() - started < 15
    errors = run.errors.read_text(encoding="utf-8")
    assert errors.startswith("error: stopped at once")
    assert "Traceback" not in errors
    subscriber.gate.set()
    subscriber.told.clear()
    with cli.running("worker", "notify") as again:
        # After the lease of 30 s where giving back has failed.
        assert subscriber.told.wait(90)
        again.stop()
    assert len({str(event["id"]) for event in subscriber.events}) == 1


def test_the_ingress_starts_while_the_broker_is_away_and_says_so(
    cli: CommandLine,
) -> None:
    url = "amqp://guest:guest@127.0.0.1:1/"
    options = ("--port", "0", "--broker-url", url, "--set", "spool.timeout=20s")

    with cli.running("ingress", *options) as run:
        base = run.ready()
        ready, why = request(f"{base}/readyz")
        status, _ = request(f"{base}/callbacks/upload-extend", TEXT)
        alive, _ = request(f"{base}/healthz")
        code = run.stop()

    assert (ready, status, alive, code) == (200, 200, 200, 0)
    assert json.loads(why)["status"] == "degraded"
    assert "127.0.0.1:1" in why.decode()


def test_without_a_spool_callbacks_are_refused_while_the_broker_is_away(
    cli: CommandLine,
) -> None:
    url = "amqp://guest:guest@127.0.0.1:1/"
    options = ("--port", "0", "--broker-url", url, "--set", "spool.enabled=false")

    with cli.running("ingress", *options) as run:
        base = run.address()
        ready, _ = request(f"{base}/readyz")
        status, _ = request(f"{base}/callbacks/upload-extend", TEXT)

    assert (ready, status) == (503, 503)


def test_spool_that_cannot_be_written_does_not_stop_the_ingress(
    cli: CommandLine,
) -> None:
    """It starts, says so, and answers 503 while the broker is away as well."""
    cli.folder.joinpath("taken").write_text("a file, and no folder", encoding="utf-8")
    url = "amqp://guest:guest@127.0.0.1:1/"
    options = ("--port", "0", "--broker-url", url, "--set", "spool.path=taken/s.db")

    with cli.running("ingress", *options) as run:
        base = run.address()
        ready, why = request(f"{base}/readyz")
        status, _ = request(f"{base}/callbacks/upload-extend", TEXT)
        code = run.stop()

    assert (ready, status, code) == (503, 503, 0)
    assert json.loads(why)["checks"]["spool"] != "ok"


def test_a_worker_answers_for_its_health_where_asked_to(cli: CommandLine) -> None:
    with cli.running("worker", "dedupe", "--set", "metrics.port=0") as run:
        base = run.address()
        until(lambda: request(f"{base}/readyz")[0] == 200)
        _, ready = request(f"{base}/readyz")
        _, metrics = request(f"{base}/metrics")
        missing, _ = request(f"{base}/callbacks/upload-extend", TEXT)
        code = run.stop()

    assert json.loads(ready)["checks"] == {"broker": "ok", "worker dedupe": "ok"}
    assert b"pipeline_deliveries_total" in metrics
    assert missing == 404
    assert code == 0


def test_an_address_that_is_taken_is_one_clear_line(cli: CommandLine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = cli("run", "--port", str(taken.getsockname()[1]))

    assert done.returncode == 1
    assert done.stderr.startswith("error: expected an address to listen on")
    assert "set another port" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("host", ["999.1.1.1", "192.0.2.1"])
def test_an_address_of_another_machine_is_not_blamed_on_the_port(
    cli: CommandLine, host: str
) -> None:
    """One that cannot be, and one that is somebody else's."""
    done = cli("ingress", "--host", host, "--port", "0")

    assert done.returncode == 1
    assert f"got {host}:0" in done.stderr
    assert "set a host that is an address of this machine" in done.stderr
    assert "another port" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_ingress_whose_log_nobody_reads_answers_and_stops(cli: CommandLine) -> None:
    """As when the program that its output was piped into has ended."""
    reader, writer = os.pipe()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"

    # Buffered as usual, so that something is left over that cannot be written.
    cli.environ["PYTHONUNBUFFERED"] = ""
    options = ("--port", str(port))
    with cli.running("ingress", *options, environ=PATIENT, output=writer) as run:
        os.close(writer)
        until(lambda: answers(f"{url}/readyz"))
        os.close(reader)
        refused = [request(f"{url}/callbacks/nope", TEXT)[0] for _ in range(3)]
        accepted, _ = request(f"{url}/callbacks/upload-extend", TEXT)
        code = run.stop()

    assert refused == [404, 404, 404]
    assert accepted == 200
    assert code == 0
    assert run.errors.read_text(encoding="utf-8") == ""


def answers(url: str) -> bool:
    """Tell whether somebody answers 200."""
    try:
        return request(url)[0] == HTTPStatus.OK
    except OSError:
        return False


@pytest.mark.rabbitmq
def test_wrong_queue_arguments_end_the_start(
    cli: CommandLine, rabbitmq_url: str
) -> None:
    """One clear message names the queue and both values; nothing is changed."""
    prefix = unique_prefix()
    theirs = build_topology(prefix=prefix, delays=(timedelta(seconds=5),))
    delay = next(queue for queue in theirs.queues if queue.delay)
    changed = replace(delay, delay=timedelta(seconds=7))
    queues = tuple(changed if q is delay else q for q in theirs.queues)
    cli.environ |= {
        "PIPELINE_BROKER__PREFIX": prefix,
        "PIPELINE_BROKER__DELAYS": '["5s"]',
        "PIPELINE_BROKER_URL": rabbitmq_url,
    }

    async def declare() -> None:
        async with open_broker(rabbitmq_url, deadline=timedelta(seconds=10)) as broker:
            await broker.declare(replace(theirs, queues=queues))

    asyncio.run(declare())
    try:
        done = cli("worker", "dedupe")
    finally:
        asyncio.run(delete_topology(rabbitmq_url, theirs))

    assert 1 == done.returncode
    assert 1 == len(done.stderr.splitlines()), done.stderr
    assert delay.name in done.stderr
    assert "5000" in done.stderr
    assert "7000" in done.stderr
