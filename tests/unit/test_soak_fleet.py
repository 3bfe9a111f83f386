"""The processes of a soak: whichever end was not its own doing is noted."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.soak.fleet import Fleet, Member
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def member() -> Iterator[Member]:
    """Give a member that runs for a minute."""
    waiting = [sys.executable, "-c", "import time; time.sleep(60)"]
    with subprocess.Popen(waiting) as process:
        yield Member(
            name="dedupe-1", kind="dedupe", arguments=[], port=1, process=process
        )
        process.kill()


def make_fleet(folder: Path, *members: Member) -> Fleet:
    return Fleet(members, folder, lambda: 0.5)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_signal_that_the_soak_has_not_sent_is_noted(
    tmp_path: Path, member: Member, number: signal.Signals
) -> None:
    fleet = make_fleet(tmp_path, member)
    assert member.process is not None
    member.process.send_signal(number)
    member.process.wait()

    fleet._look(member, {}, 0.0)

    assert [-number] == member.own_ends


def test_a_kill_of_the_soak_itself_is_none(tmp_path: Path, member: Member) -> None:
    fleet = make_fleet(tmp_path, member)
    process = member.process
    assert process is not None

    fleet.kill(member)
    process.wait()
    fleet._look(member, {}, 0.0)

    assert [] == member.own_ends
    assert member.process is None


def test_a_kill_excuses_one_process_and_not_the_next(
    tmp_path: Path, member: Member
) -> None:
    fleet = make_fleet(tmp_path, member)
    assert member.process is not None
    fleet.kill(member)
    member.process.wait()
    fleet._look(member, {}, 0.0)

    fleet._start(member)
    member.process.kill()
    member.process.wait()
    fleet._look(member, {}, 0.0)

    assert [-signal.SIGKILL] == member.own_ends


def test_a_process_that_was_dead_already_was_not_killed_by_the_soak(
    tmp_path: Path, member: Member
) -> None:
    fleet = make_fleet(tmp_path, member)
    assert member.process is not None
    member.process.kill()
    member.process.wait()

    fleet.kill(member)
    fleet._look(member, {}, 0.0)

    assert [-signal.SIGKILL] == member.own_ends


async def test_an_end_in_order_that_nobody_asked_for_is_noted(tmp_path: Path) -> None:
    member = Member(name="one", kind="one", arguments=["--version"], port=1)

    async def has_ended() -> bool:
        return bool(member.own_ends)

    async with make_fleet(tmp_path, member):
        await eventually(has_ended)

    assert 0 == member.own_ends[0]


async def test_an_end_just_before_the_last_stop_is_noted(
    tmp_path: Path, member: Member
) -> None:
    fleet = make_fleet(tmp_path, member)
    fleet._watching = asyncio.create_task(asyncio.sleep(60))
    assert member.process is not None
    member.process.kill()
    member.process.wait()

    await fleet.stop()

    assert [-signal.SIGKILL] == member.own_ends
