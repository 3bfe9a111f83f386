"""What the code says of itself, for ``check_docs`` to hold the documents against."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import orjson
from prometheus_client.metrics import MetricWrapperBase

from pipeline import message
from pipeline import metrics as metrics_module
from pipeline.ingress.turned_away import TurnedAway
from pipeline.loop_metrics import LoopCounter, LoopHistogram
from pipeline.provider.callback import OPERATIONS
from pipeline.provider.signature import Refusal
from pipeline.settings import Loaded, Settings, leaf_keys, show_settings, variable
from pipeline.topology import build_topology

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE: Final = Path(metrics_module.__file__).parent
#: The status that goes with a code where the code of the ingress names none.
_STATUS_OF: Final = {"malformed": "400", "internal_error": "500"}
LEVELS: Final = ("debug", "info", "warning", "error", "critical")
#: Methods of a logger, and the level that each of them logs at.
_LEVEL_OF: Final = {**{level: level for level in LEVELS}, "exception": "error"}


@cache
def settings() -> dict[tuple[str, str], None]:
    """Give every setting with its default, as ``pipeline config show`` prints it."""
    shown = show_settings(Loaded(settings=Settings(), origins={}, file=None))
    return {
        (s.key, "unset" if s.value is None else orjson.dumps(s.value).decode()): None
        for s in shown
    }


@cache
def variables() -> frozenset[str]:
    """Give the name of every environment variable that means something."""
    own = {variable(key) for key in leaf_keys()}
    files = {f"{name}_FILE" for name in own}
    tests = {
        "PIPELINE_TEST_AMQP_URL",
        "PIPELINE_TEST_BODIES",
        "PIPELINE_TEST_FAILPOINTS",
        "PIPELINE_TEST_KILLS",
        "PIPELINE_TEST_POSTGRES_URL",
        "PIPELINE_TEST_RABBITMQ_ROOT",
        "PIPELINE_TEST_WITHOUT_POSTGRES",
        "PIPELINE_TEST_WITHOUT_RABBITMQ",
    }
    return frozenset(own | files | tests | {"PIPELINE_CONFIG"})


@cache
def metrics() -> dict[str, tuple[str, str]]:
    """Give type and labels of every metric, by the name that Prometheus sees."""
    found = {}
    for value in vars(metrics_module).values():
        if isinstance(value, MetricWrapperBase | LoopCounter | LoopHistogram):
            (family,) = (
                value.describe()
                if isinstance(value, MetricWrapperBase)
                else value.collect()
            )
            ending = "_total" if family.type == "counter" else ""
            names = (
                value._labelnames
                if isinstance(value, MetricWrapperBase)
                else value.labels
            )
            labels = ", ".join(names) or "none"
            found[f"{family.name}{ending}"] = (family.type, labels)
    return found


@cache
def log_events() -> dict[tuple[str, str], None]:
    """Give every event that is logged, with the levels it is logged at."""
    levels: dict[str, set[str]] = {}
    for call in _calls():
        function = call.func
        if not isinstance(function, ast.Attribute) or function.attr not in _LEVEL_OF:
            continue
        match function.value, call.args:
            case (
                ast.Name(id="log") | ast.Attribute(attr="_log") | ast.Call(),
                [ast.Constant(value=str(event)), *_],
            ):
                levels.setdefault(event, set()).add(_LEVEL_OF[function.attr])
            case _:
                continue
    return {
        (event, ", ".join(level for level in LEVELS if level in found)): None
        for event, found in sorted(levels.items())
    }


@cache
def problems() -> dict[tuple[str, str], None]:
    """Give status and code of every refusal of the ingress."""
    found = {(_STATUS_OF.get(code, "unknown"), code): None for code in _chosen("code")}
    for call in _calls("ingress"):
        codes = [k.value for k in call.keywords if k.arg == "code"]
        match call.args, codes:
            case [ast.Constant(value=status), *_], [ast.Constant(value=str(code))]:
                found[str(status), code] = None
            case _:
                continue
    return found


def refusals() -> list[str]:
    """Give the causes for which a callback is not believed or not let in."""
    return [refusal.value for kind in (Refusal, TurnedAway) for refusal in kind]


def operations() -> list[str]:
    """Give the operations of the provider that are known."""
    return list(OPERATIONS)


def headers() -> list[str]:
    """Give the headers of messages: those of ours, and those about the contents."""
    about = (
        message.TASK_ID,
        message.STAGE,
        message.OPERATION,
        message.EVENT_TYPE,
        message.ORIGIN,
        message.RECEIVED_AT,
        message.JOB,
    )
    return [*sorted(message.RESERVED_HEADERS), *about]


@cache
def broker_names() -> frozenset[str]:
    """Give the names on a broker as they are by default, with one subscription."""
    topology = build_topology(subscriptions={"shop": ["#"]})
    exchanges = {topology.exchange_name(e.name) for e in topology.exchanges}
    return frozenset(exchanges | {topology.queue_name(q.name) for q in topology.queues})


def _chosen(name: str) -> Iterator[str]:
    """Give the texts that the ingress assigns to a name beside others."""
    for node in _nodes("ingress"):
        match node:
            case ast.Assign(
                targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=values)
            ):
                for target, value in zip(names, values, strict=True):
                    match target, value:
                        case ast.Name(id=found), ast.Constant(value=str(text)):
                            if found == name:
                                yield text


def _calls(folder: str = "") -> Iterator[ast.Call]:
    for node in _nodes(folder):
        if isinstance(node, ast.Call):
            yield node


def _nodes(folder: str) -> Iterator[ast.AST]:
    for path in sorted((PACKAGE / folder).glob("**/*.py")):
        yield from ast.walk(ast.parse(path.read_text(encoding="utf-8")))
