"""Dedupe believes the provider and not the body: ``provider.trust = "verify"``."""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import orjson
import pytest
from pydantic import SecretStr

from pipeline.errors import (
    LedgerUnavailable,
    NotConfirmed,
    Reject,
    Retry,
    TaskNotFound,
)
from pipeline.events.catalogue import AssetRequested, TaskEvent, parse_event
from pipeline.ledger import open_ledger
from pipeline.provider.client import ProviderClient
from pipeline.settings import ProviderSettings
from pipeline.task import Stage
from pipeline.workers.confirm import Confirmation, is_confirmed, turns_within
from pipeline.workers.dedupe import Dedupe
from tests.callbacks import TASK, after, make_body, make_item, make_record_info
from tests.factories import make_envelope
from tests.file_server import FileServer, answer, silent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from pipeline.ledger.port import Ledger
    from pipeline.message import Envelope, Publication

PATH: Final = "/api/v1/generate/record-info"
FORGED: Final = [make_item(1, audio_url="https://evil.example.net/1.mp3")]


@pytest.fixture
async def provider() -> AsyncIterator[FileServer]:
    """The provider's API; it knows one task, which is complete."""
    async with FileServer() as running:
        running.add(PATH, answer(make_record_info()))
        yield running


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    """An open ledger in a file of its own."""
    async with open_ledger(f"sqlite:///{tmp_path}/ledger.db") as opened:
        yield opened


@pytest.fixture
async def dedupe(ledger: Ledger, provider: FileServer) -> AsyncIterator[Dedupe]:
    """The handler under test; nobody waits for the end of its patience."""
    async with confirming(ledger, provider, within=timedelta(seconds=10)) as made:
        yield made


@asynccontextmanager
async def confirming(
    ledger: Ledger, provider: FileServer, *, within: timedelta
) -> AsyncIterator[Dedupe]:
    """Make a handler that waits so long for all answers together."""
    key = SecretStr("key")
    url = provider.url("")
    async with ProviderClient(url, key, rate_per_second=1000) as client:
        confirmation = Confirmation(client, within=within)
        yield Dedupe(ledger, clock=lambda: after(60), confirmation=confirmation)


def make_callback(body: bytes, **headers: str) -> Envelope:
    given = {"operation": "upload-extend", "origin": "callback"}
    return make_envelope(body=body, headers=given | headers)


async def confirmed(dedupe: Dedupe, *bodies: bytes) -> list[list[Publication]]:
    """Handle callbacks of which none may fail."""
    results = await dedupe.handle([make_callback(body) for body in bodies])
    assert not [result for result in results if isinstance(result, Exception)]
    return [list(result) for result in results if not isinstance(result, Exception)]


async def refused(dedupe: Dedupe, body: bytes) -> Exception:
    """Handle a callback that must fail."""
    (result,) = await dedupe.handle([make_callback(body)])
    assert isinstance(result, Exception)
    return result


def told(publications: Sequence[Publication]) -> TaskEvent:
    event = parse_event(publications[0].envelope.body)
    assert isinstance(event, TaskEvent)
    return event


def links(publications: Sequence[Publication]) -> list[str]:
    events = [parse_event(one.envelope.body) for one in publications]
    return [e.data.url for e in events if isinstance(e, AssetRequested)]


async def test_genuine_callback_has_the_same_effect_as_without_asking(
    dedupe: Dedupe, ledger: Ledger
) -> None:
    body = make_body(items=[make_item(1)])

    (asked,) = await confirmed(dedupe, body)

    # Without asking, the same callback is a repeat of it.
    plain = Dedupe(ledger, clock=lambda: after(61))
    assert [[]] == await confirmed(plain, body)
    assert ("task.complete", False) == (told(asked).type, told(asked).data.late)
    assert [make_item(1)["audio_url"], make_item(1)["image_url"]] == links(asked)


async def test_forged_links_are_replaced_by_those_of_the_provider(
    dedupe: Dedupe, ledger: Ledger
) -> None:
    (published,) = await confirmed(dedupe, make_body(items=FORGED))

    assert make_item(1)["audio_url"] in links(published)
    assert "evil" not in str([one.envelope.body for one in published])
    known = [*await ledger.list_assets(TASK), await ledger.find_task(TASK)]
    assert "evil" not in repr(known)
    (update,) = await ledger.list_updates(TASK)
    assert b"evil" not in (await ledger.find_body(TASK, update.event_id) or b"")


async def test_forged_links_do_not_reach_pending_files_through_a_repeat(
    dedupe: Dedupe, ledger: Ledger
) -> None:
    """A duplicate refreshes links; a forged one must not."""
    await confirmed(dedupe, make_body(items=[make_item(1)]))

    assert [[]] == await confirmed(dedupe, make_body(items=FORGED))

    assert "evil" not in repr(await ledger.list_assets(TASK))


async def test_forged_failure_of_a_finished_task_waits_and_says_why(
    dedupe: Dedupe, ledger: Ledger
) -> None:
    error = await refused(dedupe, make_body("error", code=500, items=[]))

    assert isinstance(error, Retry)
    assert isinstance(error.__cause__, NotConfirmed)
    assert "the callback says failed, the provider says complete" in str(error)
    assert await ledger.find_task(TASK) is None


async def test_failure_is_told_in_the_words_of_the_provider(
    dedupe: Dedupe, provider: FileServer
) -> None:
    failed = make_record_info(
        "SENSITIVE_WORD_ERROR", response=None, errorCode=400, errorMessage="Not nice"
    )
    provider.add(PATH, answer(failed))

    (published,) = await confirmed(dedupe, make_body("error", code=531, items=[]))

    event = told(published)
    assert ("task.failed", 400, "Not nice") == (
        event.type,
        event.data.code,
        event.data.message,
    )


@pytest.mark.parametrize(
    ("status", "stage"), [("PENDING", "unknown"), ("TEXT_SUCCESS", "text")]
)
async def test_complete_waits_while_the_provider_is_behind(
    status: str, stage: str, dedupe: Dedupe, provider: FileServer
) -> None:
    provider.add(PATH, answer(make_record_info(status, response=None)))
    body = make_body()

    error = await refused(dedupe, body)
    provider.add(PATH, answer(make_record_info()))
    (published,) = await confirmed(dedupe, body)

    assert isinstance(error.__cause__, NotConfirmed)
    assert f"the callback says complete, the provider says {stage}" in str(error)
    assert "task.complete" == told(published).type


async def test_stage_that_the_task_has_passed_brings_the_present_one(
    dedupe: Dedupe,
) -> None:
    """What comes is one event, whichever callback was first."""
    first, complete = await confirmed(
        dedupe, make_body("first", items=FORGED), make_body(items=FORGED)
    )

    assert "task.complete" == told(first).type
    assert [] == complete


async def test_text_and_unknown_are_not_believed_either(
    dedupe: Dedupe, provider: FileServer, ledger: Ledger
) -> None:
    provider.add(PATH, answer(make_record_info("PENDING", response=None)))

    error = await refused(dedupe, make_body("text", items=FORGED))
    (published,) = await confirmed(dedupe, make_body("evil-stage", items=FORGED))

    assert isinstance(error.__cause__, NotConfirmed)
    assert "task.unknown" == told(published).type
    assert "evil" not in str(published[0].envelope.body)
    assert "evil" not in repr(await ledger.find_task(TASK))


@pytest.mark.parametrize("code", [400, 422])
async def test_forged_task_is_refused(
    code: int, dedupe: Dedupe, provider: FileServer, ledger: Ledger
) -> None:
    body = orjson.dumps({"code": code, "msg": "The record does not exist"})
    provider.add(PATH, answer(body))

    error = await refused(dedupe, make_body(task_id="made-up"))

    assert isinstance(error, Reject)
    assert isinstance(error.__cause__, TaskNotFound)
    assert 0 == (await ledger.totals()).tasks


async def test_answer_about_another_task_confirms_nothing(
    dedupe: Dedupe, ledger: Ledger
) -> None:
    error = await refused(dedupe, make_body(task_id="another"))

    assert isinstance(error, Retry)
    assert f"expected the task another, got {TASK}" in str(error)
    assert 0 == (await ledger.totals()).tasks


async def test_operation_is_the_one_that_the_provider_names(dedupe: Dedupe) -> None:
    """Or one task could be told of under every operation there is."""
    body = make_body()
    forged = make_callback(body, operation="extend")

    results = await dedupe.handle([make_callback(body), forged])

    assert [3, 0] == [len(one) for one in results if not isinstance(one, Exception)]


@pytest.mark.parametrize(
    "how", [answer(status=503, headers={"Retry-After": "40"}), silent()]
)
async def test_silence_of_the_provider_costs_an_attempt_and_no_neighbour(
    how: Any, ledger: Ledger, provider: FileServer
) -> None:
    provider.add(PATH, how)
    good = make_callback(make_body(), origin="poll")

    async with confirming(ledger, provider, within=timedelta(seconds=1)) as dedupe:
        asked, unasked = await dedupe.handle([make_callback(make_body()), good])

    assert isinstance(asked, Retry)
    assert asked.after in (timedelta(seconds=40), None)
    assert "ProviderUnavailable" in str(asked)
    assert not isinstance(unasked, Exception)
    assert "task.complete" == told(unasked).type


async def test_unreadable_body_is_not_asked_about(
    dedupe: Dedupe, provider: FileServer
) -> None:
    error = await refused(dedupe, b"[")

    assert isinstance(error, Reject)
    assert [] == provider.requests


async def test_one_question_serves_all_callbacks_of_a_task_in_a_batch(
    dedupe: Dedupe, provider: FileServer
) -> None:
    """And none of the next batch: what the provider says may have changed."""
    body = make_body()

    await confirmed(dedupe, body, make_body("first"), body)
    await confirmed(dedupe, body)

    assert 2 == len(provider.requests)


async def test_whoever_has_no_turn_to_ask_waits_for_the_ledger(
    ledger: Ledger, provider: FileServer, tmp_path: Path
) -> None:
    """No callback loses an attempt for that: the worker keeps them meanwhile."""
    away = open_ledger(f"sqlite:///{tmp_path}/away.db")
    async with away:
        """Closed again: then it is not available."""
    key = SecretStr("key")
    async with ProviderClient(provider.url(""), key, turns=away) as client:
        confirmation = Confirmation(client, within=timedelta(seconds=10))
        dedupe = Dedupe(ledger, clock=lambda: after(60), confirmation=confirmation)

        with pytest.raises(LedgerUnavailable):
            await dedupe.handle([make_callback(make_body()) for _ in range(2)])

    assert [] == provider.requests


def test_batch_is_no_larger_than_can_be_asked_about_in_time() -> None:
    within = timedelta(seconds=15)

    def turns(*, rate: float, concurrency: int = 8) -> int:
        given = {"timeout": "5s", "concurrency": concurrency}
        provider = ProviderSettings.model_validate(given)
        return turns_within(within, provider, rate_per_second=rate, batches=2)

    assert 9 == turns(rate=10, concurrency=100)
    assert 1 == turns(rate=0.01)
    # Three rounds of answers that take as long as they may.
    assert 6 == turns(rate=10, concurrency=4)


@pytest.mark.parametrize(
    ("claimed", "said", "expected"),
    [
        (Stage.TEXT, Stage.TEXT, True),
        (Stage.TEXT, Stage.FAILED, True),
        (Stage.FIRST, Stage.TEXT, False),
        (Stage.FIRST, Stage.COMPLETE, True),
        (Stage.COMPLETE, Stage.FIRST, False),
        (Stage.COMPLETE, Stage.FAILED, False),
        (Stage.FAILED, Stage.COMPLETE, False),
        (Stage.FAILED, Stage.FAILED, True),
        (Stage.FAILED, Stage.UNKNOWN, False),
        (Stage.UNKNOWN, Stage.UNKNOWN, True),
    ],
)
def test_stages_that_bear_each_other_out(
    claimed: Stage,
    said: Stage,
    *,
    expected: bool,
) -> None:
    assert expected is is_confirmed(claimed, said)
