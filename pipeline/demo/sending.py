"""How the tasks of a demo become known: by callbacks, or by asking alone."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pipeline.demo.summary import Accepted
from pipeline.ledger.expectations import Expectation
from pipeline.simulator import LoadOptions, run_load
from pipeline.task import TaskId

if TYPE_CHECKING:
    from pipeline.demo.options import DemoOptions
    from pipeline.demo.timeline import Timeline
    from pipeline.ledger.port import Ledger
    from pipeline.settings import PollerSettings
    from pipeline.simulator import Scenario, SimulatedProvider


async def send_load(
    options: DemoOptions, callback_url: str, timeline: Timeline
) -> Accepted:
    """Send many callbacks without files, as fast as they are taken."""
    load = LoadOptions(callbacks=options.load, seed=options.seed)
    address = callback_url.replace("{operation}", "upload-extend")
    result = await run_load(address, load)
    rate = result.sent / max(result.elapsed_seconds, 0.001)
    timeline.note(f"{result.sent} callbacks sent, {rate:.0f}/s")
    return Accepted(
        callbacks_sent=result.sent,
        callbacks_accepted=result.accepted,
        task_ids=result.task_ids,
        events=len(result.events),
        files=0,
    )


async def send_callbacks(
    provider: SimulatedProvider, scenario: Scenario, callback_url: str
) -> Accepted:
    """Let the provider send the callbacks of a scenario."""
    report = await provider.run(scenario, callback_url=callback_url)
    return Accepted(
        callbacks_sent=report.callbacks_sent,
        callbacks_accepted=report.callbacks_accepted,
        task_ids=frozenset(report.stages),
        events=len(report.events),
        files=sum(map(len, report.files.values())),
    )


async def only_expect(
    provider: SimulatedProvider,
    scenario: Scenario,
    ledger: Ledger,
    settings: PollerSettings,
) -> Accepted:
    """Let the tasks of a scenario run without a callback, and expect them.

    What must be there in the end is then what the provider has, not what it has sent.
    """
    now = datetime.now(UTC)
    await ledger.expect(
        [
            Expectation(
                task_id=TaskId(task.task_id),
                operation=task.operation,
                submitted_at=now,
                due_at=now + settings.quiet_for(task.operation),
            )
            for task in scenario.tasks
        ]
    )
    await provider.run(scenario, callback_url="http://127.0.0.1/")
    finished = [task for task in scenario.tasks if task.failure is None]
    return Accepted(
        callbacks_sent=0,
        callbacks_accepted=0,
        task_ids=frozenset(task.task_id for task in scenario.tasks),
        events=len(scenario.tasks),
        files=sum(len(task.files) for task in finished),
        ends=len(scenario.tasks),
    )
