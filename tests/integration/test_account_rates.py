"""Several processes with one account keep to its limits together.

Each has a client and a handle on the ledger of its own; the simulated provider counts
in real time and refuses what comes too often.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest
from pydantic import SecretStr

from pipeline.errors import LedgerUnavailable, ProviderUnavailable, TaskNotFound
from pipeline.ledger import open_ledger
from pipeline.ledger.turns import Turn, Turns, Window
from pipeline.provider.account import MOST_GIVEN_UP, AccountPace
from pipeline.provider.client import ProviderClient
from pipeline.provider.door import Door, door_of
from pipeline.provider.pace import SLACK_SECONDS
from pipeline.settings import load_settings
from pipeline.simulator import ProviderOptions, RateLimits, SimulatedProvider
from pipeline.task import TaskId

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

PROCESSES: Final = 3
#: As the provider's, in a tenth of the time.
WINDOW: Final = timedelta(seconds=1)
RATES: Final = RateLimits(submissions=5, submission_window=WINDOW, in_real_time=True)
CALLBACK: Final = "http://127.0.0.1:9/callbacks/lyrics"
LYRICS: Final[dict[str, Any]] = {"prompt": "copper lanterns"}


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of the ledger that all of them share."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.db"
    url: str = request.getfixturevalue("postgres_ledger_url")
    return url


@pytest.fixture
async def provider() -> AsyncIterator[SimulatedProvider]:
    """A provider that counts in real time."""
    async with SimulatedProvider(ProviderOptions(rates=RATES)) as running:
        yield running


def door() -> Door:
    flags = {"provider.door": "sunoapi-org"}
    found = door_of(load_settings(environ={}, flags=flags).settings)
    limits = found.limits.model_copy(
        update={"submits": RATES.submissions, "submit_window": WINDOW}
    )
    settings = found.settings.model_copy(update={"limits": limits})
    return replace(found, settings=settings)


@asynccontextmanager
async def processes(
    ledger_url: str, provider: SimulatedProvider, **changes: Any
) -> AsyncIterator[Sequence[ProviderClient]]:
    """Open a client and a ledger for each process."""
    values: dict[str, Any] = {
        "door": door(),
        "rate_per_second": 1000,
        "concurrency": 50,
        "submit_waits": (),
    }
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                ProviderClient(
                    provider.url,
                    SecretStr("simulated-key"),
                    turns=await stack.enter_async_context(open_ledger(ledger_url)),
                    **(values | changes),
                )
            )
            for _ in range(PROCESSES)
        ]


async def ask(client: ProviderClient, task_id: str) -> None:
    """Ask for a task that the provider does not know: it counts all the same."""
    with pytest.raises(TaskNotFound):
        await client.details(TaskId(task_id), "lyrics")


async def test_submissions_of_several_processes_are_never_too_many(
    ledger_url: str, provider: SimulatedProvider
) -> None:
    async with processes(ledger_url, provider) as clients:
        names = await asyncio.gather(
            *(
                clients[number % PROCESSES].submit(
                    "lyrics", LYRICS, callback_url=CALLBACK
                )
                for number in range(12)
            )
        )

    assert 12 == len({*names})
    assert [] == list(provider.violations)


async def test_one_task_is_never_asked_for_too_often_by_several_processes(
    ledger_url: str, provider: SimulatedProvider
) -> None:
    async with processes(ledger_url, provider) as clients:
        await asyncio.gather(
            *(ask(clients[number % PROCESSES], "one") for number in range(9))
        )

    assert 9 == provider.questions("one")
    assert [] == list(provider.violations)


async def test_questions_of_several_processes_keep_to_the_rate_together(
    ledger_url: str, provider: SimulatedProvider
) -> None:
    rate = 20
    loop = asyncio.get_running_loop()
    async with processes(ledger_url, provider, rate_per_second=rate) as clients:
        began = loop.time()
        await asyncio.gather(
            *(ask(clients[number % PROCESSES], f"t-{number}") for number in range(24))
        )
        took = loop.time() - began

    assert took > 23 / rate * 0.95
    assert 24 == len(provider.asked)


async def test_a_task_that_is_asked_for_too_often_holds_up_no_other(
    ledger_url: str, provider: SimulatedProvider
) -> None:
    async with processes(ledger_url, provider) as (one, two, _):
        waiting = [asyncio.create_task(ask(one, "often")) for _ in range(9)]
        await asyncio.gather(*(ask(two, f"t-{number}") for number in range(9)))
        left = sum(not task.done() for task in waiting)
        await asyncio.gather(*waiting)

    assert left
    assert [] == list(provider.violations)


async def test_where_no_turn_can_be_had_nothing_is_sent(
    tmp_path: Path, provider: SimulatedProvider
) -> None:
    """Whoever called all the same could be one too many."""
    ledger = open_ledger(f"sqlite:///{tmp_path}/ledger.db")
    async with ledger:
        """Closed again: then it is not available."""
    async with ProviderClient(
        provider.url,
        SecretStr("simulated-key"),
        door=door(),
        submit_waits=(),
        turns=ledger,
    ) as client:
        with pytest.raises(LedgerUnavailable):
            await client.details(TaskId("one"), "lyrics")
        with pytest.raises(ProviderUnavailable, match="expected a turn"):
            await client.submit("lyrics", LYRICS, callback_url=CALLBACK)

    assert [] == list(provider.asked)
    assert 0 == provider.calls("/api/v1/lyrics")


class SlowTurns(Turns):
    """Turns of a ledger whose answers come late: its disk is slow.

    Args:
        ledger: has the turns.
        delays: what each answer takes longer, in seconds; then they come at once.
    """

    def __init__(self, ledger: Turns, *delays: float) -> None:
        self._ledger = ledger
        self._delays = list(delays)
        self.taken = 0

    async def take_question(
        self, task_id: TaskId | None, *, pause: timedelta, window: Window
    ) -> Turn:
        turn = await self._ledger.take_question(task_id, pause=pause, window=window)
        self.taken += turn.is_taken
        await self._delay()
        return turn

    async def take_submission(self, window: Window) -> timedelta:
        wait = await self._ledger.take_submission(window)
        self.taken += 1
        await self._delay()
        return wait

    async def _delay(self) -> None:
        if self._delays:
            await asyncio.sleep(self._delays.pop(0))


@pytest.mark.parametrize("kind", ["question", "submission"])
async def test_turn_that_the_ledger_gives_too_late_is_not_used(
    ledger_url: str, kind: str
) -> None:
    """The same place in the window may be somebody else's by then."""
    async with open_ledger(ledger_url) as ledger:
        turns = SlowTurns(ledger, SLACK_SECONDS)
        pace = AccountPace(door().limits, 1000, turns)

        async with pace.question(None) if kind == "question" else pace.submission():
            pass

    # The second one may be late as well, on a slow machine.
    assert turns.taken >= 2


@pytest.mark.parametrize("kind", ["question", "submission"])
async def test_ledger_that_is_always_slow_keeps_nobody_from_asking(
    ledger_url: str, kind: str
) -> None:
    async with open_ledger(ledger_url) as ledger:
        turns = SlowTurns(ledger, *[SLACK_SECONDS] * 100)
        pace = AccountPace(door().limits, 1000, turns)

        async with pace.question(None) if kind == "question" else pace.submission():
            pass

    assert MOST_GIVEN_UP + 1 == turns.taken
