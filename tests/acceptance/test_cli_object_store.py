"""The whole pipeline with its files in a bucket."""

from __future__ import annotations

import json
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from tests.command_line import PATIENT, until
from tests.file_server import make_mp3
from tests.object_server import ACCESS_KEY, SECRET_KEY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.command_line import CommandLine
    from tests.object_server import ObjectServer

SMALL = make_mp3(20_000)
#: More than one part of an upload.
LARGE = make_mp3(7_000_000)


class Handler(BaseHTTPRequestHandler):
    """Sends a file."""

    def do_GET(self) -> None:
        body = LARGE if self.path == "/large" else SMALL
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def provider() -> Iterator[str]:
    """Base of the addresses of files."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def complete(provider: str) -> bytes:
    """Write a callback with two files."""
    tracks = [{"id": name, "audio_url": f"{provider}/{name}"} for name in SIZES]
    data = {"callbackType": "complete", "task_id": "t1", "data": tracks}
    return json.dumps({"code": 200, "msg": "ok", "data": data}).encode()


SIZES = {"small": len(SMALL), "large": len(LARGE)}


def test_files_of_a_task_are_in_the_bucket(
    cli: CommandLine, object_server: ObjectServer, bucket: str, provider: str
) -> None:
    """From the callback to the objects, small and large, in one process."""
    environ = {
        **object_server.environment,
        **PATIENT,
        "PIPELINE_ASSETS_URL": f"s3://{bucket}/music",
        "PIPELINE_DOWNLOAD__ALLOW_PRIVATE_ADDRESSES": "true",
    }

    with cli.running("run", "--port", "0", environ=environ) as run:
        base = run.ready()
        request = urllib.request.Request(
            f"{base}/callbacks/upload-extend",
            complete(provider),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.status == 200
        until(lambda: len(object_server.keys(bucket)) == len(SIZES))
        until(
            lambda: (
                {a["state"] for a in cli.json("tasks", "show", "t1")["assets"]}
                == {"stored"}
            )
        )
        code = run.stop()

    assets = cli.json("tasks", "show", "t1")["assets"]
    found = object_server.client
    sizes = {
        asset["key"]["track_id"]: found.head_object(
            Bucket=bucket, Key=f"music/{asset['location']}"
        )["ContentLength"]
        for asset in assets
    }
    assert code == 0
    assert SIZES == sizes
    log = run.log.read_text(encoding="utf-8") + run.errors.read_text(encoding="utf-8")
    assert SECRET_KEY not in log
    assert ACCESS_KEY not in log


def test_a_wrong_bucket_is_one_clear_line(
    cli: CommandLine, object_server: ObjectServer
) -> None:
    """The process ends, because nothing can come right by waiting."""
    environ = object_server.environment | {
        "PIPELINE_ASSETS_URL": "s3://no-such-bucket",
    }

    done = cli("worker", "download", environ=environ)

    assert done.returncode != 0
    assert "assets_url" in done.stderr
    assert "NoSuchBucket" in done.stderr
    assert "Traceback" not in done.stderr
