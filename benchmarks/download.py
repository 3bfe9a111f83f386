"""Download into the asset store, beside curl, from one server on this machine.

    python -m benchmarks.download [--rounds N]

Rounds are interleaved and medians are compared; the first round warms caches up.
curl writes the same files to the same disk, but neither hashes them nor waits for
the disk ("curl, synced" waits after its last file), and its start counts; ours runs
in an interpreter that has started, as in a worker, and its opening and closing of
fetcher and store count. The server is nginx, in a process of its own with a
configuration of its own; without nginx it is a small aiohttp server.

Where the system tells (Linux), a sample is taken again, up to a limit, if other
programs had much of the processors meanwhile; "noisy" counts those that stayed so.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

from benchmarks.download_samples import MIB, Place, Reading, Sample, fresh
from benchmarks.download_server import PATIENCE_SECONDS, serving
from benchmarks.results import (
    Comparison,
    Results,
    Target,
    add_json_option,
    compare,
    finish,
    interleave,
    medians_of,
    number,
    reason,
    table,
)
from pipeline.assets.fetch import Fetcher, FetchRules
from pipeline.assets.store import open_store

MEGABYTE: Final = 1_000_000
SAMPLE_SECONDS: Final = 0.002
#: What others may have of all processors while a sample is taken.
QUIET_SHARE: Final = 0.25
#: How often a noisy sample is taken again, and the pause before.
MORE_TRIES: Final = 3
NOISE_PAUSE_SECONDS: Final = 0.5
#: The peer that waits for the disk, as ours does.
SYNCED: Final = "curl, synced"
#: With many downloads at once, ms.
SMOOTH: Final = Target(at_most=20)
RULES: Final = FetchRules(
    deadline=timedelta(seconds=PATIENCE_SECONDS), allow_private_addresses=True
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """So many downloads of one file at the same time."""

    name: str
    file_bytes: int
    count: int
    #: The ratio to curl that is wanted.
    wanted: float


Way: TypeAlias = Callable[[Place], Sample]

CASES: Final = (
    Case(name="50 MB x 1", file_bytes=50 * MEGABYTE, count=1, wanted=0.75),
    Case(name="50 MB x 16", file_bytes=50 * MEGABYTE, count=16, wanted=0.9),
    Case(name="5 MB x 16", file_bytes=5 * MEGABYTE, count=16, wanted=0.0),
)


def main() -> None:
    """Run every case and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7, metavar="N")
    parser.add_argument("--memory", nargs=2, metavar=("URL", "COUNT"), help="internal")
    add_json_option(parser)
    args = parser.parse_args()
    if args.memory:
        print(json.dumps(_memory(args.memory[0], int(args.memory[1]))))
        return
    results, tables = _run(max(1, args.rounds))
    finish(results, tables, args.json)


def _run(rounds: int) -> tuple[Results, list[str]]:
    """Measure every case; one that fails is noted, and the next one follows."""
    results = Results()
    tables = []
    with tempfile.TemporaryDirectory(prefix="download-") as folder:
        root = Path(folder)
        (root / "files").mkdir()
        for case in CASES:
            _make_file(_file_of(root, case), case.file_bytes)
        with serving(root) as (server, server_id, port):
            tables.append(
                f"Downloads into the store, hashed, from {server}; rounds: {rounds},"
                f" {os.cpu_count()} cores. curl does not hash."
            )
            for case in CASES:
                place = Place(
                    url=f"http://127.0.0.1:{port}/{_file_of(root, case).name}",
                    file_bytes=case.file_bytes,
                    count=case.count,
                    root=root,
                    server_id=server_id,
                )
                tables.append(_compare(case, place, rounds, results))
            _compare_memory(place.url, results)
    return results, tables


def _compare(case: Case, place: Place, rounds: int, results: Results) -> str:
    """Measure each way in turn, note what was found, and give the table."""
    ways = _ways()
    failed: dict[str, str] = {}
    samples = interleave(
        list(ways),
        rounds,
        lambda name, number_of_round: (
            _quiet_sample(ways[name], place) if number_of_round else ways[name](place)
        ),
        failed=failed,
        describe=lambda sample: f"{case.name}: {sample.seconds:.2f} s",
    )
    total = case.file_bytes * case.count
    medians = {name: _medians(found, total) for name, found in samples.items()}
    if "curl" not in ways:
        results.left_out |= dict.fromkeys(("curl", SYNCED), "not installed")
    results.failed |= {f"{case.name}, {name}": why for name, why in failed.items()}
    results.cases |= {f"{case.name}, {name}": found for name, found in medians.items()}
    best = "fetcher on uvloop" if "fetcher on uvloop" in ways else "fetcher"
    wanted = Target(at_least=case.wanted) if case.wanted else None
    results.comparisons += compare(
        f"download {case.name}",
        best,
        [
            ("curl", "mb_per_second", "MB/s", wanted),
            (SYNCED, "mb_per_second", "MB/s", None),
        ],
        medians,
        failed=failed,
        left_out=results.left_out,
    )
    if best in medians:
        stall = Comparison(
            benchmark=f"download {case.name}",
            figure="longest stall of the loop, ms",
            ours=medians[best]["stall_ms"],
            target=SMOOTH if case.count > 1 else None,
        )
        results.comparisons.append(stall)
    return _table(case, samples, medians)


def _medians(found: list[Sample], total_bytes: int) -> dict[str, float]:
    medians = medians_of(found, ("seconds", "cpu_seconds", "stall_seconds"))
    return {
        "mb_per_second": total_bytes / MEGABYTE / medians["seconds"],
        "cpu_seconds_per_gb": medians["cpu_seconds"] / (total_bytes / 1e9),
        "stall_ms": medians["stall_seconds"] * 1000,
    }


def _quiet_sample(way: Way, place: Place) -> Sample:
    """Take a sample, again if others were busy; give the quietest."""
    best = way(place)
    for _ in range(MORE_TRIES):
        if best.others_share <= QUIET_SHARE:
            break
        time.sleep(NOISE_PAUSE_SECONDS)
        best = min(best, way(place), key=lambda sample: sample.others_share)
    return best


def _table(
    case: Case, samples: dict[str, list[Sample]], medians: dict[str, dict[str, float]]
) -> str:
    rows = [
        [
            name,
            number(found["mb_per_second"]),
            number(found["cpu_seconds_per_gb"]),
            number(found["stall_ms"]),
            str(sum(s.others_share > QUIET_SHARE for s in samples[name])),
        ]
        for name, found in medians.items()
    ]
    return table([case.name, "MB/s", "CPU s/GB", "stall ms", "noisy"], rows)


def _ways() -> dict[str, Way]:
    ways: dict[str, Way] = {}
    if shutil.which("curl"):
        ways["curl"] = _curl
        ways[SYNCED] = partial(_curl, is_synced=True)
    ways["fetcher"] = _ours
    try:
        import uvloop  # noqa: PLC0415  an extra
    except ImportError:
        return ways
    ways["fetcher on uvloop"] = partial(_ours, loop_factory=uvloop.new_event_loop)
    return ways


def _curl(place: Place, *, is_synced: bool = False) -> Sample:
    with fresh(place) as out:
        command = ["curl", "--silent", "--show-error", "--fail"]
        if place.count > 1:
            command += ["--no-progress-meter", "--parallel"]
            command += ["--parallel-immediate", "--parallel-max", str(place.count)]
        for number in range(place.count):
            command += ["--output", str(out / str(number)), f"{place.url}?{number}"]
        before = Reading.take(place.server_id)
        subprocess.run(
            command, check=True, timeout=PATIENCE_SECONDS, stderr=subprocess.DEVNULL
        )
        if is_synced:
            for path in out.iterdir():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        return Reading.take(place.server_id).since(before)


def _ours(
    place: Place,
    *,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> Sample:
    with fresh(place) as out, asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(_fetch_all(place, out))


async def _fetch_all(place: Place, out: Path) -> Sample:
    stalls = [0.0]
    sampler = asyncio.create_task(_sample(stalls))
    before = Reading.take(place.server_id)
    async with (
        open_store(str(out)) as store,
        Fetcher(RULES) as fetcher,
        asyncio.TaskGroup() as group,
    ):
        for number in range(place.count):
            group.create_task(fetcher.fetch(f"{place.url}?{number}", store))
    sample = Reading.take(place.server_id).since(before)
    sampler.cancel()
    await asyncio.gather(sampler, return_exceptions=True)
    return replace(sample, stall_seconds=max(stalls))


async def _sample(stalls: list[float]) -> None:
    while True:
        due = time.perf_counter() + SAMPLE_SECONDS
        await asyncio.sleep(SAMPLE_SECONDS)
        stalls[0] = max(stalls[0], time.perf_counter() - due)


def _compare_memory(url: str, results: Results) -> None:
    """Measure in a new process: memory once taken is not given back."""
    command = [sys.executable, "-m", "benchmarks.download", "--memory", url, "50"]
    problem, grown = "", None
    try:
        done = subprocess.run(
            command, check=True, capture_output=True, timeout=PATIENCE_SECONDS
        )
        grown = json.loads(done.stdout)["grown_bytes"] / MIB
    except subprocess.SubprocessError as error:
        problem = f"failed: {reason(error)}"
        results.failed["memory of downloads"] = reason(error)
    results.comparisons.append(
        Comparison(
            benchmark="download",
            figure="memory grown by 50 at once, MiB",
            ours=grown,
            target=Target(at_most=64),
            problem=problem,
        )
    )


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
