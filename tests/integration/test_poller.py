"""The poller on a real ledger and broker, against a provider that a test decides."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import orjson
import pytest
from prometheus_client import REGISTRY
from pydantic import SecretStr

from pipeline.broker import open_broker
from pipeline.errors import BrokerUnavailable
from pipeline.events.catalogue import TaskGivenUp, parse_event
from pipeline.ledger import open_ledger
from pipeline.ledger.expectations import Expectation
from pipeline.ledger.turns import Window
from pipeline.message import OPERATION, ORIGIN, STAGE, TASK_ID
from pipeline.poller.poller import Limits, Poller
from pipeline.poller.rhythm import Rhythm
from pipeline.provider.client import ProviderClient
from pipeline.task import Stage, TaskId
from pipeline.topology import DEDUPE
from tests.callbacks import TASK, make_claim, make_record_info, make_update
from tests.factories import SUBSCRIPTION, make_topology
from tests.file_server import FileServer, answer, silent
from tests.waiting import eventually, receive, receive_one

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from pipeline.broker.found import Depth
    from pipeline.broker.port import Broker
    from pipeline.ledger.port import Ledger
    from pipeline.message import Publication
    from tests.file_server import Answer

PATH: Final = "/api/v1/generate/record-info"
RHYTHM: Final = Rhythm(
    interval=timedelta(milliseconds=50), give_up_after=timedelta(minutes=30)
)
LIMITS: Final = Limits(
    rate_per_second=1000,
    concurrency=8,
    lasts=timedelta(seconds=10),
    overdue=timedelta(seconds=60),
    drain=timedelta(seconds=5),
)


@dataclass(slots=True, kw_only=True)
class World:
    """Everything around a poller."""

    ledger: Ledger
    ledger_url: str
    broker: Broker
    api: FileServer
    #: When each question came, in seconds.
    asked_at: list[float] = field(default_factory=list)

    @property
    def questions(self) -> list[str]:
        """Give the tasks that were asked for, in order."""
        return [one.target.partition("=")[2] for one in self.api.requests]

    async def expect(self, *task_ids: str, age_seconds: float = 300) -> None:
        """Expect tasks that are due now."""
        now = datetime.now(UTC)
        await self.ledger.expect(
            [
                Expectation(
                    task_id=TaskId(task_id),
                    operation="upload-extend",
                    submitted_at=now - timedelta(seconds=age_seconds),
                    due_at=now,
                )
                for task_id in task_ids
            ]
        )

    def tell(self, status: str = "SUCCESS", **data: Any) -> None:
        """Answer every question with a status, for the task that it is about."""

        async def told(writer: asyncio.StreamWriter) -> None:
            self.asked_at.append(asyncio.get_running_loop().time())
            body = make_record_info(status, **{"taskId": self.questions[-1], **data})
            await answer(body)(writer)

        self.answer(told)

    def answer(self, how: Answer) -> None:
        """Answer every question in the same way."""
        self.api.add(PATH, how)

    async def waiting(self) -> Depth:
        """Tell how many answers were handed on."""
        return await self.broker.depth(DEDUPE)

    @asynccontextmanager
    async def polling(
        self,
        *,
        publish: Callable[..., Any] | None = None,
        rhythm: Rhythm = RHYTHM,
        answer_within: timedelta = timedelta(seconds=5),
        chance: float = 0.0,
        **limits: Any,
    ) -> AsyncIterator[asyncio.Event]:
        """Run a poller; at the end it is told to stop, and has to."""
        stopping = asyncio.Event()
        values = {name: getattr(LIMITS, name) for name in Limits.__dataclass_fields__}
        async with (
            ProviderClient(
                self.api.url(""),
                SecretStr("the-key"),
                timeout=answer_within,
                rate_per_second=10_000,
            ) as client,
            asyncio.TaskGroup() as group,
        ):
            poller = Poller(
                self.ledger,
                client,
                publish or self.broker.publish,
                rhythm=rhythm,
                limits=Limits(**(values | limits)),
                clock=lambda: datetime.now(UTC),
                chance=lambda: chance,
            )
            group.create_task(poller.run(stopping))
            yield stopping
            stopping.set()


@pytest.fixture
async def world(tmp_path: Path, sqlite_url: str) -> AsyncIterator[World]:
    """A ledger, a broker and an API, all empty."""
    ledger_url = f"sqlite:///{tmp_path}/ledger.db"
    async with (
        open_ledger(ledger_url) as ledger,
        open_broker(sqlite_url, deadline=timedelta(seconds=5)) as broker,
        FileServer() as api,
    ):
        await broker.declare(make_topology(patterns=("task.given_up",)))
        yield World(ledger=ledger, ledger_url=ledger_url, broker=broker, api=api)


async def test_an_answer_is_handed_on_like_a_callback(world: World) -> None:
    world.tell("SUCCESS")
    await world.expect(TASK)

    async with world.polling(), world.broker.consume(DEDUPE, prefetch=1) as consumer:
        envelope = (await receive_one(consumer)).envelope

    assert make_record_info("SUCCESS") == envelope.body
    assert "callback.upload-extend.complete" == envelope.routing_key
    assert envelope.published_at is not None
    assert {
        TASK_ID: TASK,
        OPERATION: "upload-extend",
        STAGE: "complete",
        ORIGIN: "poll",
    } == envelope.headers


async def test_the_same_answer_is_handed_on_once(world: World) -> None:
    """However often it is asked for before the dedupe worker has seen it."""
    world.tell("FIRST_SUCCESS")
    await world.expect(TASK)

    async with world.polling():
        await eventually(lambda: asked(world, 4))

    assert 1 == (await world.waiting()).ready


async def test_what_is_not_there_yet_is_asked_for_again(world: World) -> None:
    """SUCCESS without tracks, a lost callback without music, and PENDING."""
    await world.expect(TASK)

    async with world.polling(), world.broker.consume(DEDUPE, prefetch=1) as consumer:
        for status, data in (
            ("PENDING", {"response": None}),
            ("CALLBACK_EXCEPTION", {"response": None}),
            ("SUCCESS", {"response": {"sunoData": []}}),
        ):
            world.tell(status, **data)
            seen = len(world.questions)
            await eventually(partial(asked, world, seen + 2))
        assert 0 == (await world.waiting()).ready
        world.tell("CALLBACK_EXCEPTION")
        envelope = (await receive_one(consumer)).envelope

    assert "callback.upload-extend.complete" == envelope.routing_key


async def test_a_failure_is_told_though_the_task_looks_pending(world: World) -> None:
    world.tell("PENDING", response=None, errorCode=413, errorMessage="exists")
    await world.expect(TASK)

    async with world.polling(), world.broker.consume(DEDUPE, prefetch=1) as consumer:
        envelope = (await receive_one(consumer)).envelope

    assert "callback.upload-extend.failed" == envelope.routing_key


async def test_a_task_that_has_ended_is_asked_for_no_more(world: World) -> None:
    world.tell("FIRST_SUCCESS")
    await world.expect(TASK)

    async with world.polling():
        await eventually(lambda: asked(world, 2))
        await world.ledger.record([make_claim(make_update(Stage.COMPLETE))])
        # One may be on its way.
        await eventually(lambda: is_idle(world))
        count = len(world.questions)
        await world.expect("another")
        await eventually(lambda: asked(world, count + 3))

    assert {"another"} == {*world.questions[count:]}


@pytest.mark.parametrize(
    "how",
    [
        answer(status=429),
        answer(make_record_info("SUCCESS", taskId="somebody-else's")),
        silent(),
    ],
    ids=["429", "another task", "silent"],
)
async def test_no_answer_says_nothing_of_a_task(world: World, how: Answer) -> None:
    """It is asked again, a little later, and never given up for that."""
    world.answer(how)
    await world.expect(TASK, age_seconds=86400)
    before = given_up()

    async with (
        world.polling(answer_within=timedelta(milliseconds=200)),
        world.broker.consume(DEDUPE, prefetch=1) as consumer,
    ):
        await eventually(lambda: asked(world, 1))
        world.tell("SUCCESS")
        envelope = (await receive_one(consumer)).envelope

    assert "callback.upload-extend.complete" == envelope.routing_key
    assert before == given_up()


async def test_the_provider_is_left_alone_while_it_does_not_answer(
    world: World,
) -> None:
    """Pauses grow from a second, however much is due."""
    world.answer(answer(status=503))
    await world.expect(*(f"task-{number}" for number in range(50)))

    loop = asyncio.get_running_loop()
    began = loop.time()
    async with world.polling(concurrency=2):
        await eventually(lambda: asked(world, 3))

    assert loop.time() - began > 0.9
    assert len(world.questions) <= 4


async def test_an_old_task_without_news_is_given_up_for_all_to_see(
    world: World,
) -> None:
    world.tell("PENDING", response=None)
    await world.expect(TASK, age_seconds=3600)
    before = given_up()

    queue = f"notify.{SUBSCRIPTION}"
    async with world.polling(), world.broker.consume(queue, prefetch=1) as consumer:
        envelope = (await receive_one(consumer)).envelope

        async def is_closed() -> bool:
            return await world.ledger.until_due() is None

        await eventually(is_closed)

    event = parse_event(envelope.body)
    expected = await world.ledger.find_expected(TASK)
    assert isinstance(event, TaskGivenUp)
    assert (TASK, Stage.UNKNOWN, "nothing_new", 1) == (
        event.data.task_id,
        event.data.stage,
        event.data.reason,
        event.data.questions,
    )
    assert expected is not None
    assert expected.given_up_at is not None
    assert before + 1 == given_up()


async def test_a_task_that_nobody_knows_is_given_up_in_the_end(world: World) -> None:
    world.answer(answer(orjson.dumps({"code": 422, "msg": "no record", "data": None})))
    await world.expect("young")
    await world.expect("old", age_seconds=3600)

    async with world.polling():
        await eventually(lambda: asked(world, 5))

    old = await world.ledger.find_expected(TaskId("old"))
    young = await world.ledger.find_expected(TaskId("young"))
    assert old is not None
    assert young is not None
    assert (old.due_at, 1) == (None, old.questions)
    assert young.due_at is not None


async def test_several_pollers_share_the_work(world: World) -> None:
    world.tell("SUCCESS")
    names = [f"task-{number}" for number in range(40)]
    await world.expect(*names)

    async with world.polling(), world.polling(), world.polling():
        await eventually(lambda: asked(world, len(names)))
        await eventually(lambda: are_handed_on(world, len(names)))

    assert sorted(names) == sorted(world.questions)


async def test_pollers_keep_to_the_rate_together(world: World) -> None:
    rate = 40
    world.tell("SUCCESS")
    await world.expect(*(f"task-{number}" for number in range(60)))

    async with (
        world.polling(rate_per_second=rate),
        world.polling(rate_per_second=rate),
    ):
        await eventually(lambda: asked(world, 40))

    took = world.asked_at[-1] - world.asked_at[0]
    assert took > (len(world.asked_at) - 1) / rate * 0.8


async def test_a_poller_and_those_who_ask_keep_to_the_rate_together(
    world: World,
) -> None:
    """Such as downloads that want fresh links, in another process."""
    rate = 40
    world.tell("PENDING", response=None)
    await world.expect(*(f"task-{number}" for number in range(30)))

    calm = Rhythm(interval=timedelta(minutes=1), give_up_after=timedelta(hours=1))
    async with (
        open_ledger(world.ledger_url) as ledger,
        ProviderClient(
            world.api.url(""),
            SecretStr("the-key"),
            rate_per_second=rate,
            turns=ledger,
        ) as client,
        world.polling(rhythm=calm, rate_per_second=rate),
    ):
        urgent = (TaskId(f"urgent-{number}") for number in range(10))
        await asyncio.gather(*(client.details(one, "upload-extend") for one in urgent))
        await eventually(lambda: asked(world, 40))

    took = world.asked_at[-1] - world.asked_at[0]
    assert took > (len(world.asked_at) - 1) / rate * 0.8


async def test_a_task_that_was_asked_for_too_often_just_now_is_polled_a_little_later(
    world: World,
) -> None:
    """Whoever has asked: a full window is not the poller's alone."""
    window = Window(most=1, span=timedelta(seconds=1))
    loop = asyncio.get_running_loop()
    world.tell("PENDING", response=None)
    await world.ledger.take_question(TaskId(TASK), pause=timedelta(0), window=window)
    taken_at = loop.time()
    await world.expect(TASK)

    async with world.polling(of_task=window):
        await eventually(lambda: asked(world, 1))

    assert world.asked_at[0] - taken_at > 0.9


async def test_questions_that_were_not_asked_are_somebody_elses_at_once(
    world: World,
) -> None:
    """Whoever stops gives back what it has taken and not begun."""
    world.tell("SUCCESS")
    await world.expect(*(f"task-{number}" for number in range(8)))

    calm = Rhythm(interval=timedelta(seconds=30), give_up_after=timedelta(hours=1))
    async with world.polling(
        rhythm=calm, rate_per_second=2, lasts=timedelta(minutes=5)
    ) as stopping:
        await eventually(lambda: are_taken(world, 2))
        stopping.set()
    assert len(world.questions) < 2

    async with world.polling():
        await eventually(lambda: are_handed_on(world, 8))


async def test_an_answer_that_cannot_be_handed_on_is_asked_for_again(
    world: World,
) -> None:
    failures = 2

    async def publish(*publications: Publication) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise BrokerUnavailable("away")
        await world.broker.publish(*publications)

    world.tell("SUCCESS")
    await world.expect(TASK)

    async with (
        world.polling(publish=publish, lasts=timedelta(seconds=1)),
        world.broker.consume(DEDUPE, prefetch=1) as consumer,
    ):
        await receive(consumer)

    # The answer was handed on only once it could be. On a slow disk that is not noted
    # within the lease, and then the task is asked for a fourth time, rightly.
    assert 0 == failures
    assert [TASK] * 3 == world.questions[:3]


async def asked(world: World, count: int) -> bool:
    return len(world.questions) >= count


async def is_idle(world: World) -> bool:
    return await world.ledger.until_due() is None


async def are_handed_on(world: World, count: int) -> bool:
    return (await world.waiting()).ready == count


async def are_taken(world: World, count: int) -> bool:
    taken = 0
    for number in range(8):
        one = await world.ledger.find_expected(TaskId(f"task-{number}"))
        taken += one.questions if one is not None else 0
    return taken >= count


def given_up() -> float:
    labels = {"operation": "upload-extend"}
    return REGISTRY.get_sample_value("pipeline_given_up_total", labels) or 0.0
