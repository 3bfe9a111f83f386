"""Listings whose reader does not read on, such as a pager at its first page."""

from __future__ import annotations

import asyncio
import json
import os
import select
import sys
from contextlib import aclosing, contextmanager, redirect_stdout
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from pipeline.broker.sqlite import SqliteBroker
from pipeline.cli import letters, render
from pipeline.dead_letters import DeadLetter, Selection, browse
from pipeline.dead_letters.walk import PAGE
from pipeline.errors import Reject
from pipeline.message import failed
from pipeline.topology import DOWNLOAD, dead_letter, dead_letter_queue
from tests.factories import make_envelope, make_topology
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

#: Over a page, and far more than a pipe takes.
COUNT = PAGE + 300
#: More than it takes to make a file on a disk that others keep busy.
DEADLINE = timedelta(seconds=25)
LEASE = timedelta(seconds=0.6)
DEAD = dead_letter_queue(DOWNLOAD)
NOW = datetime(2026, 11, 2, 12, 0, tzinfo=UTC)


@contextmanager
def piped() -> Iterator[int]:
    """Make standard output a pipe; gives the other end."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w", encoding="utf-8") as stream, redirect_stdout(stream):
        try:
            yield reading
        finally:
            os.close(reading)  # nobody waits for the reader any more


def read_all(pipe: int) -> str:
    """Read until nobody writes any more."""
    with os.fdopen(os.dup(pipe), encoding="utf-8") as stream:
        return stream.read()


async def bury(broker: SqliteBroker) -> None:
    error = Reject("é" * 300)
    await broker.publish(
        *(
            dead_letter(
                DOWNLOAD,
                failed(
                    make_envelope(message_id=f"m{n}"),
                    queue=DOWNLOAD,
                    error=error,
                    at=NOW,
                ),
            )
            for n in range(COUNT)
        )
    )


async def is_full() -> bool:
    """Tell whether standard output takes no more."""
    return not select.select([], [sys.stdout], [], 0)[1]


async def ends_of_leases(broker: SqliteBroker) -> list[int]:
    """Give when the lease of each consumer of the file ends, as it is now."""
    return await broker._session.read(
        lambda connection: [
            end for (end,) in connection.execute("SELECT expires_at FROM consumers")
        ]
    )


async def print_all(found: AsyncIterator[DeadLetter], form: str) -> int:
    if form == "json":
        return await render.print_json_list(
            letters.as_document(letter) async for letter in found
        )
    return await render.print_table(
        letters.COLUMNS, (letters.as_row(letter) async for letter in found)
    )


def ids_in(text: str, form: str) -> list[str]:
    if form == "json":
        return [document["message_id"] for document in json.loads(text)]
    return [line.split()[1] for line in text.splitlines()[1:]]


@pytest.mark.parametrize("form", ["table", "json"])
async def test_who_waits_for_a_pager_keeps_its_lease_and_shows_each_once(
    tmp_path: Path, form: str
) -> None:
    """Another process would free what is held when nobody renews the lease."""
    path = tmp_path / "broker.db"
    topology = make_topology()
    async with (
        SqliteBroker(path, deadline=DEADLINE, lease=LEASE) as broker,
        SqliteBroker(path, deadline=DEADLINE, lease=LEASE) as other,
    ):
        await broker.declare(topology)
        await other.declare(topology)
        await bury(broker)

        async def look() -> int:
            async with aclosing(browse(broker, [DOWNLOAD], Selection())) as found:
                return await print_all(found, form)

        with piped() as pipe:
            looking = asyncio.create_task(look())
            await eventually(is_full)
            (first,) = await ends_of_leases(other)

            async def is_kept_for_two_leases() -> bool:
                # Asks for the renewals alone: on a busy machine they may be late, so
                # nobody here frees what has lapsed.
                (end,) = await ends_of_leases(other)
                return end - first > 2 * LEASE.total_seconds() * 1000

            await eventually(is_kept_for_two_leases)
            assert not looking.done()
            reading = asyncio.create_task(asyncio.to_thread(read_all, pipe))
            assert COUNT == await looking
            sys.stdout.close()  # the reader comes to the end
            text = await reading

    assert [f"m{n}" for n in range(COUNT)] == ids_in(text, form)


async def test_listing_to_a_full_pipe_can_be_cancelled(tmp_path: Path) -> None:
    """It gives back what it holds, although nobody reads on."""
    async with SqliteBroker(tmp_path / "broker.db", deadline=DEADLINE) as broker:
        await broker.declare(make_topology())
        await bury(broker)

        async def look() -> None:
            async with aclosing(browse(broker, [DOWNLOAD], Selection())) as found:
                await print_all(found, "table")

        with piped() as pipe:
            looking = asyncio.create_task(look())

            await eventually(is_full)
            looking.cancel()
            await asyncio.wait((looking,))

            depth = await broker.depth(DEAD)
            assert (COUNT, 0) == (depth.ready, depth.held)
            assert os.read(pipe, 100)
