"""A callback that is none: posted to see whether the way to the ingress is open.

``pipeline doctor`` sends one. It goes through everything that a callback goes through,
token and signature included, and is answered like one, but nothing is stored. Only who
could post a callback gets that answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import orjson
from aiohttp import web

from pipeline.task import Stage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.provider.callback import Peek

#: Asks that nothing be stored; the answer has it, too, if that was heard.
PROBE_HEADER: Final = "X-Pipeline-Probe"
#: A task that nobody has.
PROBE_TASK_ID: Final = "pipeline-doctor"
#: Its stage is none that there is: where the header gets lost, no task is told of.
PROBE_BODY: Final = orjson.dumps(
    {
        "code": 200,
        "msg": "This is a probe: nothing has happened.",
        "data": {"callbackType": "probe", "task_id": PROBE_TASK_ID, "data": None},
    }
)


def is_probe(headers: Mapping[str, str], seen: Peek) -> bool:
    """Tell whether a callback that was let in is one of these."""
    # Looked at in this order because there is no usual callback of which more is read.
    return (
        seen.stage is Stage.UNKNOWN
        and seen.task_id == PROBE_TASK_ID
        and PROBE_HEADER in headers
    )


def probed() -> web.Response:
    """Answer one."""
    return web.Response(headers={PROBE_HEADER: "not stored"})
