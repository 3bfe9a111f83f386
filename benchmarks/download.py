"""Download into the asset store, beside curl, from one server on this machine.

    python -m benchmarks.download [--rounds N] [--quick]

Rounds are interleaved and medians are compared. curl writes the same files to the
same disk, but neither hashes them nor waits for the disk, and its start counts;
ours runs in an interpreter that has started, as in a worker, and its opening and
closing of fetcher and store count. The server is nginx, in a process of its own
with a configuration of its own; without nginx it is a small aiohttp server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aiohttp import web

from pipeline.assets.fetch import Fetcher, FetchRules
from pipeline.assets.store import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MEGABYTE: Final = 1_000_000
MIB: Final = 1024 * 1024
#: The longest for one download of everything, and for a server to start.
PATIENCE_SECONDS: Final = 60.0
SAMPLE_SECONDS: Final = 0.002
RULES: Final = FetchRules(
    deadline=timedelta(seconds=PATIENCE_SECONDS), allow_private_addresses=True
)

NGINX: Final = """
daemon off; worker_processes 1; pid {root}/nginx.pid; error_log {root}/error.log;
events {{ worker_connections 512; }}
http {{
  access_log off; sendfile on; tcp_nopush on; default_type audio/mpeg;
  client_body_temp_path {root}/t1; proxy_temp_path {root}/t2;
  fastcgi_temp_path {root}/t3; uwsgi_temp_path {root}/t4; scgi_temp_path {root}/t5;
  server {{ listen 127.0.0.1:{port} backlog=512; root {root}/files; }}
}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One download of everything, one way."""

    seconds: float
    cpu_seconds: float
    #: The longest that the event loop did not get to a timer; 0 for curl.
    stall_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """So many downloads of one file at the same time."""

    name: str
    file_bytes: int
    count: int
    #: The ratio to curl that is wanted.
    wanted: float


CASES: Final = (
    Case(name="50 MB x 1", file_bytes=50 * MEGABYTE, count=1, wanted=0.75),
    Case(name="50 MB x 16", file_bytes=50 * MEGABYTE, count=16, wanted=0.9),
    Case(name="5 MB x 16", file_bytes=5 * MEGABYTE, count=16, wanted=0.0),
)


def main() -> None:
    """Run every case and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=7, metavar="N")
    parser.add_argument("--quick", action="store_true", help="two rounds")
    parser.add_argument("--memory", nargs=2, metavar=("URL", "COUNT"), help="internal")
    parser.add_argument("--serve", nargs=2, metavar=("FOLDER", "PORT"), help="internal")
    args = parser.parse_args()
    if args.memory:
        print(json.dumps(_memory(args.memory[0], int(args.memory[1]))))
    elif args.serve:
        app = web.Application()
        app.router.add_static("/", args.serve[0])
        web.run_app(app, host="127.0.0.1", port=int(args.serve[1]), print=None)
    else:
        _run(2 if args.quick else max(1, args.rounds))


def _run(rounds: int) -> None:
    with tempfile.TemporaryDirectory(prefix="download-") as folder:
        root = Path(folder)
        (root / "files").mkdir()
        for case in CASES:
            _make_file(_file_of(root, case), case.file_bytes)
        with _server(root) as (server, port):
            print(f"server: {server}; {rounds} rounds; cores: {os.cpu_count()}\n")
            for case in CASES:
                url = f"http://127.0.0.1:{port}/{_file_of(root, case).name}"
                _compare(case, url, root, rounds)
            _report_memory(f"http://127.0.0.1:{port}/{CASES[-1].file_bytes}.mp3")


def _compare(case: Case, url: str, root: Path, rounds: int) -> None:
    """Measure each way in turn, round after round, and print one table."""
    ways = _ways()
    for way in ways.values():
        way(url, case.count, root)  # warms caches of all ways alike
    samples: dict[str, list[Sample]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            samples[name].append(way(url, case.count, root))
    peer = [sample.seconds for sample in samples.get("curl", ())]
    curl = statistics.median(peer) if peer else None
    wanted = f" (wanted: {case.wanted:g} of curl)" if case.wanted else ""
    print(f"{case.name}{wanted}")
    print(f"  {'way':<20}{'MB/s':>8}{'ratio':>8}{'CPU s/GB':>10}{'stall ms':>10}")
    total = case.file_bytes * case.count
    for name, found in samples.items():
        seconds = statistics.median(s.seconds for s in found)
        cpu = statistics.median(s.cpu_seconds for s in found) / (total / 1e9)
        stall = statistics.median(s.stall_seconds for s in found) * 1000
        ratio = f"{curl / seconds:.2f}" if curl else "-"
        rate = total / MEGABYTE / seconds
        print(f"  {name:<20}{rate:>8.0f}{ratio:>8}{cpu:>10.2f}{stall:>10.1f}")
    print()


def _ways() -> dict[str, Callable[[str, int, Path], Sample]]:
    ways: dict[str, Callable[[str, int, Path], Sample]] = {}
    if shutil.which("curl"):
        ways["curl"] = _curl
    ways["fetcher"] = lambda *case: _ours(*case, loop_factory=None)
    try:
        import uvloop  # noqa: PLC0415  an extra
    except ImportError:
        return ways
    factory = uvloop.new_event_loop
    ways["fetcher on uvloop"] = lambda *case: _ours(*case, loop_factory=factory)
    return ways


def _curl(url: str, count: int, root: Path) -> Sample:
    with _fresh(root, count * _size(url, root)) as out:
        command = ["curl", "--silent", "--show-error", "--fail"]
        if count > 1:
            command += ["--no-progress-meter", "--parallel"]
            command += ["--parallel-immediate", "--parallel-max", str(count)]
        for number in range(count):
            command += ["--output", str(out / str(number)), f"{url}?{number}"]
        before, started = os.times(), time.perf_counter()
        subprocess.run(
            command, check=True, timeout=PATIENCE_SECONDS, stderr=subprocess.DEVNULL
        )
        seconds, after = time.perf_counter() - started, os.times()
    cpu = after.children_user + after.children_system
    cpu -= before.children_user + before.children_system
    return Sample(seconds=seconds, cpu_seconds=cpu)


def _ours(
    url: str,
    count: int,
    root: Path,
    *,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None,
) -> Sample:
    with (
        _fresh(root, count * _size(url, root)) as out,
        asyncio.Runner(loop_factory=loop_factory) as runner,
    ):
        return runner.run(_fetch_all(url, count, out))


async def _fetch_all(url: str, count: int, out: Path) -> Sample:
    stalls = [0.0]
    sampler = asyncio.create_task(_sample(stalls))
    cpu, started = time.process_time(), time.perf_counter()
    async with (
        open_store(str(out)) as store,
        Fetcher(RULES) as fetcher,
        asyncio.TaskGroup() as group,
    ):
        for number in range(count):
            group.create_task(fetcher.fetch(f"{url}?{number}", store))
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    sampler.cancel()
    await asyncio.gather(sampler, return_exceptions=True)
    return Sample(seconds=seconds, cpu_seconds=cpu, stall_seconds=max(stalls))


async def _sample(stalls: list[float]) -> None:
    while True:
        due = time.perf_counter() + SAMPLE_SECONDS
        await asyncio.sleep(SAMPLE_SECONDS)
        stalls[0] = max(stalls[0], time.perf_counter() - due)


def _report_memory(url: str) -> None:
    """Measure in a new process: memory once taken is not given back."""
    command = [sys.executable, "-m", "benchmarks.download", "--memory", url, "50"]
    done = subprocess.run(
        command, check=True, capture_output=True, timeout=PATIENCE_SECONDS
    )
    grown = json.loads(done.stdout)["grown_bytes"] / MIB
    print(f"memory grown by 50 downloads at once: {grown:.0f} MiB (wanted: under 64)")


def _memory(url: str, count: int) -> dict[str, int]:
    with tempfile.TemporaryDirectory(prefix="download-") as folder:
        root = Path(folder)
        asyncio.run(_fetch_all(url, 1, root))
        before = _peak_bytes()
        asyncio.run(_fetch_all(url, count, root))
        return {"grown_bytes": _peak_bytes() - before}


def _peak_bytes() -> int:
    """Give the most memory that this process had at any time."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: after a fork it begins with what the parent had.
        line = next(x for x in status.read_text().splitlines() if "VmHWM" in x)
        return int(line.split()[1]) * 1024
    import resource  # noqa: PLC0415  not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@contextmanager
def _server(root: Path) -> Iterator[tuple[str, int]]:
    """Serve ``root/files`` from a process that is ours to end."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    if nginx := shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin"):
        user = f"user {_user()};" if os.geteuid() == 0 else ""
        (root / "nginx.conf").write_text(user + NGINX.format(root=root, port=port))
        name = "nginx"
        command = [nginx, "-p", str(root), "-c", str(root / "nginx.conf")]
        command += ["-e", str(root / "error.log")]
    else:
        name = "aiohttp, as there is no nginx (ratios mean little)"
        command = [sys.executable, "-m", "benchmarks.download"]
        command += ["--serve", str(root / "files"), str(port)]
    process = subprocess.Popen(command)
    try:
        _wait_for(port, process)
        yield name, port
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            time.sleep(0.05)
    message = f"expected a server on port {port}, got none"
    raise SystemExit(message)


def _user() -> str:
    import pwd  # noqa: PLC0415  not on Windows

    return pwd.getpwuid(os.geteuid()).pw_name


@contextmanager
def _fresh(root: Path, size: int) -> Iterator[Path]:
    """Give an empty folder, a disk that has nothing to write, and warm memory.

    A virtual machine may get memory from its host only when a page is touched,
    and give it back when it is freed. The first to write after a pause would pay
    for that, which can double its time: so pages are touched here, for all ways.
    """
    out = root / "out"
    out.mkdir()
    os.sync()
    touched = out / "touched"
    with touched.open("wb") as file:
        zeros = bytes(MIB)
        for _ in range(0, size, MIB):
            file.write(zeros)
    touched.unlink()
    try:
        yield out
    finally:
        shutil.rmtree(out)


def _file_of(root: Path, case: Case) -> Path:
    return root / "files" / f"{case.file_bytes}.mp3"


def _size(url: str, root: Path) -> int:
    return (root / "files" / url.rpartition("/")[2]).stat().st_size


def _make_file(path: Path, size: int) -> None:
    """Write what looks like an MP3 file and cannot be compressed."""
    with path.open("wb") as file:
        file.write(b"ID3")
        left = size - 3
        while left:
            left -= file.write(os.urandom(min(left, MIB)))


if __name__ == "__main__":
    main()
