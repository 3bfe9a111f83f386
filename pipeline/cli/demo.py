"""``pipeline demo`` and ``run --simulate``: everything, with a simulated provider."""

from __future__ import annotations

import shlex
import shutil
import sys
import tempfile
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from secrets import randbelow
from typing import TYPE_CHECKING, Annotated, Final

import typer

from pipeline.cli import render
from pipeline.cli.loop import heeding_terminate, run_async
from pipeline.cli.options import AsJson, BrokerUrl, read_settings
from pipeline.cli.screen import Screen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pipeline.demo import Demo, DemoOptions, Summary

#: The longest to wait for everything to settle, and what each callback of a load
#: adds: a slow machine notifies of some hundred events a second.
PATIENCE: Final = timedelta(seconds=90)
PATIENCE_FOR_EACH: Final = timedelta(milliseconds=20)

Tasks = Annotated[int, typer.Option(min=1, help="How many tasks the provider has.")]
TimeScale = Annotated[
    float, typer.Option(min=0.1, help="Simulated seconds per real second.")
]
_Seed = Annotated[
    int | None,
    typer.Option(
        help="The same seed plays the same tasks.",
        show_default="1; with --callback-url another one each time",
    ),
]
_Load = Annotated[
    int,
    typer.Option(
        min=0, help="Send so many callbacks without files instead, one in five twice."
    ),
]
_Callbacks = Annotated[
    bool,
    typer.Option(
        help="Without callbacks everything is found out by asking the provider.",
    ),
]
_CallbackUrl = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Use the pipeline behind this callback address, such as"
        " http://ingress:8080/callbacks/{operation}, and its PIPELINE_… settings,"
        " instead of one in this process.",
        show_default=False,
    ),
]
_Host = Annotated[str, typer.Option(help="Where the simulated parties listen.")]
_PublicHost = Annotated[
    str, typer.Option(help="Under which name the pipeline reaches them.")
]
_Port = Annotated[int, typer.Option(help="0 takes a free one.")]


def add_to(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(
        epilog="\b\nExamples\n"
        "  pipeline demo\n"
        "  pipeline demo --tasks 50 --json\n"
        "  pipeline demo --no-callbacks\n"
        "  pipeline demo --load 10000 --broker-url amqp://guest:guest@localhost/"
    )(demo)


def demo(
    *,
    tasks: Tasks = 6,
    seed: _Seed = None,
    load: _Load = 0,
    callbacks: _Callbacks = True,
    time_scale: TimeScale = 100.0,
    broker_url: BrokerUrl = None,
    callback_url: _CallbackUrl = None,
    host: _Host = "127.0.0.1",
    public_host: _PublicHost = "127.0.0.1",
    provider_port: _Port = 0,
    subscriber_port: _Port = 0,
    as_json: AsJson = False,
) -> None:
    """Play everything with a simulated provider; give a verdict.

    Real callbacks with real audio, with repeats, in any order; one subscriber fails,
    its notifications become dead letters and are replayed. Everything is kept in a
    temporary folder. Exit code 1 if anything that was accepted is lost.
    """
    from pipeline.demo import DemoOptions

    if not callbacks and (load or callback_url is not None):
        message = "expected neither --load nor --callback-url with it"
        raise typer.BadParameter(message, param_hint="--no-callbacks")
    if seed is None:
        # A pipeline that stays would take the same tasks again for repeats.
        seed = 1 if callback_url is None else randbelow(1_000_000)
    options = DemoOptions(
        tasks=tasks,
        seed=seed,
        load=load,
        callbacks=callbacks,
        time_scale=time_scale,
        patience=PATIENCE + load * PATIENCE_FOR_EACH,
        callback_url=callback_url,
        host=host,
        public_host=public_host,
        provider_port=provider_port,
        subscriber_port=subscriber_port,
    )
    _give_verdict(options, broker_url, as_json=as_json)


def run_simulated(*, tasks: int, port: int | None) -> None:
    """Run everything with the simulated provider, and stay until Ctrl-C."""
    from pipeline.demo import DemoOptions
    from pipeline.service import StoppedAtOnce

    folder = Path("data") / f"demo-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    folder.mkdir(parents=True)
    options = DemoOptions(tasks=tasks, seed=randbelow(1_000_000))
    quiet_logs()
    try:
        run_async(_stay(folder, options, 8080 if port is None else port))
    except StoppedAtOnce as error:
        render.fail("stopped at once; what was in progress will be delivered again")
        raise typer.Exit(1) from error


def quiet_logs() -> None:
    """Log only what is wrong: the screen belongs to the timeline."""
    from pipeline.logs import configure_logs

    configure_logs(level="ERROR", form="text", stream=sys.stderr)


def _give_verdict(
    options: DemoOptions, broker_url: str | None, *, as_json: bool
) -> None:
    quiet_logs()
    is_shown = not (as_json or options.load)
    playing = _play_in_temporary_folder(options, broker_url, is_shown=is_shown)
    summary = run_async(heeding_terminate(playing))
    if as_json:
        render.print_json(summary.as_dict())
    else:
        _print_summary(summary)
    if summary.lost:
        raise typer.Exit(1)


async def _play_in_temporary_folder(
    options: DemoOptions, broker_url: str | None, *, is_shown: bool
) -> Summary:
    # In the coroutine, so that a signal finds somebody who removes it.
    with tempfile.TemporaryDirectory(prefix="pipeline-demo-") as folder:
        return await _play(Path(folder), options, broker_url, is_shown=is_shown)


async def _play(
    folder: Path, options: DemoOptions, broker_url: str | None, *, is_shown: bool
) -> Summary:
    from pipeline.demo import Demo
    from pipeline.demo.timeline import Timeline

    settings = None
    if options.callback_url is not None:
        settings = read_settings(None, None, broker_url=broker_url).settings
    screen = Screen()
    timeline = Timeline(screen.write if is_shown else None)
    demo = Demo(folder, options, timeline, broker_url=broker_url, settings=settings)
    with screen.stopping_with_reader():
        async with demo:
            return await demo.run()


async def _stay(folder: Path, options: DemoOptions, port: int) -> None:
    from pipeline.demo import Demo
    from pipeline.demo.timeline import Timeline
    from pipeline.service import stopping_on_signals

    screen = Screen()
    timeline = Timeline(screen.write)
    demo = Demo(folder, options, timeline, port=port)
    with screen.stopping_with_reader():
        async with stopping_on_signals() as stopping, _started(demo, folder):
            timeline.note(f"the provider posts to {demo.callback_url}")
            accepted = await demo.send()
            await demo.settle(accepted)
            dead = sum((await demo.dead_letters()).values())
            demo.heal()
            _print_summary(await demo.summarise(accepted, dead, 0))
            _print_suggestions(folder, demo.config or folder, dead)
            await stopping.wait()
            timeline.note("stopping: work in progress is finished first")


@asynccontextmanager
async def _started(demo: Demo, folder: Path) -> AsyncIterator[None]:
    """Start a demo in a folder of its own, which goes again if the start fails."""
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(demo)
        except BaseException:
            shutil.rmtree(folder)
            # What is around it goes, too, unless it holds anything else.
            with suppress(OSError):
                folder.parent.rmdir()
            raise
        yield


def _print_suggestions(folder: Path, config: Path, dead: int) -> None:
    command = _command_name()
    files = folder / "assets" / "sha256"
    typer.echo()
    typer.echo(f"The files are in {files}; everything else is in {folder}.")
    if dead:
        typer.echo(
            f"The subscriber studio has failed: {render.count_of(dead, 'dead letter')}."
            " It works now; replay them from another terminal:"
        )
        for rest in ("list", "replay"):
            line = f"{command} dead-letters {rest} --config {shlex.quote(str(config))}"
            typer.secho(f"    {line}", bold=True)
    typer.echo("Look at a task:")
    line = f"{command} tasks list --config {shlex.quote(str(config))}"
    typer.secho(f"    {line}", bold=True)
    typer.echo("Stop with Ctrl-C.")


def _print_summary(summary: Summary) -> None:
    typer.echo()
    figures = summary.as_dict()
    losses = figures.pop("losses")
    render.print_fields({k.replace("_", " "): v for k, v in figures.items()})
    for loss in losses:
        typer.secho(f"lost: {loss}", fg="red")


def _command_name() -> str:
    """How this command was called, so that a suggestion can be pasted."""
    called = Path(sys.argv[0])
    if shutil.which("pipeline") or called.name != "pipeline":
        return "pipeline"
    try:
        return str(called.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(called)
