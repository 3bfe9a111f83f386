"""Play a demo: provider, subscribers, pipeline, quiet, replay, verdict."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import fields
from typing import TYPE_CHECKING, Final, Self, TypeVar

from pipeline.bootstrap import Plan, ledger_of, open_parts
from pipeline.dead_letters import Selection, replay
from pipeline.demo.evidence import read_dead_letters, read_ledger
from pipeline.demo.options import (
    ARCHIVE,
    STUDIO,
    DemoOptions,
    demo_settings,
    polling_config,
    write_config,
)
from pipeline.demo.sending import only_expect, send_callbacks, send_load
from pipeline.demo.summary import Accepted, Summary, find_losses
from pipeline.errors import BrokerUnavailable, LedgerUnavailable
from pipeline.ledger.port import Totals
from pipeline.roles import open_roles
from pipeline.service import HttpRole, run_roles
from pipeline.settings.polling import is_polling
from pipeline.simulator import (
    PostingRules,
    ProviderOptions,
    ScenarioOptions,
    SimulatedProvider,
    SimulatedSubscriber,
    plan_scenario,
)
from pipeline.topology import dead_letter_queue

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path
    from types import TracebackType

    from pipeline.bootstrap import Parts
    from pipeline.demo.timeline import Timeline
    from pipeline.ledger.port import Ledger
    from pipeline.settings import Settings

WORKERS: Final = frozenset({"dedupe", "download", "notify"})
#: Nothing has moved for so long: it is over, or it hangs.
QUIET_SECONDS: Final = 0.5
LOOK_EVERY_SECONDS: Final = 0.1
#: A server that was killed comes back; the demo sees whether anything was lost then.
AWAY: Final = (BrokerUnavailable, LedgerUnavailable)

T = TypeVar("T")


class Demo:
    """One demo, as an async context manager around everything it needs.

    Args:
        folder: for the configuration and the data.
        options: how large and how fast.
        timeline: where to write what happens.
        broker_url: another broker than a file in ``folder``.
        settings: those of a pipeline that runs elsewhere, with
            ``options.callback_url``; ``None``: it runs in this process.
        port: of the ingress in this process; 0 takes a free one.
    """

    def __init__(
        self,
        folder: Path,
        options: DemoOptions,
        timeline: Timeline,
        *,
        broker_url: str | None = None,
        settings: Settings | None = None,
        port: int = 0,
    ) -> None:
        self._folder = folder
        self._options = options
        self._timeline = timeline
        self._broker_url = broker_url
        self._settings = settings
        self._port = port
        self._stack = AsyncExitStack()
        self._stopping = asyncio.Event()
        self.config: Path | None = None
        self.callback_url = options.callback_url or ""

    async def __aenter__(self) -> Self:
        """Start the simulated parties and, if it runs here, the pipeline."""
        async with AsyncExitStack() as stack:
            await self._open(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Drain the pipeline and stop everything."""
        self._stopping.set()
        await self._stack.aclose()

    async def run(self) -> Summary:
        """Play it to the end, replay included, and give the verdict.

        Raises:
            PipelineError: a part of the pipeline failed.
        """
        accepted = await self.send()
        await self.settle(accepted)
        dead_lettered = sum((await self._persist(self.dead_letters)).values())
        replayed = 0
        if dead_lettered:
            self._timeline.note(f"{dead_lettered} dead letters; subscriber healed")
            self.heal()
            replayed = await self._persist(self.replay)
            self._timeline.note(f"{replayed} replayed")
            await self.settle(accepted)
        return await self._persist(
            lambda: self.summarise(accepted, dead_lettered, replayed)
        )

    async def send(self) -> Accepted:
        """Let the provider send its callbacks; return what was accepted of them."""
        options = self._options
        if options.load:
            return await send_load(options, self.callback_url, self._timeline)
        planned = ScenarioOptions(tasks=options.tasks, seed=options.seed)
        scenario = plan_scenario(planned)
        if options.callbacks:
            return await send_callbacks(self._provider, scenario, self.callback_url)
        self._timeline.note("no callback will come: the provider is asked")
        polling = self._in_force.poller
        return await only_expect(self._provider, scenario, self._ledger, polling)

    async def settle(self, accepted: Accepted) -> None:
        """Wait until nothing moves any more and every queue is empty.

        Returns also when patience is at its end: the verdict then says what is
        missing.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._options.patience.total_seconds()
        seen: object = None
        since = loop.time()
        while (now := loop.time()) < deadline:
            try:
                present = await self._present()
                if present != seen:
                    seen, since = present, now
                elif now - since >= QUIET_SECONDS and await self._is_done(accepted):
                    return
            except AWAY as error:
                self._timeline.note(f"waiting: {error}")
            if self._pipeline is not None and self._pipeline.done():
                self._pipeline.result()  # it has failed: say why
            await asyncio.sleep(LOOK_EVERY_SECONDS)

    def heal(self) -> None:
        """Let the failing subscriber work from now on."""
        self._subscriber.heal(STUDIO)

    async def replay(self) -> int:
        """Replay every dead letter; return how many there were."""
        queues = self._parts.topology.work_queues
        progress = await replay(self._parts.broker, queues, Selection())
        return progress.matched

    async def dead_letters(self) -> Mapping[str, int]:
        """Count dead letters by work queue."""
        broker, topology = self._parts.broker, self._parts.topology
        return {
            queue: depth.ready
            for queue in topology.work_queues
            if (depth := await broker.depth(dead_letter_queue(queue))).ready
        }

    async def summarise(
        self, accepted: Accepted, dead_lettered: int, replayed: int
    ) -> Summary:
        """Hold the provider's count against the effects."""
        dead = await self.dead_letters()
        totals = self._gained(await self._ledger.totals())
        losses = await self._find_losses(accepted)
        repeated = sum(map(self._subscriber.repeats, (ARCHIVE, STUDIO)))
        return Summary(
            seed=self._options.seed,
            callbacks_sent=accepted.callbacks_sent,
            callbacks_accepted=accepted.callbacks_accepted,
            duplicates_dropped=totals.duplicates,
            tasks=len(accepted.task_ids),
            events_published=len(self._events_of(ARCHIVE)),
            events_repeated=repeated,
            assets_stored=totals.assets_stored,
            assets_expired=totals.assets_expired,
            notifications_delivered=totals.notifications_delivered,
            dead_lettered=dead_lettered,
            replayed=replayed,
            dead_letters_left=sum(dead.values()),
            lost=sum(losses.values()),
            losses=[f"{count} {what}" for what, count in losses.items()],
            seconds=round(self._timeline.seconds, 2),
        )

    async def _open(self, stack: AsyncExitStack) -> None:
        options, timeline = self._options, self._timeline
        self._subscriber = await stack.enter_async_context(
            SimulatedSubscriber(
                host=options.host,
                port=options.subscriber_port,
                on_request=timeline.notified,
            )
        )
        self._subscriber.fail(STUDIO)
        public_url = None
        if options.public_host != options.host:
            public_url = f"http://{options.public_host}:{options.provider_port}"
        provider = SimulatedProvider(
            ProviderOptions(
                host=options.host,
                port=options.provider_port,
                public_url=public_url,
                seed=options.seed,
                time_scale=options.time_scale,
                posting=PostingRules(loss_rate=0 if options.callbacks else 1),
            ),
            on_sent=timeline.callback_sent,
        )
        self._provider = await stack.enter_async_context(provider)
        settings = self._in_force = self._settings or self._write_settings()
        self._pipeline: asyncio.Task[None] | None = None
        if self._broker_url is not None and self._settings is None:
            # Somebody else's broker: leave nothing on it.
            stack.push_async_callback(self._clean_up, settings)
        if self._settings is None:
            await self._start_pipeline(stack, settings)
        self._parts: Parts = await stack.enter_async_context(open_parts(settings))
        self._ledger: Ledger = await stack.enter_async_context(ledger_of(settings))
        self._before = await self._ledger.totals()

    def _write_settings(self) -> Settings:
        base = self._subscriber.url("")[:-1]
        more = ""
        if not self._options.callbacks:
            key = self._provider.options.api_key or ""
            more = polling_config(self._provider.url, key)
        self.config = write_config(self._folder, base, self._broker_url, more)
        return demo_settings(self.config, port=self._port)

    async def _start_pipeline(self, stack: AsyncExitStack, settings: Settings) -> None:
        plan = Plan(ingress=True, workers=WORKERS, polls=is_polling(settings))
        roles = await stack.enter_async_context(open_roles(settings, plan))
        self._pipeline = asyncio.create_task(run_roles(roles, self._stopping))
        stack.push_async_callback(self._stop_pipeline)
        (ingress,) = (role for role in roles if isinstance(role, HttpRole))
        started = asyncio.create_task(ingress.started.wait())
        await asyncio.wait(
            (started, self._pipeline), return_when=asyncio.FIRST_COMPLETED
        )
        started.cancel()
        if self._pipeline.done():
            self._pipeline.result()
        assert ingress.address is not None  # noqa: S101  it has started
        host, port = ingress.address
        self.callback_url = f"http://{host}:{port}/callbacks/{{operation}}"

    @staticmethod
    async def _clean_up(settings: Settings) -> None:
        async with open_parts(settings) as parts:
            await parts.broker.delete(parts.topology)

    async def _stop_pipeline(self) -> None:
        self._stopping.set()
        if self._pipeline is not None:
            await self._pipeline

    async def _persist(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask again while broker or ledger is away, until patience is at its end."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._options.patience.total_seconds()
        while True:
            try:
                return await ask()
            except AWAY as error:
                if loop.time() > deadline:
                    raise
                self._timeline.note(f"waiting: {error}")
            await asyncio.sleep(LOOK_EVERY_SECONDS)

    async def _present(self) -> object:
        """What moves while anything is under way."""
        waiting = [
            (await self._parts.broker.depth(queue)).ready
            for queue in self._parts.topology.work_queues
        ]
        return (
            waiting,
            await self._ledger.totals(),
            len(self._subscriber.requests(ARCHIVE)),
            len(self._subscriber.requests(STUDIO)),
        )

    async def _is_done(self, accepted: Accepted) -> bool:
        broker, topology = self._parts.broker, self._parts.topology
        for queue in topology.work_queues:
            depth = await broker.depth(queue)
            if depth.ready or depth.delayed:
                return False
        return not await self._find_losses(accepted)

    async def _find_losses(self, accepted: Accepted) -> dict[str, int]:
        return find_losses(
            accepted=accepted,
            recorded=await read_ledger(self._ledger, accepted.task_ids),
            dead=await read_dead_letters(self._parts, accepted.task_ids),
            archive=self._events_of(ARCHIVE),
            studio=self._events_of(STUDIO),
        )

    def _events_of(self, subscriber: str) -> frozenset[str]:
        """Give the ids of the events that a subscriber has accepted."""
        effects = self._subscriber.effects(subscriber)
        return frozenset(request.webhook_id for request in effects)

    def _gained(self, totals: Totals) -> Totals:
        """What this run has added; there may have been others before it."""
        return Totals(
            **{
                field.name: getattr(totals, field.name)
                - getattr(self._before, field.name)
                for field in fields(Totals)
            }
        )
