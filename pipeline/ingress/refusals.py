"""Every refusal of the ingress, in one table: for its description and its tests.

The answers themselves are made where they are given. The table here is held against
them, and against the contract, by ``tests.check_docs`` and the tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

RETRY_AFTER: Final = "Retry-After"
ALLOW: Final = "Allow"


class Asked(Enum):
    """What was asked for when a refusal is the answer."""

    #: A callback was posted.
    CALLBACK = auto()
    #: Health, metrics or the description was asked for.
    STATE = auto()
    #: Either of them.
    ANYTHING = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalKind:
    """One kind of refusal."""

    #: HTTP status.
    status: int
    #: The constant for programs.
    code: str
    #: When it is the answer, as a sentence without its full stop.
    when: str
    #: What it is an answer to.
    asked: Asked = Asked.CALLBACK
    #: A header that it always has.
    header: str | None = None


REFUSAL_KINDS: Final = (
    RefusalKind(
        status=400,
        code="unreadable",
        when="the body is no JSON object, or names no task",
    ),
    RefusalKind(
        status=400,
        code="broken_body",
        when="the body broke off or could not be decompressed",
    ),
    RefusalKind(
        status=400,
        code="malformed",
        when="the request is no HTTP/1.1; the connection is closed",
        asked=Asked.ANYTHING,
    ),
    RefusalKind(
        status=401,
        code="unauthorised",
        when="the token or the signature that is configured is missing or wrong",
    ),
    RefusalKind(
        status=403,
        code="forbidden_network",
        when="the caller is in no network that is allowed",
    ),
    RefusalKind(
        status=404,
        code="unknown_operation",
        when="the address names an operation that there is not",
    ),
    RefusalKind(
        status=404,
        code="not_found",
        when="there is no such address, or not for this caller",
        asked=Asked.STATE,
    ),
    RefusalKind(
        status=405,
        code="method_not_allowed",
        when="the address takes other methods, which `Allow` names",
        asked=Asked.ANYTHING,
        header=ALLOW,
    ),
    RefusalKind(
        status=408,
        code="body_too_slow",
        when="the body was not complete in time; the connection is closed",
    ),
    RefusalKind(
        status=413,
        code="body_too_large",
        when="the body is too large, counted after decompression",
    ),
    RefusalKind(
        status=415,
        code="unsupported_media_type",
        when="the content type is not JSON",
    ),
    RefusalKind(
        status=429,
        code="too_many_requests",
        when="too many callbacks came from one address",
        header=RETRY_AFTER,
    ),
    RefusalKind(
        status=500,
        code="internal_error",
        when="the ingress has failed; the connection is closed",
        asked=Asked.ANYTHING,
    ),
    RefusalKind(
        status=503,
        code="too_busy",
        when="too many callbacks or bodies are in progress; nothing was stored",
        header=RETRY_AFTER,
    ),
    RefusalKind(
        status=503,
        code="not_stored",
        when="it could not be confirmed that the callback is stored; send it again",
        header=RETRY_AFTER,
    ),
)


def refusals_of(asked: Asked) -> dict[int, list[RefusalKind]]:
    """Give the refusals that can be the answer, by their status."""
    found: dict[int, list[RefusalKind]] = {}
    for kind in REFUSAL_KINDS:
        if kind.asked in (asked, Asked.ANYTHING):
            found.setdefault(kind.status, []).append(kind)
    return found
