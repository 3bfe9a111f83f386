"""Receive one callback: authenticate, look at it, publish it, answer 200.

The least that can be done before the answer, because the provider waits 15
seconds and counts every other answer as a failure. What the body means is found
out behind the queue; here it only has to name a task.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from pipeline.errors import BrokerError, PublishRefused, Unreadable, Unroutable
from pipeline.failpoints import around, is_any_armed
from pipeline.ingress.accepted import accepted
from pipeline.ingress.bodies import Bodies, Refused
from pipeline.ingress.body_limits import body_limits
from pipeline.ingress.gate import name_of
from pipeline.ingress.jobs import job_of
from pipeline.ingress.probe import is_probe, probed
from pipeline.ingress.problems import CODE, problem
from pipeline.ingress.tokens import tokens_by_operation
from pipeline.logs import get_logger
from pipeline.message import (
    JOB,
    OPERATION,
    ORIGIN,
    STAGE,
    TASK_ID,
    Envelope,
    Publication,
    new_message_id,
)
from pipeline.metrics import CALLBACK_SECONDS, CALLBACKS, REFUSALS
from pipeline.provider.callback import OPERATIONS, Peek, peek
from pipeline.provider.signature import (
    TIMESTAMP_HEADER,
    Refusal,
    Scheme,
    refuse_head,
    signature_matches,
    token_matches,
)
from pipeline.topology import CALLBACKS as CALLBACKS_EXCHANGE

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping

    from aiohttp import web

    from pipeline.ingress.store import Store
    from pipeline.message import HeaderValue
    from pipeline.settings import IngressSettings
    from pipeline.task import Stage

log = get_logger("ingress")

#: What a caller who got 503 should wait; the provider has its own schedule.
RETRY_AFTER_SECONDS: Final = "5"
#: The query parameter for the secret, where it is not in the path.
TOKEN_PARAMETER: Final = "token"  # noqa: S105  the parameter's name
CALLBACK_ORIGIN: Final = "callback"
#: What callers say their bodies are; no need to look closer. Some say nothing.
USUAL_TYPES: Final = frozenset({"application/json", None})
#: Failpoints on both sides of storing a callback.
BEFORE, AFTER = "ingress.before_publish", "ingress.before_answer"


class Probed(Exception):
    """Says that a callback would have been stored if it had been one."""


class CallbackView:
    """Handles ``POST /callbacks/{operation}`` and ``/callbacks/{operation}/{token}``.

    Answers exactly 200, with an empty body, once the store says that the callback
    is safe; anything else is a problem document and nothing was accepted, except
    that a 503 leaves the outcome open: the caller's next try is then a duplicate.

    Args:
        store: keeps callbacks.
        settings: limits and secrets.
    """

    def __init__(self, store: Store, settings: IngressSettings) -> None:
        self._store = store
        self._publish = around(store.publish, before=BEFORE, after=AFTER)
        self._may_begin = not is_any_armed(BEFORE, AFTER)
        self._tokens = tokens_by_operation(settings)
        signature = settings.signature
        self._keys = tuple(k.get_secret_value().encode() for k in signature.keys)
        self._scheme = Scheme(signature.scheme)
        self._signature_header = self._scheme.header
        self._tolerance = signature.tolerance
        self._bodies = Bodies(settings)
        #: Larger bodies of an operation are refused.
        self.body_bytes = body_limits(settings)
        for operation in OPERATIONS:
            CALLBACKS.show(operation, "200")

    async def post(
        self, request: web.BaseRequest, operation: str, token: str | None
    ) -> web.StreamResponse:
        """Receive one callback.

        Args:
            request: the request, its body not read yet.
            operation: from the path; may be anything.
            token: from the path; ``None`` or empty: it may be in the query.
        """
        started = time.perf_counter()
        try:
            if self._tokens and not token:
                token = request.query.get(TOKEN_PARAMETER)
            self._admit(operation, token, request.headers)
            limit = self.body_bytes[operation]
            # Also while it is stored: the broker may let it wait.
            with self._bodies.room_for(request, limit):
                body = await self._bodies.read(request, limit)
                job = job_of(request)
                publication = self._look(operation, request.headers, body, job)
                await self.keep(publication)
        except Refused as refused:
            return self.refuse(operation, refused, name_of(request))
        except Probed:
            return probed()
        except Exception:
            count(operation, HTTPStatus.INTERNAL_SERVER_ERROR)
            raise
        self.count_accepted(operation, started)
        return accepted(request)

    def examine(
        self,
        operation: str,
        token: str | None,
        headers: Mapping[str, str],
        body: bytes,
        job: str | None,
    ) -> Publication:
        """Check a callback that is there already; give what has to be kept of it.

        Args:
            operation: from the path; may be anything.
            token: from the path.
            headers: of the request.
            body: of the request, within the limit.
            job: mark of the job that the address names.

        Raises:
            Refused: it is not accepted.
            Probed: it would be, but nobody wants it stored.
        """
        self._admit(operation, token, headers)
        return self._look(operation, headers, body, job)

    def begin(self, publication: Publication) -> asyncio.Future[None] | None:
        """Begin to keep a callback, as ``Store.begin``; go on with ``keep``."""
        return self._store.begin(publication) if self._may_begin else None

    def note_begun_is_kept(self) -> None:
        """Note that what was begun is safe, where ``keep`` was not needed."""
        self._store.publish_succeeded()

    async def keep(
        self, publication: Publication, begun: asyncio.Future[None] | None = None
    ) -> None:
        """Return once a callback is safe.

        Args:
            publication: from ``examine``.
            begun: from ``begin``.

        Raises:
            Refused: it may not be.
        """
        try:
            if begun is None:
                await self._publish(publication)
                return
            try:
                await begun
            except BrokerError as error:
                await self._store.publish_failed(publication, error)
            else:
                self._store.publish_succeeded()
        except (Unroutable, PublishRefused) as error:
            log.error(  # noqa: TRY400  the error's text says all there is
                "callback_not_stored", task_id=_task_of(publication), error=str(error)
            )
            raise _unavailable("the broker refused to store the callback") from error
        except BrokerError as error:
            log.warning(
                "callback_not_stored", task_id=_task_of(publication), error=str(error)
            )
            raise _unavailable("the broker could not store the callback now") from error

    def count_accepted(self, operation: str, started: float) -> None:
        """Count a callback that was accepted, and how long that took."""
        CALLBACKS.inc(operation, "200")
        CALLBACK_SECONDS.observe(time.perf_counter() - started)

    def _admit(
        self, operation: str, token: str | None, headers: Mapping[str, str]
    ) -> None:
        """Check all that can be checked without the body."""
        if operation not in OPERATIONS:
            raise Refused(unknown_operation(operation))
        tokens = self._tokens
        if tokens and not token_matches(token or "", tokens[operation]):
            raise self._unauthorised(Refusal.TOKEN)
        content_type = headers.get("Content-Type")
        if content_type not in USUAL_TYPES and not _is_json(str(content_type)):
            detail = f"expected application/json, got {str(content_type)[:100]}"
            raise Refused(problem(415, detail, code="unsupported_media_type"))
        if self._keys:
            self._check_head(headers)

    def _look(
        self,
        operation: str,
        headers: Mapping[str, str],
        body: bytes,
        job: str | None,
    ) -> Publication:
        """Look at the body; give what has to be kept."""
        try:
            seen = peek(body, operation)
        except Unreadable as error:
            raise Refused(problem(400, str(error), code="unreadable")) from error
        self._check_signature(headers, body, seen)
        if is_probe(headers, seen):
            raise Probed
        routing_key, known = _known_about(operation, seen.stage)
        about: dict[str, HeaderValue] = {TASK_ID: seen.task_id, **known}
        if job is not None:
            about[JOB] = job
        envelope = Envelope(
            body=body,
            routing_key=routing_key,
            message_id=new_message_id(),
            headers=about,
            published_at=datetime.now(UTC),
        )
        return Publication(exchange=CALLBACKS_EXCHANGE, envelope=envelope)

    def _check_head(self, headers: Mapping[str, str]) -> None:
        """Refuse what no body can make right, so that nobody's is waited for."""
        refusal = refuse_head(
            timestamp=headers.get(TIMESTAMP_HEADER),
            signature=headers.get(self._signature_header),
            now=time.time(),
            tolerance=self._tolerance,
            scheme=self._scheme,
        )
        if refusal is not None:
            raise self._unauthorised(refusal)

    def _check_signature(
        self, headers: Mapping[str, str], body: bytes, seen: Peek
    ) -> None:
        if self._keys and not signature_matches(
            keys=self._keys,
            task_id=seen.task_id,
            timestamp=headers.get(TIMESTAMP_HEADER),
            signature=headers.get(self._signature_header),
            scheme=self._scheme,
            body=body,
        ):
            raise self._unauthorised(Refusal.SIGNATURE_WRONG)

    @staticmethod
    def _unauthorised(refusal: Refusal) -> Refused:
        """Say no, without saying which part of the proof was wrong."""
        REFUSALS.labels(refusal.value).inc()
        detail = (
            "expected proof that the provider sent this: check the token in the"
            " callback address and the key of the signature"
        )
        return Refused(problem(401, detail, code="unauthorised"))

    @staticmethod
    def refuse(operation: str, refused: Refused, remote: str) -> web.Response:
        """Count and log a callback that is not accepted; give its answer."""
        response = refused.response
        known = count(operation, response.status)
        if refused.is_told:
            return response
        log.info(
            "callback_refused",
            operation=known,
            status=response.status,
            code=response.get(CODE),
            remote=remote,
        )
        return response


def count(operation: str, status: int) -> str:
    """Count an answer that is not 200; give what the operation is counted as."""
    known = operation if operation in OPERATIONS else "other"
    CALLBACKS.inc(known, str(int(status)))
    return known


def unknown_operation(operation: str) -> web.Response:
    """Answer 404 and name the operations there are."""
    known = ", ".join(sorted(OPERATIONS))
    detail = f"expected one of the operations {known}; got {operation[:60]!r}"
    return problem(404, detail, code="unknown_operation")


@cache
def _known_about(operation: str, stage: Stage) -> tuple[str, Mapping[str, HeaderValue]]:
    """Give what all callbacks of an operation and a stage have: key and headers."""
    about = {OPERATION: operation, STAGE: stage.value, ORIGIN: CALLBACK_ORIGIN}
    return f"callback.{operation}.{stage.value}", about


def _task_of(publication: Publication) -> HeaderValue | None:
    return publication.envelope.headers.get(TASK_ID)


def _unavailable(detail: str) -> Refused:
    return Refused(
        problem(
            503,
            f"{detail}; send it again",
            code="not_stored",
            headers={"Retry-After": RETRY_AFTER_SECONDS},
        )
    )


def _is_json(content_type: str) -> bool:
    essence = content_type.partition(";")[0].strip().lower()
    return essence == "application/json" or (
        essence.startswith("application/") and essence.endswith("+json")
    )
