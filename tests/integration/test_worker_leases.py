"""Handlers that work on the same thing: they wait for each other, and give way."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import apsw
import pytest

from pipeline.assets.fetch import Fetcher, FetchRules
from pipeline.assets.local import LocalAssetStore
from pipeline.errors import LeaseHeld, LedgerUnavailable, Reject, Retry
from pipeline.events.publications import asset_requested, task_event
from pipeline.ledger import open_ledger
from pipeline.subscriptions import Subscription
from pipeline.task import AssetKey, AssetState, Stage, event_id
from pipeline.workers.download import Download
from pipeline.workers.notify import Notify, make_session
from tests.callbacks import TASK, after, make_claim, make_update
from tests.file_server import PNG_HEAD, FileServer, answer, make_mp3
from tests.waiting import eventually, impatient_ledger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from pipeline.ledger.port import Ledger
    from pipeline.message import Envelope
    from tests.file_server import Answer

AUDIO: Final = AssetKey(task_id=TASK, track_id="8551-1", kind="audio")
BODY: Final = make_mp3(5000)
SHORT: Final = timedelta(milliseconds=300)
#: Renewed in time on a machine and a disk that are busy, too.
RENEWED: Final = timedelta(seconds=6)
#: Longer than it would hold by itself.
LONGER_SECONDS: Final = RENEWED.total_seconds() + 0.5


@pytest.fixture
async def server() -> AsyncIterator[FileServer]:
    """A subscriber, and a server of files."""
    async with FileServer() as running:
        yield running


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    """An open ledger in a file of its own."""
    async with open_ledger(f"sqlite:///{tmp_path}/ledger.db") as opened:
        yield opened


@pytest.fixture
async def make_notify(
    ledger: Ledger, server: FileServer
) -> AsyncIterator[Callable[..., Notify]]:
    """Makes handlers, as of one process each."""
    async with make_session() as session:
        subscription = Subscription.model_validate(
            {"name": "shop", "url": server.url("/hook"), "events": ["#"]}
        )

        def make(on: Ledger = ledger, **options: Any) -> Notify:
            return Notify(
                subscription, on, session, clock=lambda: after(100), **options
            )

        yield make


@pytest.fixture
async def make_download(
    ledger: Ledger, tmp_path: Path
) -> AsyncIterator[Callable[..., Download]]:
    """Makes handlers, as of one process each."""
    rules = FetchRules(allow_private_addresses=True)
    async with LocalAssetStore(tmp_path / "assets") as store, Fetcher(rules) as fetcher:

        def make(**options: Any) -> Download:
            return Download(fetcher, store, ledger, clock=lambda: after(60), **options)

        yield make


@pytest.fixture
def event() -> Envelope:
    """An event as dedupe publishes it."""
    update = make_update()
    return task_event(
        update,
        event_id(update),
        late=False,
        origin="callback",
        received_at=after(0),
        source="/pipeline",
        at=after(1),
    ).envelope


async def request(ledger: Ledger, url: str) -> Envelope:
    """Record a complete task with one file and give what dedupe asks for."""
    claim = make_claim(make_update(Stage.COMPLETE, links={"audio": url}))
    (recorded,) = await ledger.record([claim])
    (asset,) = recorded.requested
    return asset_requested(
        asset,
        owner=claim.owner,
        stage=Stage.COMPLETE,
        source="/pipeline",
        at=after(1),
    ).envelope


def gated(how: Answer) -> tuple[Answer, asyncio.Event, asyncio.Event]:
    """Answer once a gate is open; with an event that says that somebody waits."""
    came, gate = asyncio.Event(), asyncio.Event()

    async def write(writer: asyncio.StreamWriter) -> None:
        came.set()
        await gate.wait()
        await how(writer)

    return write, came, gate


async def held_for(handle: Callable[[], Any], *, seconds: float) -> None:
    """Make sure that all that somebody hears for so long is to wait."""
    loop = asyncio.get_running_loop()
    started = loop.time()

    async def is_over() -> bool:
        with pytest.raises(LeaseHeld):
            await handle()
        return loop.time() - started > seconds

    await eventually(is_over)


async def test_an_event_is_not_sent_by_two_at_once_however_long_it_takes(
    make_notify: Callable[..., Notify], event: Envelope, server: FileServer
) -> None:
    """The lease is renewed; whoever waited then sees that it was delivered."""
    how, came, gate = gated(answer())
    server.add("/hook", how)
    first, second = make_notify(lease=RENEWED), make_notify()
    sending = asyncio.create_task(first.handle(event))
    await came.wait()

    await held_for(lambda: second.handle(event), seconds=LONGER_SECONDS)
    gate.set()
    await sending

    assert await second.handle(event) == ()
    assert len(server.requests) == 1


async def test_a_file_is_not_fetched_by_two_at_once_however_long_it_takes(
    make_download: Callable[..., Download], ledger: Ledger, server: FileServer
) -> None:
    how, came, gate = gated(answer(BODY))
    envelope = await request(ledger, server.add("/1.mp3", how))
    first, second = make_download(lease=RENEWED), make_download()
    fetching = asyncio.create_task(first.handle(envelope))
    await came.wait()

    await held_for(lambda: second.handle(envelope), seconds=LONGER_SECONDS)
    gate.set()
    told = await fetching

    again = await second.handle(envelope)
    assert [p.envelope.message_id for p in told] == [
        p.envelope.message_id for p in again
    ]
    assert len(server.requests) == 1


async def test_who_dies_at_work_is_waited_for_no_longer_than_the_lease(
    make_notify: Callable[..., Notify], event: Envelope, server: FileServer
) -> None:
    how, came, _ = gated(answer())
    server.add("/hook", how)
    dying = asyncio.create_task(make_notify(lease=SHORT).handle(event))
    await came.wait()
    dying.cancel()
    await asyncio.wait({dying})
    server.add("/hook", answer())
    heir = make_notify()

    async def is_told() -> bool:
        with contextlib.suppress(LeaseHeld):
            await heir.handle(event)
        return len(server.requests) == 2

    await eventually(is_told)


async def test_a_failed_notification_can_be_retried_by_another_at_once(
    make_notify: Callable[..., Notify], event: Envelope, server: FileServer
) -> None:
    server.add("/hook", answer(status=500))
    with pytest.raises(Retry):
        await make_notify().handle(event)
    server.add("/hook", answer())

    await make_notify().handle(event)

    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("how", "settlement"),
    [(answer(status=503), Retry), (answer(PNG_HEAD + b"\0" * 100), Reject)],
)
async def test_a_failed_fetch_can_be_retried_by_another_at_once(
    make_download: Callable[..., Download],
    ledger: Ledger,
    server: FileServer,
    how: Answer,
    settlement: type[Exception],
) -> None:
    envelope = await request(ledger, server.add("/1.mp3", how))
    with pytest.raises(settlement):
        await make_download().handle(envelope)
    server.add("/1.mp3", answer(BODY))

    await make_download().handle(envelope)

    asset = await ledger.find_asset(AUDIO)
    assert asset is not None
    assert asset.state is AssetState.STORED


@pytest.mark.parametrize("late", [answer(BODY), answer(status=503), answer(status=410)])
async def test_who_was_overtaken_publishes_and_retries_nothing(
    make_download: Callable[..., Download],
    ledger: Ledger,
    server: FileServer,
    late: Answer,
    tmp_path: Path,
) -> None:
    """Whatever came of its fetch: the one that took over sees to it."""
    how, came, gate = gated(late)
    envelope = await request(ledger, server.add("/1.mp3", how))
    overtaken = asyncio.create_task(make_download().handle(envelope))
    await came.wait()
    await overtake(tmp_path / "ledger.db")

    gate.set()

    assert await overtaken == ()
    asset = await ledger.find_asset(AUDIO)
    assert asset is not None
    assert asset.state is AssetState.PENDING


async def overtake(path: Path) -> None:
    """Take a lease over as if it had run out."""
    connection = apsw.Connection(str(path))
    connection.set_busy_timeout(5000)
    connection.execute("UPDATE assets SET lease_token = lease_token + 1")
    connection.close()


async def test_nobody_is_told_while_the_ledger_cannot_be_written(
    make_notify: Callable[..., Notify],
    event: Envelope,
    server: FileServer,
    tmp_path: Path,
) -> None:
    """Others could not see it, and would do it as well."""
    path = tmp_path / "locked.db"
    server.add("/hook", answer())
    async with impatient_ledger(path) as ledger:
        notify = make_notify(ledger)
        other = apsw.Connection(str(path))
        other.set_busy_timeout(20_000)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerUnavailable):
            await notify.handle(event)
        other.close()

        assert server.requests == []
        await notify.handle(event)
        assert len(server.requests) == 1
