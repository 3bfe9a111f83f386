"""``pipeline simulate``: the provider, for a pipeline that runs elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from pipeline.cli import render
from pipeline.cli.demo import TimeScale, quiet_logs
from pipeline.cli.loop import run_async
from pipeline.cli.options import AsJson  # noqa: TC001 - typer reads it
from pipeline.cli.screen import Screen
from pipeline.cli.simulate_choices import (
    provider_of,
    read_limits,
    read_shares,
    read_spans,
    scenario_of,
)
from pipeline.cli.simulate_options import (
    EPILOG,
    ApiKey,
    CallbackUrl,
    Door,
    DoorName,
    Host,
    Limits,
    Operations,
    Port,
    PublicUrl,
    RealTime,
    Seed,
    Shares,
    Spans,
    Stay,
    Tasks,
    WebhookKey,
)

if TYPE_CHECKING:
    from pipeline.demo.timeline import Timeline
    from pipeline.simulator import (
        ProviderOptions,
        ScenarioOptions,
        SimulatedProvider,
    )


def add_to(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(epilog=EPILOG)(simulate)


def simulate(
    *,
    callback_url: CallbackUrl = None,
    tasks: Tasks = None,
    operations: Operations = None,
    seed: Seed = None,
    time_scale: TimeScale = 100.0,
    door: Door = DoorName.SUNOAPI_ORG,
    api_key: ApiKey = "simulated-key",
    webhook_key: WebhookKey = None,
    shares: Shares = None,
    spans: Spans = None,
    limits: Limits = None,
    real_time: RealTime = False,
    host: Host = "127.0.0.1",
    port: Port = 0,
    public_url: PublicUrl = None,
    stay: Stay = True,
    as_json: AsJson = False,
) -> None:
    """Be the provider: take submissions, post callbacks, offer the files."""
    given = read_shares(shares)
    where = {"host": host, "port": port, "public_url": public_url}
    provider = provider_of(
        given,
        read_spans(spans),
        read_limits(limits),
        door=door,
        webhook_key=webhook_key,
        real_time=real_time,
        seed=seed,
        **{"api_key": api_key or None, "time_scale": time_scale, **where},
    )
    scenario = scenario_of(given, tasks=tasks, operations=operations, seed=seed)
    if callback_url is None:
        _refuse(tasks=tasks, operation=operations, no_stay=not stay, json=as_json)
    _run(callback_url, provider, scenario, stay=stay, as_json=as_json)


def _refuse(**given: object) -> None:
    """Refuse options that only tasks of its own heed.

    Raises:
        typer.BadParameter: there is one.
    """
    for name, what in given.items():
        if what:
            message = "expected a URL with it: without one no tasks are played"
            raise typer.BadParameter(message, param_hint=f"--{name.replace('_', '-')}")


def _run(
    callback_url: str | None,
    options: ProviderOptions,
    tasks: ScenarioOptions,
    *,
    stay: bool,
    as_json: bool,
) -> None:
    quiet_logs()
    playing = _play(callback_url, options, tasks, stay=stay, as_json=as_json)
    try:
        run_async(playing)
    except KeyboardInterrupt:
        raise typer.Exit from None


async def _play(
    callback_url: str | None,
    options: ProviderOptions,
    tasks: ScenarioOptions,
    *,
    stay: bool,
    as_json: bool,
) -> None:
    import asyncio

    from pipeline.demo.timeline import Timeline
    from pipeline.simulator import SimulatedProvider

    screen = Screen()
    timeline = Timeline(None if as_json else screen.write)
    provider = SimulatedProvider(options, on_sent=timeline.callback_sent)
    with screen.stopping_with_reader():
        async with provider:
            timeline.note(f"API and files at {provider.url}")
            if callback_url is not None:
                await _post(provider, tasks, callback_url, as_json=as_json)
            if stay and not as_json:
                _say_what_is_offered(timeline, provider, is_played=bool(callback_url))
                await asyncio.Event().wait()


async def _post(
    provider: SimulatedProvider,
    tasks: ScenarioOptions,
    callback_url: str,
    *,
    as_json: bool,
) -> None:
    """Play tasks of its own, and print what came of them.

    Raises:
        typer.Exit: nobody has answered.
    """
    from pipeline.simulator import plan_scenario

    report = await provider.run(plan_scenario(tasks), callback_url=callback_url)
    (render.print_json if as_json else render.print_fields)(report.as_dict())
    if not report.callbacks_accepted and report.callbacks_sent:
        render.fail(
            f"expected 200 from {callback_url}, got none for"
            f" {report.callbacks_sent} requests"
        )
        raise typer.Exit(1)


def _say_what_is_offered(
    timeline: Timeline, provider: SimulatedProvider, *, is_played: bool
) -> None:
    key = provider.options.api_key
    timeline.note(f"the key is {key}" if key else "everybody is let in without a key")
    timeline.note(f"audio to submit: {provider.source_url}")
    if is_played:
        timeline.note("all sent; the files stay until Ctrl-C")
    else:
        timeline.note("waiting for submissions until Ctrl-C")
