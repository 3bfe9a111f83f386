"""What dedupe says of when to ask for a task, and of ends that were found by asking."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from prometheus_client import REGISTRY

from pipeline.events.catalogue import TaskEvent, parse_event
from pipeline.ledger import open_ledger
from pipeline.message import to_milliseconds
from pipeline.task import Stage
from pipeline.workers.dedupe import Dedupe
from tests.callbacks import TASK, after, make_body, make_record_info
from tests.factories import make_envelope

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from pipeline.ledger.port import Ledger
    from pipeline.message import Envelope, Publication


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    """An open ledger in a file of its own."""
    async with open_ledger(f"sqlite:///{tmp_path}/ledger.db") as opened:
        yield opened


@pytest.fixture
def dedupe(ledger: Ledger) -> Dedupe:
    """A handler with other quiet times for other operations."""

    def quiet(operation: str) -> timedelta:
        return timedelta(minutes=1 if operation == "wav" else 3)

    return Dedupe(ledger, clock=lambda: after(60), quiet=quiet)


def make_callback(
    body: bytes,
    *,
    origin: str = "callback",
    operation: str = "generate",
    seconds: float = 5,
) -> Envelope:
    return make_envelope(
        body=body,
        headers={
            "operation": operation,
            "origin": origin,
            "received-at": to_milliseconds(after(seconds)),
        },
    )


def recovered() -> float:
    labels = {"operation": "generate"}
    return REGISTRY.get_sample_value("pipeline_recovered_total", labels) or 0.0


@pytest.mark.parametrize(
    ("operation", "minutes"), [("generate", 3), ("wav", 1)], ids=["usual", "its own"]
)
async def test_a_task_is_due_when_nothing_was_heard_for_its_quiet_time(
    dedupe: Dedupe, ledger: Ledger, operation: str, minutes: int
) -> None:
    await dedupe.handle([make_callback(make_body("text"), operation=operation)])

    expected = await ledger.find_expected(TASK)
    assert expected is not None
    assert after(5 + 60 * minutes) == expected.due_at


async def test_a_task_whose_end_has_come_is_not_due(
    dedupe: Dedupe, ledger: Ledger
) -> None:
    before = recovered()
    await dedupe.handle([make_callback(make_body("text"))])
    await dedupe.handle([make_callback(make_body("complete"))])

    assert await ledger.until_due() is None
    assert before == recovered()


async def test_news_that_was_asked_for_puts_no_question_off(
    dedupe: Dedupe, ledger: Ledger
) -> None:
    await dedupe.handle([make_callback(make_body("text"))])
    before = await ledger.find_expected(TASK)

    body = make_record_info("FIRST_SUCCESS")
    await dedupe.handle([make_callback(body, origin="poll", seconds=50)])

    task = await ledger.find_task(TASK)
    assert task is not None
    assert Stage.FIRST is task.stage
    assert before == await ledger.find_expected(TASK)


@pytest.mark.parametrize("status", ["SUCCESS", "GENERATE_AUDIO_FAILED"])
async def test_an_end_that_was_found_by_asking_is_counted_and_told(
    dedupe: Dedupe, status: str
) -> None:
    """Once, and not for the stages before it."""
    before = recovered()
    first = make_callback(make_record_info("FIRST_SUCCESS"), origin="poll")
    end = make_callback(make_record_info(status), origin="poll")
    again = make_callback(make_record_info(status), origin="poll")

    _, told, _ = await dedupe.handle([first, end, again])

    assert not isinstance(told, Exception)
    event = parse_event(told[0].envelope.body)
    assert isinstance(event, TaskEvent)
    assert "poll" == event.data.origin
    assert before + 1 == recovered()


async def test_an_end_that_a_callback_has_told_first_is_not_recovered(
    dedupe: Dedupe,
) -> None:
    before = recovered()

    await dedupe.handle(
        [
            make_callback(make_body("complete")),
            make_callback(make_record_info("SUCCESS"), origin="poll"),
        ]
    )

    assert before == recovered()


def types(told: Sequence[Publication] | Exception) -> list[str]:
    assert not isinstance(told, Exception)
    return [one.envelope.routing_key for one in told]


async def test_a_stage_that_no_callback_has_told_of_is_told_as_recovered(
    dedupe: Dedupe,
) -> None:
    """Each such stage, once; and the same again after a crash."""
    first = make_callback(make_record_info("FIRST_SUCCESS"), origin="poll")
    end = make_callback(make_record_info("GENERATE_AUDIO_FAILED"), origin="poll")
    await dedupe.handle([make_callback(make_body("text"))])

    told = await dedupe.handle([first, end])
    again = await dedupe.handle([first, end])

    assert ["task.first", "task.recovered"] == types(told[0])[:2]
    assert ["task.failed", "task.recovered"] == types(told[1])
    assert told == again


async def test_what_a_callback_has_told_first_is_not_recovered_by_other_words(
    dedupe: Dedupe,
) -> None:
    """The same stage with other contents is news, but nothing was lost."""
    polled = make_callback(make_record_info("SUCCESS"), origin="poll")

    _, told = await dedupe.handle([make_callback(make_body("complete")), polled])

    assert "task.recovered" not in types(told)
    assert "task.complete" in types(told)


async def test_a_late_answer_recovers_nothing(dedupe: Dedupe) -> None:
    late = make_callback(make_record_info("FIRST_SUCCESS"), origin="poll")

    _, told = await dedupe.handle([make_callback(make_body("complete")), late])

    assert "task.first" in types(told)
    assert "task.recovered" not in types(told)


async def test_where_no_callback_can_come_nothing_is_recovered(ledger: Ledger) -> None:
    dedupe = Dedupe(ledger, clock=lambda: after(60), polls_alone=True)
    end = make_callback(make_record_info("GENERATE_AUDIO_FAILED"), origin="poll")

    (told,) = await dedupe.handle([end])

    assert ["task.failed"] == types(told)


async def test_a_callback_that_was_a_dead_letter_is_noted_as_replayed(
    dedupe: Dedupe, ledger: Ledger
) -> None:
    """The event still says how it came in the first place."""
    (told,) = await dedupe.handle(
        [replace(make_callback(make_body("text")), replays=1)]
    )

    (seen,) = await ledger.list_updates(TASK)
    assert "replay" == seen.origin
    assert not isinstance(told, Exception)
    event = parse_event(told[0].envelope.body)
    assert isinstance(event, TaskEvent)
    assert "callback" == event.data.origin
