"""Errors as RFC 9457 problem documents, one shape for every refusal."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import orjson
from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Key under which a response carries its code, for the log.
CODE: Final = web.ResponseKey("code", str)
MEDIA_TYPE: Final = "application/problem+json"


def problem(
    status: int,
    detail: str,
    *,
    code: str,
    headers: Mapping[str, str] | None = None,
    members: Mapping[str, object] | None = None,
) -> web.Response:
    """Answer with a problem document.

    Args:
        status: HTTP status of the answer.
        detail: what was expected, what came and what to do; no secrets.
        code: short constant name of the cause, for programs.
        headers: further headers of the answer.
        members: further members of the document.
    """
    document = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        # What came may be quoted in it, and be no text that JSON can carry.
        "detail": detail.encode("utf-8", "replace").decode(),
        "code": code,
        **(members or {}),
    }
    response = web.Response(
        status=status,
        body=orjson.dumps(document),
        headers={"Content-Type": MEDIA_TYPE, **(headers or {})},
    )
    response[CODE] = code
    return response
