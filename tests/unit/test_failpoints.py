"""Failpoints: nothing unless a variable asks for it, and then exactly that."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline import failpoints
from pipeline.errors import ConfigurationError
from pipeline.failpoints import NAMES, VARIABLE, FailpointReached, arm, around, reach
from pipeline.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(failpoints.__file__).parent
PLACE = "dedupe.before_record"


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    arm({})


async def test_nothing_happens_where_nothing_is_armed() -> None:
    assert () == arm({})
    for name in NAMES:
        await reach(name)


async def test_error_is_raised_at_its_place_and_at_no_other() -> None:
    armed = arm({VARIABLE: f"{PLACE}=raise"})

    await reach("dedupe.after_record")
    with pytest.raises(FailpointReached, match=PLACE):
        await reach(PLACE)

    assert (PLACE,) == armed == failpoints.armed()


async def test_only_the_visit_that_was_asked_for_counts() -> None:
    arm({VARIABLE: f"{PLACE}=raise@2"})

    await reach(PLACE)
    with pytest.raises(FailpointReached):
        await reach(PLACE)
    await reach(PLACE)


async def test_sleep_takes_its_time() -> None:
    arm({VARIABLE: f"notify.after_answer=raise; {PLACE}=sleep:0.05"})
    began = time.monotonic()

    await reach(PLACE)

    assert time.monotonic() - began >= 0.05


async def test_call_is_itself_unless_a_place_around_it_is_armed() -> None:
    """So that the way of a callback costs nothing more."""

    async def call(number: int) -> int:
        return number

    places = {"before": "ingress.before_publish", "after": "ingress.before_answer"}
    assert around(call, **places) is call

    arm({VARIABLE: "ingress.before_answer=raise@2"})
    surrounded = around(call, **places)
    assert 7 == await surrounded(7)
    with pytest.raises(FailpointReached):
        await surrounded(7)


@pytest.mark.parametrize(
    "text",
    [
        "nowhere=exit",
        f"{PLACE}=explode",
        f"{PLACE}=sleep",
        f"{PLACE}=sleep:-1",
        f"{PLACE}=exit@0",
        PLACE,
    ],
)
def test_what_cannot_be_understood_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match=VARIABLE):
        arm({VARIABLE: text})

    assert () == failpoints.armed()


@pytest.mark.parametrize("key", ["test.failpoints", "failpoints"])
def test_no_file_can_arm_one(tmp_path: Path, key: str) -> None:
    file = tmp_path / "pipeline.toml"
    file.write_text(f'{key} = "{PLACE}=exit"\n', encoding="utf-8")

    with pytest.raises(ConfigurationError, match=r"failpoints|test"):
        load_settings(file=file, environ={})

    assert () == failpoints.armed()


def test_every_place_is_passed_somewhere() -> None:
    """A name that nobody passes would make a test wait in vain."""
    modules = [p for p in PACKAGE.rglob("*.py") if p.name != "failpoints.py"]
    code = "\n".join(path.read_text(encoding="utf-8") for path in modules)

    missing = [
        name
        for name in NAMES
        if f'"{name}"' not in code and not name.endswith(".before_settle")
    ]

    assert [] == missing
