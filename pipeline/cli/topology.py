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
from pipeline.errors import BrokerError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.bootstrap import Parts
    from pipeline.broker.found import Difference, FoundQueue
    from pipeline.settings import Settings

app = typer.Typer(
    name="topology",
    no_args_is_help=True,
    help="Make the exchanges and queues on the broker, or compare them.",
    rich_markup_mode=None,
)

Removed = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="Look for queues of this subscription, which was removed. Needed on"
        " RabbitMQ only, which cannot list its queues. Can be repeated.",
        show_default=False,
    ),
]
SingleQueues = Annotated[
    list[str] | None,
    typer.Option(
        "--queue",
        "-q",
        metavar="QUEUE",
        help="Remove only this queue, such as notify.shop of a subscription that"
        " was removed. Can be repeated.",
        show_default=False,
    ),
]
Yes = Annotated[
    bool, typer.Option("--yes", help="Really do it; all messages are lost.")
]
WithMessages = Annotated[
    bool,
    typer.Option("--with-messages", help="With --queue: even if messages are in it."),
]


@app.command()
def apply(
    *,
    as_json: AsJson = False,
    config: ConfigFile = None,
    assignments: Assignments = None,
    broker_url: BrokerUrl = None,
) -> None:
    """Make what is missing. Nothing that exists is changed.

    Every process whose user may does this when it starts. On RabbitMQ the others wait
    for it to be done.
    """
    from pipeline.bootstrap import open_parts

    loaded = read_settings(config, assignments, broker_url=broker_url)

    async def main() -> Parts:
        async with open_parts(loaded.settings) as parts:
            return parts

    parts = run_once(main())
    topology = parts.topology
    for difference in parts.tolerated:
        if difference.is_unseen:
            raise BrokerError(difference.text)
        render.warn(difference.text)
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


@app.command(epilog="Example: pipeline topology check --subscription shop")
def check(
    *,
    subscription: Removed = None,
    as_json: AsJson = False,
    config: ConfigFile = None,
    assignments: Assignments = None,
    broker_url: BrokerUrl = None,
) -> None:
    """Name what differs from the topology of this version; exit 1 if anything does.

    Queues that are left over from other settings are a difference. What works all
    the same is a warning and no difference.
    """
    from pipeline.bootstrap import open_parts
    from pipeline.doctor import left_over

    loaded = read_settings(config, assignments, broker_url=broker_url)

    async def main() -> Sequence[Difference]:
        async with open_parts(
            loaded.settings, declaring=False, must_exist=True
        ) as parts:
            return [
                *await parts.broker.check(parts.topology),
                *await left_over(parts, subscription or ()),
            ]

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


@app.command(
    epilog="\b\nExamples\n"
    "  pipeline topology delete --yes\n"
    "  pipeline topology delete --queue notify.shop --queue dead.notify.shop --yes"
)
def delete(
    *,
    queue: SingleQueues = None,
    yes: Yes = False,
    with_messages: WithMessages = False,
    config: ConfigFile = None,
    assignments: Assignments = None,
    broker_url: BrokerUrl = None,
) -> None:
    """Remove every exchange and queue, with all messages, for ever.

    For putting a pipeline out of service, or after a demo. Stop its processes first:
    they make the topology again when they start.

    With --queue it removes single queues, only while nobody takes from them, and
    only if they are empty unless --with-messages says otherwise.
    """
    loaded = read_settings(config, assignments, broker_url=broker_url)
    if queue:
        what = run_once(
            _delete_queues(loaded.settings, queue, yes=yes, forced=with_messages)
        )
    else:
        what = run_once(_delete_everything(loaded.settings, yes=yes))
    if not yes:
        render.fail(f"this would delete {what}; add --yes to do it")
        raise typer.Exit(2)
    typer.echo(f"{what} deleted")


async def _delete_everything(settings: Settings, *, yes: bool) -> str:
    """Count, and delete if ``yes``; say what that is."""
    from pipeline.bootstrap import open_parts

    async with open_parts(settings, must_exist=True) as parts:
        broker, topology = parts.broker, parts.topology
        depths = [await broker.depth(queue.name) for queue in topology.queues]
        if yes:
            await broker.delete(topology)
    messages = sum(depth.ready for depth in depths)
    return (
        f"{render.count_of(len(depths), 'queue')} with"
        f" {render.count_of(messages, 'message')}"
    )


async def _delete_queues(
    settings: Settings, wanted: Sequence[str], *, yes: bool, forced: bool
) -> str:
    """Look at single queues, and delete them if ``yes``; say which they are.

    Raises:
        BrokerError: one is not there, is used, or is not empty; none was deleted.
    """
    from pipeline.bootstrap import open_parts

    async with open_parts(settings, declaring=False, must_exist=True) as parts:
        start = parts.topology.queue_name("")
        names = list(dict.fromkeys(name.removeprefix(start) for name in wanted))
        there = await parts.broker.find_queues(parts.topology, names)
        found = {queue.name: queue for queue in there}
        for name in names:
            _require_removable(name, found.get(name), forced=forced or not yes)
        for name in names if yes else ():
            await parts.broker.delete_queue(parts.topology, name, if_idle=not forced)
    return ", ".join(
        f"queue {name} with {render.count_of(found[name].messages, 'message')}"
        for name in names
    )


def _require_removable(name: str, queue: FoundQueue | None, *, forced: bool) -> None:
    if queue is None:
        message = (
            f"expected a queue that is there, got {name}: `pipeline topology check`"
            " names those that are left over"
        )
    elif queue.is_used:
        message = (
            f"queue {name}: expected nobody to take from it, but somebody does: stop"
            " the worker or the command that does"
        )
    elif queue.messages and not forced:
        message = (
            f"queue {name}: expected it to be empty, found"
            f" {render.count_of(queue.messages, 'message')}: look at dead letters with"
            f" `pipeline dead-letters list --queue {name}`, or add --with-messages to"
            " lose them"
        )
    else:
        return
    raise BrokerError(message)
