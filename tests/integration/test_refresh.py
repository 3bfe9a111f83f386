"""Links that are really dead, and a provider that is asked for others."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import pytest
from pydantic import SecretStr

from pipeline.assets.fetch import Fetcher, FetchRules
from pipeline.assets.local import LocalAssetStore
from pipeline.errors import FetchFailed, Retry
from pipeline.events.catalogue import parse_event
from pipeline.events.publications import asset_requested
from pipeline.ledger import open_ledger
from pipeline.ledger.port import Claim
from pipeline.message import new_message_id
from pipeline.provider.callback import normalise
from pipeline.provider.client import ProviderClient
from pipeline.provider.door import door_of
from pipeline.settings import load_settings
from pipeline.simulator import ProviderOptions, SimulatedProvider, SimulatedSubscriber
from pipeline.simulator.operations import BY_NAME
from pipeline.task import Asset, AssetKey, AssetState, Stage, TaskId, event_id
from pipeline.workers.download import Download
from pipeline.workers.refresh import Refresh
from tests.callbacks import TASK, make_camel_item, make_record_info
from tests.file_server import FileServer, answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from pipeline.ledger.port import Ledger
    from pipeline.message import Envelope
    from pipeline.provider.door import Door
    from pipeline.simulator.doors import Door as DoorName

#: Where recoveries are told of; what counts here is what is asked for.
CALLBACK: Final = "http://127.0.0.1:9/callbacks/recovery"
DETAILS: Final = BY_NAME["generate"].details_path
RECOVERY: Final = BY_NAME["recovery"].submit_path
MINT: Final = "/api/v1/common/download-url"
NAMES: Final[dict[DoorName, str]] = {"S": "sunoapi-org", "K": "kie-ai"}
#: A recovery ends when a test says so.
FAST: Final = ProviderOptions(time_scale=1000, recovery_takes=timedelta(days=9))


class World:
    """A provider, and a worker that fetches its files."""

    def __init__(
        self, provider: SimulatedProvider, ledger: Ledger, download: Download
    ) -> None:
        self.provider = provider
        self.ledger = ledger
        self.download = download
        self.task_id = TaskId("")

    async def finish(self, operation: str = "generate") -> dict[str, Envelope]:
        """Let a task be made and told of; give what is requested, by its path."""
        async with SimulatedSubscriber() as receiver:
            url = receiver.url("any")
            self.task_id = TaskId(await self.provider.submit(url, operation=operation))
            await self.provider.drain()
            body = receiver.requests("any")[-1].body
        update = normalise(body, operation)
        claim = Claim(
            update=update,
            event_id=event_id(update),
            owner=new_message_id(),
            origin="callback",
            received_at=datetime.now(UTC),
        )
        (recorded,) = await self.ledger.record([claim])
        return {
            asset.url.partition("?")[0].removeprefix(self.provider.url): (
                asset_requested(
                    asset,
                    owner=claim.owner,
                    stage=Stage.COMPLETE,
                    source="/pipeline",
                    at=claim.received_at,
                ).envelope
            )
            for asset in recorded.requested
        }

    async def handle(self, envelope: Envelope) -> Sequence[str]:
        """Handle a request; give the types of what is published."""
        published = await self.download.handle(envelope)
        return [parse_event(one.envelope.body).type for one in published]

    async def sources(self) -> list[str]:
        """Give where links came from that were renewed."""
        renewals = await self.ledger.list_renewals(self.task_id)
        return [renewal.source for renewal in renewals]

    async def states(self) -> dict[str, AssetState]:
        """Give what became of the files, by their paths."""
        assets = await self.ledger.list_assets(self.task_id)
        return {f"{a.key.track_id}/{a.key.kind}": a.state for a in assets}


def unhurried(door: Door) -> Door:
    """Let questions follow each other as they come: the simulated clock is fast."""
    limits = door.limits.model_copy(update={"details_per_second": 1000})
    settings = door.settings.model_copy(update={"limits": limits})
    return replace(door, settings=settings)


@asynccontextmanager
async def world(
    folder: Path,
    options: ProviderOptions = FAST,
    *,
    callback_url: str | None = CALLBACK,
) -> AsyncIterator[World]:
    flags = {"provider.door": NAMES[options.door]}
    door = unhurried(door_of(load_settings(environ={}, flags=flags).settings))
    rules = FetchRules(allow_private_addresses=True, read_timeout=timedelta(seconds=5))
    async with (
        SimulatedProvider(options) as provider,
        open_ledger(f"sqlite:///{folder}/ledger.db") as ledger,
        LocalAssetStore(folder / "assets") as store,
        Fetcher(rules) as fetcher,
        ProviderClient(
            provider.url,
            SecretStr("simulated-key"),
            door=door,
            rate_per_second=1000,
            submit_waits=(),
        ) as client,
    ):
        refresh = Refresh(
            client,
            ledger,
            clock=lambda: datetime.now(UTC),
            minted_lifetime=door.lifetimes.minted_links,
            callback_url=callback_url,
        )
        download = Download(
            fetcher,
            store,
            ledger,
            clock=lambda: datetime.now(UTC),
            refresh=refresh.links,
        )
        yield World(provider, ledger, download)


def audio_of(requests: dict[str, Envelope]) -> list[str]:
    """Give the paths of audio files, in the order of their tracks."""
    return [path for path in requests if not path.endswith((".png", ".jpeg"))]


async def test_a_link_that_has_expired_is_renewed_from_the_details(
    tmp_path: Path,
) -> None:
    """It was good when it was sent, and the worker came too late."""
    # A day takes 86 seconds: what is renewed does not expire before it is fetched.
    options = replace(FAST, link_lifetime=timedelta(days=1))
    async with world(tmp_path, options) as here:
        requests = await here.finish()
        here.provider.clock.advance(timedelta(days=1))

        published = [await here.handle(one) for one in requests.values()]

        assert ["asset.stored"] * 4 == [types[0] for types in published]
        assert ["details"] * 4 == await here.sources()
        renewal = (await here.ledger.list_renewals(here.task_id))[0]
        old, new = renewal.old_url, renewal.new_url
        assert old != new
        assert old.partition("?")[0] == new.partition("?")[0]


async def test_files_of_a_task_that_expire_together_cost_one_question(
    tmp_path: Path,
) -> None:
    """Whether their downloads come at the same time or a little later."""
    async with world(tmp_path) as here:
        requests = await here.finish()
        for path in requests:
            here.provider.expire(path)
        first, *others = requests.values()

        published = await asyncio.gather(*(here.handle(one) for one in others))
        published.append(await here.handle(first))

        assert ["asset.stored"] * 4 == [types[0] for types in published]
        assert ["details"] * 4 == await here.sources()
        assert 1 == here.provider.questions(here.task_id)


@pytest.mark.parametrize("status", [403, 404, 410, 441])
async def test_every_answer_that_says_gone_is_a_reason_to_ask(
    tmp_path: Path, status: int
) -> None:
    async with world(tmp_path) as here:
        requests = await here.finish()
        path = audio_of(requests)[0]
        here.provider.expire(path, status=status)

        published = await here.handle(requests[path])

    assert published[0] == "asset.stored"


async def test_an_empty_body_is_a_reason_to_ask(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        requests = await here.finish()
        path = audio_of(requests)[0]
        here.provider.files.fail_next(path, 200)

        published = await here.handle(requests[path])

        assert published[0] == "asset.stored"
        assert ["details"] == await here.sources()


async def test_a_link_is_minted_where_the_details_do_not_help(tmp_path: Path) -> None:
    """It works for 20 minutes, and the ledger knows until when."""
    # They take 12 s on its clock: it is written down before it is fetched.
    async with world(tmp_path, replace(FAST, door="K", time_scale=100)) as here:
        requests = await here.finish()
        path = audio_of(requests)[0]
        here.provider.expire(path)
        here.provider.refuse_next(DETAILS, 422)

        published = await here.handle(requests[path])

        (renewal,) = await here.ledger.list_renewals(here.task_id)
        assert published[0] == "asset.stored"
        assert renewal.source == "minted"
        assert renewal.until is not None
        lives = renewal.until - renewal.renewed_at
        assert abs(lives - timedelta(minutes=20)) < timedelta(seconds=5)


@pytest.mark.parametrize("door", ["S", "K"])
async def test_lost_files_of_a_task_are_recovered_together(
    tmp_path: Path, door: DoorName
) -> None:
    """Asked for once; until it is done, files wait. One of them stays lost."""
    async with world(tmp_path, replace(FAST, door=door)) as here:
        requests = await here.finish()
        first, second = audio_of(requests)
        here.provider.lose(first, recoverable=True)
        here.provider.lose(second, status=410)
        for path in (first, second):
            with pytest.raises(Retry, match="it is being recovered") as caught:
                await here.handle(requests[path])
            assert timedelta(seconds=30) == caught.value.after
        here.provider.finish_recovery(here.task_id)

        published = [
            await here.handle(replace(requests[path], attempt=2))
            for path in (first, second)
        ]

        assert ["asset.stored", "asset.expired"] == [types[0] for types in published]
        assert "recovery" in await here.sources()
        assert here.provider.calls(RECOVERY) == 1


async def test_a_picture_is_not_recovered(tmp_path: Path) -> None:
    """Recovery brings audio alone."""
    async with world(tmp_path) as here:
        requests = await here.finish()
        path = next(path for path in requests if path not in audio_of(requests))
        here.provider.lose(path)

        published = await here.handle(requests[path])

        assert published[0] == "asset.expired"
        assert await here.ledger.find_recovery(here.task_id) is None


async def test_without_a_callback_address_nothing_is_recovered(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, callback_url=None) as here:
        requests = await here.finish()
        path = audio_of(requests)[0]
        here.provider.lose(path, recoverable=True)

        assert "asset.expired" == (await here.handle(requests[path]))[0]


async def test_a_recovery_that_is_refused_is_not_asked_for_again(
    tmp_path: Path,
) -> None:
    """The files of the task are gone, then: one as the other."""
    async with world(tmp_path) as here:
        requests = await here.finish()
        for path in audio_of(requests):
            here.provider.lose(path, recoverable=True)
        here.provider.refuse_next(RECOVERY, 400)

        published = [await here.handle(requests[path]) for path in audio_of(requests)]

        assert ["asset.expired"] * 2 == [types[0] for types in published]
        assert here.provider.calls(RECOVERY) == 1


@pytest.mark.parametrize(("code", "status"), [(455, 200), (401, 401)])
async def test_a_recovery_that_was_not_taken_is_asked_for_the_next_time(
    tmp_path: Path, code: int, status: int
) -> None:
    """The provider is at rest, or takes no key: the file waits meanwhile."""
    async with world(tmp_path) as here:
        requests = await here.finish()
        path = audio_of(requests)[0]
        here.provider.lose(path, recoverable=True)
        here.provider.refuse_next(RECOVERY, code, status=status)
        with pytest.raises(Retry, match=str(code)):
            await here.handle(requests[path])
        with pytest.raises(Retry, match="it is being recovered"):
            await here.handle(replace(requests[path], attempt=2))
        here.provider.finish_recovery(here.task_id)

        published = await here.handle(replace(requests[path], attempt=3))

    assert published[0] == "asset.stored"


async def test_a_file_waits_while_the_provider_does_not_answer(tmp_path: Path) -> None:
    """Nobody knows whether there is a fresh link; a later try finds it."""
    async with world(tmp_path) as here:
        requests = await here.finish()
        path = next(path for path in requests if path not in audio_of(requests))
        here.provider.expire(path)
        here.provider.refuse_next(DETAILS, 500, status=503)
        with pytest.raises(Retry, match="503"):
            await here.handle(requests[path])
        waiting = set((await here.states()).values())

        published = await here.handle(replace(requests[path], attempt=2))

    assert {AssetState.PENDING} == waiting
    assert published[0] == "asset.stored"


@pytest.mark.parametrize("operation", ["wav", "vocal-removal", "music-video"])
async def test_files_of_other_operations_are_renewed_from_their_own_details(
    tmp_path: Path, operation: str
) -> None:
    async with world(tmp_path) as here:
        requests = await here.finish(operation)
        for path in requests:
            here.provider.expire(path.replace("%20", " "))

        published = [await here.handle(one) for one in requests.values()]

        assert {"asset.stored"} == {types[0] for types in published}
        assert {"details"} == set(await here.sources())


@pytest.mark.parametrize("status", ["TEXT_SUCCESS", "FIRST_SUCCESS"])
async def test_a_file_waits_while_the_details_are_behind_its_callback(
    tmp_path: Path, status: str
) -> None:
    """Their word is not the last: the link is missing because nothing is finished."""
    unfinished = make_record_info(
        status, response={"taskId": TASK, "sunoData": [make_camel_item()]}
    )
    key = AssetKey(task_id=TASK, track_id="8551-2", kind="audio")
    asset = Asset(
        key=key,
        operation="generate",
        url="https://a.example/1.mp3",
        state=AssetState.PENDING,
    )
    async with (
        FileServer() as server,
        open_ledger(f"sqlite:///{tmp_path}/ledger.db") as ledger,
        ProviderClient(server.url(""), SecretStr("any")) as client,
    ):
        server.add("/api/v1/generate/record-info", answer(unfinished))
        refresh = Refresh(
            client,
            ledger,
            clock=lambda: datetime.now(UTC),
            minted_lifetime=timedelta(minutes=20),
        )
        with pytest.raises(FetchFailed, match="no further than"):
            await anext(refresh.links(asset, is_gone=True))
