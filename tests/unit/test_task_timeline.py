"""What happened to a task, in the order of time, whatever it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from pipeline.cli.task_timeline import (
    is_given_up,
    is_over,
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
from tests.given_up import expect_long_ago, give_up

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
        (90, "poll: complete (new, 1 more said the same)"),
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


async def test_a_task_is_over_when_its_files_are_settled(ledger: Ledger) -> None:
    early = is_over(await document_of(ledger))
    await ledger.settle_asset(KEY, "gone", at=after(120))

    assert not early
    assert is_over(await document_of(ledger))


async def test_a_task_that_was_given_up_is_not_over(tmp_path: Path) -> None:
    async with open_ledger(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        await expect_long_ago(ledger)
        early = is_given_up(await document_of(ledger))
        await give_up(ledger)
        late = await document_of(ledger)

    assert not early
    assert is_given_up(late)
    assert not is_over(late)
    assert "given up at question 1" in [entry.what for entry in timeline(late)]


async def test_a_task_that_nobody_knows_has_no_document(ledger: Ledger) -> None:
    assert await task_document(ledger, TaskId("nobody")) is None
