"""What the options of ``pipeline simulate`` mean to the simulated provider."""

from __future__ import annotations

from dataclasses import replace
from secrets import randbelow
from typing import TYPE_CHECKING, Any, Final

import typer

from pipeline.cli import render
from pipeline.cli.simulate_options import DoorName

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from datetime import timedelta

    from pipeline.simulator import PostingRules, ProviderOptions, ScenarioOptions
    from pipeline.simulator.doors import Door
    from pipeline.simulator.signing import SignedText

#: What the simulator calls each site, and what is signed there.
_DOORS: Final[dict[DoorName, tuple[Door, SignedText | None]]] = {
    DoorName.SUNOAPI_ORG: ("S", None),
    DoorName.API_BOX: ("B", None),
    DoorName.KIE_AI: ("K", "task-and-time"),
    DoorName.MUSICAPI_AI: ("M", "time-and-body"),
    DoorName.SUNOAPI_COM: ("M", "body"),
}
#: Shares of how callbacks are delivered, and those of tasks.
_DELIVERY: Final = {"losses": "loss_rate", "unreachable": "unreachable_rate"}
_TASKS: Final = {
    "duplicates": "duplicate_rate",
    "reordered": "reorder",
    "missing": "missing_rate",
    "failures": "failure_rate",
    "oddities": "oddity_rate",
    "dead-links": "expired_rate",
    "renewable": "renewable_rate",
    "recoverable": "recoverable_rate",
}
#: Spans of how callbacks are delivered, and those of the provider.
_DELIVERY_SPANS: Final = {"answer": "timeout", "retries": "retry_waits"}
_SPANS: Final = {"links": "link_lifetime", "recovery": "recovery_takes"}
_RATES: Final = ("submissions", "questions")
_CREDITS: Final = "credits"
#: The one span that is several.
_RETRIES: Final = "retries"
#: Tasks of its own, unless told otherwise.
_TASKS_OF_ITS_OWN: Final = 6


def read_shares(given: Sequence[str] | None) -> dict[str, float]:
    """Read shares by their name.

    Raises:
        typer.BadParameter: one is none, or not between 0 and 1.
    """
    shares = _read_pairs(given, (*_DELIVERY, *_TASKS), float, option="--share")
    for name, share in shares.items():
        if not 0 <= share <= 1:
            message = f"{name}: expected a share from 0 to 1, got {share}"
            raise typer.BadParameter(message, param_hint="--share")
    return shares


def read_spans(given: Sequence[str] | None) -> dict[str, Any]:
    """Read durations by their name; ``retries`` has any number of them.

    Raises:
        typer.BadParameter: one is none.
    """
    known = (*_SPANS, *_DELIVERY_SPANS)
    spans = _read_pairs(given, known, _durations, option="--span")
    for name, times in spans.items():
        if name != _RETRIES:
            if len(times) != 1:
                message = f"{name}: expected one duration, got {len(times)}"
                raise typer.BadParameter(message, param_hint="--span")
            spans[name] = times[0]
    return spans


def read_limits(given: Sequence[str] | None) -> dict[str, int]:
    """Read what the provider allows by its name.

    Raises:
        typer.BadParameter: one is no number above 0.
    """
    return _read_pairs(given, (*_RATES, _CREDITS), _positive, option="--limit")


def read_operations(given: Sequence[str] | None) -> tuple[str, ...]:
    """Give the operations of tasks; ``all`` are those that can be submitted.

    Raises:
        typer.BadParameter: there is no such operation.
    """
    from pipeline.simulator import OPERATIONS

    if given and "all" in given:
        return tuple(name for name in OPERATIONS if name != "recovery")
    if unknown := [name for name in given or () if name not in OPERATIONS]:
        message = f"expected all, or some of {', '.join(OPERATIONS)}; got {unknown[0]}"
        raise typer.BadParameter(message, param_hint="--operation")
    return tuple(given or ("upload-extend",))


def scenario_of(
    shares: Mapping[str, float],
    *,
    tasks: int | None,
    operations: Sequence[str] | None,
    seed: int | None,
) -> ScenarioOptions:
    """Say what tasks of its own are like; ``None`` is as if nothing was said.

    Raises:
        typer.BadParameter: something is out of range.
    """
    from pipeline.simulator import ScenarioOptions

    return _with_shares(
        ScenarioOptions(
            tasks=_TASKS_OF_ITS_OWN if tasks is None else tasks,
            seed=1 if seed is None else seed,
            operations=read_operations(operations),
        ),
        shares,
    )


def provider_of(
    shares: Mapping[str, float],
    spans: Mapping[str, Any],
    limits: Mapping[str, int],
    *,
    door: DoorName,
    webhook_key: str | None,
    real_time: bool,
    seed: int | None,
    **more: Any,
) -> ProviderOptions:
    """Say how the provider behaves.

    Args:
        shares: as ``read_shares`` gives them.
        spans: as ``read_spans`` does.
        limits: as ``read_limits`` does.
        door: the site.
        webhook_key: signs callbacks.
        real_time: whether calls are counted in real time.
        seed: ``None``: any one, so that whoever starts it again gets other tasks.
        more: further fields of ``ProviderOptions``.

    Raises:
        typer.BadParameter: something is out of range, or does not go together.
    """
    from pipeline.simulator import PLAIN, ProviderOptions, RateLimits

    seed = randbelow(1_000_000) if seed is None else seed
    rates = _named({name: name for name in _RATES}, limits)
    return ProviderOptions(
        seed=seed,
        door=_DOORS[door][0],
        behaviour=_with_shares(replace(PLAIN, seed=seed), shares),
        posting=_posting_rules(shares, spans, door, webhook_key, seed),
        rates=RateLimits(in_real_time=real_time, **rates),
        **_named(_SPANS, spans),
        **_named({_CREDITS: _CREDITS}, limits),
        **more,
    )


def _posting_rules(
    shares: Mapping[str, float],
    spans: Mapping[str, Any],
    door: DoorName,
    webhook_key: str | None,
    seed: int,
) -> PostingRules:
    from pipeline.simulator import PostingRules

    _, signed = _DOORS[door]
    if webhook_key is not None and signed is None:
        message = f"expected none, because {door} signs nothing"
        raise typer.BadParameter(message, param_hint="--webhook-key")
    return PostingRules(
        webhook_key=webhook_key,
        signed=signed or "task-and-time",
        loss_seed=seed,
        **_named(_DELIVERY, shares),
        **_named(_DELIVERY_SPANS, spans),
    )


def _named(names: Mapping[str, str], given: Mapping[str, Any]) -> dict[str, Any]:
    """Give what was given of some, by the names that it has behind the options."""
    return {names[name]: given[name] for name in names if name in given}


def _with_shares(
    options: ScenarioOptions, shares: Mapping[str, float]
) -> ScenarioOptions:
    try:
        return replace(options, **_named(_TASKS, shares))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--share") from error


def _read_pairs(
    given: Sequence[str] | None,
    known: Collection[str],
    read: Callable[[str], Any],
    *,
    option: str,
) -> dict[str, Any]:
    """Read ``NAME=VALUE`` of a repeated option.

    Raises:
        typer.BadParameter: one is none, has a name that there is not, or a value that
            cannot be read.
    """
    found = {}
    for pair in given or ():
        name, equals, text = pair.partition("=")
        if not equals or name not in known:
            message = f"expected NAME=VALUE with one of {', '.join(known)}, got {pair}"
            raise typer.BadParameter(message, param_hint=option)
        try:
            found[name] = read(text)
        except ValueError as error:
            message = f"{name}: expected a number that fits, got {text!r}"
            raise typer.BadParameter(message, param_hint=option) from error
    return found


def _durations(text: str) -> tuple[timedelta, ...]:
    found = (render.parse_age(part, "--span") for part in text.split(","))
    return tuple(span for span in found if span is not None)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number
