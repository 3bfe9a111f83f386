"""Processes under load, and what that costs them."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
READY_SECONDS = 30
#: How much longer than asked wrk may take: it waits for answers.
WRK_PATIENCE_SECONDS = 30
#: More than this share of requests without 2xx, and a rate says nothing.
BEARABLE_ERRORS = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one round of one case gave."""

    rate: float
    p50_ms: float
    p99_ms: float
    #: User and system seconds of the measured process per 1000 requests.
    cpu_per_1000: float
    rss_mb: float
    errors: int


def free_port() -> int:
    """Find a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


def rss_mb(pid: int) -> float:
    """Largest resident size of a process so far."""
    match = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(match[1]) / 1024 if match else 0.0


class Server:
    """A server process that is ready when its port answers.

    Raises:
        RuntimeError: it ended or did not get ready; its last words are in it.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        port: int,
        environment: Mapping[str, str],
        cwd: Path | None = None,
        ready_path: str = "/",
    ) -> None:
        self.port = port
        self._errors = tempfile.TemporaryFile("w+b")  # noqa: SIM115  see close
        self.process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            cwd=cwd,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
        )
        try:
            self._wait_until_ready(ready_path)
        except BaseException:
            self.close()
            raise

    def _wait_until_ready(self, path: str) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                code = self.process.returncode
                raise RuntimeError(f"ended with {code}: {self._last_words()}")
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=1)
            except urllib.error.HTTPError as answer:
                if answer.code != HTTPStatus.SERVICE_UNAVAILABLE:
                    return
                time.sleep(0.1)
            except OSError:
                time.sleep(0.1)
            else:
                return
        raise RuntimeError(
            f"expected an answer within {READY_SECONDS} s, got: {self._last_words()}"
        )

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else "nothing on standard error"

    def close(self) -> None:
        """Stop the process, kindly first."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._errors.close()


def wrk(
    server: Server, path: str, *, script: Path, connections: int, seconds: float
) -> Sample:
    """Put load on a server for one round, from one thread of wrk.

    Raises:
        RuntimeError: the server ended, or answered too often other than 2xx.
    """
    before = cpu_seconds(server.process.pid)
    command = [
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{seconds:g}s",
        "--latency",
        "-s",
        str(script),
        f"http://127.0.0.1:{server.port}{path}",
    ]
    patience = seconds + WRK_PATIENCE_SECONDS
    text = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=patience
    ).stdout
    spent = cpu_seconds(server.process.pid) - before
    requests = int(_find(r"(\d+) requests in", text))
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    socket_errors = re.search(r"Socket errors: .*", text)
    lost = sum(map(int, re.findall(r"\d+", socket_errors[0]))) if socket_errors else 0
    errors = (int(bad[1]) if bad else 0) + lost
    if errors > requests * BEARABLE_ERRORS:
        raise RuntimeError(
            f"expected answers of 2xx, got {errors} others of {requests}"
        )
    return Sample(
        rate=float(_find(r"Requests/sec:\s+([\d.]+)", text)),
        p50_ms=_milliseconds(_find(r"\n\s+50%\s+(\S+)", text)),
        p99_ms=_milliseconds(_find(r"\n\s+99%\s+(\S+)", text)),
        cpu_per_1000=spent / max(requests, 1) * 1000,
        rss_mb=rss_mb(server.process.pid),
        errors=errors,
    )


def _find(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise RuntimeError(f"expected {pattern} in the output of wrk, got:\n{text}")
    return match[1]


def _milliseconds(text: str) -> float:
    for unit, factor in (("us", 0.001), ("ms", 1.0), ("s", 1000.0), ("m", 60_000.0)):
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * factor
    raise RuntimeError(f"expected a time such as 1.2ms, got {text}")
