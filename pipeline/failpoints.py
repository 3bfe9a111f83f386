"""Named places at which a test makes a process die, wait or fail.

Nothing happens at them unless the environment variable ``PIPELINE_TEST_FAILPOINTS``
is set when a command starts. It is no setting: no file and no option can arm one, and
what is armed is said on standard error and in the log. ``docs/reliability.md`` lists
the places.

    PIPELINE_TEST_FAILPOINTS="dedupe.before_record=sleep:0.5;notify.after_answer=exit@2"

An action is ``exit`` (as by ``kill -9``), ``stop`` (as by ``kill -STOP``, until
somebody sends SIGCONT), ``sleep:SECONDS`` or ``raise``; ``@N`` has only the N-th visit
count.
"""

from __future__ import annotations

import os
import re
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

from pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

VARIABLE: Final = "PIPELINE_TEST_FAILPOINTS"
#: Exit code of a process that has died at one: that of ``kill -9`` in a shell.
EXIT_CODE: Final = 137
#: Every place, in the order in which a callback passes them.
NAMES: Final = (
    "ingress.before_publish",
    "ingress.before_answer",
    "spool.after_write",
    "forwarder.before_ack",
    "poller.before_publish",
    "poller.before_note",
    "dedupe.before_record",
    "dedupe.after_record",
    "dedupe.before_settle",
    "download.mid_transfer",
    "download.after_store",
    "download.after_record",
    "download.before_settle",
    "notify.after_answer",
    "notify.after_record",
    "notify.before_settle",
    "rabbitmq.before_ack",
    "dead_letters.before_ack",
    "submit.before_send",
    "submit.before_note",
)

P = ParamSpec("P")
T = TypeVar("T")

_ENTRY: Final = re.compile(
    r"(?P<name>[a-z_.]+)=(?P<action>exit|stop|raise|sleep:(?P<seconds>\d+(?:\.\d+)?))"
    r"(?:@(?P<visit>[1-9]\d*))?"
)


class FailpointReached(Exception):
    """Raised at a place that was armed with ``raise``; stands for any error."""


@dataclass(slots=True, kw_only=True)
class _Failpoint:
    #: What to do.
    action: str
    #: How long to sleep.
    seconds: float
    #: Do it at this visit only, counted from 1; ``None``: at every one.
    only: int | None
    visits: int = 0


#: One process, one set: handed around, it would be an argument of everything.
_armed: Final[dict[str, _Failpoint]] = {}


def arm(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Arm what the environment asks for, and nothing else; give the names.

    Raises:
        ConfigurationError: the variable cannot be understood.
    """
    found = {}
    for entry in filter(None, environ.get(VARIABLE, "").split(";")):
        match = _ENTRY.fullmatch(entry.strip())
        if match is None or match["name"] not in NAMES:
            message = (
                f"{VARIABLE}: expected NAME=ACTION with a name of pipeline.failpoints"
                f" and exit, stop, raise or sleep:SECONDS, got {entry!r}"
            )
            raise ConfigurationError(message)
        found[match["name"]] = _Failpoint(
            action=match["action"].partition(":")[0],
            seconds=float(match["seconds"] or 0),
            only=int(match["visit"]) if match["visit"] else None,
        )
    _armed.clear()
    _armed.update(found)
    return armed()


def armed() -> tuple[str, ...]:
    """Give the names of what is armed."""
    return tuple(_armed)


def is_any_armed(*names: str) -> bool:
    """Tell whether one of these is armed."""
    return not _armed.keys().isdisjoint(names)


async def reach(name: str) -> None:
    """Do what was armed for a place; nothing where nothing was."""
    if not _armed or (failpoint := _armed.get(name)) is None:
        return
    failpoint.visits += 1
    if failpoint.only in {None, failpoint.visits}:
        await _act(name, failpoint)


def around(
    call: Callable[P, Awaitable[T]], *, before: str, after: str
) -> Callable[P, Awaitable[T]]:
    """Put two places around a call; give the call itself where none is armed.

    For a path on which even a question would cost too much.
    """
    if not is_any_armed(before, after):
        return call

    async def surrounded(*args: P.args, **kwargs: P.kwargs) -> T:
        await reach(before)
        result = await call(*args, **kwargs)
        await reach(after)
        return result

    return surrounded


async def _act(name: str, failpoint: _Failpoint) -> None:
    if failpoint.action == "exit":
        os._exit(EXIT_CODE)
    if failpoint.action == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif failpoint.action == "raise":
        raise FailpointReached(name)
    else:
        import asyncio  # noqa: PLC0415  commands that only print do without

        await asyncio.sleep(failpoint.seconds)
