"""What a dead-letter queue promises: it keeps messages until somebody decides."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from pipeline.errors import FetchFailed, Unreadable
from pipeline.topology import DEDUPE, DOWNLOAD, WORK, dead_letter_queue, replay
from tests.factories import (
    SHORT_DELAY,
    make_envelope,
    make_publication,
    make_publications,
)
from tests.waiting import receive, receive_one

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pipeline.broker.port import Broker

    OpenAgain = Callable[[], Awaitable[Broker]]

AT = datetime(2026, 11, 2, 12, 0, tzinfo=UTC)
DEAD_DEDUPE = dead_letter_queue(DEDUPE)


async def dead_letter_all(broker: Broker, count: int) -> None:
    """Publish ``count`` messages and dead-letter them, in their order."""
    await broker.publish(*make_publications(count))
    async with broker.consume(DEDUPE, prefetch=count) as consumer:
        for delivery in await receive(consumer, count):
            await delivery.dead_letter(Unreadable("no task id"), at=AT)


async def test_dead_letter_says_what_went_wrong(broker: Broker) -> None:
    """Error type and text, attempts, times and origin arrive with the message."""
    envelope = make_envelope(headers={"operation": "generate"})
    await broker.publish(make_publication(envelope))
    later = AT + timedelta(minutes=5)
    async with broker.consume(DEDUPE, prefetch=1) as consumer:
        first = await receive_one(consumer)
        await first.retry(SHORT_DELAY, FetchFailed("503"), at=AT)
        second = await receive_one(consumer)

        await second.dead_letter(Unreadable("no task id: «ü»"), at=later)

    async with broker.consume(DEAD_DEDUPE, prefetch=1) as consumer:
        letter = (await receive_one(consumer)).envelope
    assert envelope.body == letter.body
    assert envelope.message_id == letter.message_id
    assert envelope.routing_key == letter.routing_key
    assert envelope.headers == letter.headers
    assert 2 == letter.attempt
    assert letter.failure is not None
    assert (DEDUPE, "Unreadable", "no task id: «ü»", AT, later) == (
        letter.failure.queue,
        letter.failure.error_type,
        letter.failure.error_text,
        letter.failure.first_failed_at,
        letter.failure.last_failed_at,
    )


async def test_very_long_error_text_is_cut_and_arrives(broker: Broker) -> None:
    """A stack trace in an error must not keep its message from being kept."""
    await broker.publish(make_publication())
    async with broker.consume(DEDUPE, prefetch=1) as consumer:
        delivery = await receive_one(consumer)
        await delivery.dead_letter(Unreadable("ü" * 200_000), at=AT)

    async with broker.consume(DEAD_DEDUPE, prefetch=1) as consumer:
        failure = (await receive_one(consumer)).envelope.failure

    assert failure is not None
    assert 0 < len(failure.error_text) <= 1000


async def test_undecodable_bytes_can_be_dead_lettered(broker: Broker) -> None:
    """A body is never looked into on its way."""
    body = b"\xff\xfe\x00 no text"
    await broker.publish(make_publication(make_envelope(body=body)))
    async with broker.consume(DEDUPE, prefetch=1) as consumer:
        delivery = await receive_one(consumer)
        await delivery.dead_letter(Unreadable("no JSON"), at=AT)

    async with broker.consume(DEAD_DEDUPE, prefetch=1) as consumer:
        letter = await receive_one(consumer)

    assert body == letter.envelope.body


async def test_dead_letter_stays_until_replayed(
    broker: Broker, open_again: OpenAgain
) -> None:
    """Closing and reopening do not change it, and no delay takes it away."""
    await dead_letter_all(broker, 1)
    await broker.__aexit__(None, None, None)

    other = await open_again()

    assert 1 == (await other.depth(DEAD_DEDUPE)).ready
    assert 0 == (await other.depth(DEDUPE)).ready


async def test_fifty_browses_lose_nothing(broker: Broker) -> None:
    """Looking at dead letters is no delivery attempt, however often."""
    await dead_letter_all(broker, 3)

    for _ in range(50):
        async with broker.consume(DEAD_DEDUPE, prefetch=3) as consumer:
            letters = await receive(consumer, 3)
            for letter in reversed(letters):
                await letter.release()

    async with broker.consume(DEAD_DEDUPE, prefetch=3) as consumer:
        bodies = {d.envelope.body for d in await receive(consumer, 3)}
    assert {b"0", b"1", b"2"} == bodies


async def test_replay_returns_to_its_own_queue_only(broker: Broker) -> None:
    """It starts again at attempt 1, without the failure, and counts the replay."""
    envelope = make_envelope(attempt=5)
    await broker.publish(make_publication(envelope, exchange=WORK, key=DOWNLOAD))
    async with broker.consume(DOWNLOAD, prefetch=1) as consumer:
        delivery = await receive_one(consumer)
        await delivery.dead_letter(FetchFailed("503"), at=AT)
    async with broker.consume(dead_letter_queue(DOWNLOAD), prefetch=1) as consumer:
        letter = await receive_one(consumer)

        await letter.ack(replay(DOWNLOAD, letter.envelope))

    assert 0 == (await broker.depth(dead_letter_queue(DOWNLOAD))).ready
    assert 0 == (await broker.depth(DEDUPE)).ready
    async with broker.consume(DOWNLOAD, prefetch=1) as consumer:
        again = (await receive_one(consumer)).envelope
    assert envelope.message_id == again.message_id
    assert envelope.routing_key == again.routing_key
    assert (1, 1, None) == (again.attempt, again.replays, again.failure)


async def test_replay_that_is_broken_off_loses_nothing(
    broker: Broker, open_again: OpenAgain
) -> None:
    """A message is in the queue or in the dead letters, or in both; never gone."""
    await dead_letter_all(broker, 20)
    breaking = await open_again()
    async with breaking.consume(DEAD_DEDUPE, prefetch=20) as consumer:
        letters = await receive(consumer, 20)
        for letter in letters[:7]:
            await letter.ack(replay(DEDUPE, letter.envelope))
        # Published, and then the process ends before it can acknowledge.
        await breaking.publish(replay(DEDUPE, letters[7].envelope))
        await breaking.__aexit__(None, None, None)

    bodies: list[bytes] = []
    async with broker.consume(DEAD_DEDUPE, prefetch=20) as consumer:
        bodies += [d.envelope.body for d in await receive(consumer, 13)]
    async with broker.consume(DEDUPE, prefetch=20) as consumer:
        bodies += [d.envelope.body for d in await receive(consumer, 8)]

    assert {str(number).encode() for number in range(20)} == set(bodies)
    assert 1 == len(bodies) - len(set(bodies))
