"""Serves the description of the ingress, made once at the start."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
from aiohttp import web

from pipeline.ingress.openapi import DESCRIPTION_PATH, describe

if TYPE_CHECKING:
    from pipeline.ingress.health import Get
    from pipeline.settings import IngressSettings


def description_routes(settings: IngressSettings) -> dict[str, Get]:
    """Give the answer for ``GET /openapi.json``."""
    body = orjson.dumps(describe(settings), option=orjson.OPT_INDENT_2) + b"\n"

    async def openapi() -> web.Response:
        return web.Response(body=body, content_type="application/json")

    return {DESCRIPTION_PATH: openapi}
