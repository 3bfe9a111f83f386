"""The broker: whether it answers, what is on it, what waits and for whom."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Final

from pipeline.bootstrap import open_parts
from pipeline.broker.found import Difference
from pipeline.doctor.finding import Finding, ok, problem, warning
from pipeline.topology import QueueKind, dead_letter_queue, notify_queue

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import timedelta

    from pipeline.bootstrap import Parts
    from pipeline.broker.found import FoundQueue
    from pipeline.settings import Settings

BROKER: Final = "broker"
TOPOLOGY: Final = "topology"
QUEUES: Final = "queues"
#: Quorum queues have what we ask of them from here on.
OLDEST_RABBITMQ: Final = (3, 10)
#: Fewer than this are no sign of anything, whether they grow or not.
MANY_MESSAGES: Final = 100


async def look_at_broker(settings: Settings, span: timedelta) -> Sequence[Finding]:
    """Look at the broker twice, ``span`` apart, and change nothing on it.

    Raises:
        BrokerUnavailable: it does not answer.
        ConfigurationError: there is no such file.
    """
    async with open_parts(settings, declaring=False, must_exist=True) as parts:
        findings = [_judge_version(await parts.broker.version())]
        differences = [*await parts.broker.check(parts.topology)]
        differences += await left_over(parts)
        findings += _judge_topology(differences)
        before = await _count(parts)
        await asyncio.sleep(span.total_seconds())
        after = await _count(parts)
        findings += _judge_queues(parts, before, after, span)
        return findings


async def left_over(
    parts: Parts, subscriptions: Sequence[str] = ()
) -> Sequence[Difference]:
    """Find queues that no setting names.

    On RabbitMQ, which cannot list its queues, only those of ``subscriptions``, which
    were removed.
    """
    topology = parts.topology
    known = {queue.name for queue in topology.queues}
    names = [notify_queue(name) for name in subscriptions]
    names += [dead_letter_queue(name) for name in names]
    return [
        Difference(
            text=f"queue {topology.queue_name(one.name)}: expected none, found one with"
            f" {_messages(one.messages)}: no setting names it. Remove"
            f" it with `pipeline topology delete --queue {one.name}`"
        )
        for one in await parts.broker.find_queues(topology, names)
        if one.name not in known
    ]


async def _count(parts: Parts) -> Mapping[str, FoundQueue]:
    topology = parts.topology
    names = [q.name for q in topology.queues if q.kind is not QueueKind.DELAY]
    found = await parts.broker.find_queues(topology, names)
    return {one.name: one for one in found if one.name in names}


def _judge_version(version: str) -> Finding:
    name, _, numbers = version.partition(" ")
    found = tuple(int(number) for number in re.findall(r"\d+", numbers)[:2])
    if name == "RabbitMQ" and found < OLDEST_RABBITMQ:
        return problem(
            BROKER,
            f"expected RabbitMQ 3.10 or newer, got {version}",
            why="its quorum queues lack what keeps messages safe here",
            todo="upgrade the broker",
        )
    return ok(BROKER, f"{version} answers")


def _judge_topology(differences: Sequence[Difference]) -> list[Finding]:
    if not differences:
        return [ok(TOPOLOGY, "every exchange and queue is as it should be")]
    return [
        warning(
            TOPOLOGY,
            one.text,
            why="it is used as it is, but not as safe as it could be",
            todo="see `pipeline topology check` and the document on operations",
        )
        if one.is_tolerated
        else problem(
            TOPOLOGY,
            one.text,
            why="messages may go where nobody takes them, or nowhere",
            todo="`pipeline topology apply` makes what is missing; what differs has to"
            " be removed first, what is left over has its command above",
        )
        for one in differences
    ]


def _judge_queues(
    parts: Parts,
    before: Mapping[str, FoundQueue],
    after: Mapping[str, FoundQueue],
    span: timedelta,
) -> list[Finding]:
    findings: list[Finding] = []
    for queue in parts.topology.queues:
        now = after.get(queue.name)
        earlier = before.get(queue.name, now)
        if now is None or earlier is None or not now.messages:
            continue
        if queue.kind is QueueKind.WORK:
            findings += _judge_work(earlier, now, span)
        else:
            findings.append(_judge_kept(now, is_dead=queue.kind is QueueKind.DEAD))
    return findings or [ok(QUEUES, "nothing waits that should not")]


def _judge_work(
    earlier: FoundQueue, now: FoundQueue, span: timedelta
) -> Iterator[Finding]:
    # On the embedded broker a worker is seen only by what it holds: looked at twice.
    if not earlier.is_used and not now.is_used and earlier.messages:
        yield problem(
            QUEUES,
            f"{now.name}: {_messages(now.messages)} and nobody takes from it",
            why="what is in there is not handled until somebody does",
            todo=f"start `pipeline worker {now.name.partition('.')[0]}`",
        )
    elif now.messages > earlier.messages and now.messages > MANY_MESSAGES:
        seconds = span.total_seconds()
        yield warning(
            QUEUES,
            f"{now.name}: grew from {earlier.messages} to {_messages(now.messages)}"
            f" within {seconds:g} s",
            why="more comes than is handled, so everything comes later and later",
            todo="look again; if it goes on, start more workers, and look for `retry`"
            " in the log of those there are",
        )


def _judge_kept(queue: FoundQueue, *, is_dead: bool) -> Finding:
    if is_dead:
        name = queue.name.partition(".")[2]
        letters = "1 dead letter" if queue.messages == 1 else "dead letters"
        count = "" if queue.messages == 1 else f"{queue.messages} "
        return problem(
            QUEUES,
            f"{queue.name}: {count}{letters}",
            why="these were given up; nothing more comes of them by itself",
            todo=f"`pipeline dead-letters list --queue {name}` says why each was; then"
            " replay or discard them",
        )
    return problem(
        QUEUES,
        f"{queue.name}: {_messages(queue.messages)} that no queue wanted",
        why="a binding was missing when they came; they are kept and not handled",
        todo="`pipeline topology apply`, then"
        f" `pipeline dead-letters replay --queue {queue.name}`",
    )


def _messages(count: int) -> str:
    return f"{count:,} message{'' if count == 1 else 's'}"
