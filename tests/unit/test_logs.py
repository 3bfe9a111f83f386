"""Lines of the log: sent together where they come together, lost with their reader."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
from typing import TYPE_CHECKING

import pytest
import structlog

from pipeline.logs import configure_logs, get_logger

if TYPE_CHECKING:
    from collections.abc import Iterator


class Output(io.StringIO):
    """Notes what had been written at each flush: a system call, on a real one."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[list[str]] = []
        self._before = 0

    def flush(self) -> None:
        text = self.getvalue()
        events = [json.loads(line)["event"] for line in text.splitlines()]
        self.sent.append(events[self._before :])
        self._before = len(events)


@pytest.fixture(autouse=True)
def configured() -> Iterator[None]:
    """Leave logs as they were."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], level = before
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def output() -> Output:
    """An output that logs are sent to as JSON."""
    made = Output()
    configure_logs(form="json", stream=made)
    return made


@pytest.fixture
def nobody() -> Iterator[io.TextIOWrapper]:
    """A pipe whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w", encoding="utf-8")
    yield stream
    with pytest.raises(BrokenPipeError):
        stream.close()


def test_outside_of_a_loop_each_line_is_sent_at_once(output: Output) -> None:
    log = get_logger("test")

    log.info("one")
    log.info("two")

    assert [["one"], ["two"]] == output.sent


async def test_lines_of_one_turn_of_the_loop_are_sent_together(output: Output) -> None:
    log = get_logger("test")

    log.info("one")
    logging.getLogger("library").warning("two")
    before = [*output.sent]
    await asyncio.sleep(0)

    assert [] == before
    assert [["one", "two"]] == output.sent


async def test_the_next_turn_is_sent_as_well(output: Output) -> None:
    log = get_logger("test")

    for event in ("one", "two"):
        log.info(event)
        await asyncio.sleep(0)

    assert [["one"], ["two"]] == output.sent


def test_a_second_loop_sends_what_it_logs(output: Output) -> None:
    """Also what the first one had no more turn to send."""
    log = get_logger("test")

    async def log_once(event: str) -> None:
        log.info(event)
        await asyncio.sleep(0)

    first = asyncio.new_event_loop()
    first.call_soon(log.info, "left")
    first.call_soon(first.stop)
    first.run_forever()
    first.close()
    asyncio.run(log_once("one"))
    asyncio.run(log_once("two"))

    assert [["left", "one"], ["two"]] == output.sent


def test_a_line_that_nobody_reads_is_no_failure(nobody: io.TextIOWrapper) -> None:
    """Of whoever logged it, and not when it is too long to wait for the flush."""
    configure_logs(form="json", stream=nobody)
    log = get_logger("test")

    log.info("short")
    log.info("long", text="x" * 100_000)
    logging.getLogger("library").warning("of a library")


async def test_a_turn_whose_lines_nobody_reads_is_no_failure(
    nobody: io.TextIOWrapper,
) -> None:
    configure_logs(form="json", stream=nobody)
    complaints: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, c: complaints.append(c))

    get_logger("test").info("short")
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert [] == complaints
