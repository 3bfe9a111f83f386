"""``pipeline simulate``: the provider, for a pipeline that runs elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli import render
from pipeline.cli.demo import Tasks, TimeScale, quiet_logs
from pipeline.cli.loop import run_async
from pipeline.cli.options import AsJson  # noqa: TC001 - typer reads it
from pipeline.cli.screen import Screen

if TYPE_CHECKING:
    from pipeline.simulator import ProviderOptions, ScenarioOptions

_CallbackUrl = Annotated[
    str,
    typer.Argument(
        metavar="URL",
        help="Where to post; {operation} is replaced by each task's operation.",
    ),
]
_Seed = Annotated[int, typer.Option(help="The same seed plays the same tasks.")]
_Host = Annotated[str, typer.Option(help="Where its API and files are.")]
_Port = Annotated[int, typer.Option(help="0 takes a free one.")]
_Stay = Annotated[
    bool,
    typer.Option(
        help="Keep offering the files when all callbacks are sent, until Ctrl-C."
    ),
]


def add_to(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(
        epilog="Example: pipeline simulate http://127.0.0.1:8080/callbacks/{operation}"
    )(simulate)


def simulate(
    *,
    callback_url: _CallbackUrl,
    tasks: Tasks = 6,
    seed: _Seed = 1,
    time_scale: TimeScale = 100.0,
    host: _Host = "127.0.0.1",
    port: _Port = 0,
    stay: _Stay = True,
    as_json: AsJson = False,
) -> None:
    """Be the provider: post callbacks and offer the files.

    Repeats, other orders, failures, oddities and dead links are in it. The pipeline
    must be allowed to fetch from this machine: download.allow_private_addresses.
    """
    from pipeline.simulator import ProviderOptions, ScenarioOptions

    provider = ProviderOptions(host=host, port=port, seed=seed, time_scale=time_scale)
    scenario = ScenarioOptions(tasks=tasks, seed=seed)
    screen = Screen()
    playing = _play(
        callback_url, provider, scenario, screen, stay=stay, as_json=as_json
    )
    quiet_logs()
    try:
        run_async(playing)
    except KeyboardInterrupt:
        raise typer.Exit from None


async def _play(
    callback_url: str,
    options: ProviderOptions,
    tasks: ScenarioOptions,
    screen: Screen,
    *,
    stay: bool,
    as_json: bool,
) -> None:
    import asyncio

    from pipeline.demo.timeline import Timeline
    from pipeline.simulator import SimulatedProvider, plan_scenario

    timeline = Timeline(None if as_json else screen.write)
    provider = SimulatedProvider(options, on_sent=timeline.callback_sent)
    with screen.stopping_with_reader():
        async with provider:
            timeline.note(f"API and files at {provider.url}")
            report = await provider.run(plan_scenario(tasks), callback_url=callback_url)
            (render.print_json if as_json else render.print_fields)(report.as_dict())
            if not report.callbacks_accepted:
                render.fail(
                    f"expected 200 from {callback_url}, got none for"
                    f" {report.callbacks_sent} requests"
                )
                raise typer.Exit(1)
            if stay and not as_json:
                timeline.note("all sent; the files stay until Ctrl-C")
                await asyncio.Event().wait()
