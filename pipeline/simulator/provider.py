"""The provider, simulated: its API, its files and its callbacks, on loopback.

Usable in anybody's tests: it needs a callback address and knows nothing of what
stands behind it. ``examples/simulate_in_your_tests.py`` shows how.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, Self

from aiohttp import web

from pipeline.simulator.clock import SimulatedClock
from pipeline.simulator.endpoints import Endpoints
from pipeline.simulator.files import SOURCE_PATH, FileServer, FileShelf
from pipeline.simulator.journal import Journal
from pipeline.simulator.operations import BY_NAME
from pipeline.simulator.payloads import record_info
from pipeline.simulator.plan import Expiry, Running
from pipeline.simulator.poster import Poster
from pipeline.simulator.provider_options import ProviderOptions
from pipeline.simulator.rates import RateKeeper
from pipeline.simulator.recovery import NAME as RECOVERY
from pipeline.simulator.recovery import plan_recovery
from pipeline.simulator.results import for_operation
from pipeline.simulator.scenario import plan_endlessly
from pipeline.simulator.server import serve
from pipeline.simulator.signing import LinkSigner

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
    from types import TracebackType

    from pipeline.simulator.bodies import Body
    from pipeline.simulator.files import Content
    from pipeline.simulator.journal import Outcome, Report, SentCallback
    from pipeline.simulator.plan import TaskPlan
    from pipeline.simulator.rates import AskedDetails, Violation
    from pipeline.simulator.scenario import Scenario

_LONG_AGO: Final = timedelta(days=-1)


class SimulatedProvider:
    """A provider on loopback, as an async context manager.

    Leaving the context stops the server and abandons callbacks that are under way.
    Every method belongs to the event loop that entered it.

    Args:
        options: how it behaves.
        on_sent: called after every attempt to deliver a callback, on the event
            loop; it must be quick, and an error in it ends the run.
    """

    def __init__(
        self,
        options: ProviderOptions | None = None,
        *,
        on_sent: Callable[[SentCallback], None] | None = None,
    ) -> None:
        self.options = options or ProviderOptions()
        self.clock = SimulatedClock(self.options.time_scale)
        self.credits = self.options.credits
        self.shelf = FileShelf()
        self._journal = Journal()
        self._signer = LinkSigner(
            key=f"links of seed {self.options.seed}".encode(),
            clock=self.clock,
            lifetime=self.options.link_lifetime,
        )
        self.files = FileServer(self.shelf, self._signer)
        self._poster = Poster(
            rules=self.options.posting,
            clock=self.clock,
            journal=self._journal,
            link=self._callback_link,
            door=self.options.door,
            on_sent=on_sent,
        )
        self._running: dict[str, Running] = {}
        self._recoveries: dict[str, Running] = {}
        self._rates = RateKeeper(self.options.rates, self.clock)
        self._endpoints = Endpoints(
            self,
            door=self.options.door,
            api_key=self.options.api_key,
            rates=self._rates,
            names_earlier=self.options.names_earlier,
        )
        self._supply = plan_endlessly(self.options.behaviour, seed=self.options.seed)
        self._deliveries: set[asyncio.Task[object]] = set()
        self._stack = AsyncExitStack()
        self._url: str | None = None

    async def __aenter__(self) -> Self:
        """Start the server.

        Raises:
            OSError: the address is in use.
        """
        app = web.Application()
        self.files.add_routes(app)
        self._endpoints.add_routes(app)
        async with AsyncExitStack() as stack:
            served = serve(app, host=self.options.host, port=self.options.port)
            self._url = await stack.enter_async_context(served)
            await stack.enter_async_context(self._poster)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop everything; an error in ``on_sent`` that nobody saw is raised."""
        for delivery in self._deliveries:
            delivery.cancel()
        ends = await asyncio.gather(*self._deliveries, return_exceptions=True)
        self._deliveries.clear()
        await self._stack.aclose()
        if error is None:
            for end in ends:
                if isinstance(end, Exception):
                    raise end

    @property
    def url(self) -> str:
        """Base address of the API and of links, without a slash at the end.

        Raises:
            RuntimeError: the provider has not been entered.
        """
        if self._url is None:
            message = "the provider is not open: use it as an async context manager"
            raise RuntimeError(message)
        return (self.options.public_url or self._url).rstrip("/")

    @property
    def source_url(self) -> str:
        """Link to audio that can be submitted, in WAV; it never expires."""
        return self.url + SOURCE_PATH

    @property
    def sent(self) -> Sequence[SentCallback]:
        """Every attempt so far, in the order in which they ended."""
        return tuple(self._journal.sent)

    def report(self) -> Report:
        """Sum up what was sent so far and what should have come of it."""
        return self._journal.report(violations=len(self._rates.violations))

    @property
    def violations(self) -> Sequence[Violation]:
        """Every call of the API that came too often and was refused, in order."""
        return tuple(self._rates.violations)

    @property
    def asked(self) -> Sequence[AskedDetails]:
        """Every question to a details endpoint, in order."""
        return tuple(self._rates.questions)

    def calls(self, path: str) -> int:
        """Count the calls of a path of the API, those that were refused included."""
        return self._endpoints.calls[path]

    def questions(self, task_id: str) -> int:
        """Count the questions about a task, those that were refused included."""
        return self._rates.asked[task_id]

    async def run(self, scenario: Scenario, *, callback_url: str) -> Report:
        """Play a scenario; returns when every callback was accepted or given up.

        ``{operation}`` in the address is replaced by each task's operation. The
        report covers everything this provider has sent, other runs included.
        Cancelling stops the run; what was sent stays in the report.

        Raises:
            ExceptionGroup: ``on_sent`` raised an error.
        """
        origin_at = self.clock.now()
        async with asyncio.TaskGroup() as group:
            for task in scenario.tasks:
                for delivery in self._deliveries_of(task, origin_at, callback_url):
                    group.create_task(delivery)
        return self.report()

    async def submit(
        self, callback_url: str, *, operation: str = "upload-extend", model: str = "V5"
    ) -> str:
        """Start one task, as the submit endpoint does, and give its id.

        What happens to it is decided by ``options.behaviour``. Its callbacks leave
        in the background: ``drain`` waits for them.
        """
        task = for_operation(replace(next(self._supply), model=model), operation)
        origin_at = self.clock.now() - task.starts_at
        self._start(self._deliveries_of(task, origin_at, callback_url))
        return task.task_id

    def recover(self, task_id: str, callback_url: str = "") -> bool:
        """Start to bring back lost files of a task, as the recovery endpoint does.

        False: there is no such task. Without an address nothing is called back.
        """
        known = self._running.get(task_id)
        if known is None:
            return False
        plan = plan_recovery(known.plan, self.shelf, self.options.recovery_takes)
        now = self.clock.now()
        self._recoveries[task_id] = Running(plan=plan, origin_at=now)
        if callback_url:
            self._start(self._callbacks_of(plan, now, callback_url))
        return True

    def finish_recovery(self, task_id: str) -> None:
        """Let a recovery be at its end, however long it would take.

        Raises:
            KeyError: the task is not being recovered.
        """
        running = self._recoveries[task_id]
        began_at = self.clock.now() - self.options.recovery_takes
        self._recoveries[task_id] = replace(running, origin_at=began_at)

    async def drain(self) -> Report:
        """Wait until every callback of submitted tasks was accepted or given up."""
        while self._deliveries:
            done, _ = await asyncio.wait(self._deliveries)
            self._deliveries -= done
            for delivery in done:
                delivery.result()
        return self.report()

    async def content(self, path: str) -> Content:
        """Give the bytes of a file, by its path without a query.

        Raises:
            KeyError: there is no such file.
        """
        file = self.shelf.find(path)
        if file is None:
            raise KeyError(path)
        return await self.shelf.content(file)

    def details(self, task_id: str, *, path: str | None = None) -> Body | None:
        """Give the answer of the details endpoint; ``None``: no such task.

        ``path`` is that of an endpoint, which knows the tasks of its operations only;
        ``None``: that of the task.
        """
        is_recovery = path == BY_NAME[RECOVERY].details_path
        tasks = self._recoveries if is_recovery else self._running
        running = tasks.get(task_id)
        if running is None:
            return None
        if path not in (None, BY_NAME[running.plan.operation].details_path):
            return None
        return record_info(
            running.plan,
            running.stage(self.clock.now()),
            self._fresh_link,
            callback_gave_up=self._poster.has_given_up(task_id),
        )

    def plan_of(self, task_id: str) -> TaskPlan:
        """Give everything that happens to a task, whether anybody is told or not.

        Raises:
            KeyError: there is no such task.
        """
        return self._running[task_id].plan

    def refuse_next(
        self, path: str, code: int, *, status: int = 200, times: int = 1
    ) -> None:
        """Answer the next calls of a path of the API with ``code``."""
        self._endpoints.refuse_next(path, code, status=status, times=times)

    def expire(self, path: str, *, status: int = 403) -> None:
        """Let every link of a file that there is be dead; new ones work.

        Raises:
            KeyError: there is no such file.
        """
        self.files.expire(path, status)

    def lose(self, path: str, *, status: int = 404, recoverable: bool = False) -> None:
        """Let a file be gone, whatever the link; recovery may bring it back.

        Raises:
            KeyError: there is no such file.
        """
        expiry = Expiry(status=status, recoverable=recoverable)
        self.shelf.lose(path, expiry)

    def link(self, path: str, *, lifetime: timedelta | None = None) -> str:
        """Sign a file's path anew, for ``options.link_lifetime`` unless given.

        Raises:
            KeyError: there is no such file.
        """
        if self.shelf.find(path) is None:
            raise KeyError(path)
        return self.url + self._signer.sign(path, lifetime=lifetime)

    def _deliveries_of(
        self, task: TaskPlan, origin_at: datetime, callback_url: str
    ) -> Iterator[Coroutine[object, object, Outcome]]:
        self._running[task.task_id] = Running(plan=task, origin_at=origin_at)
        self.shelf.add(task.files)
        yield from self._callbacks_of(task, origin_at, callback_url)

    def _callbacks_of(
        self, task: TaskPlan, origin_at: datetime, callback_url: str
    ) -> Iterator[Coroutine[object, object, Outcome]]:
        self._journal.plan(task)
        address = callback_url.replace("{operation}", task.operation)
        for callback in task.callbacks:
            due_at = origin_at + callback.at
            yield self._poster.deliver(task, callback, address=address, due_at=due_at)

    def _start(self, deliveries: Iterable[Coroutine[object, object, Outcome]]) -> None:
        for delivery in deliveries:
            self._deliveries.add(asyncio.create_task(delivery))

    def _fresh_link(self, path: str) -> str:
        """Link to anything: only files are signed, streams are not."""
        known = self.shelf.find(path) is not None
        return self.link(path) if known else self.url + path

    def _callback_link(self, path: str) -> str:
        """Link to anything, dead where the plan says so."""
        file = self.shelf.find(path)
        if file is None or file.expiry is None:
            return self._fresh_link(path)
        return self.link(path, lifetime=_LONG_AGO)
