"""What the benchmarks share: processes, their cost, medians and tables."""

from __future__ import annotations

import os
import re
import signal
import socket
import statistics
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


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
    """A server process that is ready when its port answers."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        port: int,
        environment: Mapping[str, str],
        cwd: Path | None = None,
    ) -> None:
        self.port = port
        self.process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            cwd=cwd,
            stdout=subprocess.DEVNULL,
        )
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"server ended with {self.process.returncode}")
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=1)
            except urllib.error.HTTPError:
                return
            except OSError:
                time.sleep(0.1)
            else:
                return
        raise RuntimeError("server did not get ready within 30 s")

    def close(self) -> None:
        """Stop the process, kindly first."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def wrk(
    server: Server, path: str, *, script: Path, connections: int, seconds: float
) -> Sample:
    """Put load on a server for one round, from one thread of wrk."""
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
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    spent = cpu_seconds(server.process.pid) - before
    requests = int(_find(r"(\d+) requests in", text))
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    socket_errors = re.search(r"Socket errors: .*", text)
    lost = sum(map(int, re.findall(r"\d+", socket_errors[0]))) if socket_errors else 0
    return Sample(
        rate=float(_find(r"Requests/sec:\s+([\d.]+)", text)),
        p50_ms=_milliseconds(_find(r"\n\s+50%\s+(\S+)", text)),
        p99_ms=_milliseconds(_find(r"\n\s+99%\s+(\S+)", text)),
        cpu_per_1000=spent / max(requests, 1) * 1000,
        rss_mb=rss_mb(server.process.pid),
        errors=(int(bad[1]) if bad else 0) + lost,
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


def median(samples: Sequence[Sample], field: str) -> float:
    """The median of one field over all rounds."""
    return statistics.median(getattr(sample, field) for sample in samples)


def spread(samples: Sequence[Sample], field: str) -> str:
    """Smallest and largest value of one field, to judge the noise by."""
    values = [getattr(sample, field) for sample in samples]
    return f"{min(values):.0f}-{max(values):.0f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table for a terminal and for a note alike."""
    widths = [max(len(r[i]) for r in (header, *rows)) for i in range(len(header))]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
        for row in (header, ["-" * w for w in widths], *rows)
    ]
    return "\n".join(lines)
