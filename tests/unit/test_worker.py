"""The worker settles every delivery once, whatever its handler does."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.broker import open_broker
from pipeline.errors import (
    BrokerUnavailable,
    LeaseHeld,
    LedgerUnavailable,
    LinkExpired,
    Reject,
    Retry,
)
from pipeline.message import Envelope, Publication
from pipeline.metrics import WORKER_PAUSED
from pipeline.retry import RetryPolicy
from pipeline.topology import (
    DEAD,
    DEDUPE,
    DOWNLOAD,
    EVENTS,
    Topology,
    dead_letter_queue,
    hand_to,
    notify_queue,
)
from pipeline.worker import Worker, one_by_one
from tests.factories import (
    SHORT_DELAY,
    SUBSCRIPTION,
    make_envelope,
    make_publication,
    make_topology,
)
from tests.waiting import eventually, receive

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from pipeline.broker.port import Broker
    from pipeline.worker import BatchHandler

NOTIFY = notify_queue(SUBSCRIPTION)
ONE_RETRY = RetryPolicy(waits=(SHORT_DELAY,))
NO_RETRY = RetryPolicy(waits=())


@pytest.fixture
def topology() -> Topology:
    return make_topology()


@pytest.fixture
async def broker(sqlite_url: str, topology: Topology) -> AsyncIterator[Broker]:
    async with open_broker(sqlite_url, deadline=timedelta(seconds=10)) as handle:
        await handle.declare(topology)
        yield handle


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.worker.PAUSE", timedelta(milliseconds=20))


def make_worker(broker: Broker, handler: BatchHandler, **options: Any) -> Worker:
    options = {
        "deadline": timedelta(seconds=10),
        "policy": ONE_RETRY,
        **options,
    }
    return Worker(broker, DEDUPE, handler, **options)


@contextlib.asynccontextmanager
async def running(worker: Worker) -> AsyncIterator[asyncio.Event]:
    """Run a worker; stop it and wait for its end on leaving."""
    stopping = asyncio.Event()
    task = asyncio.create_task(worker.run(stopping))
    try:
        yield stopping
    finally:
        stopping.set()
        async with asyncio.timeout(10):
            await task


async def publish(broker: Broker, *envelopes: Envelope) -> None:
    await broker.publish(*(make_publication(envelope) for envelope in envelopes))


async def take(broker: Broker, queue: str, count: int = 1) -> list[Envelope]:
    """Take ``count`` messages off a queue."""
    async with broker.consume(queue, prefetch=count) as consumer:
        # Each may have had to be written to a disk that others keep busy.
        deliveries = await receive(consumer, count, within=60)
        await consumer.ack(deliveries)
    return [delivery.envelope for delivery in deliveries]


async def dead(broker: Broker, count: int = 1) -> list[Envelope]:
    return await take(broker, dead_letter_queue(DEDUPE), count)


async def until_empty(broker: Broker, queue: str = DEDUPE) -> None:
    async def is_empty() -> bool:
        depth = await broker.depth(queue)
        return depth.ready + depth.unacked + depth.delayed == 0

    await eventually(is_empty)


async def ready(broker: Broker, queue: str) -> int:
    return (await broker.depth(queue)).ready


def error_type(envelope: Envelope) -> str | None:
    return None if envelope.failure is None else envelope.failure.error_type


class Recorder:
    """A handler that notes what it is given and does as it is told."""

    def __init__(self, *script: Callable[[Envelope], Any]) -> None:
        self.seen: list[Envelope] = []
        self.called = asyncio.Event()
        self._script = list(script)

    async def __call__(self, envelope: Envelope) -> Sequence[Publication]:
        self.seen.append(envelope)
        self.called.set()
        step = self._script.pop(0) if self._script else None
        result = () if step is None else step(envelope)
        return await result if asyncio.iscoroutine(result) else result

    @property
    def attempts(self) -> list[int]:
        return [envelope.attempt for envelope in self.seen]


def raising(error: Exception) -> Callable[[Envelope], Any]:
    def fail(_: Envelope) -> Sequence[Publication]:
        raise error

    return fail


async def test_what_the_handler_returns_is_published_and_the_delivery_acknowledged(
    broker: Broker,
) -> None:
    event = make_envelope(routing_key="task.complete")
    recorder = Recorder(lambda _: [Publication(exchange=EVENTS, envelope=event)])
    await publish(broker, make_envelope(message_id="m"))

    async with running(make_worker(broker, one_by_one(recorder))):
        await until_empty(broker)

    assert [e.message_id for e in recorder.seen] == ["m"]
    assert [event] == await take(broker, NOTIFY)


async def test_a_failure_is_tried_again_with_the_next_attempt(broker: Broker) -> None:
    recorder = Recorder(raising(ValueError("odd")))
    await publish(broker, make_envelope())

    async with running(make_worker(broker, one_by_one(recorder))):
        await until_empty(broker)

    assert recorder.attempts == [1, 2]
    assert error_type(recorder.seen[1]) == "ValueError"
    assert await ready(broker, dead_letter_queue(DEDUPE)) == 0


async def test_a_delivery_is_dead_lettered_when_its_attempts_are_used_up(
    broker: Broker,
) -> None:
    recorder = Recorder(raising(ValueError("odd")), raising(KeyError("even")))
    await publish(broker, make_envelope(message_id="m"))

    async with running(make_worker(broker, one_by_one(recorder))):
        (letter,) = await dead(broker)

    assert recorder.attempts == [1, 2]
    assert letter.message_id == "m"
    assert letter.attempt == 2
    assert error_type(letter) == "KeyError"


async def test_a_reject_is_dead_lettered_at_once(broker: Broker) -> None:
    recorder = Recorder(raising(Reject("unreadable")))
    await publish(broker, make_envelope())

    async with running(make_worker(broker, one_by_one(recorder))):
        (letter,) = await dead(broker)

    assert recorder.attempts == [1]
    assert letter.failure is not None
    assert letter.failure.error_text == "unreadable"


@pytest.mark.parametrize("wrapper", [Reject, Retry])
async def test_a_dead_letter_names_the_error_behind_reject_and_retry(
    broker: Broker, wrapper: type[Exception]
) -> None:
    error = wrapper("because")
    error.__cause__ = LinkExpired("answered 410")
    await publish(broker, make_envelope())

    handler = one_by_one(Recorder(raising(error)))
    async with running(make_worker(broker, handler, policy=NO_RETRY)):
        (letter,) = await dead(broker)

    assert letter.failure is not None
    assert error_type(letter) == "LinkExpired"
    assert letter.failure.error_text == "answered 410"


async def test_a_retry_waits_as_long_as_the_handler_asks(broker: Broker) -> None:
    patient = Retry("busy", after=timedelta(milliseconds=800))
    recorder = Recorder(raising(patient))
    await publish(broker, make_envelope())

    async with running(make_worker(broker, one_by_one(recorder))):
        await recorder.called.wait()
        started = asyncio.get_running_loop().time()
        await until_empty(broker)
        waited = asyncio.get_running_loop().time() - started

    assert recorder.attempts == [1, 2]
    assert waited >= 0.7


async def test_a_handler_that_hangs_has_used_an_attempt(broker: Broker) -> None:
    recorder = Recorder(lambda _: asyncio.Event().wait())
    await publish(broker, make_envelope())

    worker = make_worker(
        broker,
        one_by_one(recorder),
        deadline=timedelta(milliseconds=50),
        policy=NO_RETRY,
    )
    async with running(worker):
        (letter,) = await dead(broker)

    assert letter.failure is not None
    assert error_type(letter) == "DeadlineExceeded"
    assert letter.failure.error_text == "expected an outcome within 0.05 s, got none"


async def test_a_timeout_of_the_handler_itself_keeps_its_name(broker: Broker) -> None:
    recorder = Recorder(raising(TimeoutError("upstream")))
    await publish(broker, make_envelope())

    worker = make_worker(broker, one_by_one(recorder), policy=NO_RETRY)
    async with running(worker):
        (letter,) = await dead(broker)

    assert error_type(letter) == "TimeoutError"


async def test_a_batch_is_handled_in_one_call_and_its_poison_alone_is_dead_lettered(
    broker: Broker,
) -> None:
    sizes: list[int] = []

    async def handle(envelopes: Sequence[Envelope]) -> Sequence[Any]:
        sizes.append(len(envelopes))
        return [
            Reject("poison") if envelope.body == b"poison" else ()
            for envelope in envelopes
        ]

    bodies = [b"1", b"2", b"poison", b"4"]
    await publish(broker, *(make_envelope(body=body) for body in bodies))

    async with running(make_worker(broker, handle, batch_size=4)):
        (letter,) = await dead(broker)
        await until_empty(broker)

    assert sum(sizes) == 4
    assert letter.body == b"poison"


async def test_a_batch_that_fails_as_a_whole_is_handled_one_by_one(
    broker: Broker,
) -> None:
    calls = Counter[bytes]()

    async def handle(envelopes: Sequence[Envelope]) -> Sequence[Any]:
        calls.update(envelope.body for envelope in envelopes)
        if any(envelope.body == b"poison" for envelope in envelopes):
            raise ValueError(len(envelopes))
        return [() for _ in envelopes]

    bodies = [b"1", b"poison", b"3"]
    await publish(broker, *(make_envelope(body=body) for body in bodies))

    worker = make_worker(broker, handle, batch_size=3, policy=NO_RETRY)
    async with running(worker):
        (letter,) = await dead(broker)
        await until_empty(broker)

    assert letter.body == b"poison"
    assert max(calls.values()) <= 2


class Hanging:
    """A handler that never ends by itself."""

    def __init__(self) -> None:
        #: How many messages each call had.
        self.calls: list[int] = []
        #: Calls with one message that have not ended, and the most at the same time.
        self.alone = 0
        self.most_alone = 0

    async def __call__(self, envelopes: Sequence[Envelope]) -> Sequence[Any]:
        self.calls.append(len(envelopes))
        is_alone = len(envelopes) == 1
        self.alone += is_alone
        self.most_alone = max(self.most_alone, self.alone)
        try:
            await asyncio.Event().wait()
        finally:
            self.alone -= is_alone
        return []


async def test_a_message_behind_a_batch_that_hangs_is_held_for_four_deadlines(
    broker: Broker,
) -> None:
    """One for each batch and one for all of its messages: they wait together."""
    hanging = Hanging()

    async def is_called() -> bool:
        return bool(hanging.calls)

    worker = make_worker(
        broker,
        hanging,
        batch_size=8,
        deadline=timedelta(seconds=0.4),
        policy=NO_RETRY,
    )
    async with running(worker):
        await publish(broker, *(make_envelope() for _ in range(4)))
        await eventually(is_called)
        await publish(broker, *(make_envelope() for _ in range(4)))
        await dead(broker, 8)

    assert [4, 1, 1, 1, 1] * 2 == hanging.calls
    assert (0, 4) == (hanging.alone, hanging.most_alone)


async def test_a_batch_that_hangs_takes_two_deadlines_however_large_it_is(
    broker: Broker,
) -> None:
    """One for the batch, one for all its messages: each alone, at the same time."""
    hanging = Hanging()
    await publish(broker, *(make_envelope() for _ in range(20)))

    deadline = timedelta(seconds=0.3)
    worker = make_worker(
        broker, hanging, batch_size=20, deadline=deadline, policy=NO_RETRY
    )
    async with running(worker):
        letters = await dead(broker, 20)

    assert {"DeadlineExceeded"} == {error_type(letter) for letter in letters}
    assert [20, *[1] * 20] == hanging.calls
    assert (0, 20) == (hanging.alone, hanging.most_alone)


async def test_a_ledger_that_goes_away_while_a_batch_is_taken_apart_uses_no_attempt(
    broker: Broker,
) -> None:
    """The batch fails, then the ledger: nothing of that is the messages' fault."""
    is_away = True

    async def handle(envelopes: Sequence[Envelope]) -> Sequence[Any]:
        nonlocal is_away
        if len(envelopes) > 1:
            raise ValueError(len(envelopes))
        if is_away:
            is_away = False
            raise LedgerUnavailable("away")
        attempts.append(envelopes[0].attempt)
        return [()]

    attempts: list[int] = []
    await publish(broker, *(make_envelope() for _ in range(3)))

    worker = make_worker(broker, handle, batch_size=3, policy=NO_RETRY)
    async with running(worker):
        await until_empty(broker)

    assert {1} == set(attempts)
    assert 0 == await ready(broker, dead_letter_queue(DEDUPE))


async def test_a_publication_that_cannot_be_routed_fails_its_own_delivery_alone(
    broker: Broker,
) -> None:
    async def handle(envelopes: Sequence[Envelope]) -> Sequence[Any]:
        return [
            [hand_to("nowhere" if e.body == b"lost" else DOWNLOAD, e)]
            for e in envelopes
        ]

    bodies = [b"1", b"lost", b"3"]
    await publish(broker, *(make_envelope(body=body) for body in bodies))

    worker = make_worker(broker, handle, batch_size=3, policy=NO_RETRY)
    async with running(worker):
        (letter,) = await dead(broker)
        await until_empty(broker)

    assert letter.body == b"lost"
    assert error_type(letter) == "Unroutable"
    assert {e.body for e in await take(broker, DOWNLOAD, 2)} == {b"1", b"3"}


@pytest.mark.parametrize("error", [LedgerUnavailable("away"), BrokerUnavailable("x")])
async def test_what_is_away_is_waited_for_without_counting_an_attempt(
    broker: Broker, error: Exception
) -> None:
    recorder = Recorder(*[raising(error)] * 3)
    await publish(broker, make_envelope())

    worker = make_worker(broker, one_by_one(recorder), policy=NO_RETRY)
    async with running(worker):
        await until_empty(broker)

    assert recorder.attempts == [1, 1, 1, 1]
    assert await ready(broker, dead_letter_queue(DEDUPE)) == 0


async def test_what_another_worker_does_is_waited_for_and_is_no_pause(
    broker: Broker,
) -> None:
    """Nothing is away: no attempt is counted, and no alarm is raised."""
    pauses = WORKER_PAUSED.labels(DEDUPE)._value
    before = pauses.get()
    held = LeaseHeld("held", left=timedelta(milliseconds=10))
    recorder = Recorder(*[raising(held)] * 3)
    await publish(broker, make_envelope())

    worker = make_worker(broker, one_by_one(recorder), policy=NO_RETRY)
    async with running(worker):
        await until_empty(broker)

    assert [1, 1, 1, 1] == [envelope.attempt for envelope in recorder.seen]
    assert await ready(broker, dead_letter_queue(DEDUPE)) == 0
    assert before == pauses.get()


async def test_a_batch_that_waits_is_settled_only_once(broker: Broker) -> None:
    calls: list[list[bytes]] = []

    async def handle(envelopes: Sequence[Envelope]) -> Sequence[Any]:
        calls.append([envelope.body for envelope in envelopes])
        if len(calls) == 1:
            raise LedgerUnavailable("away")
        return [() for _ in envelopes]

    await publish(broker, *(make_envelope(body=body) for body in (b"1", b"2")))

    async with running(make_worker(broker, handle, batch_size=2)):
        await until_empty(broker)

    assert calls[0] == calls[1]


async def test_what_cannot_be_dead_lettered_stays_and_neighbours_are_settled(
    sqlite_url: str, topology: Topology
) -> None:
    """Settling is tried again; what was handled is not handled again."""
    deaf = replace(
        topology, bindings=tuple(b for b in topology.bindings if b.exchange != DEAD)
    )
    calls: list[list[bytes]] = []
    pauses = WORKER_PAUSED.labels(DEDUPE)._value
    before = pauses.get()

    async def handle(envelopes: Sequence[Envelope]) -> Sequence[Any]:
        calls.append([envelope.body for envelope in envelopes])
        return [Reject("poison") if e.body == b"poison" else () for e in envelopes]

    async def has_paused_twice() -> bool:
        return bool(pauses.get() >= before + 2)

    async with open_broker(sqlite_url, deadline=timedelta(seconds=10)) as broker:
        await broker.declare(deaf)
        bodies = (b"1", b"poison", b"3")
        await publish(broker, *(make_envelope(body=body) for body in bodies))

        async with running(make_worker(broker, handle, batch_size=3)):
            await eventually(has_paused_twice)

        assert await ready(broker, DEDUPE) == 1
        (envelope,) = await take(broker, DEDUPE)
    assert envelope.body == b"poison"
    assert envelope.attempt == 1
    assert [list(bodies)] == calls


async def test_stopping_does_not_wait_for_what_is_away(broker: Broker) -> None:
    recorder = Recorder(*[raising(LedgerUnavailable("away"))] * 1000)
    await publish(broker, make_envelope())

    worker = make_worker(broker, one_by_one(recorder), drain=timedelta(seconds=60))
    async with running(worker):
        await recorder.called.wait()

    assert await ready(broker, DEDUPE) == 1


async def test_stopping_lets_calls_in_progress_finish(broker: Broker) -> None:
    gate = asyncio.Event()
    recorder = Recorder(lambda _: waiting_for(gate))
    await publish(broker, make_envelope(), make_envelope())

    async with running(make_worker(broker, one_by_one(recorder))) as stopping:
        await recorder.called.wait()
        stopping.set()
        asyncio.get_running_loop().call_later(0.1, gate.set)

    assert len(recorder.seen) == 1
    assert await ready(broker, DEDUPE) == 1


async def test_calls_that_do_not_finish_in_time_are_given_back(broker: Broker) -> None:
    recorder = Recorder(lambda _: asyncio.Event().wait())
    await publish(broker, make_envelope())

    worker = make_worker(broker, one_by_one(recorder), drain=timedelta(milliseconds=50))
    async with running(worker) as stopping:
        await recorder.called.wait()
        stopping.set()

    (envelope,) = await take(broker, DEDUPE)
    assert envelope.attempt == 1


async def test_stopping_an_idle_worker_ends_it(broker: Broker) -> None:
    async with running(make_worker(broker, one_by_one(Recorder()))):
        pass


async def test_cancelling_gives_everything_back(broker: Broker) -> None:
    recorder = Recorder(lambda _: asyncio.Event().wait())
    await publish(broker, make_envelope())

    task = asyncio.create_task(
        make_worker(broker, one_by_one(recorder)).run(asyncio.Event())
    )
    await recorder.called.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await ready(broker, DEDUPE) == 1


async def test_no_more_calls_at_the_same_time_than_allowed(broker: Broker) -> None:
    now, most = 0, 0
    gate = asyncio.Semaphore(0)

    async def handle(envelopes: Sequence[Envelope]) -> Sequence[Any]:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await gate.acquire()
        now -= 1
        return [() for _ in envelopes]

    async def are_at_the_gate() -> bool:
        return now == 3

    await publish(broker, *(make_envelope() for _ in range(50)))

    async with running(make_worker(broker, handle, concurrency=3)):
        for _ in range(48):
            await eventually(are_at_the_gate)
            gate.release()
        for _ in range(2):
            gate.release()
        await until_empty(broker)

    assert 3 == most


@pytest.mark.parametrize("error", [None, Reject("poison")])
async def test_a_delivery_that_was_lost_meanwhile_does_no_harm(
    broker: Broker, error: Exception | None
) -> None:
    async def lose(_: Envelope) -> Sequence[Publication]:
        await broker._session.write(  # type: ignore[attr-defined]
            lambda c: c.execute("DELETE FROM consumers").get
        )
        if error is not None:
            raise error
        return ()

    recorder = Recorder(lose)
    await publish(broker, make_envelope(message_id="m"))

    async with running(make_worker(broker, one_by_one(recorder))):

        async def handled_again() -> bool:
            return len(recorder.seen) > 1

        await eventually(handled_again)
        await until_empty(broker)

    assert {e.message_id for e in recorder.seen} == {"m"}


async def test_an_error_in_the_program_ends_the_worker_and_loses_nothing(
    broker: Broker,
) -> None:
    async def handle(_: Sequence[Envelope]) -> Sequence[Any]:
        return []

    await publish(broker, make_envelope())

    with pytest.raises(ExceptionGroup) as caught:
        await make_worker(broker, handle).run(asyncio.Event())

    assert caught.group_contains(ValueError)
    assert await ready(broker, DEDUPE) == 1


async def test_a_worker_says_when_it_consumes_nothing(broker: Broker) -> None:
    worker = make_worker(broker, one_by_one(Recorder()))
    assert worker.problem == (
        "queue dedupe has no consumer: the broker is not connected"
    )

    async with running(worker):

        async def is_fine() -> bool:
            return worker.problem is None

        await eventually(is_fine)

    assert worker.problem is not None


async def waiting_for(gate: asyncio.Event) -> Sequence[Publication]:
    await gate.wait()
    return ()
