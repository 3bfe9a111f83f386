"""What happened to a task, in the order of time, whatever it was."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest

from pipeline.cli.task_entries import print_entry
from pipeline.cli.task_timeline import (
    entry_documents,
    task_document,
    timeline,
)
from pipeline.ledger import open_ledger
from pipeline.ledger.expectations import Expectation
from pipeline.ledger.links import Renewal
from pipeline.ledger.port import Attempt, StoredAsset
from pipeline.message import MessageId
from pipeline.task import AssetKey, Stage, TaskId
from pipeline.topology import DOWNLOAD
from tests.callbacks import TASK, after, make_claim, make_update

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import timedelta
    from pathlib import Path

    from pipeline.ledger.port import Ledger

KEY: Final = AssetKey(task_id=TASK, track_id="8551-1", kind="audio")
STORED: Final = StoredAsset(
    sha256="ab" * 32,
    size_bytes=1700,
    content_type="audio/mpeg",
    location="sha256/ab/abab.mp3",
)


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    """A ledger with a task that was submitted and is complete, but for its file."""
    async with open_ledger(f"sqlite:///{tmp_path}/ledger.db") as opened:
        await opened.expect(
            [
                Expectation(
                    task_id=TASK,
                    operation="generate",
                    submitted_at=after(0),
                    due_at=after(600),
                    job_id="order-7",
                )
            ]
        )
        links = {"audio": "https://files.example.com/1.mp3?sig=secret"}
        update = make_update(Stage.COMPLETE, links=links)
        await opened.record([make_claim(update, received_at=after(90), origin="poll")])
        await opened.record([make_claim(update, received_at=after(95))])
        yield opened


async def document_of(ledger: Ledger) -> dict[str, Any]:
    document = await task_document(ledger, TASK)
    assert document is not None
    return document


async def renew(ledger: Ledger, lasts: timedelta) -> None:
    begun = await ledger.begin_asset(KEY, owner="w", lasts=lasts)
    assert begun is not None
    assert begun.lease is not None
    renewal = Renewal(
        key=KEY,
        old_url="https://files.example.com/1.mp3?sig=secret",
        new_url="https://files.example.com/1.mp3?sig=other",
        source="minted",
        renewed_at=after(100),
    )
    await ledger.renew_link(renewal, lease=begun.lease)


async def test_everything_that_happened_stands_in_the_order_of_time(
    ledger: Ledger,
) -> None:
    """From the submission to the dead letter; links without their secrets."""
    await renew(ledger, after(60) - after(0))
    attempt = Attempt(
        queue=DOWNLOAD,
        message_id=MessageId("m"),
        task_id=TASK,
        subject="8551-1/audio",
        number=1,
        outcome="FetchFailed",
        detail="503",
        duration_seconds=0.1,
        finished_at=after(101),
    )
    await ledger.add_attempts([attempt])
    await ledger.settle_asset(KEY, STORED, at=after(120))
    document = await document_of(ledger)
    document["dead_letters"] = [
        {
            "queue": "notify.shop",
            "error_type": "NotificationFailed",
            "error": "500",
            "last_failed_at": after(130),
            "published_at": None,
        }
    ]

    entries = timeline(document)

    assert [
        (0, "submitted as order-7"),
        (90, "poll: complete (new)"),
        (95, "callback: complete again, +5.0 s"),
        (
            100,
            (
                "8551-1/audio has another link, from minted:"
                " files.example.com/1.mp3, was files.example.com/1.mp3"
            ),
        ),
        (101, "download: 8551-1/audio, attempt 1: FetchFailed 503"),
        (120, "8551-1/audio stored: sha256/ab/abab.mp3, 1,700 bytes"),
        (130, "dead letter in notify.shop: NotificationFailed: 500"),
    ] == [((entry.at - after(0)).total_seconds(), entry.what) for entry in entries]


async def test_entries_say_how_they_came_and_how_late(ledger: Ledger) -> None:
    """In figures: an update since the submission, a repeat since what it repeats."""
    document = await document_of(ledger)

    submitted, update, repeat = entry_documents(timeline(document))

    names = ("kind", "origin", "after_seconds", "delay_seconds")
    assert ("submitted", None, 0, None) == tuple(submitted[n] for n in names)
    assert ("update", "poll", 90, 90) == tuple(update[n] for n in names)
    assert ("repeat", "callback", 95, 5) == tuple(repeat[n] for n in names)
    (seen,) = document["updates"]
    assert (90, 5) == (seen["delay_seconds"], seen["repeats"][0]["delay_seconds"])


async def test_of_many_repeats_some_are_named_and_the_others_counted(
    ledger: Ledger,
) -> None:
    links = {"audio": "https://files.example.com/1.mp3?sig=secret"}
    update = make_update(Stage.COMPLETE, links=links)
    await ledger.record(
        [make_claim(update, received_at=after(100 + n)) for n in range(24)]
    )

    entries = timeline(await document_of(ledger))

    repeats = [entry for entry in entries if entry.kind == "repeat"]
    assert 21 == len(repeats)
    assert "complete again, 5 times more since, not shown" == repeats[-1].what


async def test_a_task_that_nobody_submitted_has_no_delays(tmp_path: Path) -> None:
    async with open_ledger(f"sqlite:///{tmp_path}/other.db") as ledger:
        await ledger.record([make_claim(make_update(Stage.TEXT))])
        (entry,) = timeline(await document_of(ledger))

    assert ("callback", None) == (entry.origin, entry.delay_seconds)


async def test_no_line_is_wider_than_a_terminal(
    ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name of a file in the store is in one piece all the same."""
    await renew(ledger, after(60) - after(0))
    location = f"sha256/ab/{'ab' * 32}.mp3"
    await ledger.settle_asset(KEY, replace(STORED, location=location), at=after(120))

    for entry in timeline(await document_of(ledger)):
        print_entry(entry, start=after(0))

    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert any(location in line for line in lines)


async def test_a_task_that_nobody_knows_has_no_document(ledger: Ledger) -> None:
    assert await task_document(ledger, TaskId("nobody")) is None
