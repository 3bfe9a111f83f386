"""The job that a callback's address names, so that its task can be told.

Our own submissions are sent with an address that ends in ``?job=`` and a mark. Anybody
may write one: it lets nobody in and keeps nobody out, and what it is worth is found
out behind the queue.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pipeline.message import JOB_MARK

if TYPE_CHECKING:
    from aiohttp import web

#: The query parameter for the mark.
JOB_PARAMETER: Final = "job"


def job_of(request: web.BaseRequest) -> str | None:
    """Give the mark in the address of a request; what is none is as good as nothing."""
    if not request.query_string:
        return None
    mark = request.query.get(JOB_PARAMETER, "")
    return mark if JOB_MARK.fullmatch(mark) else None
