"""A process that is frozen at its work, and woken when another one has done it."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.waiting import eventually
from tests.whole_pipeline import IN_FLIGHT, good, whole_pipeline

if TYPE_CHECKING:
    from tests.command_line import Running

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="looks for the state in /proc"
)


#: Of the embedded broker. A lease is renewed three times while it lasts: who is frozen
#: just then keeps the lock on the file.
LEASE_SECONDS: Final = 6


@pytest.fixture
def broker_url(broker_url: str) -> str:
    """Address of the broker, with leases that are seldom renewed."""
    address, mark, _ = broker_url.partition("lease_seconds=")
    return f"{address}{mark}{LEASE_SECONDS}" if mark else broker_url


async def test_worker_frozen_and_woken_after_another_took_over(
    broker_url: str, tmp_path: Path
) -> None:
    """What it still writes is late and harmless: nobody hears of anything twice.

    Frozen where nothing else is being done: with a lock on a SQLite file in its hands
    it would stop everybody. Downloads and notifications are frozen, each alone, in
    ``tests/integration/test_frozen_worker.py``.

    It asks for nothing that the other one has not done, and stops in order.
    """
    async with whole_pipeline(broker_url, tmp_path, broker__heartbeat="1s") as pipeline:
        async with asyncio.TaskGroup() as provider:
            calling = provider.create_task(pipeline.call("task-0"))
            async with pipeline.running(
                failpoints="dedupe.before_record=stop@1"
            ) as frozen:
                await eventually(lambda: _is_frozen(frozen), within=30)
                async with pipeline.running() as other:
                    await calling
                    await pipeline.until_done()
                    before = await pipeline.verdict()

                    frozen.process.send_signal(signal.SIGCONT)
                    codes = [
                        await asyncio.to_thread(run.stop) for run in (frozen, other)
                    ]
        await pipeline.finish()
        verdict = await pipeline.verdict()

    assert [0, 0] == codes, frozen.errors.read_text(encoding="utf-8")
    assert {} == before.wrong
    assert good(1, repeats=verdict.repeats) == verdict
    assert verdict.repeats <= IN_FLIGHT


async def _is_frozen(run: Running) -> bool:
    """Look at the state of a process, which stands behind its name in brackets."""
    stat = Path(f"/proc/{run.process.pid}/stat")
    text = await asyncio.to_thread(stat.read_text, encoding="ascii")
    return text.rpartition(")")[2].split()[0] == "T"
