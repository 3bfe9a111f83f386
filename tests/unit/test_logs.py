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


class Unspeakable:
    """Cannot be told of."""

    def __str__(self) -> str:
        raise RuntimeError("what nobody has foreseen")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ("\udcff\udcfe", "\\udcff\\udcfe"),
        (2**80, "1208925819614629174706176"),
        (Unspeakable(), "<Unspeakable>"),
        ({"\udcff": ["\udcfe"]}, "{'\\udcff': ['\\udcfe']}"),
        (OSError("\udcff"), "\\udcff"),
    ],
)
def test_what_is_no_json_is_told_in_other_words(
    output: Output, found: object, expected: str
) -> None:
    """Strangers choose what a line tells of, and a line must fail nobody's work."""
    get_logger("test").warning("refused", encoding=found, attempt=1)

    line = json.loads(output.getvalue())
    assert expected == line["encoding"]
    assert ("refused", 1, "warning") == (line["event"], line["attempt"], line["level"])


def test_a_traceback_that_is_no_json_is_told_in_other_words(output: Output) -> None:
    get_logger("test").error("failed", exc_info=OSError("\udcff"))

    line = json.loads(output.getvalue())
    assert "OSError: \\udcff" in line["exception"]
    assert "error" == line["level"]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_is_utf_8_whatever_the_locale(encoding: str) -> None:
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding=encoding)
    configure_logs(form="json", stream=stream)

    get_logger("test").info("accepted", task_id="t任1 🎵")

    assert "t任1 🎵" == json.loads(written.getvalue().decode("utf-8"))["task_id"]


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_text_that_a_terminal_cannot_show_is_escaped(encoding: str) -> None:
    written = io.BytesIO()
    configure_logs(form="text", stream=io.TextIOWrapper(written, encoding=encoding))

    get_logger("test").info("accepted", task_id="t任1", reason="\udcff")

    text = written.getvalue().decode(encoding)
    assert ("t\\u4efb1" if encoding == "ascii" else "t任1") in text
    assert "\\udcff" in text


def test_a_stream_that_is_closed_is_no_failure() -> None:
    stream = io.StringIO()
    configure_logs(form="json", stream=stream)
    stream.close()

    get_logger("test").info("late")
