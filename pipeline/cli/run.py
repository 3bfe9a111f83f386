"""``pipeline run``, ``ingress``, ``worker`` and ``poller``: the processes that stay."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final

import typer

from pipeline import failpoints
from pipeline.cli import render
from pipeline.cli.loop import run_async
from pipeline.cli.options import (
    Assignments,
    BrokerUrl,
    ConfigFile,
    LedgerUrl,
    read_settings,
)

if TYPE_CHECKING:
    from pipeline.bootstrap import Plan
    from pipeline.settings import Loaded, Settings

Host = Annotated[
    str | None,
    typer.Option(help="Address to listen on  [default: 127.0.0.1]", show_default=False),
]
Port = Annotated[
    int | None,
    typer.Option(help="Port to listen on; 0 takes a free one  [default: 8080]"),
]
#: Variables that say the same as options which do not go with ``--simulate``.
NOT_SIMULATED: Final = (
    "PIPELINE_CONFIG",
    "PIPELINE_BROKER_URL",
    "PIPELINE_LEDGER_URL",
    "PIPELINE_INGRESS__HOST",
)


class WorkerName(StrEnum):
    """The workers there are."""

    DEDUPE = "dedupe"
    DOWNLOAD = "download"
    NOTIFY = "notify"


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(
        epilog="\b\nExamples\n"
        "  pipeline run\n"
        "  pipeline run --simulate\n"
        "  pipeline run --port 9000 --set subscriptions_file=subscriptions.toml\n\n"
        "The provider posts to http://HOST:PORT/callbacks/OPERATION, such as"
        " upload-extend."
    )(run)
    app.command(epilog="Example: pipeline ingress --host 0.0.0.0 --port 8080")(ingress)
    app.command(epilog="Example: pipeline admin --set admin.port=8090")(admin)
    app.command(
        epilog="\b\nExamples\n"
        "  pipeline worker dedupe\n"
        "  pipeline worker notify --subscription studio\n"
        "  pipeline worker download --set metrics.port=9101"
    )(worker)
    app.command(epilog="Example: pipeline poller --set poller.quiet=2m")(poller)


def run(
    *,
    config: ConfigFile = None,
    assignments: Assignments = None,
    broker_url: BrokerUrl = None,
    ledger_url: LedgerUrl = None,
    host: Host = None,
    port: Port = None,
    simulate: Annotated[
        bool,
        typer.Option(
            "--simulate",
            help="With a simulated provider and subscribers, and with settings and"
            " data of its own in ./data/demo-…; of the other options only --port.",
        ),
    ] = False,
) -> None:
    """Run everything in this process: ingress, all workers, and the poller.

    Without settings it needs no server and keeps its data in ./data. Stop it with
    Ctrl-C: work in progress is finished first; a second Ctrl-C stops at once.
    """
    if simulate:
        options = {
            "--config": config,
            "--set": assignments,
            "--broker-url": broker_url,
            "--ledger-url": ledger_url,
            "--host": host,
        }
        run_simulation(port, [name for name, value in options.items() if value])
        return
    loaded = read_settings(
        config,
        assignments,
        broker_url=broker_url,
        ledger_url=ledger_url,
        ingress__host=host,
        ingress__port=port,
    )
    stay(loaded, everything(loaded.settings))


def everything(settings: Settings) -> Plan:
    """Plan every role that the settings leave room for."""
    from pipeline.bootstrap import Plan
    from pipeline.settings.polling import is_polling

    return Plan(
        ingress=True,
        workers=frozenset(WorkerName),
        polls=is_polling(settings),
        admin=True,
    )


def run_simulation(port: int | None, given: list[str]) -> None:
    """Run everything with the simulated provider; ``given``: options beside it.

    Raises:
        typer.BadParameter: there are settings that it would not heed; nobody should
            wonder where messages went.
    """
    from pipeline.cli.demo import run_simulated

    given = [*given, *(name for name in NOT_SIMULATED if os.environ.get(name))]
    if given:
        message = (
            f"expected no settings with it, got {', '.join(given)}: it has its own,"
            " on the embedded broker. Leave them out, or play on a broker of yours"
            " with `pipeline demo --broker-url URL`, or start `pipeline run` with"
            " them and `pipeline simulate URL` beside it"
        )
        raise typer.BadParameter(message, param_hint="--simulate")
    run_simulated(tasks=6, port=port)


def ingress(
    *,
    config: ConfigFile = None,
    assignments: Assignments = None,
    broker_url: BrokerUrl = None,
    host: Host = None,
    port: Port = None,
) -> None:
    """Take callbacks over HTTP and put them on the broker.

    Also answers /healthz, /readyz, /metrics and /openapi.json. Needs the broker only,
    and starts without it: callbacks are answered 503 until it is there.
    """
    from pipeline.bootstrap import Plan

    loaded = read_settings(
        config,
        assignments,
        broker_url=broker_url,
        ingress__host=host,
        ingress__port=port,
    )
    stay(loaded, Plan(ingress=True, workers=frozenset(), subscription=None))


def admin(
    *,
    config: ConfigFile = None,
    assignments: Assignments = None,
    ledger_url: LedgerUrl = None,
) -> None:
    """Take submissions over HTTP: POST /tasks, with one of admin.tokens.

    Needs admin.port, the provider's key and the ledger; `pipeline run` has it, too,
    where admin.port is set.
    """
    from pipeline.bootstrap import Plan

    loaded = read_settings(config, assignments, ledger_url=ledger_url)
    if loaded.settings.admin.port is None:
        message = "expected a port, got none: set admin.port, and admin.tokens"
        raise typer.BadParameter(message, param_hint="admin.port")
    stay(loaded, Plan(ingress=False, workers=frozenset(), admin=True))


def worker(
    *,
    name: Annotated[WorkerName, typer.Argument(help="Which worker.")],
    subscription: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="notify: only this subscription  [default: all]"
        ),
    ] = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    broker_url: BrokerUrl = None,
    ledger_url: LedgerUrl = None,
) -> None:
    """Run one worker. Start as many processes of each as you need.

    With metrics.port set it answers /healthz, /readyz and /metrics there.
    """
    from pipeline.bootstrap import Plan

    if subscription is not None and name is not WorkerName.NOTIFY:
        message = f"expected it with notify only, got it with {name}"
        raise typer.BadParameter(message, param_hint="--subscription")
    loaded = read_settings(
        config, assignments, broker_url=broker_url, ledger_url=ledger_url
    )
    stay(
        loaded,
        Plan(ingress=False, workers=frozenset({name}), subscription=subscription),
    )


def poller(
    *,
    config: ConfigFile = None,
    assignments: Assignments = None,
    broker_url: BrokerUrl = None,
    ledger_url: LedgerUrl = None,
) -> None:
    """Ask the provider for tasks of which no end was heard.

    Start as many as you like; they share the work and the rate. With metrics.port set
    it answers /healthz, /readyz and /metrics there.
    """
    from pipeline.bootstrap import Plan

    loaded = read_settings(
        config, assignments, broker_url=broker_url, ledger_url=ledger_url
    )
    stay(loaded, Plan(ingress=False, workers=frozenset(), polls=True))


def stay(loaded: Loaded, plan: Plan) -> None:
    """Run what is planned until a signal, then stop in order.

    Raises:
        typer.Exit: with code 1 after a second signal.
    """
    from pipeline.logs import configure_logs, get_logger
    from pipeline.roles import open_roles
    from pipeline.service import StoppedAtOnce, run_roles, stopping_on_signals
    from pipeline.settings import DEFAULT, show_settings

    log = loaded.settings.log
    configure_logs(level=log.level, form=log.format)
    is_text = log.format == "text" or (log.format == "auto" and sys.stdout.isatty())
    shown = {
        setting.key: setting.value
        for setting in show_settings(loaded)
        # For people only what they have chosen; programs get everything.
        if setting.origin != DEFAULT or not is_text
    }
    file = None if loaded.file is None else str(loaded.file)
    get_logger("cli").info("settings_loaded", file=file, **shown)
    if armed := failpoints.armed():
        get_logger("cli").warning("failpoints_armed", failpoints=armed)

    async def main() -> None:
        async with (
            stopping_on_signals() as stopping,
            open_roles(loaded.settings, plan) as roles,
        ):
            await run_roles(roles, stopping)

    try:
        run_async(main())
    except StoppedAtOnce as error:
        render.fail("stopped at once; what was in progress will be delivered again")
        raise typer.Exit(1) from error
