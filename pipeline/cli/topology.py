"""``pipeline topology``: make the broker's exchanges and queues, or compare them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli import render
from pipeline.cli.loop import run_once
from pipeline.cli.options import (
    AsJson,
    Assignments,
    BrokerUrl,
    ConfigFile,
    read_settings,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.broker.port import Difference
    from pipeline.topology import Topology

app = typer.Typer(
    name="topology",
    no_args_is_help=True,
    help="Make the exchanges and queues on the broker, or compare them.",
    rich_markup_mode="rich",
)


@app.command()
def apply(
    *,
    as_json: AsJson = False,
    config: ConfigFile = None,
    assignments: Assignments = None,
    broker_url: BrokerUrl = None,
) -> None:
    """Make what is missing. Nothing that exists is changed.

    Every process does this when it starts, so there is seldom a need to.
    """
    from pipeline.bootstrap import open_parts

    loaded = read_settings(config, assignments, broker_url=broker_url)

    async def main() -> Topology:
        async with open_parts(loaded.settings) as parts:
            return parts.topology

    topology = run_once(main())
    if as_json:
        render.print_json(
            {
                "exchanges": [
                    topology.exchange_name(e.name) for e in topology.exchanges
                ],
                "queues": [topology.queue_name(q.name) for q in topology.queues],
                "bindings": len(topology.bindings),
            }
        )
        return
    typer.echo(
        f"{render.count_of(len(topology.exchanges), 'exchange')},"
        f" {render.count_of(len(topology.queues), 'queue')} and"
        f" {render.count_of(len(topology.bindings), 'binding')} are there"
    )


@app.command()
def check(
    *,
    as_json: AsJson = False,
    config: ConfigFile = None,
    assignments: Assignments = None,
    broker_url: BrokerUrl = None,
) -> None:
    """Name what differs from the topology of this version; exit 1 if anything does.

    What works all the same is a warning and no difference.
    """
    from pipeline.bootstrap import open_parts

    loaded = read_settings(config, assignments, broker_url=broker_url)

    async def main() -> Sequence[Difference]:
        async with open_parts(loaded.settings, declaring=False) as parts:
            return await parts.broker.check(parts.topology)

    found = run_once(main())
    warnings = [one.text for one in found if one.is_tolerated]
    differences = [one.text for one in found if not one.is_tolerated]
    if as_json:
        render.print_json(
            {"ok": not differences, "differences": differences, "warnings": warnings}
        )
    else:
        for warning in warnings:
            render.warn(warning)
        for difference in differences:
            render.fail(difference)
        if not differences:
            typer.echo("the broker has the whole topology")
    if differences:
        raise typer.Exit(1)


@app.command()
def delete(
    *,
    yes: Annotated[
        bool, typer.Option("--yes", help="Really do it; all messages are lost.")
    ] = False,
    config: ConfigFile = None,
    assignments: Assignments = None,
    broker_url: BrokerUrl = None,
) -> None:
    """Remove every exchange and queue, with all messages, for ever.

    For putting a pipeline out of service, or after a demo. Stop its processes first:
    they make the topology again when they start.
    """
    from pipeline.bootstrap import open_parts

    loaded = read_settings(config, assignments, broker_url=broker_url)

    async def main() -> tuple[int, int]:
        async with open_parts(loaded.settings) as parts:
            broker, topology = parts.broker, parts.topology
            depths = [await broker.depth(queue.name) for queue in topology.queues]
            if yes:
                await broker.delete(topology)
            return len(topology.queues), sum(depth.ready for depth in depths)

    queues, messages = run_once(main())
    what = (
        f"{render.count_of(queues, 'queue')} with"
        f" {render.count_of(messages, 'message')}"
    )
    if not yes:
        render.fail(f"this would delete {what}; add --yes to do it")
        raise typer.Exit(2)
    typer.echo(f"{what} deleted")
