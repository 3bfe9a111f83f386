"""Download into the asset store, beside curl, from one server on this machine.

    python -m benchmarks.download [--rounds N] [--quick]

Rounds are interleaved and medians are compared. curl writes the same files to the
same disk, but neither hashes them nor waits for the disk, and its start counts;
ours runs in an interpreter that has started, as in a worker, and its opening and
closing of fetcher and store count. The server is nginx, in a process of its own
with a configuration of its own; without nginx it is a small aiohttp server.

Where the system tells (Linux), a sample is taken again, up to a limit, if other
programs had much of the processors meanwhile; "noisy" counts those that stayed so.
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
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self, TypeAlias

from aiohttp import web

from pipeline.assets.fetch import Fetcher, FetchRules
from pipeline.assets.store import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator

MEGABYTE: Final = 1_000_000
MIB: Final = 1024 * 1024
#: The longest for one download of everything, and for a server to start.
PATIENCE_SECONDS: Final = 60.0
SAMPLE_SECONDS: Final = 0.002
#: What others may have of all processors while a sample is taken.
QUIET_SHARE: Final = 0.25
#: How often a noisy sample is taken again, and the pause before.
MORE_TRIES: Final = 3
NOISE_PAUSE_SECONDS: Final = 0.5
RULES: Final = FetchRules(
    deadline=timedelta(seconds=PATIENCE_SECONDS), allow_private_addresses=True
)

NGINX: Final = """
daemon off; master_process off; pid {root}/nginx.pid; error_log {root}/error.log;
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
    #: What other programs had of all processors; 0 where nobody tells.
    others_share: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """So many downloads of one file at the same time."""

    name: str
    file_bytes: int
    count: int
    #: The ratio to curl that is wanted.
    wanted: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a case is measured."""

    url: str
    file_bytes: int
    count: int
    root: Path
    #: The server's process.
    server_id: int


Way: TypeAlias = Callable[[Place], Sample]

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
        with _server(root) as (server, server_id, port):
            print(f"server: {server}; {rounds} rounds; cores: {os.cpu_count()}\n")
            for case in CASES:
                place = Place(
                    url=f"http://127.0.0.1:{port}/{_file_of(root, case).name}",
                    file_bytes=case.file_bytes,
                    count=case.count,
                    root=root,
                    server_id=server_id,
                )
                _compare(case, place, rounds)
            _report_memory(place.url)


def _compare(case: Case, place: Place, rounds: int) -> None:
    """Measure each way in turn, round after round, and print one table."""
    ways = _ways()
    for way in ways.values():
        way(place)  # warms caches of all ways alike
    samples: dict[str, list[Sample]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            samples[name].append(_quiet_sample(way, place))
    _print_table(case, samples)


def _quiet_sample(way: Way, place: Place) -> Sample:
    """Take a sample, again if others were busy; give the quietest."""
    best = way(place)
    for _ in range(MORE_TRIES):
        if best.others_share <= QUIET_SHARE:
            break
        time.sleep(NOISE_PAUSE_SECONDS)
        best = min(best, way(place), key=lambda sample: sample.others_share)
    return best


def _print_table(case: Case, samples: dict[str, list[Sample]]) -> None:
    peer = [sample.seconds for sample in samples.get("curl", ())]
    curl = statistics.median(peer) if peer else None
    wanted = f" (wanted: {case.wanted:g} of curl)" if case.wanted else ""
    print(f"{case.name}{wanted}")
    print(
        f"  {'way':<20}{'MB/s':>8}{'ratio':>8}{'CPU s/GB':>10}{'stall ms':>10}"
        f"{'noisy':>7}"
    )
    total = case.file_bytes * case.count
    for name, found in samples.items():
        seconds = statistics.median(s.seconds for s in found)
        cpu = statistics.median(s.cpu_seconds for s in found) / (total / 1e9)
        stall = statistics.median(s.stall_seconds for s in found) * 1000
        ratio = f"{curl / seconds:.2f}" if curl else "-"
        rate = total / MEGABYTE / seconds
        noisy = sum(s.others_share > QUIET_SHARE for s in found)
        print(f"  {name:<20}{rate:>8.0f}{ratio:>8}{cpu:>10.2f}{stall:>10.1f}{noisy:>7}")
    print()


def _ways() -> dict[str, Way]:
    ways: dict[str, Way] = {}
    if shutil.which("curl"):
        ways["curl"] = _curl
    ways["fetcher"] = _ours
    try:
        import uvloop  # noqa: PLC0415  an extra
    except ImportError:
        return ways
    ways["fetcher on uvloop"] = partial(_ours, loop_factory=uvloop.new_event_loop)
    return ways


def _curl(place: Place) -> Sample:
    with _fresh(place) as out:
        command = ["curl", "--silent", "--show-error", "--fail"]
        if place.count > 1:
            command += ["--no-progress-meter", "--parallel"]
            command += ["--parallel-immediate", "--parallel-max", str(place.count)]
        for number in range(place.count):
            command += ["--output", str(out / str(number)), f"{place.url}?{number}"]
        before = _Reading.take(place.server_id)
        subprocess.run(
            command, check=True, timeout=PATIENCE_SECONDS, stderr=subprocess.DEVNULL
        )
        return _Reading.take(place.server_id).since(before)


def _ours(
    place: Place,
    *,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> Sample:
    with _fresh(place) as out, asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(_fetch_all(place, out))


async def _fetch_all(place: Place, out: Path) -> Sample:
    stalls = [0.0]
    sampler = asyncio.create_task(_sample(stalls))
    before = _Reading.take(place.server_id)
    async with (
        open_store(str(out)) as store,
        Fetcher(RULES) as fetcher,
        asyncio.TaskGroup() as group,
    ):
        for number in range(place.count):
            group.create_task(fetcher.fetch(f"{place.url}?{number}", store))
    sample = _Reading.take(place.server_id).since(before)
    sampler.cancel()
    await asyncio.gather(sampler, return_exceptions=True)
    return replace(sample, stall_seconds=max(stalls))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    """The clocks at one moment, all in seconds."""

    wall: float
    #: CPU of this process and its children.
    own: float
    #: CPU of the server.
    server: float
    #: CPU of everything.
    all: float

    @classmethod
    def take(cls, server_id: int) -> Self:
        """Read all clocks; what the system does not tell is 0."""
        server = total = 0.0
        try:
            tick = os.sysconf("SC_CLK_TCK")
            own = Path(f"/proc/{server_id}/stat").read_text().rpartition(")")[2].split()
            server = (int(own[11]) + int(own[12])) / tick
            cpu = [int(n) for n in Path("/proc/stat").read_text().split()[1:9]]
            idle, waiting = cpu[3], cpu[4]
            total = (sum(cpu) - idle - waiting) / tick
        except OSError:
            pass
        return cls(
            wall=time.perf_counter(), own=sum(os.times()[:4]), server=server, all=total
        )

    def since(self, before: Self) -> Sample:
        """Give what happened between two moments."""
        seconds = self.wall - before.wall
        own = self.own - before.own
        others = self.all - before.all - own - (self.server - before.server)
        share = others / seconds / (os.cpu_count() or 1)
        return Sample(seconds=seconds, cpu_seconds=own, others_share=max(0.0, share))


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
        one = Place(url=url, file_bytes=0, count=1, root=root, server_id=0)
        asyncio.run(_fetch_all(one, root))
        before = _peak_bytes()
        asyncio.run(_fetch_all(replace(one, count=count), root))
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
def _server(root: Path) -> Iterator[tuple[str, int, int]]:
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
        yield name, process.pid, port
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
def _fresh(place: Place) -> Iterator[Path]:
    """Give an empty folder, a disk that has nothing to write, and warm memory.

    A virtual machine may get memory from its host only when a page is touched,
    and give it back when it is freed. The first to write after a pause would pay
    for that, which can double its time: so pages are touched here, for all ways.
    """
    out = place.root / "out"
    out.mkdir()
    os.sync()
    touched = out / "touched"
    with touched.open("wb") as file:
        zeros = bytes(MIB)
        for _ in range(0, place.file_bytes * place.count, MIB):
            file.write(zeros)
    touched.unlink()
    try:
        yield out
    finally:
        shutil.rmtree(out)


def _file_of(root: Path, case: Case) -> Path:
    return root / "files" / f"{case.file_bytes}.mp3"


def _make_file(path: Path, size: int) -> None:
    """Write what looks like an MP3 file and cannot be compressed."""
    with path.open("wb") as file:
        file.write(b"ID3")
        left = size - 3
        while left:
            left -= file.write(os.urandom(min(left, MIB)))


if __name__ == "__main__":
    main()
