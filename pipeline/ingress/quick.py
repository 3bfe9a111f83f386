"""Callbacks that come whole, as nearly all do: which those are.

A callback of two kilobytes arrives in one piece, with its headers. Then there is no
body to wait for, and neither request object nor task of the connection is needed to
answer it (``connection.py``). Whatever is not plainly such a callback is left to the
usual way: nothing is decided here but which way it takes.
"""

from __future__ import annotations

import re
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Final, TypeAlias

from aiohttp import HttpVersion11, web

if TYPE_CHECKING:
    from aiohttp import StreamReader
    from aiohttp.http import RawRequestMessage

    from pipeline.ingress.gate import Gate
    from pipeline.ingress.views import CallbackView

#: Handles one callback; gives the refusal, or ``None`` if it is accepted.
Handling: TypeAlias = Coroutine[None, None, web.Response | None]

#: Targets that mean what they say: no escapes, no second slash, and no query but the
#: mark of a job, in the one way in which we write it.
_PLAIN: Final = re.compile(
    r"/callbacks/([a-z0-9-]+)(?:/([A-Za-z0-9._~-]*))?(?:\?job=([0-9a-f]{32}))?"
)


class Quick:
    """Answers callbacks that have come whole.

    Args:
        view: takes callbacks.
        gate: says who is let in.
    """

    def __init__(self, view: CallbackView, gate: Gate) -> None:
        self._view = view
        self._gate = gate

    def take(
        self, message: RawRequestMessage, payload: StreamReader, remote: str
    ) -> Handling | None:
        """Give what handles a request; ``None``: it has to go the usual way.

        Args:
            message: head of the request.
            payload: its body; read only if this gives something.
            remote: who sent it.
        """
        target = _PLAIN.fullmatch(message.path)
        if (
            target is None
            or message.method != "POST"
            or message.version != HttpVersion11
            or message.should_close
            or message.upgrade
            or "Expect" in message.headers
            or not payload.is_eof()
            or payload.exception() is not None
            or payload.total_bytes > self._view.body_bytes.get(target[1], 0)
            or not self._gate.is_wide_open
        ):
            return None
        operation, token, job = target.groups()
        body = payload.read_nowait()
        self._gate.inside += 1
        return self._inside(operation, token, message, body, remote=remote, job=job)

    async def _inside(
        self,
        operation: str,
        token: str | None,
        message: RawRequestMessage,
        body: bytes,
        *,
        remote: str,
        job: str | None,
    ) -> web.Response | None:
        try:
            return await self._view.post_whole(
                operation, token, message.headers, body, remote=remote, job=job
            )
        finally:
            self._gate.inside -= 1
