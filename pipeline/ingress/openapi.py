"""The description of the ingress as OpenAPI 3.1, made from the code and the settings.

What it says of secrets is that one is asked for, never which. A body that fits the
description is accepted; others may be too, because callbacks are read tolerantly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

from pipeline.ingress.body_limits import body_limits
from pipeline.ingress.health import DEGRADED, NOT_READY, READY
from pipeline.ingress.jobs import JOB_PARAMETER
from pipeline.ingress.problems import MEDIA_TYPE
from pipeline.ingress.refusals import (
    ALLOW,
    RETRY_AFTER,
    Asked,
    RefusalKind,
    refusals_of,
)
from pipeline.ingress.views import TOKEN_PARAMETER
from pipeline.message import JOB_MARK
from pipeline.provider.callback import OPERATIONS
from pipeline.provider.signature import TIMESTAMP_HEADER, Scheme
from pipeline.task import ID_LIMIT
from pipeline.version import installed_version

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.settings import IngressSettings

#: A part of the description; it is JSON.
Part: TypeAlias = dict[str, Any]

#: The address that the description is served at.
DESCRIPTION_PATH: Final = "/openapi.json"

_ACCEPTED: Final = (
    "The callback is stored durably. The body is empty, and no other 2xx is given."
)
#: Where a body may name its task; in ``data`` before beside it.
_ID_NAMES: Final = ("task_id", "taskId")


def describe(settings: IngressSettings) -> Part:
    """Describe the ingress that has these settings."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Callback ingress",
            "version": installed_version(),
            "description": (
                "Takes the callbacks of an AI-music provider and answers 200 once"
                " they are stored."
            ),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "tags": [
            {"name": "callbacks", "description": "What the provider calls."},
            {"name": "state", "description": "What operators and their tools ask."},
        ],
        "paths": {**_callback_paths(settings), **_state_paths()},
        "components": {
            "schemas": _schemas(),
            "headers": _headers(),
            "responses": {
                _name_of(status, asked): _refused(kinds)
                for asked in (Asked.CALLBACK, Asked.STATE)
                for status, kinds in refusals_of(asked).items()
            },
            "securitySchemes": {
                **_token_scheme(settings),
                **_signature_schemes(settings),
            },
        },
    }


def _callback_paths(settings: IngressSettings) -> Part:
    operation = {
        "name": "operation",
        "in": "path",
        "required": True,
        "description": "The call of the provider that the callback belongs to.",
        "schema": {"type": "string", "enum": sorted(OPERATIONS)},
    }
    token = {
        "name": "token",
        "in": "path",
        "required": True,
        "description": "The secret of the address, where one is configured.",
        "schema": {"type": "string", "format": "password", "minLength": 1},
    }
    job = {
        "name": JOB_PARAMETER,
        "in": "query",
        "required": False,
        "description": "The submission that the address was made for, if it was.",
        "schema": {"type": "string", "pattern": f"^{JOB_MARK.pattern}$"},
    }
    signed: Part = {name: [] for name in _signature_schemes(settings)}
    with_query: Part = {name: [] for name in _token_scheme(settings)} | signed
    return {
        "/callbacks/{operation}": {
            "parameters": [operation, job],
            "post": _post("receiveCallback", settings, with_query),
        },
        "/callbacks/{operation}/{token}": {
            "parameters": [operation, token, job],
            "post": _post("receiveCallbackWithToken", settings, signed),
        },
    }


def _post(name: str, settings: IngressSettings, proof: Part) -> Part:
    return {
        "operationId": name,
        "tags": ["callbacks"],
        "summary": "Receive one callback.",
        "description": (
            f"Bodies of at most {_limits(settings)}, complete within"
            f" {settings.body_timeout.total_seconds():g} s. The content type may also"
            " be any `application/…+json`, or missing; `Content-Encoding: gzip` is"
            " taken. A repeat has no further effect."
        ),
        "security": [proof] if proof else [],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _schema_reference("Callback")}},
        },
        "responses": {"200": {"description": _ACCEPTED}, **_refusals(Asked.CALLBACK)},
    }


def _limits(settings: IngressSettings) -> str:
    general = int(settings.max_body_bytes)
    others = [
        f"{operation} {limit}"
        for operation, limit in body_limits(settings).items()
        if limit != general
    ]
    more = f" ({', '.join(others)})" if others else ""
    return f"{general} bytes{more}"


def _state_paths() -> Part:
    plain: Part = {"text/plain": {"schema": {"type": "string"}}}
    health: Part = {
        "type": "object",
        "required": ["status"],
        "properties": {"status": {"const": "ok"}},
    }
    ready = _answer("Able to work.", _json(_schema_reference("Readiness")))
    away = _answer("Not able to work.", _json(_schema_reference("Readiness")))
    anything: Part = {"type": "object", "required": ["openapi"]}
    answers: dict[str, tuple[str, str, Part]] = {
        "/healthz": ("Health", "the process lives", {"200": _answer_of(health)}),
        "/readyz": ("Readiness", "it can do its work", {"200": ready, "503": away}),
        "/metrics": (
            "Metrics",
            "metrics for Prometheus",
            {"200": _answer("Metrics.", plain)},
        ),
        DESCRIPTION_PATH: (
            "Description",
            "this description",
            {"200": _answer_of(anything)},
        ),
    }
    return {
        path: {
            method.lower(): {
                "operationId": f"{method.lower()}{name}",
                "tags": ["state"],
                "summary": f"Ask for {what}." if method == "GET" else "Without a body.",
                "security": [],
                "responses": {**responses, **_refusals(Asked.STATE)},
            }
            for method in ("GET", "HEAD")
        }
        for path, (name, what, responses) in answers.items()
    }


def _schemas() -> Part:
    return {
        "TaskId": {
            # An integer is taken as well, but for JSON Schema 7.0 is one, and here it
            # is none.
            "description": "The provider's id of the task; all of it can be printed.",
            "type": "string",
            "minLength": 1,
            "maxLength": ID_LIMIT,
            "pattern": "^[!-~]([ -~]*[!-~])?$",
        },
        "Callback": _callback(),
        "Problem": {
            "description": "A refusal (RFC 9457).",
            "type": "object",
            "required": ["type", "title", "status", "detail", "code"],
            "additionalProperties": False,
            "properties": {
                "type": {"const": "about:blank"},
                "title": {"type": "string", "minLength": 1},
                "status": {"type": "integer", "minimum": 400, "maximum": 599},
                "detail": {"type": "string", "minLength": 1},
                "code": {"type": "string", "pattern": "^[a-z_]+$"},
            },
        },
        "Readiness": {
            "description": "Each part, and what is wrong with it.",
            "type": "object",
            "required": ["status", "checks"],
            "properties": {
                "status": {"enum": [READY, DEGRADED, NOT_READY]},
                "checks": {
                    "type": "object",
                    "additionalProperties": {"type": "string"},
                },
                "spool": {"type": "object"},
            },
        },
    }


def _callback() -> Part:
    """Describe bodies: a task in ``data``, or beside it where there is no ``data``."""
    ids = dict.fromkeys(_ID_NAMES, _schema_reference("TaskId"))
    either: list[Part] = [{"required": [name]} for name in _ID_NAMES]
    in_data: Part = {"type": "object", "properties": ids, "anyOf": either}
    return {
        "description": (
            "What the provider sends, of any of its operations. Only the task has"
            " to be named; everything else is kept as it is."
        ),
        "type": "object",
        "properties": {**ids, "data": {}},
        "anyOf": [
            {"properties": {"data": in_data}, "required": ["data"]},
            *({"not": {"required": ["data"]}, **one} for one in either),
        ],
    }


def _headers() -> Part:
    return {
        RETRY_AFTER: {
            "description": "Seconds to wait before it is sent again.",
            "required": True,
            "schema": {"type": "integer", "minimum": 1},
        },
        ALLOW: {
            "description": "The methods that the address takes.",
            "required": True,
            "schema": {"type": "string", "enum": ["POST", "GET, HEAD"]},
        },
    }


def _token_scheme(settings: IngressSettings) -> Part:
    """Give the secret of the address; there is none unless one is asked for."""
    if not settings.tokens and not settings.operation_tokens:
        return {}
    scheme = {
        "type": "apiKey",
        "in": "query",
        "name": TOKEN_PARAMETER,
        "description": "The secret of the address; it may be in the path instead.",
    }
    return {"token": scheme}


def _signature_schemes(settings: IngressSettings) -> Part:
    """Give the headers of a signature; there are none unless one is asked for."""
    if not settings.signature.keys:
        return {}
    scheme = Scheme(settings.signature.scheme)
    names = {"signature": scheme.header}
    if scheme.is_timed:
        names["timestamp"] = TIMESTAMP_HEADER
    said = f"HMAC-SHA256, scheme `{scheme}` of the contract"
    return {
        key: {"type": "apiKey", "in": "header", "name": name, "description": said}
        for key, name in names.items()
    }


def _refusals(asked: Asked) -> Part:
    """Refer to the refusals, each status once."""
    return {
        str(status): {"$ref": f"#/components/responses/{_name_of(status, asked)}"}
        for status in refusals_of(asked)
    }


def _refused(kinds: Sequence[RefusalKind]) -> Part:
    """Describe the answers that share a status."""
    schema: Part = {
        "allOf": [_schema_reference("Problem")],
        "properties": {
            "status": {"const": kinds[0].status},
            "code": {"enum": [kind.code for kind in kinds]},
        },
    }
    found: Part = {
        "description": "; ".join(f"`{kind.code}`: {kind.when}" for kind in kinds) + ".",
        "content": {MEDIA_TYPE: {"schema": schema}},
    }
    if headers := {kind.header for kind in kinds if kind.header is not None}:
        found["headers"] = {
            name: {"$ref": f"#/components/headers/{name}"} for name in sorted(headers)
        }
    return found


def _name_of(status: int, asked: Asked) -> str:
    return f"{asked.name.lower()}-{status}"


def _answer_of(schema: Part) -> Part:
    return _answer("It is so.", _json(schema))


def _answer(description: str, content: Part) -> Part:
    return {"description": description, "content": content}


def _json(schema: Part) -> Part:
    return {"application/json": {"schema": schema}}


def _schema_reference(name: str) -> Part:
    return {"$ref": f"#/components/schemas/{name}"}
