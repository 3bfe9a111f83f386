"""Callbacks that come whole, as nearly all do: which those are.

A callback of two kilobytes arrives in one piece, with its headers. Then there is no
body to wait for, and neither request object nor task of the connection is needed to
answer it (``connection.py``). Whatever is not plainly such a callback is left to the
usual way: nothing is decided here but which way it takes.
"""

from __future__ import annotations

import re
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from aiohttp import HttpVersion11

from pipeline.ingress.bodies import Refused
from pipeline.ingress.probe import probed
from pipeline.ingress.views import Probed, count

if TYPE_CHECKING:
    import asyncio

    from aiohttp import StreamReader, web
    from aiohttp.http import RawRequestMessage

    from pipeline.ingress.gate import Gate
    from pipeline.ingress.views import CallbackView
    from pipeline.message import Publication

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
        self, message: RawRequestMessage, payload: StreamReader
    ) -> Handling | None:
        """Begin to handle a request; ``None``: it has to go the usual way.

        Args:
            message: head of the request.
            payload: its body; read only if this gives something.
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
        handling = Handling(self._view, self._gate, operation, message, payload)
        handling.start(token, job)
        return handling


class Handling:
    """One callback that has come whole, from its body to its answer.

    Nearly always it takes no task: it is begun at once, and accepted when ``begun`` is
    done. Everything else is for ``finish``. One of its three ends has to be called.

    Args:
        view: takes callbacks.
        gate: counts it while it is handled.
        operation: from the path.
        message: head of the request.
        payload: its body.
    """

    __slots__ = (
        "_error",
        "_gate",
        "_operation",
        "_publication",
        "_started",
        "_view",
        "begun",
        "message",
        "payload",
    )

    def __init__(
        self,
        view: CallbackView,
        gate: Gate,
        operation: str,
        message: RawRequestMessage,
        payload: StreamReader,
    ) -> None:
        self._started = time.perf_counter()
        self._view = view
        self._gate = gate
        self._operation = operation
        self.message = message
        self.payload = payload
        self._publication: Publication | None = None
        self._error: Exception | None = None
        #: Done when it is safe; ``None``, or with an error: it has to be finished.
        self.begun: asyncio.Future[None] | None = None
        gate.inside += 1

    def start(self, token: str | None, job: str | None) -> None:
        """Look at the callback and begin to keep it.

        Args:
            token: from the path.
            job: mark of the job that the address names.
        """
        view, headers = self._view, self.message.headers
        try:
            body = self.payload.read_nowait()
            publication = view.examine(self._operation, token, headers, body, job)
            self._publication = publication
            self.begun = view.begin(publication)
        except Exception as error:  # noqa: BLE001  raised by ``finish``
            self._error = error

    def accept(self) -> None:
        """End it: it is safe."""
        self._gate.inside -= 1
        self._view.note_begun_is_kept()
        self._view.count_accepted(self._operation, self._started)

    def give_up(self) -> None:
        """End it without an answer."""
        self._gate.inside -= 1

    async def finish(self, remote: str) -> web.Response | None:
        """Wait for its end; give the refusal, or ``None`` if it is accepted.

        Args:
            remote: who sent it, for the log.
        """
        try:
            await self._view.keep(self._examined(), self.begun)
        except Refused as refused:
            return self._view.refuse(self._operation, refused, remote)
        except Probed:
            return probed()
        except Exception:
            count(self._operation, HTTPStatus.INTERNAL_SERVER_ERROR)
            raise
        finally:
            self._gate.inside -= 1
        self._view.count_accepted(self._operation, self._started)
        return None

    def _examined(self) -> Publication:
        """Give what has to be kept.

        Raises:
            Exception: what ``start`` ended with, whichever part of it.
        """
        if self._error is not None:
            raise self._error
        if self._publication is None:
            raise RuntimeError("it was not started")
        return self._publication
