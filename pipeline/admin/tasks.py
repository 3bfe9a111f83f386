"""Take a submission over HTTP: ``POST /tasks``, with a token.

The body has the fields of one request, as a line of a batch has them. Whatever is
refused is a problem document (RFC 9457): ``mistakes`` in it names each,
``provider_code`` what the provider has answered, ``job_id`` what the ledger calls it.
"""

from __future__ import annotations

import asyncio
import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import orjson
from aiohttp import ClientPayloadError, web

from pipeline.errors import (
    AlreadyThere,
    JobInProgress,
    JobTaken,
    LedgerError,
    OutcomeUnknown,
    ProviderError,
    ProviderRefused,
    ProviderUnavailable,
    SourceUnusable,
    SubmissionRefused,
)
from pipeline.ingress.problems import CODE, problem
from pipeline.logs import get_logger
from pipeline.provider.signature import token_matches
from pipeline.submission.jobs import new_job_id, read_job_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.ledger.jobs import JobId
    from pipeline.settings import AdminSettings
    from pipeline.submission import Checked, Submitted, Submitter

log = get_logger("admin")

#: The longest for a body to come in.
BODY_SECONDS: Final = 8.0
#: What those should wait who come while too many are here.
BUSY_RETRY_AFTER_SECONDS: Final = "2"
#: The same while the ledger is away.
LEDGER_RETRY_AFTER_SECONDS: Final = "5"
IDEMPOTENCY_KEY: Final = "Idempotency-Key"
#: Says that the answer is that to an earlier request.
REPLAYED: Final = "Idempotency-Replayed"
DRY_RUN: Final = "dry_run"
_OPERATION: Final = "operation"
_UPLOAD_EXTEND: Final = "upload-extend"
_BEARER: Final = "bearer "
#: Status and code of what the provider says; the first that fits.
_REFUSALS: Final = (
    (AlreadyThere, 409, "already_there"),
    (SourceUnusable, 422, "source_unusable"),
    (SubmissionRefused, 422, "submission_refused"),
    (ProviderRefused, 502, "account_refused"),
    (ProviderUnavailable, 503, "provider_unavailable"),
    (OutcomeUnknown, 504, "outcome_unknown"),
    (JobTaken, 422, "idempotency_key_reused"),
    (JobInProgress, 409, "in_progress"),
)


class _Refused(Exception):
    """Carries the answer to a request that is not accepted."""

    def __init__(self, response: web.Response) -> None:
        super().__init__(response.status)
        self.response = response


class TasksView:
    """Handles ``POST /tasks``: 201 with the task's id once the provider has taken it.

    The same ``Idempotency-Key`` with the same request is answered as the first time,
    and nothing is sent again, whichever process is asked.

    With ``?dry_run=true`` everything is checked, nothing is sent, and 200 is the
    answer.

    Args:
        submitter: an open one.
        settings: tokens and limits.
    """

    def __init__(self, submitter: Submitter, settings: AdminSettings) -> None:
        self._submitter = submitter
        self._tokens = tuple(t.get_secret_value().encode() for t in settings.tokens)
        self._max_body_bytes = int(settings.max_body_bytes)
        self._most = settings.max_requests
        self._inside = 0

    async def post(self, request: web.BaseRequest) -> web.Response:
        """Take one submission."""
        try:
            self._admit(request)
            with self._counted():
                content = await self._read(request)
                is_dry = request.query.get(DRY_RUN, "") in ("1", "true", "yes")
                return await self._submit(content, _key_of(request), is_dry=is_dry)
        except _Refused as refused:
            response = refused.response
            log.info(
                "submission_not_taken",
                status=response.status,
                code=response.get(CODE),
                remote=request.remote,
            )
            return response

    def _admit(self, request: web.BaseRequest) -> None:
        given = request.headers.get("Authorization", "")
        token = given[len(_BEARER) :].strip()
        if given[: len(_BEARER)].lower() != _BEARER or not token_matches(
            token, self._tokens
        ):
            detail = "expected Authorization: Bearer with one of admin.tokens"
            asks = {"WWW-Authenticate": "Bearer"}
            raise _Refused(problem(401, detail, code="unauthorised", headers=asks))
        content_type = request.headers.get("Content-Type", "application/json")
        if content_type.partition(";")[0].strip().lower() != "application/json":
            detail = f"expected application/json, got {content_type[:100]}"
            raise _Refused(problem(415, detail, code="unsupported_media_type"))

    @contextmanager
    def _counted(self) -> Iterator[None]:
        if self._inside >= self._most:
            detail = "expected fewer submissions at the same time; send it later"
            after = {"Retry-After": BUSY_RETRY_AFTER_SECONDS}
            raise _Refused(problem(503, detail, code="too_busy", headers=after))
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    async def _read(self, request: web.BaseRequest) -> dict[str, Any]:
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await request.read()
            content = orjson.loads(body)
        except web.HTTPRequestEntityTooLarge:
            detail = f"expected a body of at most {self._max_body_bytes} bytes"
            raise _Refused(problem(413, detail, code="body_too_large")) from None
        except TimeoutError:
            detail = f"expected the whole body within {BODY_SECONDS:g} s"
            response = problem(408, detail, code="body_too_slow")
            response.force_close()
            raise _Refused(response) from None
        except (ClientPayloadError, web.RequestPayloadError, ConnectionError) as error:
            response = problem(400, "the body broke off", code="broken_body")
            response.force_close()
            raise _Refused(response) from error
        except orjson.JSONDecodeError as error:
            detail = f"expected a JSON object: {error}"
            raise _Refused(problem(400, detail, code="unreadable")) from error
        if type(content) is not dict:
            detail = f"expected a JSON object, got a {type(content).__name__}"
            raise _Refused(problem(400, detail, code="unreadable"))
        return content

    async def _submit(
        self, content: dict[str, Any], key: JobId | None, *, is_dry: bool
    ) -> web.Response:
        operation = str(content.pop(_OPERATION, _UPLOAD_EXTEND))
        job_id = new_job_id() if key is None else key
        try:
            if key is not None and not is_dry:
                # Before sources are fetched: the first answer does not wait for them.
                found = self._submitter.check_fields(operation, content)
                if (told := await self._submitter.find_earlier(found, key)) is not None:
                    return _created(told)
            checked = await self._submitter.check(operation, content)
            if checked.mistakes:
                raise _Refused(_mistakes_problem(checked))
            if is_dry:
                answer = {"dry_run": True, "operation": checked.operation}
                return _answer(200, answer | {"source_seconds": dict(checked.lengths)})
            return _created(await self._submitter.submit(checked, job_id=job_id))
        except ProviderError as error:
            raise _Refused(_provider_problem(error, job_id)) from error
        except LedgerError as error:
            after = {"Retry-After": LEDGER_RETRY_AFTER_SECONDS}
            response = problem(
                503,
                f"{error}; send it again",
                code="ledger_unavailable",
                headers=after,
            )
            raise _Refused(response) from error


def _key_of(request: web.BaseRequest) -> JobId | None:
    """Read ``Idempotency-Key``, in quotes or not; ``None``: there is none."""
    given = request.headers.getall(IDEMPOTENCY_KEY, [])
    if not given:
        return None
    # Several are as wrong as one with a comma and a space in it.
    text = ", ".join(given).strip()
    is_quoted = len(text) > 1 and text[0] == text[-1] == '"'
    try:
        return read_job_id(text[1:-1] if is_quoted else text)
    except ValueError as error:
        detail = f"{IDEMPOTENCY_KEY}: {error}; nothing was sent"
        response = problem(400, detail, code="invalid_idempotency_key")
        raise _Refused(response) from error


def _mistakes_problem(checked: Checked) -> web.Response:
    mistakes = [{"field": one.field, "text": one.text} for one in checked.mistakes]
    detail = "expected a submission without mistakes; nothing was sent"
    members = {"mistakes": mistakes}
    return problem(422, detail, code="invalid_submission", members=members)


def _provider_problem(error: ProviderError, job_id: JobId) -> web.Response:
    found = ((status, code) for kind, status, code in _REFUSALS if type(error) is kind)
    status, code = next(found, (502, "provider_error"))
    headers = {}
    if error.after is not None:
        headers["Retry-After"] = str(math.ceil(error.after.total_seconds()))
    members: dict[str, object] = {"job_id": job_id}
    if error.code is not None:
        members["provider_code"] = error.code
    return problem(status, str(error), code=code, headers=headers, members=members)


def _created(submitted: Submitted) -> web.Response:
    """Tell of a task, in the same words each time."""
    response = _answer(
        201,
        {
            "task_id": submitted.task_id,
            "job_id": submitted.job_id,
            "submitted_at": submitted.submitted_at,
            "is_expected": submitted.is_expected,
            "was_there": submitted.was_there,
            "operation": submitted.operation,
            "source_seconds": dict(submitted.source_seconds),
        },
    )
    if submitted.is_repeat:
        response.headers[REPLAYED] = "true"
    return response


def _answer(status: int, document: object) -> web.Response:
    body = orjson.dumps(document, option=orjson.OPT_UTC_Z) + b"\n"
    return web.Response(status=status, body=body, content_type="application/json")
