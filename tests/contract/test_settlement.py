"""What settling a delivery promises: once, and publish before acknowledge."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from pipeline.errors import AlreadySettled, DeliveryLost, Unroutable
from pipeline.topology import (
    DEDUPE,
    DELIVERY_LIMIT,
    DOWNLOAD,
    WORK,
    dead_letter_queue,
    hand_to,
)
from tests.factories import (
    SHORT_DELAY,
    make_envelope,
    make_publication,
    make_publications,
)
from tests.waiting import eventually, receive, receive_nothing, receive_one

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pipeline.broker.port import Broker

    OpenAgain = Callable[[], Awaitable[Broker]]


async def test_ack_removes_the_message(broker: Broker, open_again: OpenAgain) -> None:
    """What was acknowledged never comes again."""
    await broker.publish(make_publication())
    async with broker.consume(DEDUPE, prefetch=1) as consumer:
        await (await receive_one(consumer)).ack()

    other = await open_again()

    async with other.consume(DEDUPE, prefetch=1) as consumer:
        assert await receive_nothing(consumer, seconds=0.3)


@pytest.mark.parametrize("first", ["ack", "release"])
@pytest.mark.parametrize("second", ["ack", "release"])
async def test_second_settlement_raises(
    broker: Broker, first: str, second: str
) -> None:
    """Settling twice is an error in the program and is said to be one."""
    await broker.publish(make_publication())
    async with broker.consume(DEDUPE, prefetch=1) as consumer:
        delivery = await receive_one(consumer)
        await getattr(delivery, first)()

        with pytest.raises(AlreadySettled):
            await getattr(delivery, second)()


async def test_ack_of_many_with_a_settled_one_does_nothing(broker: Broker) -> None:
    """``AlreadySettled`` comes before anything is published or acknowledged."""
    await broker.publish(*make_publications(2))
    async with broker.consume(DEDUPE, prefetch=2) as consumer:
        settled, open_one = await receive(consumer, 2)
        await settled.ack()

        with pytest.raises(AlreadySettled):
            await consumer.ack(
                (open_one, settled), (hand_to(DOWNLOAD, make_envelope()),)
            )

        assert 0 == (await broker.depth(DOWNLOAD)).ready
        await open_one.ack()


async def test_unsettled_comes_back_as_redelivered_after_close(
    broker: Broker, open_again: OpenAgain
) -> None:
    """Closing gives back at once, and the next consumer is told."""
    publication = make_publication()
    await broker.publish(publication)
    consumer = broker.consume(DEDUPE, prefetch=1)
    await consumer.__aenter__()
    first = await receive_one(consumer)
    await broker.__aexit__(None, None, None)

    other = await open_again()

    async with other.consume(DEDUPE, prefetch=1) as again:
        second = await receive_one(again)
    assert not first.redelivered
    assert second.redelivered
    assert publication.envelope == second.envelope


async def test_release_leaves_the_attempt_unchanged(broker: Broker) -> None:
    """Giving back is no retry."""
    publication = make_publication(make_envelope(attempt=4))
    await broker.publish(publication)
    async with broker.consume(DEDUPE, prefetch=1) as consumer:
        await (await receive_one(consumer)).release()

        again = await receive_one(consumer)

        assert publication.envelope == again.envelope
        assert again.redelivered


async def test_released_message_returns_to_its_old_place(broker: Broker) -> None:
    """A released message goes before those that were published after it."""
    publications = make_publications(3)
    await broker.publish(*publications)
    async with broker.consume(DEDUPE, prefetch=1) as consumer:
        await (await receive_one(consumer)).release()

        bodies: list[bytes] = []
        for _ in range(3):
            delivery = await receive_one(consumer)
            bodies.append(delivery.envelope.body)
            await delivery.ack()

    assert [b"0", b"1", b"2"] == bodies


async def test_ack_hands_on(broker: Broker) -> None:
    """What is published with an ack is there as soon as the ack returns."""
    await broker.publish(make_publication())
    onward = [hand_to(DOWNLOAD, make_envelope(body=b"%d" % n)) for n in range(3)]
    async with broker.consume(DEDUPE, prefetch=1) as consumer:
        delivery = await receive_one(consumer)

        await delivery.ack(*onward)

        assert 0 == (await broker.depth(DEDUPE)).unacked
    async with broker.consume(DOWNLOAD, prefetch=3) as consumer:
        bodies = [d.envelope.body for d in await receive(consumer, 3)]
    assert [b"0", b"1", b"2"] == bodies


async def test_failed_publish_leaves_the_delivery_unsettled(broker: Broker) -> None:
    """If handing on fails, the input is neither acknowledged nor lost."""
    await broker.publish(make_publication())
    nowhere = make_publication(exchange=WORK, key="nowhere")
    async with broker.consume(DEDUPE, prefetch=1) as consumer:
        delivery = await receive_one(consumer)

        with pytest.raises(Unroutable):
            await delivery.ack(nowhere)

        assert 1 == (await broker.depth(DEDUPE)).unacked
        await delivery.ack()
        assert await receive_nothing(consumer, seconds=0.2)


async def test_many_are_acknowledged_at_once(
    broker: Broker, open_again: OpenAgain
) -> None:
    """One call settles a batch and publishes what comes of it."""
    await broker.publish(*make_publications(50))
    onward = [hand_to(DOWNLOAD, make_envelope(body=b"%d" % n)) for n in range(50)]
    async with broker.consume(DEDUPE, prefetch=50) as consumer:
        deliveries = await receive(consumer, 50)

        await consumer.ack(deliveries[:40], onward)

        assert 10 == (await broker.depth(DEDUPE)).unacked

    async def all_given_back() -> bool:
        return (await broker.depth(DEDUPE)).ready == 10

    await eventually(all_given_back)
    other = await open_again()
    async with other.consume(DEDUPE, prefetch=50) as consumer:
        left = {d.envelope.body for d in await receive(consumer, 10)}
    assert {b"%d" % n for n in range(40, 50)} == left
    assert 50 == (await broker.depth(DOWNLOAD)).ready


async def test_acks_out_of_order_settle_the_right_messages(
    broker: Broker, open_again: OpenAgain
) -> None:
    """Only what was named is acknowledged, wherever it stands in the queue."""
    await broker.publish(*make_publications(6))
    async with broker.consume(DEDUPE, prefetch=6) as consumer:
        deliveries = await receive(consumer, 6)
        await deliveries[5].ack()
        await consumer.ack((deliveries[3], deliveries[1]))

    other = await open_again()
    async with other.consume(DEDUPE, prefetch=6) as consumer:
        left = {d.envelope.body for d in await receive(consumer, 3)}

    assert {b"0", b"2", b"4"} == left


async def test_too_late_settlement_says_that_the_delivery_is_lost(
    broker: Broker, open_again: OpenAgain
) -> None:
    """After its consumer has gone, a delivery belongs to somebody else."""
    await broker.publish(make_publication())
    async with broker.consume(DEDUPE, prefetch=1) as consumer:
        late = await receive_one(consumer)
    other = await open_again()
    async with other.consume(DEDUPE, prefetch=1) as consumer:
        again = await receive_one(consumer)

        with pytest.raises(DeliveryLost):
            await late.ack()

        await again.ack()


async def test_lost_delivery_does_not_acknowledge_for_its_new_holder(
    broker: Broker, open_again: OpenAgain
) -> None:
    """A late acknowledgement must not delete what another consumer works on."""
    await broker.publish(make_publication())
    async with broker.consume(DEDUPE, prefetch=1) as consumer:
        late = await receive_one(consumer)
    other = await open_again()
    async with other.consume(DEDUPE, prefetch=1) as consumer:
        await receive_one(consumer)
        with pytest.raises(DeliveryLost):
            await late.ack()

    async with broker.consume(DEDUPE, prefetch=1) as consumer:
        assert (await receive_one(consumer)).redelivered


@pytest.mark.parametrize("how", ["retry", "dead_letter"])
async def test_lost_delivery_is_not_multiplied(
    broker: Broker, open_again: OpenAgain, how: str
) -> None:
    """Who comes too late must not leave a copy beside the one that was redelivered."""
    await broker.publish(make_publication())
    async with broker.consume(DEDUPE, prefetch=1) as consumer:
        late = await receive_one(consumer)
    other = await open_again()
    async with other.consume(DEDUPE, prefetch=1) as consumer:
        again = await receive_one(consumer)
        now = datetime.now(UTC)

        error = ValueError("late")
        settling = (
            late.retry(SHORT_DELAY, error, at=now)
            if how == "retry"
            else late.dead_letter(error, at=now)
        )

        with pytest.raises(DeliveryLost):
            await settling

        depth = await broker.depth(DEDUPE)
        assert 0 == depth.delayed
        assert 0 == (await broker.depth(dead_letter_queue(DEDUPE))).ready
        await again.ack()


async def test_of_several_only_the_lost_one_is_not_settled(
    broker: Broker, open_again: OpenAgain
) -> None:
    """The others can still be settled, one by one."""
    await broker.publish(make_publication())
    async with broker.consume(DEDUPE, prefetch=1) as consumer:
        lost = await receive_one(consumer)
    other = await open_again()
    async with other.consume(DEDUPE, prefetch=1) as holder:
        await receive_one(holder)
        await broker.publish(make_publication())
        async with broker.consume(DEDUPE, prefetch=1) as consumer:
            mine = await receive_one(consumer)

            with pytest.raises(DeliveryLost):
                await lost.ack()
            await mine.ack()

        assert 0 == (await broker.depth(DEDUPE)).ready


async def test_batch_that_is_lost_while_it_publishes_is_told_of_one_by_one(
    broker: Broker,
) -> None:
    """Nobody who then takes them one by one leaves another copy."""
    await broker.publish(*make_publications(3))
    async with broker.consume(DEDUPE, prefetch=3) as consumer:
        deliveries = await receive(consumer, 3)
        handed = hand_to(DOWNLOAD, make_envelope())
        acking = asyncio.create_task(consumer.ack(deliveries, (handed,)))
        await asyncio.sleep(0)  # it has begun

    (error,) = await asyncio.gather(acking, return_exceptions=True)

    if error is not None:  # where it is not all one step
        assert isinstance(error, DeliveryLost)
        for delivery in deliveries:
            with pytest.raises(DeliveryLost):
                await delivery.ack(handed)
    assert 1 == (await broker.depth(DOWNLOAD)).ready
    left = 0 if error is None else 3

    async def is_given_back() -> bool:  # after the end of a channel it takes a moment
        return left == (await broker.depth(DEDUPE)).ready

    await eventually(is_given_back)


async def test_concurrent_settlements_of_one_delivery_settle_it_once(
    broker: Broker,
) -> None:
    """Of two at the same time, exactly one succeeds."""
    await broker.publish(make_publication())
    async with broker.consume(DEDUPE, prefetch=1) as consumer:
        delivery = await receive_one(consumer)

        results = await asyncio.gather(
            delivery.ack(), delivery.ack(), return_exceptions=True
        )

    assert {type(None), AlreadySettled} == {type(result) for result in results}


async def test_message_that_is_never_settled_is_dead_lettered(broker: Broker) -> None:
    """Poison that keeps coming back ends in the dead-letter queue, not in a loop."""
    poison = make_publication()
    await broker.publish(poison)
    times = 0
    async with broker.consume(DEDUPE, prefetch=1) as consumer:

        async def is_dead() -> bool:
            return (await broker.depth(dead_letter_queue(DEDUPE))).ready == 1

        while times < 2 * DELIVERY_LIMIT and not await is_dead():
            try:
                async with asyncio.timeout(1):
                    deliveries = await consumer.receive()
            except TimeoutError:
                continue
            times += 1
            await deliveries[0].release()

    assert DELIVERY_LIMIT <= times <= DELIVERY_LIMIT + 1
    async with broker.consume(dead_letter_queue(DEDUPE), prefetch=1) as consumer:
        letter = (await receive_one(consumer)).envelope
    assert poison.envelope.message_id == letter.message_id
    assert poison.envelope.body == letter.body
    assert poison.envelope.routing_key == letter.routing_key
    assert letter.failure is not None
    assert ("DeliveryLimitExceeded", DEDUPE) == (
        letter.failure.error_type,
        letter.failure.queue,
    )
