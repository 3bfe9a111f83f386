"""Processes that are killed where it hurts most, started again, and the verdict.

Rows of the matrix in ``docs/reliability.md``. Each place is a failpoint, at which the
process dies as by ``kill -9``.
"""

from __future__ import annotations

import asyncio
import os
import random
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import pytest

from pipeline.errors import Reject
from pipeline.failpoints import NAMES
from pipeline.topology import DEDUPE, dead_letter_queue
from tests.factories import make_envelope, make_publication
from tests.tcp_proxy import TcpProxy
from tests.waiting import eventually, receive
from tests.whole_pipeline import (
    HEARD,
    IN_FLIGHT,
    STUDIO,
    good,
    until_dead,
    whole_pipeline,
)

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.broker.port import Broker
    from tests.command_line import Running
    from tests.whole_pipeline import WholePipeline

pytestmark = pytest.mark.slow

#: How many deaths the long form has on each broker; it is left out without.
KILLS: Final = int(os.environ.get("PIPELINE_TEST_KILLS", "0"))
#: The provider of the long form calls no more often: what is left at the end has to be
#: done in the time of one recovery.
PACE_SECONDS: Final = 0.1
WORKERS: Final = ("dedupe", "download", "notify")
#: Places of a callback on its usual way, on every broker.
ON_THE_WAY: Final = tuple(
    name for name in NAMES if name.startswith(("ingress", *WORKERS))
)


@pytest.mark.timeout(400, func_only=True)
async def test_killed_at_every_place_in_turn(broker_url: str, tmp_path: Path) -> None:
    """Each process inherits what the one before it left behind, and dies as well."""
    places = list(ON_THE_WAY)
    if broker_url.startswith("amqp"):
        places.append("rabbitmq.before_ack")
    async with whole_pipeline(broker_url, tmp_path) as pipeline:
        async with asyncio.TaskGroup() as provider:
            for number, place in enumerate(places):
                provider.create_task(pipeline.call(f"task-{number}"))
                async with pipeline.running(failpoints=f"{place}=exit") as run:
                    await until_dead(run)
            pipeline.age_halves()
            await pipeline.finish(len(places))
        verdict = await pipeline.verdict()

    assert good(len(places), repeats=verdict.repeats) == verdict
    assert verdict.repeats <= IN_FLIGHT * len(places)


async def test_error_at_every_place_of_the_workers_is_retried(
    broker_url: str, tmp_path: Path
) -> None:
    """Whatever it is, an attempt is counted, and the next one does the rest."""
    places = [
        name
        for name in ON_THE_WAY
        if name.startswith(WORKERS) and not name.endswith(".before_settle")
    ]
    async with whole_pipeline(broker_url, tmp_path) as pipeline:
        errors = ";".join(f"{place}=raise@1" for place in places)
        async with pipeline.running(failpoints=errors) as run:
            await pipeline.call("task-0")
            await pipeline.until_done()
            code = await asyncio.to_thread(run.stop)
        await pipeline.finish()
        verdict = await pipeline.verdict()
        settled = run.events("delivery_settled")

    assert 0 == code
    assert good(1, repeats=verdict.repeats) == verdict
    assert {"done", "retry"} == {line["outcome"] for line in settled}
    assert run.events("failpoints_armed")


async def test_ingress_dies_before_publish(broker_url: str, tmp_path: Path) -> None:
    """No 200 was given, so the provider calls again: one effect."""
    await _killed_once(broker_url, tmp_path, "ingress.before_publish")


async def test_dies_after_confirm_before_200(broker_url: str, tmp_path: Path) -> None:
    """Two messages say the same; the second one has no effect."""
    await _killed_once(broker_url, tmp_path, "ingress.before_answer")


async def test_killed_between_the_events_and_the_acknowledgement(
    rabbitmq_url: str, tmp_path: Path
) -> None:
    """What follows is published twice, under the same ids."""
    await _killed_once(rabbitmq_url, tmp_path, "rabbitmq.before_ack")


async def test_killed_in_the_middle_of_a_download(
    broker_url: str, tmp_path: Path
) -> None:
    """The half of a file is swept by a later start, and the file is fetched anew."""
    async with whole_pipeline(broker_url, tmp_path) as pipeline:
        async with pipeline.running(failpoints="download.mid_transfer=exit") as run:
            await pipeline.call("task-0")
            await until_dead(run)
        left = len(pipeline.halves())
        pipeline.age_halves()
        await pipeline.finish()
        verdict = await pipeline.verdict()

    assert left > 0
    # A request to the subscriber may have been on its way when all of it died.
    assert good(1, repeats=verdict.repeats) == verdict
    assert verdict.repeats <= IN_FLIGHT


async def test_killed_after_the_asset_was_stored_before_it_was_recorded(
    broker_url: str, tmp_path: Path
) -> None:
    """It is fetched again, and the same hash is success."""
    await _killed_once(broker_url, tmp_path, "download.after_store")


async def test_killed_after_a_notification_was_answered_before_that_was_recorded(
    broker_url: str, tmp_path: Path
) -> None:
    """The second request has the same ``webhook-id``: the receiver drops it."""
    async with whole_pipeline(broker_url, tmp_path) as pipeline:
        async with pipeline.running(failpoints="notify.after_answer=exit") as run:
            await pipeline.call("task-0")
            await until_dead(run)
        pipeline.age_halves()
        await pipeline.finish()
        verdict = await pipeline.verdict()
        ids = [r.webhook_id for r in pipeline.subscriber.requests(STUDIO)]

    assert good(1, repeats=verdict.repeats) == verdict
    assert 1 <= verdict.repeats <= IN_FLIGHT
    assert len(HEARD) == len({*ids})


@pytest.mark.rabbitmq
async def test_dies_after_spool_before_200(rabbitmq_url: str, tmp_path: Path) -> None:
    """The callback is in the spool and comes again: one effect."""
    async with (
        TcpProxy.to(rabbitmq_url) as proxy,
        whole_pipeline(
            rabbitmq_url, tmp_path, address=proxy.url_for(rabbitmq_url)
        ) as pipeline,
    ):
        await proxy.refuse()
        async with asyncio.TaskGroup() as provider:
            provider.create_task(pipeline.call("task-0"))
            async with pipeline.running(failpoints="spool.after_write=exit") as run:
                await until_dead(run)
            async with pipeline.running() as run:
                await eventually(lambda: _has_accepted(pipeline, 1), within=30)
                await proxy.accept()
                await pipeline.until_done()
                code = await asyncio.to_thread(run.stop)
        await pipeline.finish()
        verdict = await pipeline.verdict()

    assert 0 == code
    assert good(1) == verdict


@pytest.mark.rabbitmq
async def test_killed_while_the_spool_is_drained(
    rabbitmq_url: str, tmp_path: Path
) -> None:
    """What was forwarded and not yet removed is forwarded twice: one effect."""
    async with (
        TcpProxy.to(rabbitmq_url) as proxy,
        whole_pipeline(
            rabbitmq_url, tmp_path, address=proxy.url_for(rabbitmq_url)
        ) as pipeline,
    ):
        await proxy.refuse()
        async with pipeline.running(failpoints="forwarder.before_ack=exit") as run:
            for number in range(5):
                await pipeline.call(f"task-{number}")
            await proxy.accept()
            await until_dead(run)
        await pipeline.finish(5)
        verdict = await pipeline.verdict()

    assert good(5) == verdict


async def test_replay_killed_between_publish_and_acknowledgement(
    broker_url: str, tmp_path: Path
) -> None:
    """A copy too many under the same id, perhaps; none is lost."""
    place = "rabbitmq" if broker_url.startswith("amqp") else "dead_letters"
    ids = [f"m{number}" for number in range(30)]
    async with whole_pipeline(broker_url, tmp_path) as pipeline:
        broker = pipeline.broker
        envelopes = [make_envelope(body=b"{}", message_id=name) for name in ids]
        await broker.publish(*map(make_publication, envelopes))
        async with broker.consume(DEDUPE, prefetch=len(ids)) as consumer:
            for delivery in await receive(consumer, len(ids), within=30):
                await delivery.dead_letter(Reject("poison"), at=datetime.now(UTC))
        replay = ("dead-letters", "replay")
        async with pipeline.running(
            *replay, failpoints=f"{place}.before_ack=exit"
        ) as killed:
            await until_dead(killed)
        # What the dead one held is nobody's until its lease has run out.
        await eventually(lambda: _are_dead(broker, len(ids)), within=30)
        async with pipeline.running(*replay) as again:
            code = await asyncio.to_thread(again.process.wait, 30)
        found: set[str] = set()
        async with broker.consume(DEDUPE, prefetch=100) as consumer:
            while len(found) < len(ids):
                (delivery,) = await receive(consumer, 1, within=30)
                found.add(delivery.envelope.message_id)
                await delivery.ack()
        dead = (await broker.depth(dead_letter_queue(DEDUPE))).ready

    assert 0 == code, again.errors.read_text(encoding="utf-8")
    assert ({*ids}, 0) == (found, dead)


@pytest.mark.timeout(3600)
@pytest.mark.skipif(not KILLS, reason="takes long: make kills")
async def test_killed_anywhere_again_and_again(broker_url: str, tmp_path: Path) -> None:
    """Under traffic, each death at a random place and visit, repeatably."""
    chance = random.Random(KILLS)
    places = [*ON_THE_WAY]
    if broker_url.startswith("amqp"):
        places.append("rabbitmq.before_ack")
    async with whole_pipeline(broker_url, tmp_path) as pipeline:
        async with asyncio.TaskGroup() as provider:
            for number in range(KILLS):
                place, visit = chance.choice(places), chance.randrange(1, 6)
                async with pipeline.running(failpoints=f"{place}=exit@{visit}") as run:
                    provider.create_task(_keep_calling(pipeline, number, run))
                    await until_dead(run)
            pipeline.age_halves()
            await pipeline.finish(len(pipeline.called))
        verdict = await pipeline.verdict()

    assert good(len(pipeline.called), repeats=verdict.repeats) == verdict
    assert verdict.repeats <= IN_FLIGHT * KILLS


async def _keep_calling(pipeline: WholePipeline, number: int, run: Running) -> None:
    """Send callbacks until a process is dead; the last one is taken by the next."""
    count = 0
    while run.process.poll() is None:
        await pipeline.call(f"task-{number}-{count}")
        count += 1
        await asyncio.sleep(PACE_SECONDS)


async def _killed_once(broker_url: str, folder: Path, place: str) -> None:
    """Let the first process die at a place, and the second do the work."""
    async with whole_pipeline(broker_url, folder) as pipeline:
        async with asyncio.TaskGroup() as provider:
            provider.create_task(pipeline.call("task-0"))
            async with pipeline.running(failpoints=f"{place}=exit") as run:
                await until_dead(run)
            pipeline.age_halves()
            await pipeline.finish()
        verdict = await pipeline.verdict()

    assert good(1, repeats=verdict.repeats) == verdict
    assert verdict.repeats <= IN_FLIGHT


async def _has_accepted(pipeline: WholePipeline, count: int) -> bool:
    return len(pipeline.accepted) == count


async def _are_dead(broker: Broker, count: int) -> bool:
    return (await broker.depth(dead_letter_queue(DEDUPE))).ready == count
